"""What is done to VMs that run: their xenstore, keys sent to them, what is measured of them.

xapi's ``set_xenstore_data`` rewrites all of a domain's ``vm-data``. ``write_xenstore_key``, which
is our own, changes one key and leaves alone what a guest writes beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from xenith.toolstack.backends import BackendError
from xenith.toolstack.backends.live import LiveBackend, XenstoreBackend
from xenith.toolstack.classes.lifecycle import XENSTORE_PREFIXES, bad_state, operation
from xenith.toolstack.methods import is_null, method
from xenith.toolstack.server import HostServer
from xenith.xapi.faults import XapiFault
from xenith.xenstore.wire import PAYLOAD_BYTES_MAX, RELATIVE_PATH_BYTES_MAX

#: What ``write_xenstore_key`` may write under: the host's half of the agent's channel too.
WRITABLE_PREFIXES = (*XENSTORE_PREFIXES, "data/host/")
#: Bytes, in all, of a guest's keys and values that are kept in records: they are written and told
#: anew whenever it changes one.
GUEST_BYTES_MAX = 64 * 1024


def live(host: HostServer, record: dict[str, Any]) -> LiveBackend:
    """Give the engine of a VM, if it can change domains that run.

    Raises:
        XapiFault: NOT_IMPLEMENTED.
    """
    engine = host.pool.engine_of_vm(record["uuid"])
    if not isinstance(engine, LiveBackend):
        raise XapiFault("NOT_IMPLEMENTED", f"the {engine.name} backend leaves live domains alone")
    return engine


def xenstore_of(host: HostServer, record: dict[str, Any]) -> XenstoreBackend:
    """Give the engine of a VM, if its domains have a xenstore.

    Raises:
        XapiFault: NOT_IMPLEMENTED.
    """
    engine = host.pool.engine_of_vm(record["uuid"])
    if not isinstance(engine, XenstoreBackend):
        raise XapiFault("NOT_IMPLEMENTED", f"the {engine.name} backend has no xenstore")
    return engine


def _is_live(record: dict[str, Any]) -> bool:
    return record["power_state"] in ("Running", "Paused")


@method("VM.set_xenstore_data", is_async=True)
async def set_xenstore_data(host: HostServer, ref: str, data: dict[str, str]) -> None:
    """Replace all of a VM's xenstore data, at once if it runs. Source: VM.set_xenstore_data."""
    record = host.objects.get("VM", ref)
    _check_all(data)
    if record["power_state"] == "Running":
        engine = xenstore_of(host, record)
        gone = dict.fromkeys(prefix.rstrip("/") for prefix in XENSTORE_PREFIXES)
        await engine.xenstore_write(record["uuid"], {**gone, **_reaching(data)})
    host.objects.update("VM", ref, xenstore_data=dict(data))


@method("VM.add_to_xenstore_data")
async def add_to_xenstore_data(host: HostServer, ref: str, key: str, value: str) -> None:
    """Add a key to a VM's xenstore data, at once if it runs."""
    record = host.objects.get("VM", ref)
    if key in record["xenstore_data"]:
        raise XapiFault("MAP_DUPLICATE_KEY", "VM", "xenstore_data", record["uuid"], key)
    _check_all({key: value})
    await _write_live(host, record, _reaching({key: value}))
    kept = host.objects.get("VM", ref)["xenstore_data"]
    host.objects.update("VM", ref, xenstore_data={**kept, key: value})


@method("VM.remove_from_xenstore_data")
async def remove_from_xenstore_data(host: HostServer, ref: str, key: str) -> None:
    """Remove a key from a VM's xenstore data, at once if it runs."""
    record = host.objects.get("VM", ref)
    if key not in record["xenstore_data"]:
        return
    await _write_live(host, record, {key: None} if key.startswith(XENSTORE_PREFIXES) else {})
    _drop(host, ref, key)


