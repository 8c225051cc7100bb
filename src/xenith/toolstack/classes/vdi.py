"""VDIs: disks on the host's SR, made, cloned, grown, filled and removed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from xenith.core.units import GIB
from xenith.toolstack.backends import BackendError
from xenith.toolstack.methods import creation, is_null, method
from xenith.toolstack.server import HostServer
from xenith.xapi.faults import XapiFault

#: The largest disk. Source: VHD specification 1.0; XenServer allows 2040 GiB.
SIZE_BYTES_MAX = 2040 * GIB
#: Disks come in whole 2 MiB blocks. Source: VHD, Dynamic Disk Header, block size.
BLOCK_BYTES = 2 * 1024 * 1024

#: What is done to a disk by many at once.
SHARING = frozenset(("clone", "copy"))
ALLOWED = ["snapshot", "clone", "copy", "resize", "resize_online", "destroy", "update"]


def rounded(size_bytes: int) -> int:
    """Round a size up to whole blocks."""
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


@method("VDI.create", is_async=True)
async def create(host: HostServer, record: dict[str, Any]) -> str:
    """Make an empty disk. Source: XenAPI VDI.create."""
    fields = creation("VDI", record)
    size = fields["virtual_size"]
    sr = host.objects.get("SR", fields["SR"])
    if size <= 0:
        raise XapiFault("VDI_TOO_SMALL", "OpaqueRef:NULL", 1)
    if size > SIZE_BYTES_MAX:
        raise XapiFault("VDI_TOO_LARGE", "OpaqueRef:NULL", SIZE_BYTES_MAX)
    if size > sr["physical_size"] - sr["physical_utilisation"]:
        raise XapiFault("SR_BACKEND_FAILURE_44", "", "There is insufficient space", "")
    fields.update(virtual_size=rounded(size), type=fields.get("type", "user").lower())
    return await _make(host, fields, parent_uuid=None)


@method("VDI.clone", is_async=True)
async def clone(host: HostServer, ref: str, driver_params: dict[str, str] | None = None) -> str:
    """Make a disk that shares this one's blocks. Source: XenAPI VDI.clone."""
    del driver_params
    source = host.objects.get("VDI", ref)
    copied = (
        "name_label",
        "name_description",
        "SR",
        "virtual_size",
        "type",
        "other_config",
        "sm_config",
        "sharable",
        "xenstore_data",
    )
    fields = {name: source[name] for name in copied}
    with host.operations.hold("VDI", ref, "clone", beside=SHARING):
        return await _make(host, fields, parent_uuid=source["uuid"])


@method("VDI.copy", is_async=True)
async def copy(host: HostServer, ref: str, sr: str) -> str:
    """Make a disk with this one's contents on an SR; here there is one SR, so blocks are shared."""
    host.objects.get("SR", sr)
    made: str = await clone(host, ref)
    return made


@method("VDI.resize", is_async=True)
@method("VDI.resize_online", is_async=True)
async def resize(host: HostServer, ref: str, size: int) -> None:
    """Grow a disk. Source: XenAPI VDI.resize."""
    record = host.objects.get("VDI", ref)
    wanted = rounded(size)
    if wanted < record["virtual_size"]:
        raise XapiFault("VDI_TOO_SMALL", ref, record["virtual_size"])
    if wanted > SIZE_BYTES_MAX:
        raise XapiFault("VDI_TOO_LARGE", ref, SIZE_BYTES_MAX)
    if wanted == record["virtual_size"]:
        return
    sr = host.objects.get("SR", record["SR"])
    if wanted - record["virtual_size"] > sr["physical_size"] - sr["physical_utilisation"]:
        raise XapiFault("SR_BACKEND_FAILURE_44", "", "There is insufficient space", "")
    with host.operations.hold("VDI", ref, "resize"):
        await host.backend.disk_resize(record["uuid"], wanted)
    host.objects.update("VDI", ref, virtual_size=wanted)


@method("VDI.destroy", is_async=True)
async def destroy(host: HostServer, ref: str) -> None:
    """Remove a disk that no VM uses. Source: XenAPI VDI.destroy."""
    record = host.objects.get("VDI", ref)
    for vbd in record["VBDs"]:
        row = host.objects.get("VBD", vbd)
        if row["currently_attached"] or host.operations.of(row["VM"]):
            raise XapiFault("VDI_IN_USE", ref, "destroy")
    with host.operations.hold("VDI", ref, "destroy"):
        await host.backend.disk_destroy(record["uuid"])
    if host.objects.find("VDI", ref) is None:
        return
    for vbd in list(record["VBDs"]):
        host.objects.update("VBD", vbd, VDI="OpaqueRef:NULL", empty=True)
    host.objects.delete("VDI", ref)
    host.objects.unlink("SR", record["SR"], "VDIs", ref)
    _count_use(host, record["SR"], -record["physical_utilisation"])


@method("VDI.get_nbd_info")
def get_nbd_info(host: HostServer, ref: str) -> list[Any]:
    """List where a disk is served over NBD: nowhere."""
    host.objects.get("VDI", ref)
    return []


async def _make(host: HostServer, fields: dict[str, Any], *, parent_uuid: str | None) -> str:
    """Make the record first, so that a disk without one is never left behind."""
    ref = host.objects.create("VDI", **fields, allowed_operations=ALLOWED)
    uuid = host.objects.get("VDI", ref)["uuid"]
    # The record must be on the disk before the disk is.
    host.flush()
    try:
        if parent_uuid is None:
            await host.backend.disk_create(uuid, fields["virtual_size"])
        else:
            await host.backend.disk_clone(uuid, parent_uuid)
    except BackendError:
        await host.backend.disk_destroy(uuid)
        host.objects.delete("VDI", ref)
        raise
    host.objects.update("VDI", ref, location=uuid)
    host.objects.link("SR", fields["SR"], "VDIs", ref)
    return ref


async def import_raw(host: HostServer, query: dict[str, str], chunks: AsyncIterator[bytes]) -> None:
    """Fill a disk from a stream. Source: xapi, PUT /import_raw_vdi."""
    named = query.get("vdi", "")
    ref = named if named.startswith("OpaqueRef:") else host.objects.by_uuid("VDI", named)
    record = host.objects.get("VDI", ref)
    disk_format = query.get("format", "raw")
    if disk_format not in ("raw", "vhd"):
        raise XapiFault("INVALID_VALUE", "format", disk_format)
    if is_null(ref) or any(
        host.objects.get("VBD", vbd)["currently_attached"] for vbd in record["VBDs"]
    ):
        raise XapiFault("VDI_IN_USE", ref, "import")
    with host.operations.hold("VDI", ref, "import"):
        size = await host.backend.disk_import(record["uuid"], disk_format, chunks)
        used = await host.backend.disk_used_bytes(record["uuid"])
    if size > SIZE_BYTES_MAX:
        raise XapiFault("VDI_TOO_LARGE", ref, SIZE_BYTES_MAX)
    _count_use(host, record["SR"], used - record["physical_utilisation"])
    host.objects.update(
        "VDI",
        ref,
        virtual_size=max(record["virtual_size"], rounded(size)),
        physical_utilisation=used,
    )


def _count_use(host: HostServer, sr: str, more_bytes: int) -> None:
    if more_bytes:
        used = host.objects.get("SR", sr)["physical_utilisation"] + more_bytes
        host.objects.update("SR", sr, physical_utilisation=max(0, used))
