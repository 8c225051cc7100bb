"""VBDs, VIFs and networks: what can be given to a VM, and what refuses to go."""

import pytest


async def attach(sim_host, vm, **fields):
    vdi = fields.pop("VDI", None) or await sim_host.make_vdi()
    return await sim_host.call("VBD.create", {"VM": vm, "VDI": vdi, **fields})


async def test_devices_are_numbered_as_asked_or_by_the_first_that_is_free(sim_host):
    vm = await sim_host.make_vm()
    asked = ["autodetect", "2", "", "xvdd", "hda"]
    for device in asked[:4]:
        await attach(sim_host, vm, userdevice=device)
    vbds = await sim_host.call("VM.get_VBDs", vm)
    devices = [await sim_host.call("VBD.get_userdevice", vbd) for vbd in vbds]
    assert devices == ["0", "2", "1", "3"]
    assert (await sim_host.call("VM.get_allowed_VBD_devices", vm))[:2] == ["4", "5"]
    vdi = await sim_host.make_vdi()
    taken = await sim_host.fault("VBD.create", {"VM": vm, "VDI": vdi, "userdevice": asked[4]})
    assert taken == ["DEVICE_ALREADY_EXISTS", "0"]


@pytest.mark.parametrize("device", ["-1", "256", "²", "xvd", "xvdA", "1.0", "x" * 5000])
async def test_a_device_that_is_none_is_refused(sim_host, device):
    vm, vdi = await sim_host.make_vm(), await sim_host.make_vdi()
    fault = await sim_host.fault("VBD.create", {"VM": vm, "VDI": vdi, "userdevice": device})
    assert fault == ["INVALID_DEVICE", device]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"type": "Tape"}, "INVALID_VALUE"),
        ({"mode": "WO"}, "INVALID_VALUE"),
        ({"type": "cd", "mode": "RW"}, "VBD_CDS_MUST_BE_READONLY"),
        ({"VDI": ""}, "HANDLE_INVALID"),
        ({"VDI": "OpaqueRef:lost"}, "HANDLE_INVALID"),
        ({"VM": "OpaqueRef:lost"}, "HANDLE_INVALID"),
    ],
)
async def test_a_vbd_that_makes_no_sense_is_refused(sim_host, fields, code):
    vm, vdi = await sim_host.make_vm(), await sim_host.make_vdi()
    fault = await sim_host.fault("VBD.create", {"VM": vm, "VDI": vdi, **fields})
    assert fault[0] == code
    assert await sim_host.call("VBD.get_all") == []


async def test_types_are_taken_in_the_case_that_nova_writes(sim_host):
    vbd = await attach(sim_host, await sim_host.make_vm(), type="disk", mode="rw")
    record = await sim_host.call("VBD.get_record", vbd)
    assert (record["type"], record["mode"], record["empty"]) == ("Disk", "RW", False)


async def test_a_drive_takes_and_gives_its_medium(sim_host):
    vm, vdi = await sim_host.make_vm(), await sim_host.make_vdi()
    drive = await sim_host.call("VBD.create", {"VM": vm, "type": "CD", "mode": "RO"})
    assert (await sim_host.fault("VBD.eject", drive)) == ["VBD_IS_EMPTY", drive]
    await sim_host.call("VBD.insert", drive, vdi)
    assert await sim_host.call("VDI.get_VBDs", vdi) == [drive]
    assert (await sim_host.fault("VBD.insert", drive, vdi)) == ["VBD_NOT_EMPTY", drive]
    await sim_host.call("VBD.eject", drive)
    assert await sim_host.call("VDI.get_VBDs", vdi) == []
    disk = await attach(sim_host, vm, userdevice="5")
    assert (await sim_host.fault("VBD.eject", disk)) == ["VBD_NOT_REMOVABLE_MEDIA", disk]


