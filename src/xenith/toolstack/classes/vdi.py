"""VDIs: disks on the host's SRs, made, cloned, snapshot, grown, introduced and removed.

The records are made before the disks are, so that a disk without one is never left behind; what
the repository made besides, such as the parent of a snapshot, is found by looking at it after.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from xenith.core.units import GIB
from xenith.toolstack.backends import BackendError, Repository
from xenith.toolstack.methods import creation, is_null, method
from xenith.toolstack.server import HostServer
from xenith.toolstack.storage import records
from xenith.toolstack.storage.records import PARENT_KEY, SHARING, is_attached, show_operations
from xenith.toolstack.storage.upkeep import tidy
from xenith.xapi import NULL
from xenith.xapi.faults import XapiFault

__all__ = ["SHARING", "rounded"]

#: The largest disk. Source: VHD specification 1.0; XenServer allows 2040 GiB.
SIZE_BYTES_MAX = 2040 * GIB
#: Disks come in whole 2 MiB blocks. Source: VHD, Dynamic Disk Header, block size.
BLOCK_BYTES = 2 * 1024 * 1024

#: What a clone or a snapshot has of its source.
_INHERITED = (
    "name_label",
    "name_description",
    "SR",
    "virtual_size",
    "type",
    "other_config",
    "sharable",
    "xenstore_data",
)


def rounded(size_bytes: int) -> int:
    """Round a size up to whole blocks."""
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


@method("VDI.create", is_async=True)
async def create(host: HostServer, record: dict[str, Any]) -> str:
    """Make an empty disk. Source: XenAPI VDI.create."""
    fields = creation("VDI", record)
    size = fields["virtual_size"]
    check_room(host, fields["SR"], size)
    fields.update(
        virtual_size=rounded(size),
        type=fields.get("type", "user").lower(),
        sm_config=_own_config(fields.get("sm_config", {})),
    )
    return await make(host, fields, lambda sr, uuid: sr.create(uuid, rounded(size)))


@method("VDI.clone", is_async=True)
async def clone(host: HostServer, ref: str, driver_params: dict[str, str] | None = None) -> str:
    """Make a disk that shares this one's blocks. Source: XenAPI VDI.clone."""
    fields = _inherited(host.objects.get("VDI", ref), driver_params)
    async with doing(host, ref, "clone") as source:
        return await make(host, fields, lambda sr, uuid: sr.clone(uuid, source["uuid"]), of=ref)


@method("VDI.snapshot", is_async=True)
async def snapshot(host: HostServer, ref: str, driver_params: dict[str, str] | None = None) -> str:
    """Make a disk that keeps what this one holds now, also while a VM writes to it.

    Source: XenAPI VDI.snapshot.
    """
    fields = _inherited(host.objects.get("VDI", ref), driver_params)
    fields.update(is_a_snapshot=True, snapshot_of=ref, sharable=False)
    async with doing(host, ref, "snapshot") as source:
        fields["snapshot_time"] = host.now()
        made = await make(host, fields, lambda sr, uuid: sr.snapshot(uuid, source["uuid"]), of=ref)
        host.objects.link("VDI", ref, "snapshots", made)
    tidy(host, source["SR"])
    return made


@method("VDI.copy", is_async=True)
async def copy(
    host: HostServer, ref: str, sr: str, base_vdi: str = NULL, into_vdi: str = NULL
) -> str:
    """Make a disk with this one's contents that shares nothing with it; or give them to one.

    Of a disk ``into_vdi`` that holds what ``base_vdi`` does, only what differs is written.
    Source: XenAPI VDI.copy.
    """
    if not is_null(into_vdi):
        return await _copy_into(host, ref, base_vdi, into_vdi)
    if not is_null(base_vdi):
        raise XapiFault("VALUE_NOT_SUPPORTED", "base_vdi", base_vdi, "name an into_vdi too")
    fields = _inherited(host.objects.get("VDI", ref), None)
    check_room(host, sr, fields["virtual_size"])
    fields.update(SR=sr)
    target = host.storage.get(sr)
    async with doing(host, ref, "copy") as source:
        own = host.storage.get(source["SR"])
        return await make(host, fields, lambda _, uuid: own.copy(uuid, source["uuid"], target))


