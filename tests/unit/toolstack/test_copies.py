"""Clones, copies, snapshots and checkpoints of VMs, and the way back to one."""

import pytest

from xenith.core.units import MIB


async def make_server(sim_host, name="web", **fields):
    network = (await sim_host.call("network.get_all"))[0]
    vdi = await sim_host.make_vdi(name)
    vm = await sim_host.make_vm(name, **fields)
    await sim_host.call("VBD.create", {"VM": vm, "VDI": vdi, "userdevice": "0", "bootable": True})
    await sim_host.call("VIF.create", {"VM": vm, "network": network, "device": "0"})
    return vm, vdi


async def disk_of(sim_host, vm):
    (vbd,) = await sim_host.call("VM.get_VBDs", vm)
    return await sim_host.call("VBD.get_VDI", vbd)


async def card_of(sim_host, vm):
    (vif,) = await sim_host.call("VM.get_VIFs", vm)
    return await sim_host.call("VIF.get_record", vif)


@pytest.mark.parametrize("name", ["clone", "copy"])
async def test_a_copy_has_disks_and_cards_of_its_own(sim_host, name):
    vm, vdi = await make_server(sim_host, platform={"acpi": "1"})
    more = ["OpaqueRef:NULL"] if name == "copy" else []
    made = await sim_host.call(f"VM.{name}", vm, "second", *more)
    record = await sim_host.call("VM.get_record", made)
    assert (record["name_label"], record["platform"]) == ("second", {"acpi": "1"})
    assert record["power_state"] == "Halted"
    assert await disk_of(sim_host, made) != vdi
    assert (await card_of(sim_host, made))["MAC"] != (await card_of(sim_host, vm))["MAC"]
    for each in (vm, made):
        await sim_host.call("VM.start", each, False, False)
    fault = await sim_host.fault(f"VM.{name}", vm, "third", *more)
    assert fault == ["VM_BAD_POWER_STATE", vm, "halted, suspended", "running"]


async def test_a_copy_that_fails_leaves_no_disk_behind(sim_host):
    vm, _ = await make_server(sim_host)
    await sim_host.call("VBD.create", {"VM": vm, "VDI": await sim_host.make_vdi("2")})
    before = await sim_host.call("VDI.get_all")
    seen = []

    def fail(operation, subject):
        if operation == "disk_clone":
            seen.append(subject)
            if len(seen) == 2:
                raise RuntimeError

    sim_host.backend.script = fail
    assert (await sim_host.fault("VM.clone", vm, "x"))[0] == "INTERNAL_ERROR"
    sim_host.backend.script = None
    assert set(await sim_host.call("VDI.get_all")) - set(before) <= {
        ref
        for ref, record in (await sim_host.call("VDI.get_all_records")).items()
        # A base copy is left to garbage collection.
        if not record["location"] or not record["managed"]
    }
    assert len(await sim_host.call("VM.get_all")) == 1


async def test_a_snapshot_of_a_running_vm_is_a_template_with_its_cards_and_disks(sim_host):
    vm, vdi = await make_server(sim_host)
    await sim_host.call("VM.start", vm, False, False)
    kept = await sim_host.call("VM.snapshot", vm, "before")
    record = await sim_host.call("VM.get_record", kept)
    assert record["is_a_snapshot"]
    assert record["is_a_template"]
    assert record["snapshot_of"] == vm
    assert record["power_state"] == "Halted"
    assert await sim_host.call("VM.get_snapshots", vm) == [kept]
    assert await sim_host.call("VM.get_power_state", vm) == "Running"
    disk = await sim_host.call("VDI.get_record", await disk_of(sim_host, kept))
    assert (disk["is_a_snapshot"], disk["snapshot_of"]) == (True, vdi)
    assert (await card_of(sim_host, kept))["MAC"] == (await card_of(sim_host, vm))["MAC"]
    assert await sim_host.fault("VM.start", kept, False, False) == ["VM_IS_TEMPLATE", kept]
    await sim_host.call("VM.destroy", kept)
    assert await sim_host.call("VM.get_snapshots", vm) == []


async def test_a_suspended_vm_is_cloned_and_keeps_its_disk(sim_host):
    vm, vdi = await make_server(sim_host)
    await sim_host.call("VM.start", vm, False, False)
    await sim_host.call("VM.suspend", vm)
    made = await sim_host.call("VM.clone", vm, "second")
    disk = await sim_host.call("VDI.get_record", await disk_of(sim_host, made))
    assert (disk["managed"], disk["is_a_snapshot"]) == (True, False)
    assert await sim_host.call("VDI.get_snapshots", vdi) == []
    await sim_host.call("VM.resume", vm, False, False)
    await sim_host.call("VM.start", made, False, False)


