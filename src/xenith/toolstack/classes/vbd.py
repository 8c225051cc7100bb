"""VBDs: which disk is which device of which VM."""

from __future__ import annotations

import re
from typing import Any

from xenith.toolstack.backends import DiskSpec
from xenith.toolstack.methods import creation, is_null, method
from xenith.toolstack.qos import SUPPORTED, limits_of
from xenith.toolstack.server import HostServer
from xenith.toolstack.storage.records import show_operations
from xenith.toolstack.storage.upkeep import tidy
from xenith.xapi import NULL
from xenith.xapi.faults import XapiFault

#: Devices of one VM. Source: XenServer, 255 VBDs; 16 without PV drivers.
DEVICES_MAX = 255

_NUMBER = re.compile("[0-9]{1,3}")
_NAME = re.compile("(?:xvd|hd|sd)([a-z])")


@method("VBD.create", is_async=True)
def create(host: HostServer, record: dict[str, Any]) -> str:
    """Give a VM a disk or a drive. Source: XenAPI VBD.create."""
    fields = creation("VBD", record)
    vm = host.objects.get("VM", fields["VM"])
    vdi = fields.get("VDI", NULL)
    kind = {"disk": "Disk", "cd": "CD", "floppy": "Floppy"}.get(fields.get("type", "Disk").lower())
    mode = fields.get("mode", "RW").upper()
    if kind is None or mode not in ("RO", "RW"):
        wrong = "type" if kind is None else "mode"
        raise XapiFault("INVALID_VALUE", wrong, fields.get(wrong, ""))
    if kind == "CD" and mode != "RO":
        raise XapiFault("VBD_CDS_MUST_BE_READONLY")
    if is_null(vdi):
        if kind != "CD":
            raise XapiFault("HANDLE_INVALID", "VDI", vdi)
    elif host.objects.get("VDI", vdi)["read_only"] and mode == "RW":
        raise XapiFault("VDI_READONLY", vdi)
    limits_of(fields.get("qos_algorithm_type", ""), fields.get("qos_algorithm_params", {}))
    taken = {host.objects.get("VBD", ref)["userdevice"] for ref in vm["VBDs"]}
    device = _position(fields.get("userdevice", ""), taken)
    if device in taken:
        raise XapiFault("DEVICE_ALREADY_EXISTS", device)
    fields.update(
        VDI=vdi,
        userdevice=device,
        type=kind,
        mode=mode,
        empty=is_null(vdi),
        allowed_operations=["attach", "plug", "unplug"],
        qos_supported_algorithms=list(SUPPORTED),
    )
    ref = host.objects.create("VBD", **fields)
    host.objects.link("VM", fields["VM"], "VBDs", ref)
    if not is_null(vdi):
        host.objects.link("VDI", vdi, "VBDs", ref)
    return ref


def _position(asked: str, taken: set[str]) -> str:
    """Give the number of a device that is asked for by number, by name, or not at all."""
    if asked in ("autodetect", ""):
        free = (str(n) for n in range(DEVICES_MAX) if str(n) not in taken)
        found = next(free, None)
        if found is None:
            raise XapiFault("INVALID_DEVICE", asked)
        return found
    if _NUMBER.fullmatch(asked) and int(asked) < DEVICES_MAX:
        return str(int(asked))
    named = _NAME.fullmatch(asked)
    if named is None:
        raise XapiFault("INVALID_DEVICE", asked)
    return str(ord(named[1]) - ord("a"))


@method("VBD.destroy", is_async=True)
def destroy(host: HostServer, ref: str) -> None:
    """Take a device away from a VM; the disk stays. Source: XenAPI VBD.destroy."""
    record = host.objects.get("VBD", ref)
    if record["currently_attached"]:
        raise XapiFault("OPERATION_NOT_ALLOWED", f"VBD {record['uuid']} is attached")
    remove(host, ref)


