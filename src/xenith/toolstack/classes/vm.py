"""VMs: made, started, stopped, paused, suspended, and what may be asked of one when.

Source: XenAPI class VM, its power-state machine and its rules for concurrent operations.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Any

from xenith.toolstack.backends import BackendError, DomainSpec, DomainState, NicSpec
from xenith.toolstack.classes import vbd as vbds
from xenith.toolstack.classes import vif as vifs
from xenith.toolstack.classes.host import free_memory_bytes, write_free_memory
from xenith.toolstack.classes.vdi import SHARING
from xenith.toolstack.methods import creation, is_null, method
from xenith.toolstack.server import HostServer
from xenith.xapi import NULL
from xenith.xapi.faults import XapiFault

#: States from which each operation may start. Source: xapi_vm_lifecycle.
FROM: dict[str, tuple[str, ...]] = {
    "start": ("Halted",),
    "start_on": ("Halted",),
    "clean_shutdown": ("Running",),
    "hard_shutdown": ("Running", "Paused", "Suspended"),
    "clean_reboot": ("Running",),
    "hard_reboot": ("Running", "Paused"),
    "pause": ("Running",),
    "unpause": ("Paused",),
    "suspend": ("Running",),
    "resume": ("Suspended",),
    "resume_on": ("Suspended",),
    "destroy": ("Halted", "Suspended"),
}
_HARD = frozenset(("hard_shutdown", "hard_reboot", "destroy"))
#: What overrides an operation that runs. Source: message_forwarding, hard_shutdown and hard_reboot.
_OVERRIDES = {
    "hard_shutdown": frozenset(FROM) - {"hard_shutdown", "destroy"},
    "hard_reboot": frozenset(FROM) - _HARD,
}
#: Prefixes of xenstore data that reach a domain. Source: xenopsd, others are dropped.
XENSTORE_PREFIXES = ("vm-data/", "FIST/")
_STATES: dict[DomainState, str] = {
    "running": "Running",
    "paused": "Paused",
    "suspended": "Suspended",
    "halted": "Halted",
    "crashed": "Halted",
}


@method("VM.create", is_async=True)
def create(host: HostServer, record: dict[str, Any]) -> str:
    """Make a VM, halted. Source: XenAPI VM.create."""
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
    return host.objects.create("VM", **fields)


@method("VM.destroy", is_async=True)
async def destroy(host: HostServer, ref: str) -> None:
    """Remove a VM with its VBDs and VIFs; its disks stay. Source: XenAPI VM.destroy."""
    async with _operation(host, ref, "destroy") as record:
        if record["power_state"] == "Suspended":
            await host.backend.domain_shutdown(record["uuid"], is_clean=False)
        await host.backend.domain_forget(record["uuid"])
        for vbd in list(record["VBDs"]):
            vbds.remove(host, vbd)
        for vif in list(record["VIFs"]):
            vifs.remove(host, vif)
        for console in list(record["consoles"]):
            host.objects.delete("console", console)
        if not is_null(record["metrics"]):
            host.objects.delete("VM_metrics", record["metrics"])
        host.objects.delete("VM", ref)


@method("VM.start", is_async=True)
async def start(
    host: HostServer, ref: str, start_paused: bool = False, force: bool = False
) -> None:
    """Start a VM. Source: XenAPI VM.start."""
    del force
    await _start(host, ref, "start", is_paused=start_paused)


async def _start(host: HostServer, ref: str, name: str, *, is_paused: bool) -> None:
    async with _operation(host, ref, name) as record:
        if not host.objects.get("host", host.objects.only("host"))["enabled"]:
            raise XapiFault("HOST_DISABLED", host.objects.only("host"))
        _check_disks(host, record)
        _take_memory(host, ref, record)
        try:
            domid = await host.backend.domain_start(spec(host, record), is_paused=is_paused)
        except BaseException:
            host.memory_bytes.pop(ref, None)
            raise
        _has_started(host, ref, domid, "Paused" if is_paused else "Running")


@method("VM.start_on", is_async=True)
async def start_on(
    host: HostServer, ref: str, on: str, start_paused: bool = False, force: bool = False
) -> None:
    """Start a VM on a host of the pool. Source: XenAPI VM.start_on."""
    del force
    host.objects.get("host", on)
    await _start(host, ref, "start_on", is_paused=start_paused)


@method("VM.clean_shutdown", is_async=True)
async def clean_shutdown(host: HostServer, ref: str) -> None:
    """Ask the guest to shut down and wait. Source: XenAPI VM.clean_shutdown."""
    async with _operation(host, ref, "clean_shutdown") as record:
        await host.backend.domain_shutdown(record["uuid"], is_clean=True)
        has_stopped(host, ref, "Halted")


@method("VM.hard_shutdown", is_async=True)
async def hard_shutdown(host: HostServer, ref: str) -> None:
    """Cut the power. Source: XenAPI VM.hard_shutdown."""
    async with _operation(host, ref, "hard_shutdown") as record:
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
    async with _operation(host, ref, name) as record:
        domid = await host.backend.domain_reboot(record["uuid"], is_clean=name == "clean_reboot")
        _has_started(host, ref, domid, "Running")


@method("VM.pause", is_async=True)
async def pause(host: HostServer, ref: str) -> None:
    """Stop the processors. Source: XenAPI VM.pause."""
    async with _operation(host, ref, "pause") as record:
        await host.backend.domain_pause(record["uuid"])
        _set_power(host, ref, "Paused")


@method("VM.unpause", is_async=True)
async def unpause(host: HostServer, ref: str) -> None:
    """Let the processors run. Source: XenAPI VM.unpause."""
    async with _operation(host, ref, "unpause") as record:
        await host.backend.domain_unpause(record["uuid"])
        _set_power(host, ref, "Running")


@method("VM.suspend", is_async=True)
async def suspend(host: HostServer, ref: str) -> None:
    """Save the memory and stop. Source: XenAPI VM.suspend."""
    async with _operation(host, ref, "suspend") as record:
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
    await _resume(host, ref, "resume_on", is_paused=start_paused)


async def _resume(host: HostServer, ref: str, name: str, *, is_paused: bool) -> None:
    async with _operation(host, ref, name) as record:
        _take_memory(host, ref, record)
        try:
            domid = await host.backend.domain_resume(spec(host, record))
        except BaseException:
            host.memory_bytes.pop(ref, None)
            raise
        _has_started(host, ref, domid, "Running")
        if is_paused:
            await host.backend.domain_pause(record["uuid"])
            _set_power(host, ref, "Paused")


@method("VM.set_memory_limits", is_async=True)
def set_memory_limits(
    host: HostServer,
    ref: str,
    static_min: int,
    static_max: int,
    dynamic_min: int,
    dynamic_max: int,
) -> None:
    """Set the memory of a halted VM. Source: XenAPI VM.set_memory_limits."""
    _check_halted(host, ref)
    if not 0 <= static_min <= dynamic_min <= dynamic_max <= static_max or static_max == 0:
        raise XapiFault("MEMORY_CONSTRAINT_VIOLATION", "static_min, dynamic_min, dynamic_max, max")
    host.objects.update(
        "VM",
        ref,
        memory_static_min=static_min,
        memory_static_max=static_max,
        memory_dynamic_min=dynamic_min,
        memory_dynamic_max=dynamic_max,
        memory_target=dynamic_max,
    )


@method("VM.set_VCPUs_max")
def set_vcpus_max(host: HostServer, ref: str, count: int) -> None:
    """Set how many processors a halted VM may have. Source: XenAPI VM.set_VCPUs_max."""
    _set_vcpus(host, ref, VCPUs_max=count)


@method("VM.set_VCPUs_at_startup")
def set_vcpus_at_startup(host: HostServer, ref: str, count: int) -> None:
    """Set how many processors a halted VM begins with. Source: XenAPI VM.set_VCPUs_at_startup."""
    _set_vcpus(host, ref, VCPUs_at_startup=count)


def _set_vcpus(host: HostServer, ref: str, **given: int) -> None:
    record = _check_halted(host, ref)
    both = {name: given.get(name, record[name]) for name in ("VCPUs_max", "VCPUs_at_startup")}
    if not 1 <= both["VCPUs_at_startup"] <= both["VCPUs_max"]:
        ((name, value),) = given.items()
        raise XapiFault("INVALID_VALUE", name, value)
    host.objects.update("VM", ref, **given)


def _check_halted(host: HostServer, ref: str) -> dict[str, Any]:
    record = host.objects.get("VM", ref)
    host.operations.check("VM", ref)
    if record["power_state"] != "Halted":
        raise _bad_state(ref, ("Halted",), record["power_state"])
    return record


@method("VM.set_is_a_template")
def set_is_a_template(host: HostServer, ref: str, value: bool) -> None:
    """Make a halted VM a template, or a template a VM. Source: XenAPI VM.set_is_a_template."""
    _check_halted(host, ref)
    host.objects.update("VM", ref, is_a_template=value)
    _show_operations(host, ref)


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


def changed_by_itself(host: HostServer, vm_uuid: str, state: DomainState, reason: str) -> None:
    """Hear from the backend that a domain changed: shut down, crashed, rebooted by its guest."""
    del reason
    try:
        ref = host.objects.by_uuid("VM", vm_uuid)
    except XapiFault:
        return
    if host.operations.of(ref):
        # It may be the operation's own doing: the backend is asked when that has ended.
        host.unheard.add(ref)
        return
    _follow(host, ref, host.objects.get("VM", ref), state)


def adopt(host: HostServer, states: dict[str, DomainState]) -> None:
    """Bring the records in step with the domains that the backend found at start."""
    for ref, record in list(host.objects.all("VM").items()):
        power = _STATES[states.get(record["uuid"], "halted")]
        if power in ("Running", "Paused"):
            host.memory_bytes[ref] = record["memory_static_max"]
        if power == record["power_state"]:
            pass
        elif power in ("Running", "Paused"):
            _has_started(host, ref, record["domid"] if record["domid"] > 0 else 1, power)
        else:
            has_stopped(host, ref, power)
        _show_operations(host, ref)
    write_free_memory(host)


@contextlib.asynccontextmanager
async def _operation(host: HostServer, ref: str, name: str) -> AsyncIterator[dict[str, Any]]:
    """Hold a VM for one operation, if its state and what else runs allow it."""
    record = host.objects.get("VM", ref)
    if record["is_a_template"] and name != "destroy":
        raise XapiFault("VM_IS_TEMPLATE", ref)
    if name in record["blocked_operations"]:
        raise XapiFault("OPERATION_BLOCKED", ref, record["blocked_operations"][name])
    over = _OVERRIDES.get(name, frozenset())
    host.operations.check("VM", ref, over=over)
    # What is being started has no power state to speak of; its power can be cut all the same.
    is_anything = name == "hard_shutdown" and bool(host.operations.of(ref))
    if record["power_state"] not in FROM[name] and not is_anything:
        raise _bad_state(ref, FROM[name], record["power_state"])
    with host.operations.hold("VM", ref, name, beside=over):
        _show_operations(host, ref)
        try:
            await host.operations.override(ref, over)
            yield record
            if ref in host.unheard and name != "destroy":
                await _hear(host, ref, record)
        finally:
            host.unheard.discard(ref)
    _show_operations(host, ref)


def _show_operations(host: HostServer, ref: str) -> None:
    record = host.objects.find("VM", ref)
    if record is None:
        return
    running = host.operations.of(ref)
    host.objects.update(
        "VM",
        ref,
        current_operations={operation.mark: operation.name for operation in running},
        allowed_operations=allowed(
            record["power_state"],
            tuple(operation.name for operation in running),
            is_template=record["is_a_template"],
        ),
    )


@lru_cache(maxsize=1024)
def allowed(power: str, running: tuple[str, ...], *, is_template: bool) -> list[str]:
    """List the operations that may be asked of a VM now; not to be changed."""
    return sorted(
        name
        for name, states in FROM.items()
        if power in states
        and (name == "destroy" or not is_template)
        and _OVERRIDES.get(name, frozenset()).issuperset(running)
    )


async def _hear(host: HostServer, ref: str, record: dict[str, Any]) -> None:
    """Write what became of a domain that changed by itself while an operation ran."""
    host.unheard.discard(ref)
    states = await host.backend.running()
    _follow(host, ref, record, states.get(record["uuid"], "halted"))


def _follow(host: HostServer, ref: str, record: dict[str, Any], state: DomainState) -> None:
    power = _STATES[state]
    if power == record["power_state"]:
        return
    if power in ("Halted", "Suspended"):
        has_stopped(host, ref, power)
    else:
        host.memory_bytes.setdefault(ref, record["memory_static_max"])
        _set_power(host, ref, power)
        write_free_memory(host)
    _show_operations(host, ref)


def _bad_state(ref: str, expected: tuple[str, ...], actual: str) -> XapiFault:
    return XapiFault(
        "VM_BAD_POWER_STATE", ref, ", ".join(state.lower() for state in expected), actual.lower()
    )


def _take_memory(host: HostServer, ref: str, record: dict[str, Any]) -> None:
    needed, free = record["memory_static_max"], free_memory_bytes(host)
    if needed > free:
        raise XapiFault("HOST_NOT_ENOUGH_FREE_MEMORY", needed, free)
    host.memory_bytes[ref] = needed


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


def _has_started(host: HostServer, ref: str, domid: int, power: str) -> None:
    record = host.objects.get("VM", ref)
    fields: dict[str, Any] = {
        "domid": domid,
        "other_config": {**record["other_config"], "last_dom_id": str(domid)},
    }
    if is_null(record["metrics"]):
        fields["metrics"] = host.objects.create(
            "VM_metrics",
            memory_actual=record["memory_static_max"],
            VCPUs_number=record["VCPUs_at_startup"],
            start_time=host.now(),
            hvm=True,
        )
    if not record["consoles"]:
        uuid = host.world.ids.uuid()
        location = f"http://{host.address}/console?uuid={uuid}"
        fields["consoles"] = [host.objects.create("console", uuid=uuid, VM=ref, location=location)]
    _set_power(host, ref, power, **fields)
    for vbd in record["VBDs"]:
        row = host.objects.get("VBD", vbd)
        if not row["currently_attached"]:
            device = vbds.device_name(int(row["userdevice"]))
            vbds.set_attached(host, vbd, device=device)
    for vif in record["VIFs"]:
        if not host.objects.get("VIF", vif)["currently_attached"]:
            host.objects.update("VIF", vif, currently_attached=True)
    write_free_memory(host)


def has_stopped(host: HostServer, ref: str, power: str) -> None:
    """Write that a VM runs no more."""
    record = host.objects.get("VM", ref)
    host.memory_bytes.pop(ref, None)
    _set_power(host, ref, power, domid=-1)
    # A suspended VM keeps its disks: its memory knows what is on them.
    for vbd in record["VBDs"] if power == "Halted" else ():
        if host.objects.get("VBD", vbd)["currently_attached"]:
            vbds.set_attached(host, vbd, device="")
    for vif in record["VIFs"]:
        if host.objects.get("VIF", vif)["currently_attached"]:
            host.objects.update("VIF", vif, currently_attached=False)
    write_free_memory(host)


def _set_power(host: HostServer, ref: str, power: str, **fields: Any) -> None:
    own = host.objects.only("host")
    is_here = power in ("Running", "Paused")
    host.objects.update(
        "VM", ref, power_state=power, resident_on=own if is_here else NULL, **fields
    )
    if is_here:
        host.objects.link("host", own, "resident_VMs", ref)
    else:
        host.objects.unlink("host", own, "resident_VMs", ref)
