"""PBDs: how a host gets at an SR, and whether it has it attached now."""

from __future__ import annotations

from typing import Any

from xenith.core.log import logger
from xenith.toolstack.backends import BackendError, Repository
from xenith.toolstack.methods import creation, method
from xenith.toolstack.server import HostServer
from xenith.toolstack.storage import records
from xenith.toolstack.storage.attached import Attached
from xenith.toolstack.storage.upkeep import tidy
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
    if record["SR"] in host.storage.attached:
        return
    with host.operations.hold("SR", record["SR"], "plug"):
        await attach(host, ref)


async def attach(host: HostServer, ref: str) -> None:
    """Attach the SR of a PBD; disks that were being made when the host died are removed first.

    Raises:
        BackendError: it cannot be had.
    """
    pbd = host.objects.get("PBD", ref)
    sr = host.objects.get("SR", pbd["SR"])
    repository = await host.backend.attach_sr(sr["uuid"], sr["type"], pbd["device_config"])
    await _remove_half_made(host, pbd["SR"], repository)
    host.storage.attached[pbd["SR"]] = Attached(repository)
    await records.refresh(host, pbd["SR"])
    host.objects.update("PBD", ref, currently_attached=True)
    tidy(host, pbd["SR"])


@method("PBD.unplug", is_async=True)
async def unplug(host: HostServer, ref: str) -> None:
    """Let an SR go that no VM has disks of. Source: XenAPI PBD.unplug."""
    pbd = host.objects.get("PBD", ref)
    for vdi in host.objects.get("SR", pbd["SR"])["VDIs"]:
        record = host.objects.get("VDI", vdi)
        if records.is_attached(host, record) or host.operations.of(vdi):
            raise XapiFault("VDI_IN_USE", vdi, "PBD.unplug")
    with host.operations.hold("SR", pbd["SR"], "unplug"):
        host.storage.attached.pop(pbd["SR"], None)
        await host.backend.detach_sr(host.objects.get("SR", pbd["SR"])["uuid"])
        host.objects.update("PBD", ref, currently_attached=False)


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
    """Attach at a host's start what was attached when it ended; what cannot be had is not."""
    for ref, record in list(host.objects.all("PBD").items()):
        if not record["currently_attached"]:
            continue
        try:
            await attach(host, ref)
        except BackendError as error:
            _log.error("an SR cannot be attached", sr=record["SR"], error=repr(error))
            host.objects.update("PBD", ref, currently_attached=False)


def _texts(config: dict[str, Any]) -> dict[str, str]:
    if not all(isinstance(value, str) for value in config.values()):
        raise XapiFault("FIELD_TYPE_ERROR", "device_config")
    return config