def remove(host: HostServer, ref: str) -> None:
    """Remove the record and what refers to it."""
    record = host.objects.get("VBD", ref)
    host.objects.delete("VBD", ref)
    host.objects.unlink("VM", record["VM"], "VBDs", ref)
    if not is_null(record["VDI"]):
        host.objects.unlink("VDI", record["VDI"], "VBDs", ref)


def set_attached(host: HostServer, ref: str, *, device: str) -> None:
    """Write which device of a running VM a disk is; an empty name says that it is none any more."""
    record = host.objects.get("VBD", ref)
    host.objects.update("VBD", ref, currently_attached=bool(device), device=device)
    if not record["empty"]:
        show_operations(host, record["VDI"])
    if not record["empty"] and not device:
        # Chains are not shortened while a VM has them open.
        tidy(host, host.objects.get("VDI", record["VDI"])["SR"])


def disk_spec(host: HostServer, record: dict[str, Any]) -> DiskSpec:
    """Give the backend's view of a device that has a disk."""
    return DiskSpec(
        host.objects.get("VDI", record["VDI"])["uuid"],
        record["userdevice"],
        is_read_only=record["mode"] == "RO",
        is_cd=record["type"] == "CD",
        qos_type=record["qos_algorithm_type"],
        qos_params=dict(record["qos_algorithm_params"]),
    )


@method("VBD.set_qos_algorithm_type")
async def set_qos_algorithm_type(host: HostServer, ref: str, value: str) -> None:
    """Say in which way a device's input and output is limited, from now on."""
    await _set_qos(host, ref, value, host.objects.get("VBD", ref)["qos_algorithm_params"])


@method("VBD.set_qos_algorithm_params")
async def set_qos_algorithm_params(host: HostServer, ref: str, value: dict[str, str]) -> None:
    """Say how much input and output a device may have, from now on."""
    await _set_qos(host, ref, host.objects.get("VBD", ref)["qos_algorithm_type"], value)


@method("VBD.add_to_qos_algorithm_params")
async def add_to_qos_algorithm_params(host: HostServer, ref: str, key: str, value: str) -> None:
    """Add to how much input and output a device may have."""
    record = host.objects.get("VBD", ref)
    params = record["qos_algorithm_params"]
    if key in params:
        raise XapiFault("MAP_DUPLICATE_KEY", "VBD", "qos_algorithm_params", record["uuid"], key)
    await _set_qos(host, ref, record["qos_algorithm_type"], {**params, key: value})


@method("VBD.remove_from_qos_algorithm_params")
async def remove_from_qos_algorithm_params(host: HostServer, ref: str, key: str) -> None:
    """Take one limit of a device's input and output away."""
    record = host.objects.get("VBD", ref)
    left = {name: one for name, one in record["qos_algorithm_params"].items() if name != key}
    await _set_qos(host, ref, record["qos_algorithm_type"], left)


async def _set_qos(host: HostServer, ref: str, kind: str, params: dict[str, str]) -> None:
    limits_of(kind, params)
    host.objects.update("VBD", ref, qos_algorithm_type=kind, qos_algorithm_params=params)
    record = host.objects.get("VBD", ref)
    if record["currently_attached"] and not record["empty"]:
        vm = host.objects.get("VM", record["VM"])
        await host.backend.set_qos(vm["uuid"], disk_spec(host, record))


@method("VBD.plug", is_async=True)
def plug(host: HostServer, ref: str) -> None:
    """Attach a device to a running VM: at its next start here. Source: XenAPI VBD.plug."""
    check_plug(host, host.objects.get("VBD", ref), wanted=True)


@method("VBD.unplug", is_async=True)
@method("VBD.unplug_force", is_async=True)
def unplug(host: HostServer, ref: str) -> None:
    """Detach a device from a running VM: at its end here. Source: XenAPI VBD.unplug."""
    check_plug(host, host.objects.get("VBD", ref), wanted=False)


