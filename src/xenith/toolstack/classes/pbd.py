"""PBDs: how a host gets at an SR, and whether it has it attached now."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from xenith.core.log import logger
from xenith.toolstack.backends import BackendError, Repository
from xenith.toolstack.methods import creation, method
from xenith.toolstack.server import HostServer
from xenith.toolstack.storage import records
from xenith.toolstack.storage.attached import Attached
from xenith.toolstack.storage.upkeep import tidy
from xenith.xapi import NULL
from xenith.xapi.faults import XapiFault

_log = logger("toolstack.storage")


@method("PBD.create", is_async=True)
def create(host: HostServer, record: dict[str, Any]) -> str:
    """Say how a host gets at an SR. Source: XenAPI PBD.create."""
    fields = creation("PBD", record)
    host.objects.get("host", fields["host"])
    for other in host.objects.get("SR", fields["SR"])["PBDs"]:
        if host.objects.get("PBD", other)["host"] == fields["host"]:
            raise XapiFault("PBD_EXISTS", fields["SR"], fields["host"], other)
    fields["device_config"] = _texts(fields.get("device_config", {}))
    ref = host.objects.create("PBD", **fields)
    host.objects.link("SR", fields["SR"], "PBDs", ref)
    host.objects.link("host", fields["host"], "PBDs", ref)
    return ref


@method("PBD.plug", is_async=True)
async def plug(host: HostServer, ref: str) -> None:
    """Attach an SR, and bring its records in step with what lies there. Source: XenAPI PBD.plug."""
    record = host.objects.get("PBD", ref)
    if record["SR"] in host.pool.member(record["host"]).own_storage.attached:
        return
    with host.operations.hold("SR", record["SR"], "plug"):
        await attach(host, ref)


async def attach(host: HostServer, ref: str) -> None:
    """Attach the SR of a PBD to its host.

    Who is the first to have it removes disks that were being made when a host died.

    Raises:
        BackendError: it cannot be had.
    """
    pbd = host.objects.get("PBD", ref)
    sr = host.objects.get("SR", pbd["SR"])
    member = host.pool.member(pbd["host"])
    entry = _elsewhere(host, member, pbd["SR"])
    beside = None if entry is None else entry.repository
    repository = await member.engine.attach_sr(
        sr["uuid"], sr["type"], pbd["device_config"], beside=beside
    )
    if entry is None or repository is not beside:
        entry = Attached(repository)
    if beside is None:
        await _remove_half_made(host, pbd["SR"], repository)
    member.own_storage.attached[pbd["SR"]] = entry
    await records.refresh(host, pbd["SR"])
    host.objects.update("PBD", ref, currently_attached=True)
    tidy(host, pbd["SR"])


def _elsewhere(host: HostServer, member: HostServer, sr: str) -> Attached | None:
    for other in host.pool.members.values():
        if other is not member and sr in other.own_storage.attached:
            return other.own_storage.attached[sr]
    return None


@method("PBD.unplug", is_async=True)
async def unplug(host: HostServer, ref: str) -> None:
    """Let an SR go that no VM has disks of. Source: XenAPI PBD.unplug."""
    pbd = host.objects.get("PBD", ref)
    for vdi in host.objects.get("SR", pbd["SR"])["VDIs"]:
        record = host.objects.get("VDI", vdi)
        if _is_used(host, pbd["host"], record) or host.operations.of(vdi):
            raise XapiFault("VDI_IN_USE", vdi, "PBD.unplug")
    member = host.pool.member(pbd["host"])
    with host.operations.hold("SR", pbd["SR"], "unplug"):
        member.own_storage.attached.pop(pbd["SR"], None)
        await member.engine.detach_sr(host.objects.get("SR", pbd["SR"])["uuid"])
        host.objects.update("PBD", ref, currently_attached=False)


def _is_used(host: HostServer, on: str, vdi: dict[str, Any]) -> bool:
    """Tell whether a VM of a host, or one that may be anywhere, has a disk."""
    vbds = [host.objects.get("VBD", vbd) for vbd in vdi["VBDs"]]
    vms = {vbd["VM"] for vbd in vbds if vbd["currently_attached"]}
    return any(host.pool.place_of(vm, host.objects.get("VM", vm)) in (on, NULL) for vm in vms)


@method("PBD.destroy", is_async=True)
def destroy(host: HostServer, ref: str) -> None:
    """Forget how a host gets at an SR that it has not attached. Source: XenAPI PBD.destroy."""
    record = host.objects.get("PBD", ref)
    if record["currently_attached"]:
        raise XapiFault("OPERATION_NOT_ALLOWED", f"PBD {record['uuid']} is attached")
    remove(host, ref)


def remove(host: HostServer, ref: str) -> None:
    """Remove the record and what refers to it."""
    record = host.objects.get("PBD", ref)
    host.objects.delete("PBD", ref)
    host.objects.unlink("SR", record["SR"], "PBDs", ref)
    host.objects.unlink("host", record["host"], "PBDs", ref)


@method("PBD.set_device_config")
def set_device_config(host: HostServer, ref: str, value: dict[str, str]) -> None:
    """Say anew how a host gets at an SR. Source: XenAPI PBD.set_device_config."""
    record = host.objects.get("PBD", ref)
    if record["currently_attached"]:
        raise XapiFault("OPERATION_NOT_ALLOWED", f"PBD {record['uuid']} is attached")
    host.objects.update("PBD", ref, device_config=_texts(value))


async def _remove_half_made(host: HostServer, sr: str, repository: Repository) -> None:
    for ref, record in list(host.objects.all("VDI").items()):
        # A disk's location is written when it is there.
        if record["SR"] != sr or record["location"]:
            continue
        try:
            await repository.destroy(record["uuid"])
        except BackendError as error:
            # Its record stays, for whoever tries again.
            _log.warning("half a disk stays", vdi=record["uuid"], error=repr(error))
        else:
            host.objects.delete("VDI", ref)
            host.objects.unlink("SR", sr, "VDIs", ref)


async def attach_all(host: HostServer) -> None:
    """Attach at a host's start what it had when it ended; what cannot be had is not."""
    for ref, record in list(host.objects.all("PBD").items()):
        if record["host"] != host.ref or not record["currently_attached"]:
            continue
        try:
            await attach(host, ref)
        except BackendError as error:
            _log.error("an SR cannot be attached", sr=record["SR"], error=repr(error))
            host.objects.update("PBD", ref, currently_attached=False)