async def test_disks_that_are_to_be_ignored_are_left_out_of_a_snapshot(sim_host):
    vm, vdi = await make_server(sim_host)
    kept = await sim_host.call("VM.snapshot", vm, "without", [vdi])
    assert await sim_host.call("VM.get_VBDs", kept) == []


async def test_a_vm_goes_back_to_its_snapshot(sim_host):
    vm, vdi = await make_server(sim_host)
    kept = await sim_host.call("VM.snapshot", vm, "before")
    await sim_host.call("VM.set_memory", vm, 512 * MIB)
    await sim_host.call("VM.start", vm, False, False)
    await sim_host.call("VM.revert", kept)
    record = await sim_host.call("VM.get_record", vm)
    assert record["name_label"] == "web"
    assert record["power_state"] == "Halted"
    assert record["memory_static_max"] == 256 * MIB
    assert not record["is_a_template"]
    assert record["parent"] == kept
    assert await disk_of(sim_host, vm) not in (vdi, await disk_of(sim_host, kept))
    assert await sim_host.call("VM.get_VIFs", vm)
    assert (await sim_host.fault("VDI.get_record", vdi))[0] == "HANDLE_INVALID"
    await sim_host.call("VM.start", vm, False, False)
    assert (await sim_host.fault("VM.revert", vm))[0] == "OPERATION_NOT_ALLOWED"


async def test_a_vm_goes_back_to_a_checkpoint_with_its_memory(sim_host):
    vm, _ = await make_server(sim_host)
    await sim_host.call("VM.start", vm, False, False)
    kept = await sim_host.call("VM.checkpoint", vm, "running")
    assert await sim_host.call("VM.get_power_state", kept) == "Suspended"
    assert await sim_host.call("VM.get_power_state", vm) == "Running"
    await sim_host.call("VM.hard_shutdown", vm)
    await sim_host.call("VM.revert", kept)
    assert await sim_host.call("VM.get_power_state", vm) == "Suspended"
    await sim_host.call("VM.resume", vm, False, False)
    assert await sim_host.call("VM.get_power_state", vm) == "Running"


async def test_snapshots_are_a_tree(sim_host):
    vm, _ = await make_server(sim_host)
    first = await sim_host.call("VM.snapshot", vm, "1")
    second = await sim_host.call("VM.snapshot", vm, "2")
    assert await sim_host.call("VM.get_parent", second) == first
    assert await sim_host.call("VM.get_children", first) == [second]
    await sim_host.call("VM.revert", first)
    assert await sim_host.call("VM.get_parent", vm) == first
    assert set(await sim_host.call("VM.get_children", first)) == {second, vm}
    await sim_host.call("VM.destroy", first)
    assert await sim_host.call("VM.get_parent", vm) == "OpaqueRef:NULL"


async def test_a_template_s_copy_is_provisioned_with_the_disks_it_asks_for(sim_host):
    disks = '<provision><disk device="0" size="8388608" sr="" bootable="true" type="system"/>'
    template = await sim_host.make_vm(
        "template", is_a_template=True, other_config={"disks": disks + "</provision>"}
    )
    vm = await sim_host.call("VM.clone", template, "made")
    await sim_host.call("VM.provision", vm)
    record = await sim_host.call("VM.get_record", vm)
    assert not record["is_a_template"]
    assert record["other_config"] == {}
    disk = await sim_host.call("VDI.get_record", await disk_of(sim_host, vm))
    assert (disk["virtual_size"], disk["type"]) == (8 * MIB, "system")
    await sim_host.call("VM.start", vm, False, False)


@pytest.mark.parametrize(
    "disks",
    [
        "<provision><disk/></provision>",
        "no xml",
        '<!DOCTYPE a [<!ENTITY b "c">]><provision>&b;</provision>',
    ],
)
async def test_a_wish_for_disks_that_makes_no_sense_is_refused(sim_host, disks):
    vm = await sim_host.make_vm("t", is_a_template=True, other_config={"disks": disks})
    fault = await sim_host.fault("VM.provision", vm)
    assert fault[:2] == ["INVALID_VALUE", "other_config:disks"]