async def _copy_into(host: HostServer, ref: str, base_vdi: str, into_vdi: str) -> str:
    sr = host.objects.get("VDI", ref)["SR"]
    base = None if is_null(base_vdi) else host.objects.get("VDI", base_vdi)
    if base is not None and base["SR"] != sr:
        raise XapiFault("VDI_NOT_AVAILABLE", base_vdi)
    async with doing(host, ref, "copy") as source, doing(host, into_vdi, "import") as target:
        stream = host.storage.get(sr).read(
            source["uuid"], "vhd", base_uuid="" if base is None else base["uuid"]
        )
        async with contextlib.aclosing(stream) as pieces:
            await host.storage.get(target["SR"]).fill(target["uuid"], "vhd", pieces)
    await records.look(host, target["SR"], into_vdi)
    return into_vdi


@method("VDI.resize", is_async=True)
@method("VDI.resize_online", is_async=True)
async def resize(host: HostServer, ref: str, size: int) -> None:
    """Grow a disk. Source: XenAPI VDI.resize."""
    record = host.objects.get("VDI", ref)
    wanted = rounded(size)
    if wanted < record["virtual_size"]:
        raise XapiFault("VDI_TOO_SMALL", ref, record["virtual_size"])
    _check_room(host, record["SR"], ref, size, wanted - record["virtual_size"])
    if wanted == record["virtual_size"]:
        return
    async with doing(host, ref, "resize"):
        await host.storage.get(record["SR"]).resize(record["uuid"], wanted)
        host.objects.update("VDI", ref, virtual_size=wanted)
    await records.look(host, record["SR"], ref)


@method("VDI.destroy", is_async=True)
async def destroy(host: HostServer, ref: str) -> None:
    """Remove a disk that no VM uses. Source: XenAPI VDI.destroy."""
    async with doing(host, ref, "destroy") as record:
        await host.storage.get(record["SR"]).destroy(record["uuid"])
    records.forget(host, ref)
    await records.look(host, record["SR"])
    tidy(host, record["SR"])


@method("VDI.forget", is_async=True)
@method("VDI.db_forget")
async def forget(host: HostServer, ref: str) -> None:
    """Remove the record of a disk, and leave the disk. Source: XenAPI VDI.forget."""
    async with doing(host, ref, "forget"):
        records.forget(host, ref)


@method("VDI.update", is_async=True)
async def update(host: HostServer, ref: str) -> None:
    """Bring a disk's record up to date. Source: XenAPI VDI.update."""
    await records.look(host, host.objects.get("VDI", ref)["SR"], ref)


@method("VDI.introduce", is_async=True)
async def introduce(
    host: HostServer,
    uuid: str,
    name_label: str,
    name_description: str,
    sr: str,
    kind: str,
    sharable: bool,
    read_only: bool,
    other_config: dict[str, str],
    location: str,
    xenstore_data: dict[str, str],
    sm_config: dict[str, str],
    managed: bool = True,
    virtual_size: int = 0,
    physical_utilisation: int = 0,
    metadata_of_pool: str = NULL,
    is_a_snapshot: bool = False,
    snapshot_time: Any = "",
    snapshot_of: str = NULL,
) -> str:
    """Take a disk that was laid into an SR into use, and what it stands on.

    Sizes and parents are read from the disk. Source: XenAPI VDI.introduce.
    """
    del managed, virtual_size, physical_utilisation, metadata_of_pool
    named = location or uuid
    for ref, record in host.objects.all("VDI").items():
        if record["SR"] == sr and record["location"] == named:
            raise XapiFault("LOCATION_NOT_UNIQUE", sr, named, ref)
    host.objects.get("SR", sr)
    chain = await host.storage.get(sr).introduce(named)
    for vdi in chain:
        records.find_or_introduce(host, sr, vdi)
    made = host.objects.by_uuid("VDI", named)
    host.objects.update(
        "VDI",
        made,
        name_label=name_label,
        name_description=name_description,
        type=kind.lower() or "user",
        sharable=sharable,
        read_only=read_only or host.objects.get("VDI", made)["read_only"],
        other_config=other_config,
        xenstore_data=xenstore_data,
        sm_config={**_own_config(sm_config), **host.objects.get("VDI", made)["sm_config"]},
        is_a_snapshot=is_a_snapshot,
        **({"snapshot_time": str(snapshot_time)} if is_a_snapshot and snapshot_time else {}),
        **({"snapshot_of": snapshot_of} if is_a_snapshot else {}),
    )
    if is_a_snapshot:
        host.objects.link("VDI", snapshot_of, "snapshots", made)
    return made


