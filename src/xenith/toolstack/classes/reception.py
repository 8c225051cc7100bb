"""VMs that come from another pool: how they are received, all of one or nothing.

Source: XenAPI host.migrate_receive; ``VM.migrate_accept`` is our own.
"""

from __future__ import annotations

from typing import Any, cast

from xenith.toolstack.backends import DomainState
from xenith.toolstack.backends.sim import SimBackend, SimMove
from xenith.toolstack.classes import vbd as vbds
from xenith.toolstack.classes import vif as vifs
from xenith.toolstack.classes import vm_copies
from xenith.toolstack.classes.lifecycle import allowed, has_started, set_power, show_operations
from xenith.toolstack.classes.placement import give_back, take_memory
from xenith.toolstack.classes.vm import spec
from xenith.toolstack.methods import is_null, method
from xenith.toolstack.objects import Record
from xenith.toolstack.schema import CLASSES, coerce
from xenith.toolstack.server import HostServer
from xenith.xapi import NULL
from xenith.xapi.faults import XapiFault

_STATES: dict[str, DomainState] = {
    "Running": "running",
    "Paused": "paused",
    "Suspended": "suspended",
}
_POWERS = {state: power for power, state in _STATES.items()}


@method("host.migrate_receive", is_async=True)
def migrate_receive(
    host: HostServer, ref: str, network: str, options: dict[str, str]
) -> dict[str, str]:
    """Make ready for a VM from elsewhere; give what its sender needs. Source: XenAPI."""
    del options
    record = host.objects.get("host", ref)
    cards = host.objects.get("network", network)["PIFs"]
    own = [card for card in cards if host.objects.get("PIF", card)["host"] == ref]
    if not own:
        raise XapiFault("CANNOT_CONTACT_HOST", ref)
    if not host.objects.get("PIF", own[0])["IP"]:
        raise XapiFault("INTERFACE_HAS_NO_IP", own[0])
    host.pool.member(ref)
    url = host.url
    return {
        "host": ref,
        "address": record["address"],
        "master": url,
        # Our own: by what the sender knows us, if we speak TLS.
        "pin": host.pin,
        "xenops": f"{url}/services/xenops",
        "SM": f"{url}/services/SM",
        "session_id": host.begin_session(host.caller(), "migration"),
    }


@method("VM.migrate_accept")
async def migrate_accept(host: HostServer, on: str, wanted: dict[str, Any]) -> str:
    """Take a VM over from another pool: all of it, or nothing. Our own, beside XenAPI.

    Raises:
        XapiFault: as ``check_boot``; VM_MIGRATE_FAILED, the VM is here already.
    """
    host.objects.get("host", on)
    state = wanted.get("state")
    if state not in ("halted", *_POWERS):
        raise XapiFault("INVALID_VALUE", "state", state)
    engine = host.pool.member(on).engine
    if state != "halted" and not isinstance(engine, SimBackend):
        raise XapiFault("VM_MIGRATE_FAILED", "", "", on, f"{engine.name} takes over no domains")
    known = _checked("VM", wanted.get("vm"))
    if any(row["uuid"] == known.get("uuid") for row in host.objects.all("VM").values()):
        raise XapiFault("VM_MIGRATE_FAILED", "", "", on, f"VM {known['uuid']} is here already")
    known.update(power_state="Halted", allowed_operations=allowed("Halted", (), is_template=False))
    ref = host.objects.create("VM", **known)
    try:
        domid = await _settle(host, engine, ref, on, wanted)
    except BaseException:
        give_back(host, ref)
        _take_apart(host, ref)
        raise
    if state in ("running", "paused"):
        has_started(host, ref, domid, _POWERS[state])
    elif state == "suspended":
        host.pool.places[ref] = on
        set_power(host, ref, "Suspended")
        for vbd in host.objects.get("VM", ref)["VBDs"]:
            host.objects.update("VBD", vbd, currently_attached=True)
    show_operations(host, ref)
    return ref


async def _settle(
    host: HostServer, engine: object, ref: str, on: str, wanted: dict[str, Any]
) -> int:
    for row in wanted.get("vbds", []):
        vdi = str(row.get("VDI", NULL))
        if not is_null(vdi):
            host.objects.get("VDI", vdi)
        vm_copies.add_vbd(host, ref, {**_defaults("VBD"), **_checked("VBD", row)}, vdi)
    for row in wanted.get("vifs", []):
        host.objects.get("network", str(row.get("network", NULL)))
        vm_copies.add_vif(host, ref, {**_defaults("VIF"), **_checked("VIF", row)}, keeps_mac=True)
    record, state = host.objects.get("VM", ref), cast("DomainState", wanted["state"])
    if state in ("running", "paused"):
        take_memory(host, ref, record, on)
    return await _receive(host, engine, record, state, wanted)


def _take_apart(host: HostServer, ref: str) -> None:
    for vbd in list(host.objects.get("VM", ref)["VBDs"]):
        vbds.remove(host, vbd)
    for vif in list(host.objects.get("VM", ref)["VIFs"]):
        vifs.remove(host, vif)
    host.objects.delete("VM", ref)


def _checked(class_name: str, given: object) -> Record:
    """Take what is a field of a class, in its type: a sender is believed no more than a client."""
    if not isinstance(given, dict):
        raise XapiFault("FIELD_TYPE_ERROR", class_name)
    fields = CLASSES[class_name]
    return {name: coerce(class_name, name, given[name]) for name in fields if name in given}


async def _receive(
    host: HostServer, engine: object, record: Record, state: DomainState, wanted: dict[str, Any]
) -> int:
    if state == "halted" or not isinstance(engine, SimBackend):
        return -1
    own = spec(host, record)
    kept = {str(key): str(value) for key, value in wanted.get("xenstore", {}).items()}
    return await engine.domain_receive(SimMove(record["uuid"], state, own, kept))


def _defaults(class_name: str) -> Record:
    return {name: field.make_default() for name, field in CLASSES[class_name].items()}
