"""What else is asked of a VM, and set on it: where it may start, how it boots, what it is part of.

Source: XenAPI class VM.
"""

from __future__ import annotations

from typing import Any

from xenith.toolstack.classes.lifecycle import (
    FROM,
    bad_state,
    check_halted,
    check_operation,
    operation,
    set_power,
    show_operations,
)
from xenith.toolstack.classes.placement import check_boot, give_back, possible_hosts
from xenith.toolstack.methods import is_null, method
from xenith.toolstack.server import HostServer
from xenith.xapi.faults import XapiFault

#: Source: XenAPI, enum domain_type.
DOMAIN_TYPES = ("hvm", "pv", "pv_in_pvh", "pvh")
#: Source: XenAPI, enum vm_uefi_mode.
UEFI_MODES = ("setup", "user")
#: Source: xapi, constants of VM.set_bios_strings.
BIOS_KEYS = frozenset(
    (
        *("bios-vendor", "bios-version", "system-manufacturer", "system-product-name"),
        *("system-version", "system-serial-number", "enclosure-asset-tag"),
        *("baseboard-manufacturer", "baseboard-product-name", "baseboard-version"),
        *("baseboard-serial-number", "baseboard-asset-tag", "baseboard-location-in-chassis"),
    )
)
BIOS_VALUE_BYTES_MAX = 512


@method("VM.assert_can_boot_here")
def assert_can_boot_here(host: HostServer, ref: str, on: str) -> None:
    """Refuse a host that could not start a VM now. Source: XenAPI VM.assert_can_boot_here."""
    record = host.objects.get("VM", ref)
    host.objects.get("host", on)
    check_boot(host, record, on)


@method("VM.get_possible_hosts")
def get_possible_hosts(host: HostServer, ref: str) -> list[str]:
    """List the hosts that could start a VM now. Source: XenAPI VM.get_possible_hosts."""
    return possible_hosts(host, host.objects.get("VM", ref))


@method("VM.assert_agile")
def assert_agile(host: HostServer, ref: str) -> None:
    """Refuse a VM that is bound to one host by a disk. Source: XenAPI VM.assert_agile."""
    for vbd in host.objects.get("VM", ref)["VBDs"]:
        vdi = host.objects.get("VBD", vbd)["VDI"]
        if is_null(vdi):
            continue
        sr = host.objects.get("VDI", vdi)["SR"]
        if not host.objects.get("SR", sr)["shared"]:
            raise XapiFault("HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", sr)


@method("VM.assert_operation_valid")
def assert_operation_valid(host: HostServer, ref: str, name: str) -> None:
    """Refuse an operation that could not be begun now. Source: VM.assert_operation_valid."""
    record = host.objects.get("VM", ref)
    if name not in FROM or name == "revert_to":
        raise XapiFault("INVALID_VALUE", "op", name)
    check_operation(host, ref, name)
    if name in record["allowed_operations"]:
        return
    host.operations.check("VM", ref)
    raise bad_state(ref, FROM[name], record["power_state"])


@method("VM.update_allowed_operations")
def update_allowed_operations(host: HostServer, ref: str) -> None:
    """Compute anew what may be done to a VM. Source: XenAPI VM.update_allowed_operations."""
    host.objects.get("VM", ref)
    show_operations(host, ref)


@method("VM.get_boot_record")
def get_boot_record(host: HostServer, ref: str) -> dict[str, Any]:
    """Give the record that a VM was booted with: as it is now. Source: VM.get_boot_record."""
    return host.objects.get("VM", ref)


@method("VM.get_cooperative", is_async=True)
def get_cooperative(host: HostServer, ref: str) -> bool:
    """Tell whether a guest's balloon obeys: none has been seen not to. Source: XenAPI."""
    host.objects.get("VM", ref)
    return True


@method("VM.power_state_reset", is_async=True)
async def power_state_reset(host: HostServer, ref: str) -> None:
    """Have a VM be halted whatever it was; what is left of its domain ends. Source: XenAPI."""
    async with operation(host, ref, "power_state_reset") as record:
        place = host.pool.place_of(ref, record)
        member = host.pool.members.get(place)
        # The host may be gone for good, which is what this call is for.
        if member is not None and member.is_up and record["power_state"] != "Halted":
            await member.engine.domain_shutdown(record["uuid"], is_clean=False)
        give_back(host, ref)
        set_power(host, ref, "Halted", domid=-1)
        for class_name in ("VBD", "VIF"):
            for device in record[f"{class_name}s"]:
                host.objects.update(class_name, device, currently_attached=False)


