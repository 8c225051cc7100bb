"""VMs that change their host: inside a pool, or to another pool over a session with it.

The receiver is asked first (``host.migrate_receive``) and gives a map: where it is, and a session.
The sender makes the disks there by public calls, then hands over the VM's records and its domain in
one call of ours, ``VM.migrate_accept``. Until that call has answered, the VM is the sender's.
Source: XenAPI VM.migrate_send, VM.pool_migrate, as Nova's driver called them.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Self

from xenith.core.errors import Unavailable
from xenith.toolstack.backends import BackendError
from xenith.toolstack.backends.sim import SimBackend, SimMove
from xenith.toolstack.classes import vbd as vbds
from xenith.toolstack.classes import vdi as vdis
from xenith.toolstack.classes import vif as vifs
from xenith.toolstack.classes import vm_copies
from xenith.toolstack.classes.host import free_memory_bytes
from xenith.toolstack.classes.lifecycle import (
    FROM,
    bad_state,
    check_operation,
    has_started,
    has_stopped,
    operation,
    set_power,
)
from xenith.toolstack.classes.placement import (
    check_boot,
    check_place,
    give_back,
    move_domain,
)
from xenith.toolstack.methods import is_null, method
from xenith.toolstack.objects import Record
from xenith.toolstack.pool import MIGRATING_TO
from xenith.toolstack.schema import CLASSES
from xenith.toolstack.server import HostServer
from xenith.toolstack.storage import records
from xenith.toolstack.storage.carriage import carry
from xenith.toolstack.storage.records import PARENT_KEY
from xenith.toolstack.storage.upkeep import tidy
from xenith.xapi import NULL, XapiSession
from xenith.xapi.faults import XapiFault

#: Seconds to make a disk, or to take over a VM.
CALL_TIMEOUT_S = 600.0


@method("VM.pool_migrate", is_async=True)
async def pool_migrate(host: HostServer, ref: str, on: str, options: dict[str, str]) -> None:
    """Move a running VM to another host of the pool, its disks being seen there. Source: XenAPI."""
    del options
    host.objects.get("host", on)
    async with operation(host, ref, "pool_migrate") as record:
        await _move(host, ref, record, on)


async def _move(host: HostServer, ref: str, record: Record, on: str) -> None:
    source = host.pool.place_of(ref, record)
    if source == on:
        check_place(host, record, on)
        return
    check_boot(host, record, on)
    host.objects.update("VM", ref, scheduled_to_be_resident_on=on)
    try:
        domid = await move_domain(host, record, source, on)
    finally:
        host.objects.update("VM", ref, scheduled_to_be_resident_on=NULL)
    give_back(host, ref)
    host.memory_bytes[ref] = record["memory_static_max"]
    host.pool.places[ref] = on
    has_started(host, ref, domid, record["power_state"])


@method("VM.assert_can_migrate", is_async=True)
async def assert_can_migrate(
    host: HostServer,
    ref: str,
    dest: dict[str, str],
    live: bool = True,
    vdi_map: dict[str, str] | None = None,
    vif_map: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    vgpu_map: dict[str, str] | None = None,
) -> None:
    """Refuse what migrate_send would refuse. Source: XenAPI VM.assert_can_migrate."""
    del vgpu_map
    record = host.objects.get("VM", ref)
    check_operation(host, ref, "migrate_send")
    if record["power_state"] not in FROM["migrate_send"]:
        raise bad_state(ref, FROM["migrate_send"], record["power_state"])
    _check_options(ref, record, live=live, options=options or {})
    target = _destination(dest)
    if target in host.objects.all("host"):
        _check_inside(host, record, target, vdi_map or {})
        return
    async with _far(dest, target) as far:
        await _check_far(host, far, target, record, vdi_map=vdi_map or {}, vif_map=vif_map or {})


def _check_options(ref: str, record: Record, *, live: bool, options: dict[str, str]) -> None:
    if options.get("copy", "false") == "true" and record["power_state"] != "Halted":
        raise bad_state(ref, ("Halted",), record["power_state"])
    if record["power_state"] == "Running" and not live:
        raise bad_state(ref, ("Halted", "Suspended"), record["power_state"])


def _destination(dest: dict[str, str]) -> str:
    for name in ("host", "session_id", "master"):
        if not dest.get(name):
            raise XapiFault("INVALID_VALUE", "dest", name)
    return dest["host"]


class _Far:
    """A session with the pool that a VM goes to."""

    def __init__(self, session: XapiSession, host: str) -> None:
        self._session = session
        self._host = host

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._session.close()

    async def call(self, name: str, *params: Any) -> Any:
        try:
            return await self._session.call(name, *params, timeout_s=CALL_TIMEOUT_S)
        except Unavailable:
            raise XapiFault("CANNOT_CONTACT_HOST", self._host) from None

    async def fill(self, vdi: str, pieces: AsyncIterator[bytes]) -> None:
        try:
            await self._session.import_raw_vdi(
                vdi, pieces, disk_format="vhd", timeout_s=CALL_TIMEOUT_S
            )
        except Unavailable:
            raise XapiFault("CANNOT_CONTACT_HOST", self._host) from None


def _far(dest: dict[str, str], target: str) -> _Far:
    return _Far(
        XapiSession.adopt(dest["master"], dest["session_id"], pin=dest.get("pin", "")), target
    )


def _disks(host: HostServer, record: Record) -> list[tuple[str, Record]]:
    """List the disks of a VM that go where it goes; CDs do not."""
    found = []
    for vbd in record["VBDs"]:
        row = host.objects.get("VBD", vbd)
        if row["type"] == "Disk" and not is_null(row["VDI"]):
            found.append((row["VDI"], host.objects.get("VDI", row["VDI"])))
    return found


def _check_inside(host: HostServer, record: Record, on: str, vdi_map: dict[str, str]) -> None:
    target = host.objects.get("host", on)
    if not target["enabled"]:
        raise XapiFault("HOST_DISABLED", on)
    host.pool.member(on)
    for vdi, disk in _disks(host, record):
        sr = vdi_map[vdi] if vdi in vdi_map else disk["SR"]
        host.objects.get("SR", sr)
        if not host.pool.sees(on, sr):
            raise XapiFault("VDI_NOT_IN_MAP" if vdi not in vdi_map else "VM_REQUIRES_SR", vdi, sr)
    ref = host.objects.by_uuid("VM", record["uuid"])
    if record["power_state"] == "Running" and host.pool.place_of(ref, record) != on:
        _check_memory(host, record, on)


def _check_memory(host: HostServer, record: Record, on: str) -> None:
    needed, free = record["memory_static_max"], free_memory_bytes(host, on)
    if needed > free:
        raise XapiFault("HOST_NOT_ENOUGH_FREE_MEMORY", needed, free)


async def _check_far(
    host: HostServer,
    far: _Far,
    target: str,
    record: Record,
    *,
    vdi_map: dict[str, str],
    vif_map: dict[str, str],
) -> None:
    their = await far.call("host.get_record", target)
    if not their["enabled"]:
        raise XapiFault("HOST_DISABLED", target)
    for vdi, disk in _disks(host, record):
        if vdi not in vdi_map:
            raise XapiFault("VDI_NOT_IN_MAP", vdi)
        sr = await far.call("SR.get_record", vdi_map[vdi])
        free = int(sr["physical_size"]) - int(sr["physical_utilisation"])
        if disk["physical_utilisation"] > free:
            raise XapiFault("SR_FULL", disk["physical_utilisation"], free)
    for vif in record["VIFs"]:
        if vif not in vif_map:
            raise XapiFault("VIF_NOT_IN_MAP", vif)
        await far.call("network.get_record", vif_map[vif])
    if record["power_state"] == "Running":
        needed, free = (
            record["memory_static_max"],
            int(await far.call("host.compute_free_memory", target)),
        )
        if needed > free:
            raise XapiFault("HOST_NOT_ENOUGH_FREE_MEMORY", needed, free)


@method("VM.migrate_send", is_async=True)
async def migrate_send(
    host: HostServer,
    ref: str,
    dest: dict[str, str],
    live: bool = True,
    vdi_map: dict[str, str] | None = None,
    vif_map: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    vgpu_map: dict[str, str] | None = None,
) -> str:
    """Move a VM with its disks; give its reference where it is then. Source: VM.migrate_send."""
    del vgpu_map
    target = _destination(dest)
    disks, cards, wishes = vdi_map or {}, vif_map or {}, options or {}
    async with operation(host, ref, "migrate_send") as record:
        _check_options(ref, record, live=live, options=wishes)
        if target in host.objects.all("host"):
            await _send_inside(host, ref, record, target, disks)
            return ref
        is_copy = wishes.get("copy", "false") == "true"
        async with _far(dest, target) as far:
            await _check_far(host, far, target, record, vdi_map=disks, vif_map=cards)
            made = await _send_far(
                host, far, target, record, vdi_map=disks, vif_map=cards, is_copy=is_copy
            )
        if not is_copy:
            await _let_go(host, ref, record)
        return made


async def _send_inside(
    host: HostServer, ref: str, record: Record, on: str, vdi_map: dict[str, str]
) -> None:
    _check_inside(host, record, on, vdi_map)
    if record["power_state"] != "Halted":
        _simulated(host, ref, record)
    for vdi, disk in _disks(host, record):
        sr = vdi_map[vdi] if vdi in vdi_map else disk["SR"]
        if sr != disk["SR"]:
            with host.operations.hold("VDI", vdi, "mirror"):
                await _move_disk(host, vdi, disk, sr)
    if record["power_state"] == "Running":
        await _move(host, ref, record, on)
    else:
        host.objects.update("VM", ref, affinity=on)


async def _move_disk(host: HostServer, vdi: str, disk: Record, sr: str) -> None:
    """Move a disk to another SR of the pool, under the name it has."""
    before, uuid = disk["SR"], disk["uuid"]
    source, target = host.storage.get(before), host.storage.get(sr)
    await carry(uuid, source, target, size_bytes=disk["virtual_size"])
    # Its record is never of an SR that it does not lie in.
    host.objects.update("VDI", vdi, SR=sr)
    host.objects.unlink("SR", before, "VDIs", vdi)
    host.objects.link("SR", sr, "VDIs", vdi)
    await source.destroy(uuid)
    for one in (before, sr):
        await records.refresh(host, one)
        tidy(host, one)


@method("VDI.pool_migrate", is_async=True)
async def pool_migrate_disk(host: HostServer, ref: str, sr: str, options: dict[str, str]) -> str:
    """Move a disk that no running VM has to another SR of the pool. Source: VDI.pool_migrate."""
    del options
    host.objects.get("SR", sr)
    host.storage.get(sr)
    async with vdis.doing(host, ref, "mirror") as record:
        if record["SR"] != sr:
            await _move_disk(host, ref, record, sr)
    return ref


async def _send_far(
    host: HostServer,
    far: _Far,
    target: str,
    record: Record,
    *,
    vdi_map: dict[str, str],
    vif_map: dict[str, str],
    is_copy: bool,
) -> str:
    made: dict[str, str] = {}
    move: SimMove | None = None
    ref = host.objects.by_uuid("VM", record["uuid"])
    try:
        for vdi, disk in _disks(host, record):
            made[vdi] = await _make_far_disk(host, far, disk, vdi_map[vdi])
        state, xenstore = "halted", {}
        if record["power_state"] != "Halted":
            engine = _simulated(host, ref, record)
            move = await engine.domain_send(record["uuid"])
            state, xenstore = move.state, dict(move.xenstore)
        wanted = {
            "vm": _portable(record, is_copy=is_copy),
            "vbds": [
                {**_fields("VBD", row), "VDI": made.get(row["VDI"], NULL)}
                for row in (host.objects.get("VBD", vbd) for vbd in record["VBDs"])
            ],
            "vifs": [
                {**_fields("VIF", host.objects.get("VIF", vif)), "network": vif_map[vif]}
                for vif in record["VIFs"]
            ],
            "state": state,
            "xenstore": xenstore,
        }
        if move is not None:
            _mark(host, ref, target)
        return await _hand_over(far, target, wanted, ref)
    except _Unknown:
        # Two of it must not run: it stays down here until someone knows better.
        give_back(host, ref)
        has_stopped(host, ref, "Halted")
        _mark(host, ref, "")
        raise XapiFault("VM_MIGRATE_FAILED", ref, "", target, "it may have been accepted") from None
    except BaseException:
        _mark(host, ref, "")
        if move is not None:
            await _simulated(host, ref, record).domain_receive(move)
        for vdi in made.values():
            with contextlib.suppress(XapiFault):
                await far.call("VDI.destroy", vdi)
        raise


class _Unknown(Exception):
    """The receiver may have accepted, or not."""


async def _hand_over(far: _Far, target: str, wanted: dict[str, Any], ref: str) -> str:
    """Have the receiver accept; if its answer is lost, find out whether it has.

    Raises:
        _Unknown: that cannot be found out.
        XapiFault: it has not.
    """
    try:
        return str(await far.call("VM.migrate_accept", target, wanted))
    except XapiFault as lost:
        if lost.code != "CANNOT_CONTACT_HOST":
            raise
        try:
            uuid = wanted["vm"].get("uuid", ref)
            return str(await far.call("VM.get_by_uuid", uuid))
        except XapiFault as found:
            if found.code == "UUID_INVALID":
                raise lost from None
            raise _Unknown from None


def _mark(host: HostServer, ref: str, target: str) -> None:
    """Note on the disk that a VM's domain is being handed on: after a kill it starts nowhere."""
    config = host.objects.get("VM", ref)["other_config"]
    kept = {key: value for key, value in config.items() if key != MIGRATING_TO}
    if target:
        kept[MIGRATING_TO] = target
    if kept != config:
        host.objects.update("VM", ref, other_config=kept)
        host.flush()


