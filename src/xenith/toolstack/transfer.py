"""Bytes over HTTP beside the calls: ``PUT /import_raw_vdi`` and ``GET /export_raw_vdi``.

Source: xapi's HTTP handlers; who sends says who it is by a session (cookie or query) or by HTTP
Basic, and may name a task that hears how it went.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

import msgspec

from xenith.toolstack.backends import BackendError
from xenith.toolstack.classes.vdi import SIZE_BYTES_MAX
from xenith.toolstack.classes.vdi_stream import Export, export_raw, import_raw, import_target
from xenith.toolstack.roles import ROLES
from xenith.toolstack.server import HostServer, Transfer
from xenith.xapi import NULL, xmlrpc
from xenith.xapi.faults import XapiFault
from xenith.xapi.wire import CutError, Reply, Request

_UNKNOWN = b"<html><body><h1>401 Unauthorized</h1></body></html>"
_FORBIDDEN = b"<html><body><h1>403 Forbidden</h1></body></html>"
_REALM = {"www-authenticate": 'Basic realm="XenAPI"'}
#: No stream of a disk is so long: who announces more does not know. Xen Orchestra's client
#: announces a pebibyte then, and hangs up when it is done. Source: xen-api 4.7, putResource.
LENGTH_KNOWN_BYTES_MAX = 2 * SIZE_BYTES_MAX


async def import_raw_vdi(host: HostServer, request: Request) -> Reply:
    """Fill a disk; a failure's code and parameters are the body, as a JSON array.

    xapi answers before it reads. Who relies on that is answered so here: a sender that asks with
    nothing and no task, to hear of a redirection, and one that does not know the length.
    """
    query = query_of(request)
    if (refused := refusal(host, request, query)) is not None:
        return refused
    assert request.chunks is not None, "the path is one that streams"
    task, length = query.get("task_id", NULL), request.headers.get("content-length", "")
    try:
        if length == "0" and task == NULL:
            import_target(host, query)
            return Reply(200, media_type="text/plain")
        if query.get("vdi") and length.isdigit() and int(length[:19]) > LENGTH_KNOWN_BYTES_MAX:
            import_target(host, query)
            pieces = _taken(host, query, request.chunks, task)
            headers = named_task(task)
            return Reply(
                200, media_type="text/plain", headers=headers, pieces=pieces, is_closing=True
            )
        ref = await import_raw(host, query, request.chunks, length=length)
    except (XapiFault, BackendError) as error:
        description = [error.code, *error.params]
        host.end_task(task, error=description)
        return Reply(500, msgspec.json.encode(description), is_closing=True)
    except ConnectionResetError:
        host.end_task(task, error=["VDI_IO_ERROR", "the sender hung up"])
        return Reply(400, media_type="text/plain", is_closing=True)
    host.end_task(task, result=xmlrpc.fragment(ref))
    return Reply(200, media_type="text/plain", headers=named_task(task))


async def _taken(
    host: HostServer, query: dict[str, str], chunks: AsyncIterator[bytes], task: str
) -> AsyncIterator[bytes]:
    """Fill a disk until the sender hangs up; nothing follows the answer's head.

    Until a first byte has come the disk is left alone, for the sender may only have asked.
    """
    pieces, count = _until_hung_up(chunks), 0
    first = await anext(pieces, b"")

    async def counted() -> AsyncIterator[bytes]:
        nonlocal count
        piece = first
        while piece:
            count += len(piece)
            yield piece
            piece = await anext(pieces, b"")

    error = ["VDI_IO_ERROR", "the sender hung up"]
    result = ""
    try:
        if first:
            ref = await import_raw(host, query, counted())
            size_bytes = host.objects.get("VDI", ref)["virtual_size"]
            # The end of a VHD tells that it is whole; raw bytes are when they fill the disk.
            if query.get("format") == "vhd" or count >= size_bytes:
                result, error = xmlrpc.fragment(ref), []
    except (XapiFault, BackendError) as failure:
        error = [failure.code, *failure.params]
    host.end_task(task, result=result, error=error or None)
    host.flush()
    yield b""


async def _until_hung_up(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    with contextlib.suppress(ConnectionResetError):
        async for chunk in chunks:
            yield chunk


async def export_raw_vdi(host: HostServer, request: Request) -> Reply:
    """Give a disk; what fails before its first byte is told as an import's failure is.

    What fails later breaks the connection, and the task tells why.
    """
    query = query_of(request)
    if (refused := refusal(host, request, query)) is not None:
        return refused
    return await give(host, query.get("task_id", NULL), lambda: export_raw(host, query))


async def give(host: HostServer, task: str, begin: Callable[[], Awaitable[Export]]) -> Reply:
    """Answer with what ``begin`` gives, and tell the task how it went."""
    try:
        export = await begin()
    except (XapiFault, BackendError) as error:
        description = [error.code, *error.params]
        host.end_task(task, error=description)
        return Reply(500, msgspec.json.encode(description), is_closing=True)
    disposition = f'attachment; filename="{export.file_name}"'
    return Reply(
        200,
        media_type=export.media_type,
        headers={"content-disposition": disposition, **named_task(task)},
        pieces=_told(host, export, task),
        length=export.length,
    )


async def _told(host: HostServer, export: Export, task: str) -> AsyncIterator[bytes]:
    """Give an export's pieces, and tell its task how it went."""
    error = ["VDI_IO_ERROR", "the receiver hung up"]
    try:
        async with contextlib.aclosing(export.pieces) as pieces:
            async for piece in pieces:
                yield piece
        error = []
    except (XapiFault, BackendError) as failure:
        error = [failure.code, *failure.params]
        raise CutError(failure.code) from failure
    finally:
        host.end_task(task, error=error or None)
        host.flush()


TRANSFERS: dict[tuple[str, str], Transfer] = {
    ("PUT", "/import_raw_vdi"): import_raw_vdi,
    ("GET", "/export_raw_vdi"): export_raw_vdi,
}


def query_of(request: Request) -> dict[str, str]:
    """Give the parameters of a query, the last of each name."""
    return {name: values[-1] for name, values in parse_qs(request.query).items()}


def named_task(task: str) -> dict[str, str]:
    """Give the header that names a task."""
    # A line's end in it would begin a header of the client's own making.
    return {} if task == NULL or not task.isprintable() else {"task-id": task}


def refusal(
    host: HostServer, request: Request, query: dict[str, str], *, role: str = "vm-admin"
) -> Reply | None:
    """Answer who may not: who has neither a session nor a name and its password, or too low a role.

    Source: xapi's http_actions, which name the least role for each; transfers of VMs and disks take
    a VM admin.
    """
    rank = _rank(host, request, query)
    if rank is None:
        return Reply(401, _UNKNOWN, "text/html", headers=_REALM, is_closing=True)
    if rank < ROLES.index(role):
        return Reply(403, _FORBIDDEN, "text/html", is_closing=True)
    return None


def _rank(host: HostServer, request: Request, query: dict[str, str]) -> int | None:
    session = _cookie(request.headers.get("cookie", "")) or query.get("session_id")
    if session:
        # A session is the pool's: consoles ask each host for what it measures with the one that
        # they have of the coordinator.
        held = (host, host.pool.coordinator)
        return next(
            (one.rank_of(session) for one in held if one and one.has_session(session)), None
        )
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(given, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return host.rank_of_user(user) if host.knows(user, password) else None


def _cookie(header: str) -> str:
    try:
        morsel = SimpleCookie(header).get("session_id")
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value