async def attach_shared(host: HostServer) -> None:
    """Attach a pool's shared SRs to a host that is new in it. Source: XenAPI pool.join."""
    for sr, record in list(host.objects.all("SR").items()):
        if record["shared"]:
            await spread(host, sr, (host.ref,))


async def spread(host: HostServer, sr: str, hosts: Iterable[str]) -> None:
    """Attach an SR to more hosts, as the first is; where it cannot be had, its PBD says so."""
    pbds = [host.objects.get("PBD", pbd) for pbd in host.objects.get("SR", sr)["PBDs"]]
    known = {pbd["host"] for pbd in pbds}
    config = pbds[0]["device_config"] if pbds else {}
    for on in hosts:
        if on in known:
            continue
        ref = create(host, {"host": on, "SR": sr, "device_config": config})
        try:
            await plug(host, ref)
        except BackendError as error:
            _log.error("an SR cannot be attached", sr=sr, host=on, error=repr(error))


async def detach_all(host: HostServer) -> None:
    """Let go of what is attached to a host that leaves its pool, of disks that are its alone too.

    Their records have gone, or go with it.
    """
    host.own_storage.untidy.clear()
    for sr in list(host.own_storage.attached):
        del host.own_storage.attached[sr]
        record = host.objects.find("SR", sr)
        if record is not None:
            await host.engine.detach_sr(record["uuid"])


def _texts(config: dict[str, Any]) -> dict[str, str]:
    if not all(isinstance(value, str) for value in config.values()):
        raise XapiFault("FIELD_TYPE_ERROR", "device_config")
    return config