def _simulated(host: HostServer, ref: str, record: Record) -> SimBackend:
    engine = host.pool.engine_of_vm(record["uuid"])
    if not isinstance(engine, SimBackend):
        place = host.pool.place_of(ref, record)
        raise XapiFault(
            "VM_MIGRATE_FAILED", ref, place, "", f"the {engine.name} backend moves no domains"
        )
    return engine


async def _make_far_disk(host: HostServer, far: _Far, disk: Record, sr: str) -> str:
    source = host.storage.get(disk["SR"])
    names = ("name_label", "name_description", "virtual_size", "type", "other_config")
    wanted = {name: disk[name] for name in (*names, "sharable", "read_only", "xenstore_data")}
    wanted["sm_config"] = {k: v for k, v in disk["sm_config"].items() if k != PARENT_KEY}
    made = str(await far.call("VDI.create", {**wanted, "SR": sr}))
    try:
        async with contextlib.aclosing(source.read(disk["uuid"], "vhd")) as pieces:
            await far.fill(made, pieces)
    except BaseException:
        with contextlib.suppress(XapiFault):
            await far.call("VDI.destroy", made)
        raise
    return made


def _fields(class_name: str, row: Record) -> Record:
    return {
        name: row[name]
        for name, field in CLASSES[class_name].items()
        if field.kind != "ref" and name not in ("uuid", "currently_attached", "device")
    } | ({"device": row["device"]} if class_name == "VIF" else {})


