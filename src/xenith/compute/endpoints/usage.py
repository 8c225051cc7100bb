"""Endpoints of usage: hours of servers by project. Source: Compute API, "Usage reports"."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from xenith.compute.operations import Compute
from xenith.compute.operations.usage import ProjectUsage, ServerUsage
from xenith.core.clock import parse_iso
from xenith.core.errors import Invalid
from xenith.core.limits import PAGE_ITEMS_MAX
from xenith.http import Call, Endpoint
from xenith.http.paging import next_url

_RULE = "os_compute_api:os-simple-tenant-usage"


def _moment(at_s: float | None) -> str | None:
    """Write a time as usage has it: without a zone, with microseconds only where there are any."""
    return (
        None if at_s is None else datetime.fromtimestamp(at_s, UTC).replace(tzinfo=None).isoformat()
    )


def _period(call: Call[Compute]) -> tuple[float, float]:
    now = call.service.context.world.clock.now()
    start = _asked_time(call, "start", now)
    stop = _asked_time(call, "end", now)
    if start > stop:
        raise Invalid("Invalid start time. The start time cannot occur after the end time.")
    return start, stop


def _asked_time(call: Call[Compute], name: str, default: float) -> float:
    text = call.asked(name)
    if text is None:
        return default
    try:
        return parse_iso(text)
    except (ValueError, OverflowError):
        raise Invalid(f"Datetime is in invalid format: {name} {text[:64]}") from None


def _page(call: Call[Compute]) -> tuple[int | None, str | None]:
    """Read the asked page; before 2.40 everything comes at once."""
    if not call.at_least(2, 40):
        return None, None
    limit = min(call.asked_int("limit", default=PAGE_ITEMS_MAX) or 0, PAGE_ITEMS_MAX)
    return limit, call.asked("marker")


def _shown(
    usage: ProjectUsage, period: tuple[float, float], *, with_servers: bool
) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "tenant_id": usage.project_id,
        "start": _moment(period[0]),
        "stop": _moment(period[1]),
        "total_hours": usage.hours,
        "total_vcpus_usage": usage.hours_of("vcpus"),
        "total_memory_mb_usage": usage.hours_of("ram_mib"),
        "total_local_gb_usage": usage.hours_of("disk_gib"),
    }
    if with_servers:
        shown["server_usages"] = [_server(server) for server in usage.servers]
    return shown


def _server(usage: ServerUsage) -> dict[str, Any]:
    return {
        "instance_id": usage.server_id,
        "tenant_id": usage.project_id,
        "name": usage.name,
        "flavor": usage.flavor_name,
        "vcpus": usage.vcpus,
        "memory_mb": usage.ram_mib,
        "local_gb": usage.disk_gib,
        "started_at": _moment(usage.started_s),
        "ended_at": _moment(usage.ended_s),
        "state": usage.vm_state,
        "hours": usage.hours,
        "uptime": usage.uptime_s,
    }


def _links(
    call: Call[Compute], usages: list[ProjectUsage], limit: int | None
) -> list[dict[str, str]]:
    count = sum(len(usage.servers) for usage in usages)
    if not count or count != limit:
        return []
    return [{"rel": "next", "href": next_url(call, usages[-1].servers[-1].server_id)}]


async def list_usage(call: Call[Compute]) -> dict[str, Any]:
    """List the usage of all projects."""
    period = _period(call)
    limit, marker = _page(call)
    usages = await call.service.usage.list(
        start_s=period[0], stop_s=period[1], limit=limit, marker=marker
    )
    with_servers = call.asked("detailed") == "1"
    body: dict[str, Any] = {
        "tenant_usages": [_shown(usage, period, with_servers=with_servers) for usage in usages]
    }
    if links := _links(call, usages, limit):
        body["tenant_usages_links"] = links
    return body


async def show_usage(call: Call[Compute]) -> dict[str, Any]:
    """Show the usage of one project, server by server."""
    period = _period(call)
    limit, marker = _page(call)
    usages = await call.service.usage.list(
        start_s=period[0],
        stop_s=period[1],
        project_id=call["tenant_id"],
        limit=limit,
        marker=marker,
    )
    body: dict[str, Any] = {
        "tenant_usage": _shown(usages[0], period, with_servers=True) if usages else {}
    }
    if links := _links(call, usages, limit):
        body["tenant_usage_links"] = links
    return body


_PATH = "/v2.1/os-simple-tenant-usage"
_QUERY = frozenset(("start", "end", "limit", "marker"))

ENDPOINTS = (
    Endpoint(
        "GET",
        _PATH,
        list_usage,
        f"{_RULE}:list",
        "os_simple_tenant_usage.list_tenant_usage_statistics_for_all_tenants",
        query=_QUERY | {"detailed"},
        strict_query_from=(2, 75),
        codes=(400, 401, 403),
    ),
    Endpoint(
        "GET",
        _PATH + "/{tenant_id}",
        show_usage,
        f"{_RULE}:show",
        "os_simple_tenant_usage.show_usage_statistics_for_tenant",
        query=_QUERY,
        strict_query_from=(2, 75),
        codes=(400, 401, 403),
    ),
)
