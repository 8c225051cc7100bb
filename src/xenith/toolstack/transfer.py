"""Bytes over HTTP beside the calls: ``PUT /import_raw_vdi`` and ``GET /export_raw_vdi``.

Source: xapi's HTTP handlers; who sends says who it is by a session (cookie or query) or by HTTP
Basic, and may name a task that hears how it went.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import AsyncIterator
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

import msgspec

from xenith.toolstack.backends import BackendError
from xenith.toolstack.classes.vdi_stream import Export, export_raw, import_raw
from xenith.toolstack.server import HostServer, Transfer
from xenith.xapi import NULL, xmlrpc
from xenith.xapi.faults import XapiFault
from xenith.xapi.wire import CutError, Reply, Request

_REFUSAL = b"<html><body><h1>401 Unauthorized</h1></body></html>"
_REALM = {"www-authenticate": 'Basic realm="XenAPI"'}


async def import_raw_vdi(host: HostServer, request: Request) -> Reply:
    """Fill a disk; a failure's code and parameters are the body, as a JSON array."""
    query = {name: values[-1] for name, values in parse_qs(request.query).items()}
    if not may_transfer(host, request, query):
        return refusal()
    assert request.chunks is not None, "the path is one that streams"
    task = query.get("task_id", NULL)
    try:
        ref = await import_raw(
            host, query, request.chunks, length=request.headers.get("content-length", "")
        )
    except (XapiFault, BackendError) as error:
        description = [error.code, *error.params]
        host.end_task(task, error=description)
        return Reply(500, msgspec.json.encode(description), is_closing=True)
    except ConnectionResetError:
        host.end_task(task, error=["VDI_IO_ERROR", "the sender hung up"])
        return Reply(400, media_type="text/plain", is_closing=True)
    host.end_task(task, result=xmlrpc.fragment(ref))
    return Reply(200, media_type="text/plain", headers=_named(task))


async def export_raw_vdi(host: HostServer, request: Request) -> Reply:
    """Give a disk; what fails before its first byte is told as an import's failure is.

    What fails later breaks the connection, and the task tells why.
    """
    query = {name: values[-1] for name, values in parse_qs(request.query).items()}
    if not may_transfer(host, request, query):
        return refusal()
    task = query.get("task_id", NULL)
    try:
        export = await export_raw(host, query)
    except (XapiFault, BackendError) as error:
        description = [error.code, *error.params]
        host.end_task(task, error=description)
        return Reply(500, msgspec.json.encode(description), is_closing=True)
    disposition = f'attachment; filename="{export.file_name}"'
    return Reply(
        200,
        media_type=export.media_type,
        headers={"content-disposition": disposition, **_named(task)},
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


def refusal() -> Reply:
    """Answer who may not."""
    return Reply(401, _REFUSAL, "text/html", headers=_REALM, is_closing=True)


TRANSFERS: dict[tuple[str, str], Transfer] = {
    ("PUT", "/import_raw_vdi"): import_raw_vdi,
    ("GET", "/export_raw_vdi"): export_raw_vdi,
}


def _named(task: str) -> dict[str, str]:
    # A line's end in it would begin a header of the client's own making.
    return {} if task == NULL or not task.isprintable() else {"task-id": task}


def may_transfer(host: HostServer, request: Request, query: dict[str, str]) -> bool:
    """Tell whether who sends a request has a session, or a name and its password."""
    session = _cookie(request.headers.get("cookie", "")) or query.get("session_id")
    if session:
        # A session is the pool's: consoles ask each host for what it measures with the one that
        # they have of the coordinator.
        held = (host, host.pool.coordinator)
        return any(one is not None and one.has_session(session) for one in held)
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return False
    try:
        user, _, password = base64.b64decode(given, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return False
    return host.knows(user, password)


def _cookie(header: str) -> str:
    try:
        morsel = SimpleCookie(header).get("session_id")
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value