def _portable(record: Record, *, is_copy: bool) -> Record:
    kept = {
        name: record[name]
        for name, field in CLASSES["VM"].items()
        if field.kind not in ("ref", "set") and name not in ("domid", "current_operations")
    }
    kept["tags"] = record["tags"]
    if is_copy:
        del kept["uuid"]
    return kept


async def _let_go(host: HostServer, ref: str, record: Record) -> None:
    """Remove what is another pool's now."""
    give_back(host, ref)
    set_power(host, ref, "Halted", domid=-1)
    await host.backend.domain_forget(record["uuid"])
    for vbd in list(record["VBDs"]):
        row = host.objects.get("VBD", vbd)
        vbds.remove(host, vbd)
        if row["type"] == "Disk" and not is_null(row["VDI"]):
            disk = host.objects.get("VDI", row["VDI"])
            if not disk["VBDs"]:
                # The VM has gone: what is left of it is for whoever finds it.
                with contextlib.suppress(BackendError, XapiFault):
                    await vdis.destroy(host, row["VDI"])
    for vif in list(record["VIFs"]):
        vifs.remove(host, vif)
    for console in list(record["consoles"]):
        host.objects.delete("console", console)
    for kind, field in (("VM_metrics", "metrics"), ("VM_guest_metrics", "guest_metrics")):
        if not is_null(record[field]):
            host.objects.delete(kind, record[field])
    vm_copies.forget_snapshot(host, ref)
    host.objects.delete("VM", ref)