@method("VM.restart_device_models", is_async=True)
def restart_device_models(host: HostServer, ref: str) -> None:
    """Replace the process that emulates a running VM's devices: no backend can."""
    record = host.objects.get("VM", ref)
    if record["power_state"] != "Running":
        raise bad_state(ref, ("Running",), record["power_state"])
    raise XapiFault("NOT_IMPLEMENTED", "VM.restart_device_models")


@method("VM.call_plugin")
def call_plugin(
    host: HostServer, ref: str, plugin: str, function: str, args: dict[str, str]
) -> str:
    """Ask a plugin for VMs: there is none but the guest agent's. Source: XenAPI VM.call_plugin."""
    del function, args
    record = host.objects.get("VM", ref)
    if record["power_state"] != "Running":
        raise bad_state(ref, ("Running",), record["power_state"])
    raise XapiFault("XENAPI_MISSING_PLUGIN", plugin)


@method("VM.set_is_default_template")
def set_is_default_template(host: HostServer, ref: str, value: bool) -> None:
    """Say whether a template came with the host. Source: XenAPI VM.set_is_default_template."""
    record = host.objects.get("VM", ref)
    if value and not record["is_a_template"]:
        raise XapiFault("OPERATION_NOT_ALLOWED", f"{ref} is no template")
    host.objects.update("VM", ref, is_default_template=value)


@method("VM.set_domain_type")
def set_domain_type(host: HostServer, ref: str, value: str) -> None:
    """Choose how a halted VM is virtualised. Source: XenAPI VM.set_domain_type."""
    check_halted(host, ref)
    if value not in DOMAIN_TYPES:
        raise XapiFault("INVALID_VALUE", "domain_type", value)
    policy = "BIOS order" if value == "hvm" else ""
    host.objects.update("VM", ref, domain_type=value, HVM_boot_policy=policy)


@method("VM.set_HVM_boot_policy")
def set_hvm_boot_policy(host: HostServer, ref: str, value: str) -> None:
    """Choose by the older word whether a VM is emulated. Source: VM.set_HVM_boot_policy."""
    check_halted(host, ref)
    host.objects.update("VM", ref, HVM_boot_policy=value, domain_type="hvm" if value else "pv")


@method("VM.set_uefi_mode", is_async=True)
def set_uefi_mode(host: HostServer, ref: str, mode: str) -> str:
    """Empty a halted VM's UEFI variables, or leave them. Source: XenAPI VM.set_uefi_mode."""
    record = check_halted(host, ref)
    if mode not in UEFI_MODES:
        raise XapiFault("INVALID_VALUE", "mode", mode)
    if mode == "setup":
        kept = {k: v for k, v in record["NVRAM"].items() if k != "EFI-variables"}
        host.objects.update("VM", ref, NVRAM=kept)
    return ""


@method("VM.set_NVRAM")
def set_nvram(host: HostServer, ref: str, value: dict[str, str]) -> None:
    """Set a halted VM's firmware variables. Source: XenAPI VM.set_NVRAM."""
    check_halted(host, ref)
    host.objects.update("VM", ref, NVRAM=dict(value))


@method("VM.add_to_NVRAM")
def add_to_nvram(host: HostServer, ref: str, key: str, value: str) -> None:
    """Add a firmware variable. Source: XenAPI VM.add_to_NVRAM."""
    record = check_halted(host, ref)
    if key in record["NVRAM"]:
        raise XapiFault("MAP_DUPLICATE_KEY", "VM", "NVRAM", record["uuid"], key)
    host.objects.update("VM", ref, NVRAM={**record["NVRAM"], key: value})


@method("VM.remove_from_NVRAM")
def remove_from_nvram(host: HostServer, ref: str, key: str) -> None:
    """Remove a firmware variable. Source: XenAPI VM.remove_from_NVRAM."""
    record = check_halted(host, ref)
    kept = {k: v for k, v in record["NVRAM"].items() if k != key}
    host.objects.update("VM", ref, NVRAM=kept)


