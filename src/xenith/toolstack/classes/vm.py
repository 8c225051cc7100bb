"""VMs: made, started, stopped, paused, suspended, and what may be asked of one when.

Source: XenAPI class VM, its power-state machine and its rules for concurrent operations.
"""

from __future__ import annotations

from typing import Any

from xenith.toolstack.backends import BackendError, DomainSpec, NicSpec
from xenith.toolstack.classes import vbd as vbds
from xenith.toolstack.classes import vif as vifs
from xenith.toolstack.classes import vm_copies
from xenith.toolstack.classes.lifecycle import (
    XENSTORE_PREFIXES,
    allowed,
    check_halted,
    has_started,
    has_stopped,
    operation,
    set_power,
    show_operations,
)
from xenith.toolstack.classes.placement import choose_host, give_back, move_domain, take_memory
from xenith.toolstack.classes.vdi import SHARING
from xenith.toolstack.methods import creation, is_null, method
from xenith.toolstack.server import HostServer
from xenith.xapi.faults import XapiFault


@method("VM.create", is_async=True)
def create(host: HostServer, record: dict[str, Any]) -> str:
    """Make a VM, halted. Source: XenAPI VM.create."""
    return make(host, record)


def make(host: HostServer, record: dict[str, Any], **own: Any) -> str:
    """Make a VM of what a client wants, with fields that are not for clients to give.

    Raises:
        XapiFault: FIELD_TYPE_ERROR, INVALID_VALUE.
    """
    fields = creation("VM", record)
    if not isinstance(record.get("name_label"), str):
        raise XapiFault("FIELD_TYPE_ERROR", "name_label")
    largest = fields.get("memory_static_max", 0)
    if largest <= 0:
        raise XapiFault("INVALID_VALUE", "memory_static_max", largest)
    for name in ("memory_dynamic_max", "memory_dynamic_min"):
        fields[name] = fields.get(name) or largest
    if fields.get("VCPUs_max", 1) < max(1, fields.get("VCPUs_at_startup", 1)):
        raise XapiFault("INVALID_VALUE", "VCPUs_max", fields.get("VCPUs_max", 1))
    fields.update(
        allowed_operations=allowed("Halted", (), is_template=fields.get("is_a_template", False)),
        memory_target=largest,
    )
    return host.objects.create("VM", **fields, **own)


@method("VM.destroy", is_async=True)
async def destroy(host: HostServer, ref: str) -> None:
    """Remove a VM with its VBDs and VIFs; its disks stay. Source: XenAPI VM.destroy."""
    if host.objects.get("VM", ref)["is_default_template"]:
        raise XapiFault("VM_CANNOT_DELETE_DEFAULT_TEMPLATE", ref)
    async with operation(host, ref, "destroy") as record:
        if record["power_state"] == "Suspended":
            await host.backend.domain_shutdown(record["uuid"], is_clean=False)
        await host.backend.domain_forget(record["uuid"])
        for vbd in list(record["VBDs"]):
            vbds.remove(host, vbd)
        for vif in list(record["VIFs"]):
            vifs.remove(host, vif)
        for console in list(record["consoles"]):
            host.objects.delete("console", console)
        for kind, field in (("VM_metrics", "metrics"), ("VM_guest_metrics", "guest_metrics")):
            if not is_null(record[field]):
                host.objects.delete(kind, record[field])
        vm_copies.forget_snapshot(host, ref)
        host.objects.delete("VM", ref)


@method("VM.start", is_async=True)
async def start(
    host: HostServer, ref: str, start_paused: bool = False, force: bool = False
) -> None:
    """Start a VM. Source: XenAPI VM.start."""
    del force
    await _start(host, ref, "start", is_paused=start_paused)


async def _start(
    host: HostServer, ref: str, name: str, *, is_paused: bool, on: str | None = None
) -> None:
    async with operation(host, ref, name) as record:
        _check_disks(host, record)
        take_memory(host, ref, record, on or choose_host(host, record))
        try:
            domid = await host.backend.domain_start(spec(host, record), is_paused=is_paused)
        except BaseException:
            give_back(host, ref)
            raise
        has_started(host, ref, domid, "Paused" if is_paused else "Running")


