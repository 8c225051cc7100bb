"""What changes on a VM while it runs: memory, processors, xenstore, what its guest tells."""

import asyncio

import pytest

from xenith.core.units import MIB
from xenith.xenstore import XenstoreError


async def running(sim_host, **fields):
    vm = await sim_host.make_vm("live", **fields)
    await sim_host.call("VM.start", vm, False, False)
    return vm, await sim_host.call("VM.get_uuid", vm)


async def test_one_key_of_a_running_vm_s_xenstore_changes_and_no_other(sim_host):
    vm, uuid = await running(sim_host, xenstore_data={"vm-data/a": "1"})
    sim_host.backend.guest_writes(uuid, {"vm-data/theirs": "x"})
    await sim_host.call("VM.write_xenstore_key", vm, "vm-data/b", "2")
    tree = await sim_host.call("VM.read_xenstore_keys", vm, "vm-data/")
    assert tree == {"vm-data/a": "1", "vm-data/b": "2", "vm-data/theirs": "x"}
    assert (await sim_host.call("VM.get_xenstore_data", vm))["vm-data/b"] == "2"
    await sim_host.call("VM.remove_xenstore_key", vm, "vm-data/b")
    assert "vm-data/b" not in await sim_host.call("VM.read_xenstore_keys", vm)
    assert "vm-data/b" not in await sim_host.call("VM.get_xenstore_data", vm)


async def test_xapi_s_own_call_rewrites_the_whole_subtree(sim_host):
    vm, uuid = await running(sim_host, xenstore_data={"vm-data/a": "1"})
    sim_host.backend.guest_writes(uuid, {"vm-data/theirs": "x"})
    await sim_host.call("VM.set_xenstore_data", vm, {"vm-data/c": "3", "other": "dropped"})
    assert await sim_host.call("VM.read_xenstore_keys", vm, "vm-data/") == {"vm-data/c": "3"}
    assert "other" not in await sim_host.call("VM.read_xenstore_keys", vm)


async def test_adding_to_and_removing_from_the_record_reach_a_running_vm(sim_host):
    vm, _ = await running(sim_host)
    await sim_host.call("VM.add_to_xenstore_data", vm, "vm-data/k", "v")
    assert (await sim_host.fault("VM.add_to_xenstore_data", vm, "vm-data/k", "w"))[0] == (
        "MAP_DUPLICATE_KEY"
    )
    assert (await sim_host.call("VM.read_xenstore_keys", vm))["vm-data/k"] == "v"
    await sim_host.call("VM.remove_from_xenstore_data", vm, "vm-data/k")
    await sim_host.call("VM.remove_from_xenstore_data", vm, "vm-data/k")
    assert "vm-data/k" not in await sim_host.call("VM.read_xenstore_keys", vm)


@pytest.mark.parametrize("key", ["name", "memory/target", "vm-data/", "vm-data//x", ""])
async def test_keys_that_are_the_host_s_own_are_refused(sim_host, key):
    vm, _ = await running(sim_host)
    fault = await sim_host.fault("VM.write_xenstore_key", vm, key, "x")
    assert fault[:2] == ["INVALID_VALUE", "key"]


async def test_a_key_that_xenstore_cannot_have_is_refused_live_and_left_out_at_a_start(sim_host):
    vm, uuid = await running(sim_host, xenstore_data={"vm-data/a": "1", "vm-data/a b": "2"})
    assert await sim_host.call("VM.read_xenstore_keys", vm, "vm-data/") == {"vm-data/a": "1"}
    fault = await sim_host.fault("VM.write_xenstore_key", vm, "vm-data/c d", "x")
    assert fault == ["INVALID_VALUE", "xenstore_data", "EINVAL"]
    assert "vm-data/c d" not in await sim_host.call("VM.get_xenstore_data", vm)
    with pytest.raises(XenstoreError, match="EACCES"):
        sim_host.backend.guest_writes(uuid, {"name": "another"})


async def test_a_reboot_keeps_what_the_host_gave_and_nothing_else(sim_host):
    vm, uuid = await running(sim_host, xenstore_data={"vm-data/a": "1"})
    await sim_host.call("VM.write_xenstore_key", vm, "vm-data/b", "2")
    sim_host.backend.guest_writes(uuid, {"data/guest/x": "answered"})
    await sim_host.call("VM.hard_reboot", vm)
    tree = await sim_host.call("VM.read_xenstore_keys", vm)
    domid = await sim_host.call("VM.get_domid", vm)
    own = {"name": tree["name"], "domid": str(domid), "vm": f"/vm/{uuid}"}
    assert tree == {**own, "vm-data/a": "1", "vm-data/b": "2"}


async def test_what_a_guest_writes_is_kept_up_to_a_bound(sim_host):
    vm, uuid = await running(sim_host, xenstore_data={"vm-data/z": "given"})
    for number in range(100):
        sim_host.backend.guest_writes(uuid, {f"data/{number}": "x" * 1900})
        sim_host.backend.guest_writes(uuid, {f"vm-data/{number}": "x" * 1900})
    for _ in range(1000):
        await asyncio.sleep(0)
    data = await sim_host.call("VM.get_xenstore_data", vm)
    assert 20 < len(data) < 40
    assert data["vm-data/z"] == "given"
    metrics = await sim_host.call("VM.get_guest_metrics", vm)
    assert 20 < len((await sim_host.call("VM_guest_metrics.get_record", metrics))["other"]) < 40


