"""Messages, secrets, appliances, groups, devices, and the old protocol of events."""

import asyncio

import pytest

from xenith.core.units import MIB


async def test_messages_are_written_about_objects_and_found_by_time(sim_host):
    vm = await sim_host.make_vm()
    uuid = await sim_host.call("VM.get_uuid", vm)
    made = await sim_host.call("message.create", "ALARM", 3, "VM", uuid, "body")
    found = await sim_host.call("message.get", "VM", uuid, "19700101T00:00:00Z")
    assert found[made]["body"] == "body"
    assert await sim_host.call("message.get_since", "29990101T00:00:00Z") == {}
    assert (await sim_host.fault("message.create", "A", 3, "VM", "no", ""))[0] == "UUID_INVALID"
    assert (await sim_host.fault("message.create", "A", 3, "cat", uuid, ""))[0] == "INVALID_VALUE"
    await sim_host.call("message.destroy", made)
    assert await sim_host.call("message.get_all") == []


async def test_a_crash_is_a_message(sim_host):
    vm = await sim_host.in_state("Running")
    uuid = await sim_host.call("VM.get_uuid", vm)
    sim_host.backend.change(uuid, "crashed")
    (found,) = (await sim_host.call("message.get_all_records")).values()
    assert (found["name"], found["obj_uuid"]) == ("VM_CRASHED", uuid)


async def test_a_secret_is_kept_changed_and_forgotten(sim_host):
    made = await sim_host.call("secret.create", {"value": "s3cret"})
    await sim_host.call("secret.set_value", made, "other")
    assert await sim_host.call("secret.get_value", made) == "other"
    uuid = await sim_host.call("secret.get_uuid", made)
    assert (await sim_host.fault("secret.introduce", uuid, "x"))[0] == "INVALID_VALUE"
    assert await sim_host.fault("secret.create", {}) == ["FIELD_TYPE_ERROR", "value"]
    await sim_host.call("secret.destroy", made)


async def test_an_appliance_starts_in_order_and_stops_in_the_other(sim_host):
    seen = []
    sim_host.backend.script = lambda operation, uuid: seen.append((operation, uuid))
    vms = [await sim_host.make_vm(str(n), order=n) for n in (2, 1)]
    uuids = [await sim_host.call("VM.get_uuid", vm) for vm in vms]
    appliance = await sim_host.call("VM_appliance.create", {"name_label": "shop"})
    for vm in vms:
        await sim_host.call("VM.set_appliance", vm, appliance)
    assert await sim_host.call("VM_appliance.get_VMs", appliance) == vms
    await sim_host.call("VM_appliance.start", appliance, False)
    await sim_host.call("VM_appliance.clean_shutdown", appliance)
    begun = [uuid for operation, uuid in seen if operation == "domain_start"]
    ended = [uuid for operation, uuid in seen if operation == "domain_shutdown_clean"]
    assert begun == [*reversed(uuids)]
    assert ended == uuids
    await sim_host.call("VM_appliance.destroy", appliance)
    assert await sim_host.call("VM.get_appliance", vms[0]) == "OpaqueRef:NULL"


async def test_a_vm_is_in_one_group_at_most(sim_host):
    vm = await sim_host.make_vm()
    groups = [
        await sim_host.call("VM_group.create", {"name_label": name, "placement": "anti_affinity"})
        for name in "ab"
    ]
    assert await sim_host.fault("VM.set_groups", vm, groups) == ["TOO_MANY_GROUPS"]
    await sim_host.call("VM.set_groups", vm, groups[:1])
    assert await sim_host.call("VM_group.get_VMs", groups[0]) == [vm]
    await sim_host.call("VM_group.destroy", groups[0])
    assert await sim_host.call("VM.get_groups", vm) == []