@method("VM.start_on", is_async=True)
async def start_on(
    host: HostServer, ref: str, on: str, start_paused: bool = False, force: bool = False
) -> None:
    """Start a VM on a host of the pool. Source: XenAPI VM.start_on."""
    del force
    host.objects.get("host", on)
    await _start(host, ref, "start_on", is_paused=start_paused, on=on)


@method("VM.clean_shutdown", is_async=True)
async def clean_shutdown(host: HostServer, ref: str) -> None:
    """Ask the guest to shut down and wait. Source: XenAPI VM.clean_shutdown."""
    async with operation(host, ref, "clean_shutdown") as record:
        await host.backend.domain_shutdown(record["uuid"], is_clean=True)
        has_stopped(host, ref, "Halted")


@method("VM.hard_shutdown", is_async=True)
async def hard_shutdown(host: HostServer, ref: str) -> None:
    """Cut the power. Source: XenAPI VM.hard_shutdown."""
    async with operation(host, ref, "hard_shutdown") as record:
        await host.backend.domain_shutdown(record["uuid"], is_clean=False)
        has_stopped(host, ref, "Halted")


@method("VM.shutdown", is_async=True)
async def shutdown(host: HostServer, ref: str) -> None:
    """Ask the guest, and cut the power when it does not. Source: XenAPI VM.shutdown."""
    try:
        await clean_shutdown(host, ref)
    except (XapiFault, BackendError):
        await hard_shutdown(host, ref)


@method("VM.clean_reboot", is_async=True)
async def clean_reboot(host: HostServer, ref: str) -> None:
    """Ask the guest to reboot and wait. Source: XenAPI VM.clean_reboot."""
    await _reboot(host, ref, "clean_reboot")


@method("VM.hard_reboot", is_async=True)
async def hard_reboot(host: HostServer, ref: str) -> None:
    """Cut the power and start again. Source: XenAPI VM.hard_reboot."""
    await _reboot(host, ref, "hard_reboot")


async def _reboot(host: HostServer, ref: str, name: str) -> None:
    async with operation(host, ref, name) as record:
        domid = await host.backend.domain_reboot(record["uuid"], is_clean=name == "clean_reboot")
        has_started(host, ref, domid, "Running")


@method("VM.pause", is_async=True)
async def pause(host: HostServer, ref: str) -> None:
    """Stop the processors. Source: XenAPI VM.pause."""
    async with operation(host, ref, "pause") as record:
        await host.backend.domain_pause(record["uuid"])
        set_power(host, ref, "Paused")


@method("VM.unpause", is_async=True)
async def unpause(host: HostServer, ref: str) -> None:
    """Let the processors run. Source: XenAPI VM.unpause."""
    async with operation(host, ref, "unpause") as record:
        await host.backend.domain_unpause(record["uuid"])
        set_power(host, ref, "Running")


@method("VM.suspend", is_async=True)
async def suspend(host: HostServer, ref: str) -> None:
    """Save the memory and stop. Source: XenAPI VM.suspend."""
    async with operation(host, ref, "suspend") as record:
        await host.backend.domain_suspend(record["uuid"])
        has_stopped(host, ref, "Suspended")


@method("VM.resume", is_async=True)
async def resume(
    host: HostServer, ref: str, start_paused: bool = False, force: bool = False
) -> None:
    """Go on from the saved memory. Source: XenAPI VM.resume."""
    del force
    await _resume(host, ref, "resume", is_paused=start_paused)


@method("VM.resume_on", is_async=True)
async def resume_on(
    host: HostServer, ref: str, on: str, start_paused: bool = False, force: bool = False
) -> None:
    """Go on, on a host of the pool. Source: XenAPI VM.resume_on."""
    del force
    host.objects.get("host", on)
    await _resume(host, ref, "resume_on", is_paused=start_paused, on=on)