@method("VDI.db_introduce")
async def db_introduce(
    host: HostServer,
    uuid: str,
    name_label: str,
    name_description: str,
    sr: str,
    kind: str,
    sharable: bool,
    read_only: bool,
    other_config: dict[str, str],
    location: str,
    xenstore_data: dict[str, str],
    sm_config: dict[str, str],
    managed: bool = True,
    virtual_size: int = 0,
    physical_utilisation: int = 0,
    metadata_of_pool: str = NULL,
    is_a_snapshot: bool = False,
    snapshot_time: Any = "",
    snapshot_of: str = NULL,
) -> str:
    """Take a disk into use, as ``VDI.introduce``: here no record is without a disk."""
    made: str = await introduce(
        host,
        uuid,
        name_label,
        name_description,
        sr,
        kind,
        sharable,
        read_only,
        other_config,
        location,
        xenstore_data,
        sm_config,
        managed,
        virtual_size,
        physical_utilisation,
        metadata_of_pool,
        is_a_snapshot,
        snapshot_time,
        snapshot_of,
    )
    return made


@method("VDI.set_sharable")
def set_sharable(host: HostServer, ref: str, value: bool) -> None:
    """Let several VMs write to a disk, or no more. Source: XenAPI VDI.set_sharable."""
    host.objects.get("VDI", ref)
    host.objects.update("VDI", ref, sharable=value)


@method("VDI.set_read_only")
def set_read_only(host: HostServer, ref: str, value: bool) -> None:
    """Keep VMs from writing to a disk, or no more. Source: XenAPI VDI.set_read_only."""
    record = host.objects.get("VDI", ref)
    if value and is_attached(host, record, mode="RW"):
        raise XapiFault("VDI_IN_USE", ref, "set_read_only")
    host.objects.update("VDI", ref, read_only=value)


@method("VDI.set_on_boot", is_async=True)
def set_on_boot(host: HostServer, ref: str, value: str) -> None:
    """Say that a disk keeps what a VM writes, as all of them do. Source: XenAPI VDI.set_on_boot."""
    host.objects.get("VDI", ref)
    if value != "persist":
        raise XapiFault("VALUE_NOT_SUPPORTED", "on_boot", value, "disks keep what is written")


@method("VDI.set_sm_config")
def set_sm_config(host: HostServer, ref: str, value: dict[str, str]) -> None:
    """Set what the storage is told; the parent's name stays. Source: XenAPI VDI.set_sm_config."""
    config = host.objects.get("VDI", ref)["sm_config"]
    parent = {PARENT_KEY: config[PARENT_KEY]} if PARENT_KEY in config else {}
    host.objects.update("VDI", ref, sm_config={**_own_config(value), **parent})


@method("VDI.enable_cbt", is_async=True)
def enable_cbt(host: HostServer, ref: str) -> None:
    """Refuse to track changed blocks: a delta of two snapshots tells them."""
    raise XapiFault("SR_OPERATION_NOT_SUPPORTED", host.objects.get("VDI", ref)["SR"])


@method("VDI.disable_cbt", is_async=True)
def disable_cbt(host: HostServer, ref: str) -> None:
    """Track no changed blocks, as ever. Source: XenAPI VDI.disable_cbt."""
    host.objects.get("VDI", ref)


@method("VDI.list_changed_blocks", is_async=True)
def list_changed_blocks(host: HostServer, ref: str, to: str) -> str:
    """Refuse to tell changed blocks, as none are tracked."""
    host.objects.get("VDI", to)
    raise XapiFault("VDI_NO_CBT_METADATA", ref)


@method("VDI.data_destroy", is_async=True)
def data_destroy(host: HostServer, ref: str) -> None:
    """Refuse to keep the tracking of a disk without the disk. Source: XenAPI VDI.data_destroy."""
    host.objects.get("VDI", ref)
    raise XapiFault("VDI_NO_CBT_METADATA", ref)


@method("VDI.generate_config")
def generate_config(host: HostServer, on: str, ref: str) -> str:
    """Give what a disk would be attached with elsewhere: nothing."""
    host.objects.get("host", on)
    host.objects.get("VDI", ref)
    return ""


@method("VDI.get_nbd_info")
def get_nbd_info(host: HostServer, ref: str) -> list[Any]:
    """List where a disk is served over NBD: nowhere."""
    host.objects.get("VDI", ref)
    return []