def check_plug(host: HostServer, record: dict[str, Any], *, wanted: bool) -> None:
    """Refuse to plug or unplug, with the reason: no backend changes a running domain's devices.

    Raises:
        XapiFault: always, with the code that says what stands in the way.
    """
    if record["currently_attached"] == wanted:
        word = "ATTACHED" if wanted else "DETACHED"
        raise XapiFault(f"DEVICE_ALREADY_{word}", record.get("userdevice") or record["device"])
    power = host.objects.get("VM", record["VM"])["power_state"]
    if power != "Running":
        raise XapiFault("VM_BAD_POWER_STATE", record["VM"], "running", power.lower())
    raise XapiFault("OPERATION_NOT_ALLOWED", "devices change when the VM is halted")


@method("VBD.insert", is_async=True)
def insert(host: HostServer, ref: str, vdi: str) -> None:
    """Put a disk into an empty drive of a halted VM."""
    record = host.objects.get("VBD", ref)
    host.objects.get("VDI", vdi)
    if not record["empty"]:
        raise XapiFault("VBD_NOT_EMPTY", ref)
    if record["currently_attached"]:
        raise XapiFault("OPERATION_NOT_ALLOWED", "media of a running VM cannot be changed")
    host.objects.update("VBD", ref, VDI=vdi, empty=False)
    host.objects.link("VDI", vdi, "VBDs", ref)


@method("VBD.eject", is_async=True)
def eject(host: HostServer, ref: str) -> None:
    """Take the disk out of a drive of a halted VM."""
    record = host.objects.get("VBD", ref)
    if record["empty"]:
        raise XapiFault("VBD_IS_EMPTY", ref)
    if record["type"] != "CD":
        raise XapiFault("VBD_NOT_REMOVABLE_MEDIA", ref)
    if record["currently_attached"]:
        raise XapiFault("OPERATION_NOT_ALLOWED", "media of a running VM cannot be changed")
    vdi = record["VDI"]
    host.objects.update("VBD", ref, VDI=NULL, empty=True)
    host.objects.unlink("VDI", vdi, "VBDs", ref)


@method("VBD.set_bootable")
def set_bootable(host: HostServer, ref: str, value: bool) -> None:
    """Say whether a VM boots from a device. Source: XenAPI VBD.set_bootable."""
    host.objects.get("VBD", ref)
    host.objects.update("VBD", ref, bootable=value)


@method("VBD.set_mode", is_async=True)
def set_mode(host: HostServer, ref: str, value: str) -> None:
    """Say whether a device that is not attached may be written. Source: XenAPI VBD.set_mode."""
    record = _detached(host, ref)
    if value not in ("RO", "RW"):
        raise XapiFault("INVALID_VALUE", "mode", value)
    if record["type"] == "CD" and value == "RW":
        raise XapiFault("VBD_CDS_MUST_BE_READONLY")
    is_kept = not record["empty"] and host.objects.get("VDI", record["VDI"])["read_only"]
    if value == "RW" and is_kept:
        raise XapiFault("VDI_READONLY", record["VDI"])
    host.objects.update("VBD", ref, mode=value)


@method("VBD.set_userdevice")
def set_userdevice(host: HostServer, ref: str, value: str) -> None:
    """Put a disk that is not attached elsewhere in its VM. Source: XenAPI VBD.set_userdevice."""
    record = _detached(host, ref)
    others = host.objects.get("VM", record["VM"])["VBDs"]
    taken = {host.objects.get("VBD", other)["userdevice"] for other in others if other != ref}
    device = _position(value, taken)
    if device in taken:
        raise XapiFault("DEVICE_ALREADY_EXISTS", device)
    host.objects.update("VBD", ref, userdevice=device)


def _detached(host: HostServer, ref: str) -> dict[str, Any]:
    record = host.objects.get("VBD", ref)
    if record["currently_attached"]:
        raise XapiFault("OPERATION_NOT_ALLOWED", f"VBD {record['uuid']} is attached")
    return record