async def test_what_is_attached_stays_until_the_vm_has_halted(sim_host):
    vm = await sim_host.make_vm()
    vbd = await attach(sim_host, vm)
    network = (await sim_host.call("network.get_all"))[0]
    vif = await sim_host.call("VIF.create", {"VM": vm, "network": network, "device": "0"})
    await sim_host.call("VM.start", vm, False, False)
    assert await sim_host.call("VBD.get_device", vbd) == "xvda"
    assert await sim_host.call("VIF.get_currently_attached", vif) is True
    for name, ref in (("VBD", vbd), ("VIF", vif)):
        assert (await sim_host.fault(f"{name}.destroy", ref))[0] == "OPERATION_NOT_ALLOWED"
    await sim_host.call("VM.hard_shutdown", vm)
    assert await sim_host.call("VBD.get_device", vbd) == ""
    await sim_host.call("VBD.destroy", vbd)
    await sim_host.call("VIF.destroy", vif)
    assert await sim_host.call("VM.get_VBDs", vm) == []
    assert await sim_host.call("VM.get_VIFs", vm) == []
    assert await sim_host.call("network.get_VIFs", network) == []


async def test_a_disk_that_one_vm_writes_is_not_another_s(sim_host):
    first, second, vdi = *[await sim_host.make_vm() for _ in "ab"], await sim_host.make_vdi()
    await attach(sim_host, first, VDI=vdi)
    await attach(sim_host, second, VDI=vdi, mode="RO")
    await sim_host.call("VM.start", first, False, False)
    fault = await sim_host.fault("VM.start", second, False, False)
    assert fault == ["VDI_IN_USE", vdi, "attach"]
    await sim_host.call("VM.hard_shutdown", first)
    await sim_host.call("VM.start", second, False, False)


@pytest.mark.parametrize("mac", ["", "random"])
async def test_an_address_is_made_where_none_is_given(sim_host, mac):
    vm = await sim_host.make_vm()
    network = (await sim_host.call("network.get_all"))[0]
    vif = await sim_host.call(
        "VIF.create", {"VM": vm, "network": network, "device": "0", "MAC": mac}
    )
    record = await sim_host.call("VIF.get_record", vif)
    assert record["MAC_autogenerated"] is True
    first = int(record["MAC"][:2], 16)
    assert first & 2, "made here, so not of a maker's range"
    assert not first & 1, "of one card, not of a group"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"MAC": "no"}, "MAC_INVALID"),
        ({"MAC": "01:00:00:00:00:00"}, "MAC_INVALID"),
        ({"device": "7"}, "INVALID_DEVICE"),
        ({"device": "eth0"}, "INVALID_DEVICE"),
        ({"device": "²"}, "INVALID_DEVICE"),
        ({"locking_mode": "open"}, "INVALID_VALUE"),
        ({"network": "OpaqueRef:lost"}, "HANDLE_INVALID"),
    ],
)
async def test_a_vif_that_makes_no_sense_is_refused(sim_host, fields, code):
    vm = await sim_host.make_vm()
    network = (await sim_host.call("network.get_all"))[0]
    given = {"VM": vm, "network": network, "device": "0", **fields}
    assert (await sim_host.fault("VIF.create", given))[0] == code


async def test_a_vm_has_seven_cards_at_most(sim_host):
    vm = await sim_host.make_vm()
    network = (await sim_host.call("network.get_all"))[0]
    for device in await sim_host.call("VM.get_allowed_VIF_devices", vm):
        await sim_host.call("VIF.create", {"VM": vm, "network": network, "device": device})
    assert len(await sim_host.call("VM.get_VIFs", vm)) == 7
    assert await sim_host.call("VM.get_allowed_VIF_devices", vm) == []


async def test_a_network_goes_only_when_nothing_is_plugged_to_it(sim_host):
    network = await sim_host.call("network.create", {"name_label": "n"})
    vm = await sim_host.make_vm()
    vif = await sim_host.call("VIF.create", {"VM": vm, "network": network, "device": "0"})
    assert await sim_host.fault("network.destroy", network) == ["NETWORK_CONTAINS_VIF", vif]
    await sim_host.call("VM.destroy", vm)
    await sim_host.call("network.destroy", network)
    pif, record = next(iter((await sim_host.call("PIF.get_all_records")).items()))
    fault = await sim_host.fault("network.destroy", record["network"])
    assert fault == ["NETWORK_CONTAINS_PIF", pif]


async def test_networks_get_bridges_of_their_own(sim_host):
    refs = [await sim_host.call("network.create", {"name_label": "n"}) for _ in range(3)]
    bridges = {await sim_host.call("network.get_bridge", ref) for ref in refs}
    assert len(bridges) == 3
