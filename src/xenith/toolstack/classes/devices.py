"""Devices of hosts that VMs are given: graphics, TPMs, USB; and small classes beside them.

Source: XenAPI classes VGPU, PGPU, GPU_group, VTPM, VUSB, PUSB, USB_group, and others named below.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from xenith.toolstack.classes.lifecycle import bad_state, check_halted
from xenith.toolstack.methods import creation, method
from xenith.toolstack.server import HostServer
from xenith.xapi import NULL
from xenith.xapi.faults import XapiFault

#: USB devices of one VM. Source: xapi, six.
VUSBS_MAX = 6
#: Bytes of a TPM's state.
VTPM_BYTES_MAX = 1024 * 1024

# -- graphics


@method("GPU_group.create", is_async=True)
def create_gpu_group(
    host: HostServer, name: str, description: str, other_config: dict[str, str]
) -> str:
    """Make a group of graphics cards. Source: XenAPI GPU_group.create."""
    fields = {"name_label": name, "name_description": description, "other_config": other_config}
    return host.objects.create("GPU_group", **fields)


@method("GPU_group.destroy", is_async=True)
def destroy_gpu_group(host: HostServer, ref: str) -> None:
    """Remove a group without cards. Source: XenAPI GPU_group.destroy."""
    record = host.objects.get("GPU_group", ref)
    if record["PGPUs"]:
        raise XapiFault("GPU_GROUP_CONTAINS_PGPU", *record["PGPUs"])
    if record["VGPUs"]:
        raise XapiFault("GPU_GROUP_CONTAINS_VGPU", *record["VGPUs"])
    host.objects.delete("GPU_group", ref)


@method("GPU_group.get_remaining_capacity", is_async=True)
def group_capacity(host: HostServer, ref: str, kind: str) -> int:
    """Tell how many more VGPUs of a type a group can run. Source: GPU_group."""
    cards = host.objects.get("GPU_group", ref)["PGPUs"]
    return sum(card_capacity(host, card, kind) for card in cards)


@method("PGPU.get_remaining_capacity", is_async=True)
def card_capacity(host: HostServer, ref: str, kind: str) -> int:
    """Tell how many more VGPUs of a type a card can run. Source: PGPU.get_remaining_capacity."""
    record = host.objects.get("PGPU", ref)
    host.objects.get("VGPU_type", kind)
    if kind not in record["enabled_VGPU_types"]:
        return 0
    residents = [host.objects.get("VGPU", vgpu) for vgpu in record["resident_VGPUs"]]
    # A card runs VGPUs of one type at a time.
    if any(vgpu["type"] != kind for vgpu in residents):
        return 0
    return max(0, int(record["supported_VGPU_max_capacities"].get(kind, 1)) - len(residents))


@method("PGPU.add_enabled_VGPU_types", is_async=True)
def add_enabled(host: HostServer, ref: str, kind: str) -> None:
    """Let a card run VGPUs of a type. Source: XenAPI PGPU.add_enabled_VGPU_types."""
    set_enabled(host, ref, [*host.objects.get("PGPU", ref)["enabled_VGPU_types"], kind])


@method("PGPU.remove_enabled_VGPU_types", is_async=True)
def remove_enabled(host: HostServer, ref: str, kind: str) -> None:
    """Have a card run VGPUs of a type no more. Source: PGPU.remove_enabled_VGPU_types."""
    kept = host.objects.get("PGPU", ref)["enabled_VGPU_types"]
    set_enabled(host, ref, [other for other in kept if other != kind])


@method("PGPU.set_enabled_VGPU_types", is_async=True)
def set_enabled(host: HostServer, ref: str, kinds: list[str]) -> None:
    """Say which types of VGPU a card runs. Source: XenAPI PGPU.set_enabled_VGPU_types."""
    record = host.objects.get("PGPU", ref)
    wanted = list(dict.fromkeys(kinds))
    for kind in wanted:
        if kind not in record["supported_VGPU_types"]:
            raise XapiFault("VGPU_TYPE_NOT_SUPPORTED", kind, *record["supported_VGPU_types"])
    for vgpu in record["resident_VGPUs"]:
        if host.objects.get("VGPU", vgpu)["type"] not in wanted:
            raise XapiFault("PGPU_IN_USE_BY_VM", ref, host.objects.get("VGPU", vgpu)["VM"])
    for kind in record["enabled_VGPU_types"]:
        host.objects.unlink("VGPU_type", kind, "enabled_on_PGPUs", ref)
    host.objects.update("PGPU", ref, enabled_VGPU_types=wanted)
    for kind in wanted:
        host.objects.link("VGPU_type", kind, "enabled_on_PGPUs", ref)
    _sum_up(host, record["GPU_group"])


def _sum_up(host: HostServer, group: str) -> None:
    record = host.objects.find("GPU_group", group)
    if record is None:
        return
    cards = [host.objects.get("PGPU", card) for card in record["PGPUs"]]
    sums = {
        name: list(dict.fromkeys(kind for card in cards for kind in card[name]))
        for name in ("supported_VGPU_types", "enabled_VGPU_types")
    }
    host.objects.update("GPU_group", group, **sums)


@method("PGPU.set_GPU_group", is_async=True)
def set_gpu_group(host: HostServer, ref: str, group: str) -> None:
    """Put a card that nothing runs on into another group. Source: XenAPI PGPU.set_GPU_group."""
    record = host.objects.get("PGPU", ref)
    host.objects.get("GPU_group", group)
    for vgpu in record["resident_VGPUs"]:
        raise XapiFault("PGPU_IN_USE_BY_VM", ref, host.objects.get("VGPU", vgpu)["VM"])
    host.objects.unlink("GPU_group", record["GPU_group"], "PGPUs", ref)
    host.objects.update("PGPU", ref, GPU_group=group)
    host.objects.link("GPU_group", group, "PGPUs", ref)
    for each in (record["GPU_group"], group):
        _sum_up(host, each)


@method("VGPU.create", is_async=True)
def create_vgpu(
    host: HostServer,
    vm: str,
    group: str,
    device: str = "0",
    other_config: dict[str, str] | None = None,
    kind: str = NULL,
) -> str:
    """Give a halted VM graphics of a group. Source: XenAPI VGPU.create."""
    record = check_halted(host, vm)
    host.objects.get("GPU_group", group)
    if not (device.isascii() and device.isdigit() and len(device) < 3):
        raise XapiFault("INVALID_DEVICE", device)
    if kind != NULL:
        host.objects.get("VGPU_type", kind)
    for other in record["VGPUs"]:
        if host.objects.get("VGPU", other)["device"] == device:
            raise XapiFault("DEVICE_ALREADY_EXISTS", device)
    fields = {"VM": vm, "GPU_group": group, "device": device, "type": kind}
    ref = host.objects.create("VGPU", other_config=other_config or {}, **fields)
    host.objects.link("VM", vm, "VGPUs", ref)
    host.objects.link("GPU_group", group, "VGPUs", ref)
    host.objects.link("VGPU_type", kind, "VGPUs", ref)
    return ref


@method("VGPU.destroy", is_async=True)
def destroy_vgpu(host: HostServer, ref: str) -> None:
    """Take graphics from a halted VM. Source: XenAPI VGPU.destroy."""
    record = host.objects.get("VGPU", ref)
    vm = host.objects.get("VM", record["VM"])
    if vm["power_state"] != "Halted":
        raise XapiFault("OPERATION_NOT_ALLOWED", "vGPU can be destroyed only when the VM is halted")
    host.objects.delete("VGPU", ref)
    host.objects.unlink("VM", record["VM"], "VGPUs", ref)
    host.objects.unlink("GPU_group", record["GPU_group"], "VGPUs", ref)
    host.objects.unlink("VGPU_type", record["type"], "VGPUs", ref)


# -- TPMs


@method("VTPM.create", is_async=True)
def create_vtpm(host: HostServer, vm: str, is_unique: bool) -> str:
    """Give a halted VM a TPM, the only one it has. Source: XenAPI VTPM.create."""
    record = check_halted(host, vm)
    if record["VTPMs"]:
        raise XapiFault("VTPM_MAX_AMOUNT_REACHED", 1)
    if record["HVM_boot_params"].get("firmware") != "uefi":
        raise XapiFault("VM_HVM_REQUIRED", vm)
    contents = host.objects.create("secret", value="")
    fields = {"VM": vm, "is_unique": is_unique, "contents": contents}
    ref = host.objects.create("VTPM", allowed_operations=["destroy"], **fields)
    host.objects.link("VM", vm, "VTPMs", ref)
    return ref


@method("VTPM.destroy", is_async=True)
def destroy_vtpm(host: HostServer, ref: str) -> None:
    """Take a TPM from a halted VM, with all that it knew. Source: XenAPI VTPM.destroy."""
    record = host.objects.get("VTPM", ref)
    check_halted(host, record["VM"])
    host.objects.delete("VTPM", ref)
    host.objects.delete("secret", record["contents"])
    host.objects.unlink("VM", record["VM"], "VTPMs", ref)


@method("VTPM.set_contents")
def set_vtpm_contents(host: HostServer, ref: str, contents: str) -> None:
    """Set what a TPM knows. Source: XenAPI VTPM.set_contents."""
    record = host.objects.get("VTPM", ref)
    if len(contents) > VTPM_BYTES_MAX:
        raise XapiFault("INVALID_VALUE", "contents", "more than a TPM holds")
    host.objects.update("secret", record["contents"], value=contents)


@method("VTPM.get_contents")
def get_vtpm_contents(host: HostServer, ref: str) -> str:
    """Give what a TPM knows. Source: XenAPI VTPM.get_contents."""
    secret = host.objects.find("secret", host.objects.get("VTPM", ref)["contents"])
    return "" if secret is None else str(secret["value"])


# -- USB


@method("USB_group.create", is_async=True)
def create_usb_group(
    host: HostServer, name: str, description: str, other_config: dict[str, str]
) -> str:
    """Make a group of USB devices. Source: XenAPI USB_group.create."""
    fields = {"name_label": name, "name_description": description, "other_config": other_config}
    return host.objects.create("USB_group", **fields)


@method("USB_group.destroy", is_async=True)
def destroy_usb_group(host: HostServer, ref: str) -> None:
    """Remove a group without devices. Source: XenAPI USB_group.destroy."""
    record = host.objects.get("USB_group", ref)
    if record["PUSBs"]:
        raise XapiFault("USB_GROUP_CONTAINS_PUSB", *record["PUSBs"])
    if record["VUSBs"]:
        raise XapiFault("USB_GROUP_CONTAINS_VUSB", *record["VUSBs"])
    host.objects.delete("USB_group", ref)


@method("PUSB.scan", is_async=True)
def scan_usb(host: HostServer, on: str) -> None:
    """Look for USB devices: no backend has any. Source: XenAPI PUSB.scan."""
    host.objects.get("host", on)
    host.pool.member(on)


@method("PUSB.set_passthrough_enabled", is_async=True)
def set_passthrough_enabled(host: HostServer, ref: str, value: bool) -> None:
    """Say whether a USB device may be given to a VM. Source: PUSB.set_passthrough_enabled."""
    record = host.objects.get("PUSB", ref)
    group = host.objects.find("USB_group", record["USB_group"])
    if not value and group is not None and group["VUSBs"]:
        raise XapiFault("USB_GROUP_CONFLICT", record["USB_group"])
    host.objects.update("PUSB", ref, passthrough_enabled=value)


@method("VUSB.create", is_async=True)
def create_vusb(host: HostServer, vm: str, group: str, other_config: dict[str, str]) -> str:
    """Give a halted VM the USB device of a group. Source: XenAPI VUSB.create."""
    record = check_halted(host, vm)
    found = host.objects.get("USB_group", group)
    if len(record["VUSBs"]) >= VUSBS_MAX:
        raise XapiFault("TOO_MANY_VUSBS", VUSBS_MAX)
    if found["VUSBs"]:
        raise XapiFault("USB_GROUP_CONFLICT", group)
    fields = {"VM": vm, "USB_group": group, "other_config": other_config}
    ref = host.objects.create("VUSB", allowed_operations=["attach", "plug", "unplug"], **fields)
    host.objects.link("VM", vm, "VUSBs", ref)
    host.objects.link("USB_group", group, "VUSBs", ref)
    return ref


@method("VUSB.unplug", is_async=True)
def unplug_vusb(host: HostServer, ref: str) -> None:
    """Take a USB device from a running VM: one that is not attached cannot be. Source: VUSB."""
    record = host.objects.get("VUSB", ref)
    vm = host.objects.get("VM", record["VM"])
    if vm["power_state"] != "Running":
        raise bad_state(record["VM"], ("Running",), vm["power_state"])
    if not record["currently_attached"]:
        raise XapiFault("DEVICE_ALREADY_DETACHED", ref)
    host.objects.update("VUSB", ref, currently_attached=False)


@method("VUSB.destroy", is_async=True)
def destroy_vusb(host: HostServer, ref: str) -> None:
    """Take a USB device away from a VM. Source: XenAPI VUSB.destroy."""
    record = host.objects.get("VUSB", ref)
    if record["currently_attached"]:
        raise XapiFault("OPERATION_NOT_ALLOWED", f"VUSB {record['uuid']} is attached")
    host.objects.delete("VUSB", ref)
    host.objects.unlink("VM", record["VM"], "VUSBs", ref)
    host.objects.unlink("USB_group", record["USB_group"], "VUSBs", ref)


# -- small classes


@method("SDN_controller.introduce", is_async=True)
def introduce_sdn(host: HostServer, protocol: str = "ssl", address: str = "", port: int = 0) -> str:
    """Note the one controller of networks. Source: XenAPI SDN_controller.introduce."""
    if host.objects.all("SDN_controller"):
        raise XapiFault("OPERATION_NOT_ALLOWED", "there is an SDN controller already")
    if protocol not in ("ssl", "pssl"):
        raise XapiFault("INVALID_VALUE", "protocol", protocol)
    if protocol == "ssl":
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise XapiFault("INVALID_IP_ADDRESS_SPECIFIED", "address") from None
    elif address or port:
        raise XapiFault("INVALID_VALUE", "address", address)
    if not 0 <= port <= 65535:
        raise XapiFault("INVALID_VALUE", "port", port)
    default = 6632 if protocol == "pssl" else 6640
    fields = {"protocol": protocol, "address": address, "port": port or default}
    return host.objects.create("SDN_controller", **fields)


@method("SDN_controller.forget", is_async=True)
def forget_sdn(host: HostServer, ref: str) -> None:
    """Forget a controller of networks. Source: XenAPI SDN_controller.forget."""
    host.objects.delete("SDN_controller", ref)


@method("blob.create")
def create_blob(host: HostServer, mime_type: str, public: bool = False) -> str:
    """Make room for bytes. Source: XenAPI blob.create."""
    kind = mime_type or "application/octet-stream"
    return host.objects.create("blob", mime_type=kind, public=public, last_updated=host.now())


@method("blob.destroy")
def destroy_blob(host: HostServer, ref: str) -> None:
    """Remove bytes. Source: XenAPI blob.destroy."""
    host.objects.delete("blob", ref)


@method("host_crashdump.destroy", is_async=True)
def destroy_crashdump(host: HostServer, ref: str) -> None:
    """Remove what a crash of a host left. Source: XenAPI host_crashdump.destroy."""
    record = host.objects.get("host_crashdump", ref)
    host.objects.delete("host_crashdump", ref)
    host.objects.unlink("host", record["host"], "crashdumps", ref)


@method("console.create", is_async=True)
def create_console(host: HostServer, record: dict[str, Any]) -> str:
    """Refuse: consoles are made with domains, and none beside them leads anywhere."""
    creation("console", record)
    raise XapiFault("OPERATION_NOT_ALLOWED", f"host {host.ref} makes consoles itself")


@method("console.destroy", is_async=True)
def destroy_console(host: HostServer, ref: str) -> None:
    """Remove a console, which is made again at the next start. Source: XenAPI console.destroy."""
    record = host.objects.get("console", ref)
    host.objects.delete("console", ref)
    host.objects.unlink("VM", record["VM"], "consoles", ref)


@method("pool_update.introduce", is_async=True)
def introduce_update(host: HostServer, vdi: str) -> str:
    """Refuse a disk as an update: this toolstack is updated as a package. Source: pool_update."""
    host.objects.get("VDI", vdi)
    raise XapiFault("CANNOT_FIND_UPDATE")


@method("pool_update.precheck", is_async=True)
def precheck_update(host: HostServer, ref: str, on: str) -> str:
    """Tell whether an update fits a host. Source: XenAPI pool_update.precheck."""
    host.objects.get("host", on)
    host.objects.get("pool_update", ref)
    raise XapiFault("CANNOT_FIND_UPDATE")


@method("pool_update.apply", is_async=True)
def apply_update(host: HostServer, ref: str, on: str) -> None:
    """Install an update on a host. Source: XenAPI pool_update.apply."""
    precheck_update(host, ref, on)


@method("pool_update.pool_apply", is_async=True)
def pool_apply_update(host: HostServer, ref: str) -> None:
    """Install an update on all hosts. Source: XenAPI pool_update.pool_apply."""
    for on in host.objects.all("host"):
        precheck_update(host, ref, on)


@method("pool_update.pool_clean", is_async=True)
def pool_clean_update(host: HostServer, ref: str) -> None:
    """Remove an update's files: the record is all that there is of one. Source: pool_update."""
    host.objects.get("pool_update", ref)


@method("pool_update.destroy", is_async=True)
def destroy_update(host: HostServer, ref: str) -> None:
    """Forget an update that no host has. Source: XenAPI pool_update.destroy."""
    if host.objects.get("pool_update", ref)["hosts"]:
        raise XapiFault("UPDATE_IS_APPLIED")
    host.objects.delete("pool_update", ref)