@method("VM.write_xenstore_key", is_async=True)
async def write_xenstore_key(host: HostServer, ref: str, key: str, value: str) -> None:
    """Write one key of a running VM's xenstore and of its record. Our own, beside XenAPI."""
    record = _running(host, ref)
    _check_path(key)
    _check_all({key: value})
    await xenstore_of(host, record).xenstore_write(record["uuid"], {key: value})
    if key.startswith(XENSTORE_PREFIXES):
        kept = host.objects.get("VM", ref)["xenstore_data"]
        host.objects.update("VM", ref, xenstore_data={**kept, key: value})


@method("VM.remove_xenstore_key", is_async=True)
async def remove_xenstore_key(host: HostServer, ref: str, key: str) -> None:
    """Remove one key, and those under it, of a running VM's xenstore. Our own, beside XenAPI."""
    record = _running(host, ref)
    _check_path(key)
    await xenstore_of(host, record).xenstore_write(record["uuid"], {key: None})
    _drop(host, ref, key)


@method("VM.read_xenstore_keys", is_async=True)
async def read_xenstore_keys(host: HostServer, ref: str, prefix: str = "") -> dict[str, str]:
    """Give the keys of a running VM's xenstore under a prefix. Our own, beside XenAPI."""
    record = _running(host, ref)
    tree = await xenstore_of(host, record).xenstore_read(record["uuid"])
    return {key: value for key, value in tree.items() if key.startswith(prefix)}


@method("VM.send_sysrq", is_async=True)
async def send_sysrq(host: HostServer, ref: str, key: str) -> None:
    """Send a magic system request key. Source: XenAPI VM.send_sysrq."""
    async with operation(host, ref, "send_sysrq") as record:
        if len(key) != 1 or not key.isascii() or not key.isprintable():
            raise XapiFault("INVALID_VALUE", "key", key)
        await live(host, record).domain_key(record["uuid"], key)


@method("VM.send_trigger", is_async=True)
async def send_trigger(host: HostServer, ref: str, trigger: str) -> None:
    """Press a button of the machine. Source: XenAPI VM.send_trigger."""
    async with operation(host, ref, "send_trigger") as record:
        if trigger not in ("nmi", "init", "reset", "power", "sleep", "s3resume"):
            raise XapiFault("INVALID_VALUE", "trigger", trigger)
        await live(host, record).domain_key(record["uuid"], trigger)


async def guest_wrote(host: HostServer, vm_uuid: str) -> None:
    """Bring records in step with what a guest wrote to its xenstore.

    What it writes is the guest's word and nothing more: it is kept, and trusted by nobody here.
    """
    try:
        ref = host.objects.by_uuid("VM", vm_uuid)
        tree = await xenstore_of(host, host.objects.get("VM", ref)).xenstore_read(vm_uuid)
    except (XapiFault, BackendError):
        return
    record = host.objects.find("VM", ref)
    if record is None:
        return
    known = record["xenstore_data"]
    others = {k: v for k, v in known.items() if not k.startswith("vm-data/")}
    given = {k: v for k, v in tree.items() if k.startswith("vm-data/")}
    # What is in the record already comes first: a flood does not push it out.
    first = {k: given[k] for k in known if k in given}
    data = others | _bounded(first | given)
    if data != record["xenstore_data"]:
        host.objects.update("VM", ref, xenstore_data=data)
    _write_guest_metrics(host, ref, record, tree)


def _bounded(tree: Mapping[str, str]) -> dict[str, str]:
    """Give as many of the keys as may be kept."""
    kept: dict[str, str] = {}
    room = GUEST_BYTES_MAX
    for key, value in tree.items():
        room -= len(key) + len(value)
        if room < 0:
            break
        kept[key] = value
    return kept


#: Where a guest's agent says what it is. Source: xapi, xapi_guest_agent.
_OS = {
    "name": "data/os_name",
    "uname": "data/os_uname",
    "distro": "data/os_distro",
    "major": "data/os_majorver",
    "minor": "data/os_minorver",
}
_DRIVERS = {
    "major": "attr/PVAddons/MajorVersion",
    "minor": "attr/PVAddons/MinorVersion",
    "micro": "attr/PVAddons/MicroVersion",
    "build": "attr/PVAddons/BuildVersion",
}


