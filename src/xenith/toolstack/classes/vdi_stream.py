"""Disks as streams, in and out. Source: xapi, PUT /import_raw_vdi and GET /export_raw_vdi."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, NamedTuple

from xenith.toolstack.classes.vdi import SIZE_BYTES_MAX, create, destroy, doing
from xenith.toolstack.server import HostServer
from xenith.toolstack.storage import records
from xenith.toolstack.storage.upkeep import tidy
from xenith.xapi.faults import XapiFault

FORMATS = ("raw", "vhd")
_MEDIA_TYPES = {"raw": "application/octet-stream", "vhd": "application/vhd"}


class Export(NamedTuple):
    """A disk on its way out; ``length`` is None where it is not known before."""

    pieces: AsyncGenerator[bytes]
    file_name: str
    media_type: str
    length: int | None


async def import_raw(
    host: HostServer, query: dict[str, str], chunks: AsyncIterator[bytes], *, length: str = ""
) -> str:
    """Fill a disk from a stream, or a new one of an SR; give its reference."""
    class_name, ref = import_target(host, query)
    if class_name == "SR":
        return await _import_new(host, ref, _format(query), chunks, length)
    await _fill(host, ref, _format(query), chunks)
    return ref


def import_target(host: HostServer, query: dict[str, str]) -> tuple[str, str]:
    """Give the class and the reference of what a stream is for: a disk, or an SR for a new one.

    Raises:
        XapiFault: there is none, or the stream would be of a form that is not taken.
    """
    _format(query)
    if query.get("chunked", "false") not in ("", "false"):
        raise XapiFault("VALUE_NOT_SUPPORTED", "chunked", query["chunked"], "send it whole")
    sr = query.get("sr_id") or query.get("sr_uuid")
    if sr and not query.get("vdi"):
        return "SR", _named(host, "SR", sr)
    return "VDI", _named(host, "VDI", query.get("vdi", ""))


async def _import_new(
    host: HostServer, sr: str, disk_format: str, chunks: AsyncIterator[bytes], length: str
) -> str:
    # Source: xapi, which makes a disk of the length that is announced.
    if disk_format != "raw" or not length.isascii() or not length.isdigit():
        raise XapiFault("VALUE_NOT_SUPPORTED", "format", disk_format, "name a vdi, or send raw")
    ref: str = await create(host, {"SR": sr, "virtual_size": int(length[:19]), "type": "user"})
    try:
        await _fill(host, ref, disk_format, chunks)
    except BaseException:
        await destroy(host, ref)
        raise
    return ref


async def _fill(host: HostServer, ref: str, disk_format: str, chunks: AsyncIterator[bytes]) -> None:
    async with doing(host, ref, "import") as record:
        repository = host.storage.get(record["SR"])
        size = await repository.fill(record["uuid"], disk_format, chunks)
    if size > SIZE_BYTES_MAX:
        raise XapiFault("VDI_TOO_LARGE", ref, SIZE_BYTES_MAX)
    await records.look(host, record["SR"], ref)
    # What it stood on may have been waiting for the end of this.
    tidy(host, record["SR"])


async def export_raw(host: HostServer, query: dict[str, str]) -> Export:
    """Give a disk as a stream, or the VHD that makes it of ``base``.

    The first piece has been read when this returns, so that what cannot be begun is a fault.
    """
    disk_format = _format(query)
    ref = _named(host, "VDI", query.get("vdi", ""))
    record = host.objects.get("VDI", ref)
    base = None
    if query.get("base"):
        if disk_format != "vhd":
            raise XapiFault("VALUE_NOT_SUPPORTED", "base", query["base"], "only a VHD has one")
        base = host.objects.get("VDI", _named(host, "VDI", query["base"]))
        if base["SR"] != record["SR"]:
            raise XapiFault("VDI_NOT_AVAILABLE", query["base"])
    pieces = pieces_of(host, ref, disk_format, base)
    first = await anext(pieces, b"")
    return Export(
        begun(pieces, first),
        f"{record['uuid']}.{disk_format}",
        _MEDIA_TYPES[disk_format],
        record["virtual_size"] if disk_format == "raw" else None,
    )


async def pieces_of(
    host: HostServer, ref: str, disk_format: str, base: dict[str, Any] | None
) -> AsyncGenerator[bytes]:
    """Give a disk's bytes, which is held as long."""
    async with doing(host, ref, "export") as record:
        stream = host.storage.get(record["SR"]).read(
            record["uuid"], disk_format, base_uuid="" if base is None else base["uuid"]
        )
        async with contextlib.aclosing(stream) as pieces:
            async for piece in pieces:
                yield piece
    tidy(host, record["SR"])


async def begun(pieces: AsyncGenerator[bytes], first: bytes) -> AsyncGenerator[bytes]:
    """Give a stream whose first piece has been read already."""
    try:
        if first:
            yield first
        async for piece in pieces:
            yield piece
    finally:
        await pieces.aclose()


def _format(query: dict[str, str]) -> str:
    disk_format = query.get("format", "raw")
    if disk_format not in FORMATS:
        raise XapiFault("INVALID_VALUE", "format", disk_format)
    return disk_format


def _named(host: HostServer, class_name: str, named: str) -> str:
    """Give the reference of what a query names by reference or by uuid."""
    if named.startswith("OpaqueRef:"):
        host.objects.get(class_name, named)
        return named
    return host.objects.by_uuid(class_name, named)
