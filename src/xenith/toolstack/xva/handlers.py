"""``GET /export`` and ``PUT /import``: VMs as XVA over HTTP. Source: xen-api, export.ml, import.ml.

How it went is told by the task that the query names, and to those who wait by the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncGenerator, AsyncIterator

import msgspec

from xenith.toolstack.backends import BackendError
from xenith.toolstack.classes.lifecycle import operation
from xenith.toolstack.classes.vdi_stream import Export, begun, pieces_of
from xenith.toolstack.methods import is_null
from xenith.toolstack.server import HostServer, Transfer
from xenith.toolstack.transfer import (
    LENGTH_KNOWN_BYTES_MAX,
    give,
    named_task,
    query_of,
    refusal,
)
from xenith.toolstack.xva import pieces as tar
from xenith.toolstack.xva.manifest import describe
from xenith.toolstack.xva.reception import receive
from xenith.xapi import NULL, xmlrpc
from xenith.xapi.faults import XapiFault
from xenith.xapi.wire import Reply, Request

_PACKED = frozenset(("true", "gzip"))
#: Level of gzip: the quickest, for a disk is long. Source: xapi, ``gzip --fast``.
_GZIP_LEVEL = 1


async def export_vm(host: HostServer, request: Request) -> Reply:
    """Give a VM that is not running, a template or a snapshot, with its disks."""
    query = query_of(request)
    if (refused := refusal(host, request, query)) is not None:
        return refused
    return await give(host, query.get("task_id", NULL), lambda: _export(host, query))


async def _export(host: HostServer, query: dict[str, str]) -> Export:
    ref = query.get("ref", "")
    if ref:
        host.objects.get("VM", ref)
    else:
        ref = host.objects.by_uuid("VM", query.get("uuid", ""))
    if query.get("use_compression") == "zstd":
        raise XapiFault("VALUE_NOT_SUPPORTED", "use_compression", "zstd", "gzip is supported")
    members = _members(host, ref)
    if query.get("use_compression") in _PACKED:
        members = _gzipped(members)
    first = await anext(members)
    return Export(begun(members, first), "export.xva", "application/octet-stream", None)


async def _members(host: HostServer, vm: str) -> AsyncGenerator[bytes]:
    async with operation(host, vm, "export"):
        described = describe(host, vm)
        yield tar.member(tar.MANIFEST, described.xml)
        for vdi, name in described.disks.items():
            raw = pieces_of(host, vdi, "raw", None)
            async with (
                contextlib.aclosing(raw),
                contextlib.aclosing(tar.pack_disk(name, raw)) as packed,
            ):
                async for piece in packed:
                    yield piece
        yield tar.end()


async def _gzipped(members: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    deflate = zlib.compressobj(_GZIP_LEVEL, wbits=zlib.MAX_WBITS | 16)
    async with contextlib.aclosing(members):
        async for piece in members:
            # Some milliseconds for each piece, in which others are served.
            data = await asyncio.to_thread(deflate.compress, piece)
            if data:
                yield data
    yield deflate.flush()


async def import_vm(host: HostServer, request: Request) -> Reply:
    """Make a VM of an XVA; a failure's code and parameters are the body, as a JSON array.

    Who does not know how long the file is announces more than any, and hears by the task.
    """
    query = query_of(request)
    if (refused := refusal(host, request, query)) is not None:
        return refused
    assert request.chunks is not None, "the path is one that streams"
    task, length = query.get("task_id", NULL), request.headers.get("content-length", "")
    if length == "0" and task == NULL:
        return _asked(host, query)
    if length.isdigit() and int(length[:19]) > LENGTH_KNOWN_BYTES_MAX:
        told = _told(host, query, request.chunks, task)
        return Reply(
            200, media_type="text/plain", headers=named_task(task), pieces=told, is_closing=True
        )
    error = await _take(host, query, request.chunks, task)
    if error:
        return Reply(500, msgspec.json.encode(error), is_closing=True)
    return Reply(200, media_type="text/plain", headers=named_task(task))


def _asked(host: HostServer, query: dict[str, str]) -> Reply:
    """Answer who asks with nothing, to hear of a redirection."""
    try:
        _sr(host, query)
    except XapiFault as fault:
        return Reply(500, msgspec.json.encode([fault.code, *fault.params]), is_closing=True)
    return Reply(200, media_type="text/plain")


async def _told(
    host: HostServer, query: dict[str, str], chunks: AsyncIterator[bytes], task: str
) -> AsyncIterator[bytes]:
    await _take(host, query, chunks, task)
    host.flush()
    yield b""


async def _take(
    host: HostServer, query: dict[str, str], chunks: AsyncIterator[bytes], task: str
) -> list[str]:
    """Import, and tell the task; give what went wrong."""
    try:
        vm = await receive(
            host,
            chunks,
            sr=_sr(host, query),
            is_restored=query.get("restore") == "true",
            is_forced=query.get("force") == "true",
        )
    except (XapiFault, BackendError) as fault:
        error = [fault.code, *fault.params]
    except ConnectionResetError:
        error = ["IMPORT_ERROR_PREMATURE_EOF"]
    else:
        host.end_task(task, result=xmlrpc.fragment([vm]))
        return []
    host.end_task(task, error=error)
    return error


def _sr(host: HostServer, query: dict[str, str]) -> str:
    named = query.get("sr_id") or query.get("sr_uuid") or ""
    if named.startswith("OpaqueRef:"):
        host.objects.get("SR", named)
        return named
    if named:
        return host.objects.by_uuid("SR", named)
    default: str = host.objects.get("pool", host.objects.only("pool"))["default_SR"]
    if is_null(default) or host.objects.find("SR", default) is None:
        raise XapiFault("DEFAULT_SR_NOT_FOUND", default)
    return default


HANDLERS: dict[tuple[str, str], Transfer] = {
    ("GET", "/export"): export_vm,
    ("PUT", "/import"): import_vm,
}