async def test_graphics_are_given_while_a_card_has_room(sim_host):
    objects = sim_host.server.objects
    (host,) = objects.all("host")
    kind = objects.create("VGPU_type", model_name="K1", max_heads=2)
    group = await sim_host.call("GPU_group.create", "g", "", {})
    card = objects.create(
        "PGPU", host=host, supported_VGPU_types=[kind], supported_VGPU_max_capacities={kind: "2"}
    )
    await sim_host.call("PGPU.set_GPU_group", card, group)
    assert await sim_host.call("GPU_group.get_remaining_capacity", group, kind) == 0
    await sim_host.call("PGPU.add_enabled_VGPU_types", card, kind)
    assert await sim_host.call("GPU_group.get_remaining_capacity", group, kind) == 2
    assert await sim_host.call("GPU_group.get_enabled_VGPU_types", group) == [kind]
    vm = await sim_host.make_vm()
    vgpu = await sim_host.call("VGPU.create", vm, group, "0", {}, kind)
    again = await sim_host.fault("VGPU.create", vm, group, "0", {}, kind)
    assert again == ["DEVICE_ALREADY_EXISTS", "0"]
    fault = await sim_host.fault("GPU_group.destroy", group)
    assert fault == ["GPU_GROUP_CONTAINS_PGPU", card]
    await sim_host.call("VGPU.destroy", vgpu)
    assert await sim_host.call("VM.get_VGPUs", vm) == []


async def test_a_tpm_keeps_its_secret_from_its_record(sim_host):
    vm = await sim_host.make_vm()
    assert await sim_host.fault("VTPM.create", vm, False) == ["VM_HVM_REQUIRED", vm]
    await sim_host.call("VM.add_to_HVM_boot_params", vm, "firmware", "uefi")
    tpm = await sim_host.call("VTPM.create", vm, False)
    assert (await sim_host.fault("VTPM.create", vm, False))[0] == "VTPM_MAX_AMOUNT_REACHED"
    await sim_host.call("VTPM.set_contents", tpm, "state")
    assert await sim_host.call("VTPM.get_contents", tpm) == "state"
    assert "state" not in str(await sim_host.call("VTPM.get_record", tpm))
    await sim_host.call("VTPM.destroy", tpm)
    assert await sim_host.call("secret.get_all") == []


async def test_a_usb_device_is_one_vm_s(sim_host):
    vm = await sim_host.make_vm()
    group = await sim_host.call("USB_group.create", "u", "", {})
    usb = await sim_host.call("VUSB.create", vm, group, {})
    assert await sim_host.fault("VUSB.create", vm, group, {}) == ["USB_GROUP_CONFLICT", group]
    assert (await sim_host.fault("VUSB.unplug", usb))[0] == "VM_BAD_POWER_STATE"
    assert await sim_host.fault("USB_group.destroy", group) == ["USB_GROUP_CONTAINS_VUSB", usb]
    await sim_host.call("VUSB.destroy", usb)
    await sim_host.call("USB_group.destroy", group)


async def test_there_is_one_controller_of_networks(sim_host):
    made = await sim_host.call("SDN_controller.introduce", "ssl", "192.0.2.1", 6640)
    assert (await sim_host.fault("SDN_controller.introduce", "pssl", "", 0))[0] == (
        "OPERATION_NOT_ALLOWED"
    )
    await sim_host.call("SDN_controller.forget", made)
    assert (await sim_host.fault("SDN_controller.introduce", "ssl", "x", 1))[0] == (
        "INVALID_IP_ADDRESS_SPECIFIED"
    )


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("VM.set_domain_type", ["x"], "INVALID_VALUE"),
        ("VM.set_uefi_mode", ["x"], "INVALID_VALUE"),
        ("VM.set_bios_strings", [{"colour": "red"}], "INVALID_VALUE"),
        ("VM.set_bios_strings", [{"bios-vendor": ""}], "INVALID_VALUE"),
        ("VM.set_ha_restart_priority", ["x"], "INVALID_VALUE"),
        ("VM.set_suspend_VDI", ["OpaqueRef:NULL"], "VM_BAD_POWER_STATE"),
        ("VM.set_HVM_shadow_multiplier", [0.5], "INVALID_VALUE"),
        ("VM.assert_operation_valid", ["pause"], "VM_BAD_POWER_STATE"),
        ("VM.assert_operation_valid", ["fly"], "INVALID_VALUE"),
        ("VM.call_plugin", ["p", "f", {}], "VM_BAD_POWER_STATE"),
        ("VM.snapshot_with_quiesce", ["s"], "VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED"),
    ],
)
async def test_settings_of_a_vm_that_cannot_be(sim_host, method, params, code):
    vm = await sim_host.make_vm()
    assert (await sim_host.fault(method, vm, *params))[0] == code


