"""Storage repositories: made, introduced, looked through and let go.

An SR is a record; its PBD says how the host gets at it, and attaches it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xenith.core.ids import is_uuid
from xenith.toolstack.backends import BackendError
from xenith.toolstack.classes import pbd as pbds
from xenith.toolstack.methods import method
from xenith.toolstack.server import HostServer
from xenith.toolstack.storage import records
from xenith.toolstack.storage.file_sr import KINDS, directory_of
from xenith.toolstack.storage.inventory import is_disk
from xenith.toolstack.storage.upkeep import tidy
from xenith.xapi import NULL
from xenith.xapi.faults import XapiFault

#: What may be asked of an SR. Source: XenAPI storage_operations.
OPERATIONS = [
    "destroy",
    "forget",
    "pbd_create",
    "pbd_destroy",
    "plug",
    "scan",
    "unplug",
    "update",
    "vdi_clone",
    "vdi_create",
    "vdi_destroy",
    "vdi_introduce",
    "vdi_resize",
    "vdi_snapshot",
]


@method("SR.create", is_async=True)
async def create(
    host: HostServer,
    on: str,
    device_config: dict[str, str],
    physical_size: int,
    name_label: str,
    name_description: str,
    kind: str,
    content_type: str,
    shared: bool,
    sm_config: dict[str, str] | None = None,
) -> str:
    """Make an SR of an empty directory, and attach it. Source: XenAPI SR.create."""
    del physical_size
    host.objects.get("host", on)
    path = directory_of(device_config)
    if path is not None:
        await asyncio.to_thread(_make_directory, path)
    ref: str = introduce(
        host,
        host.world.ids.uuid(),
        name_label,
        name_description,
        kind,
        content_type,
        shared,
        sm_config,
    )
    pbd = pbds.create(host, {"host": on, "SR": ref, "device_config": device_config})
    try:
        await pbds.plug(host, pbd)
    except BackendError:
        pbds.remove(host, pbd)
        host.objects.delete("SR", ref)
        raise
    if shared:
        # Source: xapi, which makes PBDs of a shared SR for all hosts of the pool.
        await pbds.spread(host, ref, list(host.objects.all("host")))
    return ref


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(exist_ok=True, mode=0o700)
        held = [name for name in path.iterdir() if is_disk(name.name)]
    except OSError as error:
        text = f"{path}: {error.strerror}"
        raise BackendError("SR_BACKEND_FAILURE_47", "", text, "") from error
    if held:
        # Source: sm's FileSR.py, which makes no SR where one is.
        raise BackendError("SR_BACKEND_FAILURE_16", "", f"{path} holds disks: introduce it.", "")


@method("SR.introduce", is_async=True)
def introduce(
    host: HostServer,
    uuid: str,
    name_label: str,
    name_description: str,
    kind: str,
    content_type: str,
    shared: bool,
    sm_config: dict[str, str] | None = None,
) -> str:
    """Tell of an SR that is there; a PBD attaches it. Source: XenAPI SR.introduce."""
    if kind not in KINDS:
        raise XapiFault("SR_UNKNOWN_DRIVER", kind)
    uuid = uuid or host.world.ids.uuid()
    if not is_uuid(uuid):
        raise XapiFault("UUID_INVALID", "SR", uuid)
    if any(record["uuid"] == uuid for record in host.objects.all("SR").values()):
        raise XapiFault("SR_UUID_EXISTS", uuid)
    return host.objects.create(
        "SR",
        uuid=uuid,
        name_label=name_label,
        name_description=name_description,
        type=kind,
        content_type=content_type,
        shared=shared,
        sm_config=sm_config or {},
        allowed_operations=OPERATIONS,
    )


@method("SR.probe", is_async=True)
async def probe(
    host: HostServer,
    on: str,
    device_config: dict[str, str],
    kind: str = "",
    sm_config: dict[str, str] | None = None,
) -> str:
    """List the SRs below a directory, as XML. Source: XenAPI SR.probe; sm's ``nfs`` driver."""
    del sm_config
    host.objects.get("host", on)
    if kind not in KINDS:
        raise XapiFault("SR_UNKNOWN_DRIVER", kind)
    path = directory_of(device_config)
    found = [] if path is None else await asyncio.to_thread(_list_srs, path)
    inner = "".join(f"\t<SR>\n\t\t<UUID>{uuid}</UUID>\n\t</SR>\n" for uuid in found)
    return f'<?xml version="1.0" ?>\n<SRlist>\n{inner}</SRlist>\n'


def _list_srs(path: Path) -> list[str]:
    try:
        return sorted(one.name for one in path.iterdir() if one.is_dir() and is_uuid(one.name))
    except OSError as error:
        text = f"{path}: {error.strerror}"
        raise BackendError("SR_BACKEND_FAILURE_47", "", text, "") from error


@method("SR.scan", is_async=True)
async def scan(host: HostServer, ref: str) -> None:
    """Bring records in step with the disks that there are. Source: XenAPI SR.scan."""
    host.objects.get("SR", ref)
    host.storage.get(ref)
    contents = await records.refresh(host, ref)
    tidy(host, ref)
    if contents is not None and (failure := records.failed_scan(contents)) is not None:
        raise failure


@method("SR.update", is_async=True)
async def update(host: HostServer, ref: str) -> None:
    """Bring the SR's use up to date. Source: XenAPI SR.update."""
    host.objects.get("SR", ref)
    host.storage.get(ref)
    await records.refresh(host, ref)


@method("SR.forget", is_async=True)
def forget(host: HostServer, ref: str) -> None:
    """Remove an SR's records, and leave its disks. Source: XenAPI SR.forget."""
    record = _check_unplugged(host, ref)
    for vdi in list(record["VDIs"]):
        records.forget(host, vdi)
    _remove(host, ref, record)


@method("SR.destroy", is_async=True)
def destroy(host: HostServer, ref: str) -> None:
    """Remove an SR that holds no disk. Source: XenAPI SR.destroy."""
    record = _check_unplugged(host, ref)
    if record["other_config"].get("indestructible") == "true":
        raise XapiFault("SR_INDESTRUCTIBLE", ref)
    if record["VDIs"]:
        raise XapiFault("SR_NOT_EMPTY", ref)
    _remove(host, ref, record)


def _check_unplugged(host: HostServer, ref: str) -> Mapping[str, Any]:
    record = host.objects.get("SR", ref)
    host.operations.check("SR", ref)
    if any(host.objects.get("PBD", pbd)["currently_attached"] for pbd in record["PBDs"]):
        raise XapiFault("SR_HAS_PBD", ref)
    return record


def _remove(host: HostServer, ref: str, record: Mapping[str, Any]) -> None:
    for pbd in list(record["PBDs"]):
        pbds.remove(host, pbd)
    host.objects.delete("SR", ref)
    for field in ("default_SR", "suspend_image_SR", "crash_dump_SR"):
        for pool, held in host.objects.all("pool").items():
            if held[field] == ref:
                host.objects.update("pool", pool, **{field: NULL})


@method("SR.set_shared", is_async=True)
def set_shared(host: HostServer, ref: str, value: bool) -> None:
    """Say whether several hosts have an SR. Source: XenAPI SR.set_shared."""
    host.objects.get("SR", ref)
    host.objects.update("SR", ref, shared=value)


@method("SR.get_supported_types")
def get_supported_types(host: HostServer) -> list[str]:
    """List the types that this host makes."""
    del host
    return list(KINDS)