def _write_guest_metrics(
    host: HostServer, ref: str, record: dict[str, Any], tree: Mapping[str, str]
) -> None:
    said = {key: value for key, value in tree.items() if key.startswith(("data/", "attr/"))}
    said |= {key: value for key, value in tree.items() if key.startswith("control/feature-")}
    said = {key: value for key, value in said.items() if not key.startswith("data/host/")}
    said = _bounded(said)
    if not said:
        return
    drivers = {name: tree[path] for name, path in _DRIVERS.items() if path in tree}
    fields = {
        "os_version": {name: tree[path] for name, path in _OS.items() if path in tree},
        "PV_drivers_version": drivers,
        "PV_drivers_detected": bool(drivers),
        "PV_drivers_up_to_date": bool(drivers),
        "networks": _networks(said),
        "other": {
            key.partition("/")[2]: value
            for key, value in said.items()
            if key.startswith(("data/", "control/"))
        },
        "can_use_hotplug_vbd": "yes" if drivers else "unspecified",
        "can_use_hotplug_vif": "yes" if drivers else "unspecified",
        "live": True,
        "last_updated": host.now(),
    }
    if is_null(record["guest_metrics"]):
        made = host.objects.create("VM_guest_metrics", **fields)
        host.objects.update("VM", ref, guest_metrics=made)
    else:
        host.objects.update("VM_guest_metrics", record["guest_metrics"], **fields)


def _networks(said: dict[str, str]) -> dict[str, str]:
    """Translate ``attr/vif/0/ipv4/0`` and the older ``attr/eth0/ip`` to XenAPI's names."""
    found: dict[str, str] = {}
    for key, value in said.items():
        parts = key.split("/")[1:]
        if parts[0] == "vif" and len(parts) == 4 and parts[2] in ("ipv4", "ipv6"):
            found[f"{parts[1]}/{parts[2]}/{parts[3]}"] = value
            if parts[2:] == ["ipv4", "0"]:
                found[f"{parts[1]}/ip"] = value
        elif parts[0].startswith("eth") and parts[1:] == ["ip"]:
            found.setdefault(f"{parts[0][3:]}/ip", value)
    return found


async def _write_live(
    host: HostServer, record: dict[str, Any], changes: dict[str, str | None]
) -> None:
    if not (changes and _is_live(record)):
        return
    # A backend that cannot shows it at the next boot, as xapi does with these two calls.
    with contextlib.suppress(XapiFault):
        await xenstore_of(host, record).xenstore_write(record["uuid"], changes)


def _reaching(data: dict[str, str]) -> dict[str, str | None]:
    return {key: value for key, value in data.items() if key.startswith(XENSTORE_PREFIXES)}


def _drop(host: HostServer, ref: str, key: str) -> None:
    record = host.objects.find("VM", ref)
    if record is not None and key in record["xenstore_data"]:
        kept = {name: value for name, value in record["xenstore_data"].items() if name != key}
        host.objects.update("VM", ref, xenstore_data=kept)


def _running(host: HostServer, ref: str) -> dict[str, Any]:
    record = host.objects.get("VM", ref)
    if not _is_live(record):
        raise bad_state(ref, ("Running", "Paused"), record["power_state"])
    return record


def _check_path(key: str) -> None:
    if not key.startswith(WRITABLE_PREFIXES) or key.endswith("/") or "//" in key:
        raise XapiFault("INVALID_VALUE", "key", key[:100])


def _check_all(data: dict[str, str]) -> None:
    for key, value in data.items():
        if len(key.encode("utf-8", "replace")) > RELATIVE_PATH_BYTES_MAX:
            raise XapiFault("INVALID_VALUE", "xenstore_data", key[:100])
        if len(value.encode("utf-8", "replace")) > PAYLOAD_BYTES_MAX:
            raise XapiFault("INVALID_VALUE", key[:100], "a value of more than 4096 bytes")
