"""Endpoints of hypervisors: hosts with what they have and what is used of it.

Source: Compute API, "Hypervisors", and microversions 2.28, 2.33, 2.53, 2.75 and 2.88.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import msgspec

from xenith.compute.endpoints.ages import with_ages
from xenith.compute.operations import Compute
from xenith.compute.operations.inventory import HostView
from xenith.core.errors import Invalid, NotFound
from xenith.core.ids import is_uuid
from xenith.core.limits import PAGE_ITEMS_MAX
from xenith.http import Answer, Call, Endpoint
from xenith.http.paging import next_url

_RULE = "os_compute_api:os-hypervisors"
_NUMBER = re.compile(r"\d+")


def _id(call: Call[Compute], view: HostView) -> Any:
    return view.row.id if call.at_least(2, 53) else view.row.number


def _brief(call: Call[Compute], view: HostView) -> dict[str, Any]:
    return {
        "id": _id(call, view),
        "hypervisor_hostname": view.row.name,
        "state": "up" if view.is_up else "down",
        "status": "enabled" if view.row.is_enabled else "disabled",
    }


def _servers(view: HostView) -> list[dict[str, str]]:
    return [{"uuid": server_id, "name": name} for server_id, name in view.servers]


def _listed(call: Call[Compute], view: HostView, render: Any, *, with_servers: bool) -> Any:
    shown = render(call, view)
    # An empty list is shown only from 2.75 on.
    if with_servers and (view.servers or call.at_least(2, 75)):
        shown["servers"] = _servers(view)
    return shown


def _detail(call: Call[Compute], view: HostView) -> dict[str, Any]:
    row, facts = view.row, view.facts
    shown = {
        **_brief(call, view),
        "host_ip": _address(view),
        "hypervisor_type": facts.get("hypervisor_type") or "xen",
        "hypervisor_version": version_number(facts.get("hypervisor_version")),
        "service": {
            "host": row.name,
            "id": row.service_id if call.at_least(2, 53) else row.number,
            "disabled_reason": row.disabled_reason,
        },
    }
    if call.at_least(2, 88):
        shown["uptime"] = uptime_text(view, call.service.context.world.clock.now())
        return shown
    cpu = _cpu(facts)
    shown["cpu_info"] = cpu if call.at_least(2, 28) else msgspec.json.encode(cpu).decode()
    return {**shown, **_sizes([view])}


def _sizes(views: list[HostView]) -> dict[str, int]:
    """Add up what hosts have and what is used of it."""
    memory = sum(view.facts.get("memory_mib") or 0 for view in views)
    disk = sum(view.facts.get("disk_gib") or 0 for view in views)
    memory_used = sum(view.used.ram_mib for view in views)
    disk_used = sum(view.used.disk_gib for view in views)
    return {
        "vcpus": sum(view.facts.get("cpus") or 0 for view in views),
        "vcpus_used": sum(view.used.vcpus for view in views),
        "memory_mb": memory,
        "memory_mb_used": memory_used,
        "free_ram_mb": memory - memory_used,
        "local_gb": disk,
        "local_gb_used": disk_used,
        "free_disk_gb": disk - disk_used,
        "disk_available_least": disk - disk_used,
        "running_vms": sum(view.used.server_count for view in views),
        "current_workload": sum(view.used.busy_count for view in views),
    }


def _cpu(facts: Any) -> dict[str, Any]:
    """Give the processor in the form that clients know, whatever the host told of it."""
    told = facts.get("cpu_info")
    known = told if isinstance(told, dict) else {}
    count = facts.get("cpus") or 0
    features = known.get("features") or []
    return {
        "arch": known.get("arch") or "x86_64",
        "model": known.get("model") or known.get("modelname") or "",
        "vendor": known.get("vendor") or "",
        "features": features.split() if isinstance(features, str) else list(features),
        "topology": known.get("topology") or {"sockets": 1, "cores": count, "threads": 1},
    }


def _address(view: HostView) -> str:
    """Give the host's own address, or else the one that its XenAPI answers at."""
    for text in (view.facts.get("ip"), urlsplit(view.row.url).hostname):
        try:
            return str(ip_address(text or ""))
        except ValueError:
            continue
    return "0.0.0.0"  # noqa: S104 - shown when the host is known by name alone; nothing is bound