async def _resume(
    host: HostServer, ref: str, name: str, *, is_paused: bool, on: str | None = None
) -> None:
    async with operation(host, ref, name) as record:
        saved_on = host.pool.place_of(ref, record)
        place = on or (choose_host(host, record) if is_null(saved_on) else saved_on)
        take_memory(host, ref, record, place)
        if place != saved_on and not is_null(saved_on):
            await move_domain(host, record, saved_on, place)
        try:
            domid = await host.backend.domain_resume(spec(host, record))
        except BaseException:
            give_back(host, ref)
            raise
        has_started(host, ref, domid, "Running")
        if is_paused:
            await host.backend.domain_pause(record["uuid"])
            set_power(host, ref, "Paused")


@method("VM.set_is_a_template")
def set_is_a_template(host: HostServer, ref: str, value: bool) -> None:
    """Make a halted VM a template, or a template a VM. Source: XenAPI VM.set_is_a_template."""
    record = check_halted(host, ref)
    if record["is_a_snapshot"] and not value:
        raise XapiFault("OPERATION_NOT_ALLOWED", "a snapshot stays a template")
    host.objects.update("VM", ref, is_a_template=value)
    show_operations(host, ref)


@method("VM.get_allowed_VBD_devices")
def get_allowed_vbd_devices(host: HostServer, ref: str) -> list[str]:
    """List the device numbers that are free."""
    taken = {
        host.objects.get("VBD", vbd)["userdevice"] for vbd in host.objects.get("VM", ref)["VBDs"]
    }
    return [str(n) for n in range(16) if str(n) not in taken]


@method("VM.get_allowed_VIF_devices")
def get_allowed_vif_devices(host: HostServer, ref: str) -> list[str]:
    """List the device numbers that are free."""
    taken = {host.objects.get("VIF", vif)["device"] for vif in host.objects.get("VM", ref)["VIFs"]}
    return [str(n) for n in range(vifs.DEVICES_MAX) if str(n) not in taken]


def spec(host: HostServer, record: dict[str, Any]) -> DomainSpec:
    """Give the backend's view of a VM."""
    disks = []
    for ref in record["VBDs"]:
        vbd = host.objects.get("VBD", ref)
        if vbd["empty"]:
            continue
        disks.append(vbds.disk_spec(host, vbd))
    cards = [host.objects.get("VIF", ref) for ref in record["VIFs"]]
    return DomainSpec(
        vm_uuid=record["uuid"],
        name=record["name_label"],
        memory_bytes=record["memory_static_max"],
        vcpu_count=record["VCPUs_at_startup"],
        disks=tuple(sorted(disks, key=lambda disk: int(disk.device))),
        nics=tuple(
            NicSpec(
                card["device"],
                card["MAC"],
                host.objects.get("network", card["network"])["uuid"],
                card["MTU"],
            )
            for card in sorted(cards, key=lambda card: int(card["device"]))
        ),
        platform=dict(record["platform"]),
        xenstore={
            key: value
            for key, value in record["xenstore_data"].items()
            if key.startswith(XENSTORE_PREFIXES)
        },
        other_config=dict(record["other_config"]),
    )


def _check_disks(host: HostServer, record: dict[str, Any]) -> None:
    """Refuse disks that are being filled, or that another VM writes.

    Raises:
        XapiFault: VDI_IN_USE, OTHER_OPERATION_IN_PROGRESS.
    """
    for own in record["VBDs"]:
        vbd = host.objects.get("VBD", own)
        if vbd["empty"]:
            continue
        host.operations.check("VDI", vbd["VDI"], beside=SHARING)
        vdi = host.objects.get("VDI", vbd["VDI"])
        others = [host.objects.get("VBD", ref) for ref in vdi["VBDs"] if ref != own]
        if not vdi["sharable"] and any(
            other["currently_attached"] and "RW" in (other["mode"], vbd["mode"]) for other in others
        ):
            raise XapiFault("VDI_IN_USE", vbd["VDI"], "attach")
