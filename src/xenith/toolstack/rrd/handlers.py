"""Archives over HTTP: ``GET /rrd_updates``, ``/host_rrd`` and ``/vm_rrd``.

Source: xen-api, rrdd_http_handler.ml, and "Metrics" of its documentation. Each host answers for
itself and the VMs that run on it.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from urllib.parse import parse_qs

from xenith.toolstack.rrd import export
from xenith.toolstack.rrd.archive import CFS, LEVELS, Archives
from xenith.toolstack.rrd.sampler import archives_of_vm, sampler_of
from xenith.toolstack.server import HostServer, Transfer
from xenith.toolstack.transfer import refusal
from xenith.xapi.wire import Reply, Request

_HEADERS = {
    "access-control-allow-origin": "*",
    "access-control-allow-headers": "X-Requested-With",
}
#: Digits of a time or an interval; more is no time.
_DIGITS_MAX = 15


async def rrd_updates(host: HostServer, request: Request) -> Reply:
    """Give what was measured since ``start`` of VMs, and with ``host=true`` of the host.

    ``cf`` and ``interval`` choose the rows, ``vm_uuid`` (may be repeated) the VMs.
    """
    query = parse_qs(request.query, keep_blank_values=True)
    last = {name: values[-1] for name, values in query.items()}
    if (refused := refusal(host, request, last, role="read-only")) is not None:
        return refused
    start_s, interval_s = _number(last.get("start", "")), _number(last.get("interval", "0"))
    cf = last.get("cf")
    if start_s is None or interval_s is None or (cf is not None and cf not in CFS):
        return _bad("start and interval are seconds; cf is AVERAGE, MIN or MAX")
    named: list[tuple[str, Archives]] = []
    if last.get("host") == "true":
        uuid = host.objects.get("host", host.ref)["uuid"]
        named.append((f"host:{uuid}", await sampler_of(host).of_host()))
    wanted = query.get("vm_uuid")
    of_vms = await sampler_of(host).of_vms(None if wanted is None else set(wanted))
    named += [(f"vm:{uuid}", archives) for uuid, archives in of_vms.items()]
    found = export.updates(
        named,
        start_s=start_s,
        now_s=host.world.clock.now(),
        interval_s=min(interval_s, LEVELS[-1].row_s),
        cf=cf,
    )
    if _wants_json(request, last):
        return await _reply(export.updates_json(found), "application/json")
    return await _reply(export.updates_xml(found), "text/xml")


async def host_rrd(host: HostServer, request: Request) -> Reply:
    """Give all that was measured of this host."""
    query = _query(request)
    if (refused := refusal(host, request, query, role="read-only")) is not None:
        return refused
    return await _dump(await sampler_of(host).of_host(), request, query)


async def vm_rrd(host: HostServer, request: Request) -> Reply:
    """Give all that was measured of the VM that ``uuid`` names."""
    query = _query(request)
    if (refused := refusal(host, request, query, role="read-only")) is not None:
        return refused
    archives = await archives_of_vm(host, query.get("uuid", ""))
    if archives is None:
        page = b"<html><body><h1>404 Not Found</h1></body></html>"
        return Reply(404, page, "text/html")
    return await _dump(archives, request, query)


async def _dump(archives: Archives, request: Request, query: dict[str, str]) -> Reply:
    # It takes a while, and a source that is new meanwhile would make rows of another width.
    archives = copy.deepcopy(archives)
    if _wants_json(request, query):
        return await _reply(export.dump_json(archives), "application/json")
    return await _reply(export.dump_xml(archives), "text/xml")


async def _reply(pieces: Iterator[bytes], media_type: str) -> Reply:
    """Put an answer together, letting others run between its rows: it may be megabytes."""
    body = bytearray()
    for piece in pieces:
        body += piece
        await asyncio.sleep(0)
    return Reply(200, bytes(body), media_type, headers=_HEADERS)


def _wants_json(request: Request, query: dict[str, str]) -> bool:
    """Tell whether JSON is asked for, by name or as the one type that is taken.

    xapi gives JSON to clients that take anything too. Who says nothing gets XML here, as the
    oldest clients expect.
    """
    accepted = request.headers.get("accept", "")
    if "json" in query:
        return query["json"] != "false"
    return "application/json" in accepted and "xml" not in accepted


def _query(request: Request) -> dict[str, str]:
    given = parse_qs(request.query, keep_blank_values=True)
    return {name: values[-1] for name, values in given.items()}


def _number(text: str) -> int | None:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS_MAX):
        return None
    return int(text)


def _bad(why: str) -> Reply:
    return Reply(400, f"{why}\n".encode(), "text/plain", is_closing=True)


HANDLERS: dict[tuple[str, str], Transfer] = {
    ("GET", "/rrd_updates"): rrd_updates,
    ("GET", "/host_rrd"): host_rrd,
    ("GET", "/vm_rrd"): vm_rrd,
}