def version_number(version: Any) -> int:
    """Write a version as one number, three digits for each part after the first.

    >>> version_number("4.17.5"), version_number(None)
    (4017005, 0)
    """
    if isinstance(version, int):
        return version
    parts = [int(part) for part in _NUMBER.findall(str(version or ""))[:3]]
    major, minor, patch = (*parts, 0, 0, 0)[:3]
    return major * 1_000_000 + min(minor, 999) * 1000 + min(patch, 999)


def uptime_text(view: HostView, now_s: float) -> str | None:
    """Write how long a host has been up, as its own `uptime` would; None when it did not tell."""
    booted_at = view.facts.get("booted_at")
    if booted_at is None or not view.is_up:
        return None
    days, seconds = divmod(int(max(now_s - booted_at, 0)), 86400)
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    return f"up {days} days, {hours:2}:{minutes:02}"


# -- lists


async def list_hypervisors(call: Call[Compute]) -> Any:
    """List hypervisors, brief."""
    return await _list(call, _brief, with_used=False)


async def list_hypervisors_detail(call: Call[Compute]) -> Any:
    """List hypervisors with all of each."""
    return await _list(call, _detail, with_used=True)


async def _list(call: Call[Compute], render: Any, *, with_used: bool) -> Any:
    pattern = call.asked("hypervisor_hostname_pattern") if call.at_least(2, 53) else None
    with_servers = call.at_least(2, 53) and bool(call.asked_bool("with_servers", default=False))
    limit = marker = None
    if call.at_least(2, 33):
        limit = min(call.asked_int("limit", default=PAGE_ITEMS_MAX) or 0, PAGE_ITEMS_MAX)
        marker = call.asked("marker")
    if pattern is not None and ("limit" in call.query or "marker" in call.query):
        raise Invalid(
            "Paging over hypervisors with the hypervisor_hostname_pattern query parameter is not "
            "supported."
        )
    views = await call.service.inventory.list(
        pattern=pattern,
        marker=marker,
        limit=limit,
        with_used=with_used,
        with_servers=with_servers,
    )
    if pattern is not None and not views:
        raise _none_matches(pattern)
    body: dict[str, Any] = {
        "hypervisors": [_listed(call, view, render, with_servers=with_servers) for view in views]
    }
    if views and len(views) == limit:
        body["hypervisors_links"] = [
            {"rel": "next", "href": next_url(call, str(_id(call, views[-1])))}
        ]
    return with_ages(call, body, _cells_of(views))


def _cells_of(views: list[HostView]) -> list[str]:
    return [view.row.cell_id for view in views]


def _none_matches(pattern: str) -> NotFound:
    return NotFound(f"No hypervisor matching '{pattern[:255]}' could be found.")


async def search_hypervisors(call: Call[Compute]) -> Any:
    """Find hypervisors by a part of their name."""
    views = await call.service.inventory.list(pattern=call["hypervisor_id"])
    if not views:
        raise _none_matches(call["hypervisor_id"])
    body = {"hypervisors": [_brief(call, view) for view in views]}
    return with_ages(call, body, _cells_of(views))


async def list_hypervisor_servers(call: Call[Compute]) -> Any:
    """Find hypervisors by a part of their name, with their servers."""
    views = await call.service.inventory.list(pattern=call["hypervisor_id"], with_servers=True)
    if not views:
        raise _none_matches(call["hypervisor_id"])
    body = {"hypervisors": [_listed(call, view, _brief, with_servers=True) for view in views]}
    return with_ages(call, body, _cells_of(views))


