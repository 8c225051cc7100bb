"""What may be asked of a VM when, and what is written when its domain changes.

Source: XenAPI class VM, its power-state machine and its rules for concurrent operations.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection
from functools import lru_cache
from typing import Any

from xenith.toolstack.backends import DomainState, device_name
from xenith.toolstack.classes import message
from xenith.toolstack.classes import vbd as vbds
from xenith.toolstack.classes.host import write_free_memory
from xenith.toolstack.classes.placement import give_back
from xenith.toolstack.methods import is_null
from xenith.toolstack.pool import SUSPENDED_ON
from xenith.toolstack.server import HostServer
from xenith.xapi import NULL
from xenith.xapi.faults import XapiFault

#: States from which each operation may start. Source: xapi_vm_lifecycle.
_ANY = ("Halted", "Paused", "Running", "Suspended")
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
    "pool_migrate": ("Running",),
    "migrate_send": ("Halted", "Suspended", "Running"),
    "snapshot": _ANY,
    "revert": _ANY,
    "revert_to": _ANY,
    "checkpoint": ("Running", "Paused", "Suspended"),
    "clone": ("Halted", "Suspended"),
    "copy": ("Halted", "Suspended"),
    "export": ("Halted", "Suspended"),
    "metadata_export": _ANY,
    "provision": ("Halted",),
    "make_into_template": ("Halted",),
    "changing_VCPUs": ("Halted",),
    "changing_static_range": ("Halted",),
    "changing_memory_limits": ("Halted",),
    "changing_shadow_memory": ("Halted",),
    "changing_NVRAM": ("Halted",),
    "create_vtpm": ("Halted",),
    "changing_dynamic_range": ("Halted", "Running"),
    "changing_memory_live": ("Running",),
    "awaiting_memory_live": ("Running",),
    "changing_VCPUs_live": ("Running",),
    "changing_shadow_memory_live": ("Running",),
    "send_sysrq": ("Running",),
    "send_trigger": ("Running",),
    "data_source_op": ("Running",),
    "call_plugin": ("Running",),
    "power_state_reset": _ANY,
}
#: What may be done to a template. Source: xapi_vm_lifecycle.
_OF_TEMPLATES = frozenset(
    (
        *("destroy", "clone", "copy", "export", "metadata_export", "provision", "revert"),
        *("make_into_template", "changing_VCPUs", "changing_static_range", "changing_NVRAM"),
        *("changing_memory_limits", "changing_dynamic_range", "changing_shadow_memory"),
        "create_vtpm",
    )
)
#: What may be done while others of them are.
_SHARING = frozenset(("clone", "copy", "export"))
#: What a snapshot of a VM may have done to it beside.
_OF_SNAPSHOTS = frozenset(("destroy", "clone", "copy", "export", "metadata_export", "revert"))
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


def check_halted(host: HostServer, ref: str) -> dict[str, Any]:
    """Give the record of a VM that is halted and left alone.

    Raises:
        XapiFault: VM_BAD_POWER_STATE, OTHER_OPERATION_IN_PROGRESS.
    """
    record = host.objects.get("VM", ref)
    host.operations.check("VM", ref)
    if record["power_state"] != "Halted":
        raise bad_state(ref, ("Halted",), record["power_state"])
    return record


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
    if state == "crashed":
        message.tell(host, "VM_CRASHED", priority=1, kind="VM", uuid=vm_uuid)
    _follow(host, ref, host.objects.get("VM", ref), state)


def adopt(host: HostServer, states: dict[str, DomainState]) -> None:
    """Bring the records in step with the domains that the backend found at start."""
    is_alone = len(host.objects.all("host")) == 1
    for ref, record in list(host.objects.all("VM").items()):
        if not is_alone and host.pool.place_of(ref, record) != host.ref:
            continue  # another host tells of it
        power = _STATES[states.get(record["uuid"], "halted")]
        if power in ("Running", "Paused"):
            host.memory_bytes[ref] = record["memory_static_max"]
            host.pool.places[ref] = host.ref
        if power == record["power_state"]:
            pass
        elif power in ("Running", "Paused"):
            has_started(host, ref, record["domid"] if record["domid"] > 0 else 1, power)
        else:
            has_stopped(host, ref, power)
        show_operations(host, ref)
    write_free_memory(host)


def check_operation(host: HostServer, ref: str, name: str) -> None:
    """Refuse what is done to no template or snapshot, or was blocked by a client.

    Raises:
        XapiFault: VM_IS_TEMPLATE, OPERATION_BLOCKED.
    """
    record = host.objects.get("VM", ref)
    if record["is_a_template"] and name not in _permitted(record):
        raise XapiFault("VM_IS_TEMPLATE", ref)
    if name in record["blocked_operations"]:
        raise XapiFault("OPERATION_BLOCKED", ref, record["blocked_operations"][name])


def _permitted(record: dict[str, Any]) -> Collection[str]:
    return _OF_SNAPSHOTS if record["is_a_snapshot"] else _OF_TEMPLATES


@contextlib.asynccontextmanager
async def operation(host: HostServer, ref: str, name: str) -> AsyncIterator[dict[str, Any]]:
    """Hold a VM for one operation, if its state and what else runs allow it."""
    record = host.objects.get("VM", ref)
    check_operation(host, ref, name)
    over = _OVERRIDES.get(name, frozenset())
    beside = _SHARING if name in _SHARING else frozenset()
    host.operations.check("VM", ref, over=over, beside=beside)
    # What is being started has no power state to speak of; its power can be cut all the same.
    is_anything = name == "hard_shutdown" and bool(host.operations.of(ref))
    if record["power_state"] not in FROM[name] and not is_anything:
        raise bad_state(ref, FROM[name], record["power_state"])
    try:
        with host.operations.hold("VM", ref, name, beside=over | beside):
            show_operations(host, ref)
            try:
                await host.operations.override(ref, over)
                yield record
                if ref in host.unheard and name != "destroy":
                    await _hear(host, ref, record)
            finally:
                host.unheard.discard(ref)
    finally:
        show_operations(host, ref)


def show_operations(host: HostServer, ref: str) -> None:
    """Write what is being done to a VM, and what else may be."""
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
            is_snapshot=record["is_a_snapshot"],
        ),
    )


@lru_cache(maxsize=1024)
def allowed(
    power: str, running: tuple[str, ...], *, is_template: bool, is_snapshot: bool = False
) -> list[str]:
    """List the operations that may be asked of a VM now; not to be changed."""
    permitted = _OF_SNAPSHOTS if is_snapshot else _OF_TEMPLATES
    return sorted(
        name
        for name, states in FROM.items()
        if power in states
        and name != "revert_to"
        and (name in permitted if is_template else name not in ("provision", "revert"))
        and (
            _OVERRIDES.get(name, frozenset()).issuperset(running)
            or (name in _SHARING and _SHARING.issuperset(running))
        )
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
        set_power(host, ref, power)
        write_free_memory(host)
    show_operations(host, ref)


def bad_state(ref: str, expected: tuple[str, ...], actual: str) -> XapiFault:
    """Make the fault of a VM in a state that does not do."""
    return XapiFault(
        "VM_BAD_POWER_STATE", ref, ", ".join(state.lower() for state in expected), actual.lower()
    )


def has_started(host: HostServer, ref: str, domid: int, power: str) -> None:
    """Write that a VM runs, with its devices attached."""
    record = host.objects.get("VM", ref)
    fields: dict[str, Any] = {
        "domid": domid,
        "other_config": {
            **{k: v for k, v in record["other_config"].items() if k != SUSPENDED_ON},
            "last_dom_id": str(domid),
        },
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
    set_power(host, ref, power, **fields)
    for vbd in record["VBDs"]:
        row = host.objects.get("VBD", vbd)
        if not row["currently_attached"]:
            device = device_name(int(row["userdevice"]))
            vbds.set_attached(host, vbd, device=device)
    for vif in record["VIFs"]:
        if not host.objects.get("VIF", vif)["currently_attached"]:
            host.objects.update("VIF", vif, currently_attached=True)
    write_free_memory(host)


def has_stopped(host: HostServer, ref: str, power: str) -> None:
    """Write that a VM runs no more."""
    record = host.objects.get("VM", ref)
    place = record["resident_on"]
    give_back(host, ref)
    config = {key: value for key, value in record["other_config"].items() if key != SUSPENDED_ON}
    if power == "Suspended" and len(host.pool.members) > 1 and place in host.pool.members:
        config[SUSPENDED_ON] = host.objects.get("host", place)["uuid"]
    changed = {} if config == record["other_config"] else {"other_config": config}
    set_power(host, ref, power, domid=-1, **changed)
    # A suspended VM keeps its disks: its memory knows what is on them.
    for vbd in record["VBDs"] if power == "Halted" else ():
        if host.objects.get("VBD", vbd)["currently_attached"]:
            vbds.set_attached(host, vbd, device="")
    for vif in record["VIFs"]:
        if host.objects.get("VIF", vif)["currently_attached"]:
            host.objects.update("VIF", vif, currently_attached=False)
    write_free_memory(host)


def set_power(host: HostServer, ref: str, power: str, **fields: Any) -> None:
    """Write a VM's power state, and where it is."""
    record = host.objects.get("VM", ref)
    before = record["resident_on"]
    is_here = power in ("Running", "Paused")
    place = NULL
    if is_here:
        place = host.pool.places.setdefault(ref, host.ref if is_null(before) else before)
    host.objects.update("VM", ref, power_state=power, resident_on=place, **fields)
    if before != place and not is_null(before):
        host.objects.unlink("host", before, "resident_VMs", ref)
    if is_here:
        host.objects.link("host", place, "resident_VMs", ref)