async def test_a_halted_vm_has_no_xenstore(sim_host):
    vm = await sim_host.make_vm()
    fault = await sim_host.fault("VM.write_xenstore_key", vm, "vm-data/a", "x")
    assert fault == ["VM_BAD_POWER_STATE", vm, "running, paused", "halted"]


async def test_what_a_guest_tells_of_itself_is_in_its_guest_metrics(sim_host):
    vm, uuid = await running(sim_host)
    assert await sim_host.call("VM.get_guest_metrics", vm) == "OpaqueRef:NULL"
    sim_host.backend.guest_writes(
        uuid,
        {
            "data/os_name": "Debian GNU/Linux 12",
            "data/os_distro": "debian",
            "data/updated": "1",
            "attr/PVAddons/MajorVersion": "7",
            "attr/PVAddons/MinorVersion": "20",
            "attr/vif/0/ipv4/0": "192.0.2.7",
            "attr/vif/0/ipv6/0": "2001:db8::7",
            "control/feature-shutdown": "1",
            "vm-data/said": "yes",
        },
    )
    for _ in range(20):
        await asyncio.sleep(0)
    metrics = await sim_host.call("VM.get_guest_metrics", vm)
    record = await sim_host.call("VM_guest_metrics.get_record", metrics)
    assert record["os_version"] == {"name": "Debian GNU/Linux 12", "distro": "debian"}
    assert record["PV_drivers_version"] == {"major": "7", "minor": "20"}
    assert record["PV_drivers_detected"]
    assert record["networks"] == {
        "0/ip": "192.0.2.7",
        "0/ipv4/0": "192.0.2.7",
        "0/ipv6/0": "2001:db8::7",
    }
    assert record["other"]["feature-shutdown"] == "1"
    assert (await sim_host.call("VM.get_xenstore_data", vm))["vm-data/said"] == "yes"
    await sim_host.call("VM.hard_shutdown", vm)
    await sim_host.call("VM.destroy", vm)
    assert await sim_host.call("VM_guest_metrics.get_all") == []


async def test_memory_and_processors_of_a_running_vm_change_within_their_limits(sim_host):
    vm, uuid = await running(sim_host, VCPUs_max=4, VCPUs_at_startup=2)
    await sim_host.call("VM.set_memory_dynamic_range", vm, 128 * MIB, 192 * MIB)
    assert await sim_host.call("VM.query_data_source", vm, "memory") == 192.0 * MIB
    await sim_host.call("VM.set_memory_target_live", vm, 128 * MIB)
    await sim_host.call("VM.wait_memory_target_live", vm)
    assert await sim_host.call("VM.get_memory_target", vm) == 128 * MIB
    fault = await sim_host.fault("VM.set_memory_target_live", vm, 256 * MIB)
    assert fault[0] == "MEMORY_CONSTRAINT_VIOLATION"
    await sim_host.call("VM.set_VCPUs_number_live", vm, 4)
    metrics = await sim_host.call("VM.get_metrics", vm)
    assert await sim_host.call("VM_metrics.get_VCPUs_number", metrics) == 4
    assert (await sim_host.fault("VM.set_VCPUs_number_live", vm, 5))[0] == "INVALID_VALUE"
    names = [item["name_label"] for item in await sim_host.call("VM.get_data_sources", vm)]
    assert names == ["cpu0", "cpu1", "memory", "memory_target", "cpu2", "cpu3"]
    await sim_host.call("VM.add_to_VCPUs_params_live", vm, "weight", "512")
    assert sim_host.backend.schedules[uuid] == {"weight": "512"}
    for key, value in (("weight", "0"), ("cap", "401"), ("mask", "0,x"), ("colour", "1")):
        fault = await sim_host.fault("VM.add_to_VCPUs_params_live", vm, key, value)
        assert fault[0] == "INVALID_VALUE"


async def test_keys_reach_a_running_vm(sim_host):
    vm, uuid = await running(sim_host)
    await sim_host.call("VM.send_sysrq", vm, "s")
    await sim_host.call("VM.send_trigger", vm, "nmi")
    assert sim_host.backend.keys == [(uuid, "s"), (uuid, "nmi")]
    assert (await sim_host.fault("VM.send_trigger", vm, "hammer"))[0] == "INVALID_VALUE"


async def test_a_key_may_be_as_deep_as_a_path_is_long(sim_host):
    deep = "vm-data/" + "/".join(["a"] * 1000)
    vm, _ = await running(sim_host, xenstore_data={deep: "1"})
    assert await sim_host.call("VM.read_xenstore_keys", vm, "vm-data/") == {deep: "1"}
    await sim_host.call("VM.hard_shutdown", vm)


async def test_a_domain_that_ends_while_it_is_restarted_begins_again_whole(sim_host):
    _, uuid = await running(sim_host, xenstore_data={"vm-data/a": "1"})

    def crash(operation, subject):
        if operation.startswith("domain_reboot"):
            sim_host.backend.change(subject, "crashed")

    sim_host.backend.script = crash
    await sim_host.backend.domain_reboot(uuid, is_clean=False)
    sim_host.backend.script = None
    assert (await sim_host.backend.xenstore_read(uuid))["vm-data/a"] == "1"