async def test_settings_of_a_halted_vm_are_kept(sim_host):
    vm = await sim_host.make_vm()
    await sim_host.call("VM.set_domain_type", vm, "pv")
    await sim_host.call("VM.add_to_NVRAM", vm, "EFI-variables", "x")
    await sim_host.call("VM.set_uefi_mode", vm, "setup")
    await sim_host.call("VM.set_bios_strings", vm, {"bios-vendor": "Xenith"})
    again = await sim_host.fault("VM.set_bios_strings", vm, {"bios-vendor": "X"})
    assert again == ["VM_BIOS_STRINGS_ALREADY_SET"]
    await sim_host.call("VM.set_memory_static_max", vm, 512 * MIB)
    await sim_host.call("VM.set_ha_always_run", vm, True)
    record = await sim_host.call("VM.get_record", vm)
    assert record["HVM_boot_policy"] == ""
    assert record["NVRAM"] == {}
    assert record["memory_static_max"] == 512 * MIB
    assert record["ha_restart_priority"] == "restart"


async def test_a_vm_s_power_state_is_reset_and_an_operation_blocked(sim_host):
    vm = await sim_host.in_state("Running")
    await sim_host.call("VM.power_state_reset", vm)
    assert await sim_host.call("VM.get_power_state", vm) == "Halted"
    assert await sim_host.backend.running() == {}
    await sim_host.call("VM.set_blocked_operations", vm, {"start": "MAINTENANCE"})
    fault = await sim_host.fault("VM.start", vm, False, False)
    assert fault == ["OPERATION_BLOCKED", vm, "MAINTENANCE"]
    await sim_host.call("VM.remove_from_blocked_operations", vm, "start")
    await sim_host.call("VM.start", vm, False, False)


async def test_a_device_changes_its_place_and_mode_while_not_attached(sim_host):
    vm, vdi = await sim_host.make_vm(), await sim_host.make_vdi()
    vbd = await sim_host.call("VBD.create", {"VM": vm, "VDI": vdi, "userdevice": "0"})
    await sim_host.call("VBD.set_userdevice", vbd, "xvdc")
    await sim_host.call("VBD.set_mode", vbd, "RO")
    await sim_host.call("VBD.set_bootable", vbd, True)
    record = await sim_host.call("VBD.get_record", vbd)
    assert (record["userdevice"], record["mode"], record["bootable"]) == ("2", "RO", True)
    await sim_host.call("VM.start", vm, False, False)
    assert (await sim_host.fault("VBD.set_mode", vbd, "RW"))[0] == "OPERATION_NOT_ALLOWED"


async def test_the_old_protocol_tells_what_was_registered_for(sim_host):
    assert (await sim_host.fault("event.next"))[0] == "SESSION_NOT_REGISTERED"
    await sim_host.call("event.register", ["vm"])
    waiting = asyncio.ensure_future(sim_host.call("event.next"))
    for _ in range(20):
        await asyncio.sleep(0)
    await sim_host.call("secret.create", {"value": "x"})
    vm = await sim_host.make_vm()
    (event,) = await waiting
    assert (event["class"], event["operation"], event["ref"]) == ("vm", "add", vm)
    await sim_host.call("event.register", ["secret"])
    await sim_host.call("secret.create", {"value": "y"})
    (event,) = await sim_host.call("event.next")
    assert event["class"] == "secret"
    await sim_host.call("event.unregister", ["vm", "secret"])
    assert (await sim_host.fault("event.next"))[0] == "SESSION_NOT_REGISTERED"