async def show_statistics(call: Call[Compute]) -> Any:
    """Add up all hypervisors that are enabled."""
    views = await call.service.inventory.list(with_used=True)
    enabled = [view for view in views if view.row.is_enabled]
    body = {"hypervisor_statistics": {"count": len(enabled), **_sizes(enabled)}}
    return with_ages(call, body, _cells_of(enabled))


# -- one


async def _get(call: Call[Compute], *, with_servers: bool = False) -> HostView:
    text = call["hypervisor_id"]
    if call.at_least(2, 53):
        if not is_uuid(text):
            raise Invalid(f"Invalid uuid {text[:64]}")
        return await call.service.inventory.get(text, with_servers=with_servers)
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise NotFound(f"Hypervisor with ID '{text[:64]}' could not be found.")
    return await call.service.inventory.get(int(text))


async def show_hypervisor(call: Call[Compute]) -> Any:
    """Show one hypervisor."""
    with_servers = call.at_least(2, 53) and bool(call.asked_bool("with_servers", default=False))
    view = await _get(call, with_servers=with_servers)
    body = {"hypervisor": _listed(call, view, _detail, with_servers=with_servers)}
    return with_ages(call, body, _cells_of([view]))


async def show_uptime(call: Call[Compute]) -> Answer:
    """Show how long a host has been up, if it told."""
    view = await _get(call)
    if not view.is_up:
        raise Invalid(f"Compute host {view.row.name} is down: its uptime cannot be told.")
    uptime = uptime_text(view, call.service.context.world.clock.now())
    if uptime is None:
        message = f"Compute host {view.row.name} does not tell its uptime."
        return Answer({"notImplemented": {"code": 501, "message": message}}, status=501)
    return Answer({"hypervisor": {**_brief(call, view), "uptime": uptime}})


_PATH = "/v2.1/os-hypervisors"
# Before 2.53 what stands here is a part of a name in two of the paths.
_ONE = _PATH + "/{hypervisor_id}"
_PAGED = frozenset(("limit", "marker", "hypervisor_hostname_pattern", "with_servers"))
_READ = (401, 403, 404)

ENDPOINTS = (
    Endpoint(
        "GET",
        _PATH,
        list_hypervisors,
        f"{_RULE}:list",
        "os_hypervisors.list_hypervisors",
        query=_PAGED,
        strict_query_from=(2, 53),
        codes=(400, 401, 403, 404),
    ),
    Endpoint(
        "GET",
        _PATH + "/detail",
        list_hypervisors_detail,
        f"{_RULE}:list-detail",
        "os_hypervisors.list_hypervisors_details",
        query=_PAGED,
        strict_query_from=(2, 53),
        codes=(400, 401, 403, 404),
    ),
    Endpoint(
        "GET",
        _PATH + "/statistics",
        show_statistics,
        f"{_RULE}:statistics",
        "os_hypervisors.show_hypervisor_statistics",
        max_version=(2, 87),
        codes=_READ,
    ),
    Endpoint(
        "GET",
        _ONE,
        show_hypervisor,
        f"{_RULE}:show",
        "os_hypervisors.show_hypervisor_details",
        query=frozenset(("with_servers",)),
        strict_query_from=(2, 53),
        codes=(400, 401, 403, 404),
    ),
    Endpoint(
        "GET",
        _ONE + "/uptime",
        show_uptime,
        f"{_RULE}:uptime",
        "os_hypervisors.show_hypervisor_uptime",
        max_version=(2, 87),
        codes=(400, 401, 403, 404, 501),
    ),
    Endpoint(
        "GET",
        _ONE + "/search",
        search_hypervisors,
        f"{_RULE}:search",
        "os_hypervisors.search_hypervisor",
        max_version=(2, 52),
        codes=_READ,
    ),
    Endpoint(
        "GET",
        _ONE + "/servers",
        list_hypervisor_servers,
        f"{_RULE}:servers",
        "os_hypervisors.list_hypervisor_servers",
        max_version=(2, 52),
        codes=_READ,
    ),
)
