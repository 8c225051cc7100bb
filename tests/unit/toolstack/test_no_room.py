"""What XenAPI tells of a VM whose repository is full. The guest itself: e2e/test_qemu_full_sr."""

from xenith.toolstack.backends import NO_ROOM
from xenith.toolstack.classes.lifecycle import changed_by_itself


async def test_a_vm_without_room_is_paused_with_a_message_that_says_why(sim_host):
    vm = await sim_host.in_state("Running")
    uuid = await sim_host.call("VM.get_uuid", vm)
    changed_by_itself(sim_host.server, uuid, "paused", NO_ROOM)
    assert await sim_host.call("VM.get_power_state", vm) == "Paused"
    changed_by_itself(sim_host.server, uuid, "running", NO_ROOM)
    assert await sim_host.call("VM.get_power_state", vm) == "Running"
    messages = await sim_host.call("message.get_all_records")
    told = [(one["name"], one["cls"], one["obj_uuid"]) for one in messages.values()]
    assert told == [("VM_PAUSED", "VM", uuid), ("VM_UNPAUSED", "VM", uuid)]
    assert "no room" in next(iter(messages.values()))["body"]


async def test_who_lets_it_go_on_is_the_one_that_is_believed(sim_host):
    vm = await sim_host.in_state("Running")
    uuid = await sim_host.call("VM.get_uuid", vm)
    await sim_host.backend.domain_pause(uuid)
    changed_by_itself(sim_host.server, uuid, "paused", NO_ROOM)
    await sim_host.call("VM.unpause", vm)
    assert await sim_host.call("VM.get_power_state", vm) == "Running"
    assert (await sim_host.backend.running())[uuid] == "running"