@method("VM.set_has_vendor_device")
def set_has_vendor_device(host: HostServer, ref: str, value: bool) -> None:
    """Give a halted VM the device by which Windows finds its drivers, or take it away."""
    check_halted(host, ref)
    host.objects.update("VM", ref, has_vendor_device=value)


@method("VM.set_bios_strings", is_async=True)
def set_bios_strings(host: HostServer, ref: str, value: dict[str, str]) -> None:
    """Set what a halted VM's BIOS says, once. Source: XenAPI VM.set_bios_strings."""
    record = check_halted(host, ref)
    if record["bios_strings"]:
        raise XapiFault("VM_BIOS_STRINGS_ALREADY_SET")
    for key, text in value.items():
        if key not in BIOS_KEYS:
            raise XapiFault("INVALID_VALUE", key, text[:100])
        if not 1 <= len(text) <= BIOS_VALUE_BYTES_MAX or not (
            text.isascii() and text.isprintable()
        ):
            raise XapiFault("INVALID_VALUE", key, text[:100])
    host.objects.update("VM", ref, bios_strings=dict(value))


@method("VM.copy_bios_strings", is_async=True)
def copy_bios_strings(host: HostServer, ref: str, source: str) -> None:
    """Have a halted VM's BIOS say what a host's does. Source: XenAPI VM.copy_bios_strings."""
    record = check_halted(host, ref)
    strings = host.objects.get("host", source)["bios_strings"]
    if record["bios_strings"]:
        raise XapiFault("VM_BIOS_STRINGS_ALREADY_SET")
    host.objects.update("VM", ref, bios_strings=dict(strings))


@method("VM.set_suspend_VDI")
def set_suspend_vdi(host: HostServer, ref: str, vdi: str) -> None:
    """Say where a suspended VM's memory is. Source: XenAPI VM.set_suspend_VDI."""
    record = host.objects.get("VM", ref)
    if record["power_state"] != "Suspended":
        raise bad_state(ref, ("Suspended",), record["power_state"])
    host.objects.get("VDI", vdi)
    host.objects.update("VM", ref, suspend_VDI=vdi)


@method("VM.set_ha_restart_priority", is_async=True)
def set_ha_restart_priority(host: HostServer, ref: str, value: str) -> None:
    """Say what becomes of a VM when its host fails. Source: VM.set_ha_restart_priority."""
    host.objects.get("VM", ref)
    if value not in ("restart", "best-effort", ""):
        raise XapiFault("INVALID_VALUE", "ha_restart_priority", value)
    host.objects.update("VM", ref, ha_restart_priority=value, ha_always_run=value == "restart")


@method("VM.set_ha_always_run", is_async=True)
def set_ha_always_run(host: HostServer, ref: str, value: bool) -> None:
    """Say by the older word whether a VM is restarted. Source: XenAPI VM.set_ha_always_run."""
    set_ha_restart_priority(host, ref, "restart" if value else "")


@method("VM.set_appliance")
def set_appliance(host: HostServer, ref: str, appliance: str) -> None:
    """Put a VM into an appliance, or into none. Source: XenAPI VM.set_appliance."""
    record = host.objects.get("VM", ref)
    if not is_null(appliance):
        host.objects.get("VM_appliance", appliance)
    if not is_null(record["appliance"]):
        host.objects.unlink("VM_appliance", record["appliance"], "VMs", ref)
    host.objects.update("VM", ref, appliance=appliance)
    if not is_null(appliance):
        host.objects.link("VM_appliance", appliance, "VMs", ref)


@method("VM.set_groups", is_async=True)
def set_groups(host: HostServer, ref: str, groups: list[str]) -> None:
    """Put a VM into a group for its placing, of which there is one at most. Source: XenAPI."""
    record = host.objects.get("VM", ref)
    if len(groups) > 1:
        raise XapiFault("TOO_MANY_GROUPS")
    for group in groups:
        host.objects.get("VM_group", group)
    for group in record["groups"]:
        host.objects.unlink("VM_group", group, "VMs", ref)
    host.objects.update("VM", ref, groups=groups)
    for group in groups:
        host.objects.link("VM_group", group, "VMs", ref)