@contextlib.asynccontextmanager
async def doing(host: HostServer, ref: str, name: str) -> AsyncIterator[dict[str, Any]]:
    """Hold a disk while something is done to it, if that may be done now; give its record.

    Raises:
        XapiFault: VDI_NOT_MANAGED, VDI_IN_USE, OTHER_OPERATION_IN_PROGRESS.
    """
    record = host.objects.get("VDI", ref)
    if not record["managed"]:
        raise XapiFault("VDI_NOT_MANAGED", ref)
    beside = SHARING if name in SHARING else frozenset[str]()
    host.operations.check("VDI", ref, beside=beside)
    may = records.BESIDE_WRITER if is_attached(host, record, mode="RW") else records.BESIDE_READERS
    if name not in may and (is_attached(host, record) or _is_about_to_be(host, record)):
        raise XapiFault("VDI_IN_USE", ref, name)
    try:
        with host.operations.hold("VDI", ref, name, beside=beside):
            show_operations(host, ref)
            try:
                yield record
            except BackendError as error:
                # A disk is named by its uuid there, and by its reference here.
                if error.code in ("VDI_IN_USE", "VDI_NOT_MANAGED", "VDI_READONLY"):
                    raise XapiFault(error.code, ref, *error.params[1:]) from error
                raise
    finally:
        show_operations(host, ref)


def _is_about_to_be(host: HostServer, record: dict[str, Any]) -> bool:
    """Tell whether a VM that has a disk is being started, or anything else."""
    vms = (host.objects.get("VBD", vbd)["VM"] for vbd in record["VBDs"])
    return any(host.operations.of(vm) for vm in vms)


def check_room(host: HostServer, sr: str, size: int) -> None:
    """Refuse a disk that could not be one, or that the SR has no room for.

    Raises:
        XapiFault: VDI_TOO_SMALL, VDI_TOO_LARGE, SR_BACKEND_FAILURE_44.
    """
    _check_room(host, sr, NULL, size, size)


def _check_room(host: HostServer, sr: str, ref: str, size: int, more_bytes: int) -> None:
    record = host.objects.get("SR", sr)
    if size <= 0:
        raise XapiFault("VDI_TOO_SMALL", ref, 1)
    if rounded(size) > SIZE_BYTES_MAX:
        raise XapiFault("VDI_TOO_LARGE", ref, SIZE_BYTES_MAX)
    if more_bytes > record["physical_size"] - record["physical_utilisation"]:
        raise XapiFault("SR_BACKEND_FAILURE_44", "", "There is insufficient space", "")


def _own_config(config: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in config.items() if key != PARENT_KEY}


def _inherited(source: dict[str, Any], driver_params: dict[str, str] | None) -> dict[str, Any]:
    fields = {name: source[name] for name in _INHERITED}
    fields["sm_config"] = {**_own_config(source["sm_config"]), **_own_config(driver_params or {})}
    return fields


async def make(
    host: HostServer,
    fields: dict[str, Any],
    act: Callable[[Repository, str], Awaitable[None]],
    *,
    of: str = NULL,
) -> str:
    """Make the record first, so that a disk without one is never left behind.

    ``of`` is a disk that may stand on something new after it.
    """
    sr = fields["SR"]
    repository = host.storage.get(sr)
    ref = host.objects.create("VDI", **fields)
    uuid = host.objects.get("VDI", ref)["uuid"]
    # The record must be on the disk before the disk is.
    host.flush()
    # Who finds it by its name must not remove it before it is there.
    with host.operations.hold("VDI", ref, "create"):
        try:
            await act(repository, uuid)
        except BaseException:
            # What fills it may fail in ways of its own.
            await repository.destroy(uuid)
            host.objects.delete("VDI", ref)
            raise
        host.objects.update("VDI", ref, location=uuid)
    host.objects.link("SR", sr, "VDIs", ref)
    show_operations(host, ref)
    await records.look(host, sr, ref, of)
    return ref


@method("VDI.checksum")
async def checksum(host: HostServer, ref: str) -> str:
    """Give the MD5 of a disk's bytes, in hex. Source: XenAPI VDI.checksum."""
    digest = hashlib.md5(usedforsecurity=False)
    async with doing(host, ref, "export") as record:
        repository = host.storage.get(record["SR"])
        async with contextlib.aclosing(repository.read(record["uuid"], "raw")) as pieces:
            async for piece in pieces:
                digest.update(piece)
    return digest.hexdigest()
