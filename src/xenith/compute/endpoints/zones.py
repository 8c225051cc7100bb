"""Endpoints of availability zones."""

from __future__ import annotations

from typing import Any

from xenith.compute.operations import Compute
from xenith.compute.operations.inventory import BINARY, HostView, Zone
from xenith.core.clock import iso_micros
from xenith.http import Call, Endpoint

_RULE = "os_compute_api:os-availability-zone"


def _host(view: HostView) -> dict[str, Any]:
    return {
        BINARY: {
            "active": view.row.is_enabled,
            "available": view.is_up,
            "updated_at": iso_micros(view.row.updated_at).removesuffix("Z"),
        }
    }


def _shown(zone: Zone, *, with_hosts: bool) -> dict[str, Any]:
    return {
        "zoneName": zone.name,
        "zoneState": {"available": zone.is_available},
        "hosts": {view.row.name: _host(view) for view in zone.hosts} if with_hosts else None,
    }


async def list_zones(call: Call[Compute]) -> dict[str, Any]:
    """List the zones."""
    return await _list(call, with_hosts=False)


async def list_zones_detail(call: Call[Compute]) -> dict[str, Any]:
    """List the zones with the hosts of each."""
    return await _list(call, with_hosts=True)


async def _list(call: Call[Compute], *, with_hosts: bool) -> dict[str, Any]:
    zones = await call.service.inventory.list_zones()
    return {"availabilityZoneInfo": [_shown(zone, with_hosts=with_hosts) for zone in zones]}


ENDPOINTS = (
    Endpoint(
        "GET",
        "/v2.1/os-availability-zone",
        list_zones,
        f"{_RULE}:list",
        "os_availability_zone.get_availability_zone_information",
        codes=(401, 403),
    ),
    Endpoint(
        "GET",
        "/v2.1/os-availability-zone/detail",
        list_zones_detail,
        f"{_RULE}:detail",
        "os_availability_zone.get_detailed_availability_zone_information",
        codes=(401, 403),
    ),
)
