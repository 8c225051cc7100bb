"""Endpoints of services, by which operators enable, disable and take out hosts; and migrations.

Source: Compute API, "Compute services", and microversions 2.11 and 2.53.
"""

from __future__ import annotations

from typing import Any

import msgspec

from xenith.compute.operations import Compute
from xenith.compute.operations.inventory import BINARY, HostView, ServiceChange
from xenith.compute.schemas.servers import is_true
from xenith.compute.schemas.services import (
    ServiceForcedDown,
    ServiceOfHost,
    ServiceReason,
    ServiceUpdate,
)
from xenith.core.clock import iso_micros
from xenith.core.errors import Invalid
from xenith.core.ids import is_uuid
from xenith.http import Call, Endpoint

_RULE = "os_compute_api:os-services"


def _shown(call: Call[Compute], view: HostView) -> dict[str, Any]:
    row = view.row
    shown = {
        "id": row.service_id if call.at_least(2, 53) else row.number,
        "binary": BINARY,
        "host": row.name,
        "zone": row.zone,
        "status": _status(view),
        "state": "up" if view.is_up else "down",
        "updated_at": iso_micros(row.updated_at).removesuffix("Z"),
        "disabled_reason": row.disabled_reason,
    }
    if call.at_least(2, 11):
        shown["forced_down"] = row.is_forced_down
    return shown


def _status(view: HostView) -> str:
    return "enabled" if view.row.is_enabled else "disabled"


async def list_services(call: Call[Compute]) -> dict[str, Any]:
    """List the services."""
    views = await call.service.inventory.list_services(
        host=call.asked("host"), binary=call.asked("binary")
    )
    return {"services": [_shown(call, view) for view in views]}


# -- until 2.52: by host and binary


async def _change(call: Call[Compute], change: ServiceChange) -> HostView:
    body = call.body
    return await call.service.inventory.change_service_of(body.host, body.binary, change)


async def enable_service(call: Call[Compute]) -> dict[str, Any]:
    """Let servers be placed on a host."""
    view = await _change(call, ServiceChange(is_enabled=True))
    return {"service": {"host": view.row.name, "binary": BINARY, "status": _status(view)}}


async def disable_service(call: Call[Compute]) -> dict[str, Any]:
    """Let no server be placed on a host."""
    view = await _change(call, ServiceChange(is_enabled=False))
    return {"service": {"host": view.row.name, "binary": BINARY, "status": _status(view)}}


async def disable_service_with_reason(call: Call[Compute]) -> dict[str, Any]:
    """Let no server be placed on a host, and say why."""
    reason = call.body.disabled_reason
    view = await _change(call, ServiceChange(is_enabled=False, disabled_reason=reason))
    return {
        "service": {
            "host": view.row.name,
            "binary": BINARY,
            "status": _status(view),
            "disabled_reason": view.row.disabled_reason,
        }
    }


async def force_down(call: Call[Compute]) -> dict[str, Any]:
    """Hold a host for down, or no longer."""
    view = await _change(call, ServiceChange(is_forced_down=is_true(call.body.forced_down)))
    return {
        "service": {
            "host": view.row.name,
            "binary": BINARY,
            "forced_down": view.row.is_forced_down,
        }
    }


# -- from 2.53: by id


async def update_service(call: Call[Compute]) -> dict[str, Any]:
    """Enable, disable or hold for down."""
    service_id = _uuid(call)
    body: ServiceUpdate = call.body
    if body.status is msgspec.UNSET and body.forced_down is msgspec.UNSET:
        raise Invalid(
            "No updates were requested. Fields 'status' or 'forced_down' should be specified."
        )
    reason = None if body.disabled_reason is msgspec.UNSET else body.disabled_reason
    if reason is not None and body.status != "disabled":
        raise Invalid("Specifying disabled_reason requires that status is 'disabled'.")
    change = ServiceChange(
        is_enabled=None if body.status is msgspec.UNSET else body.status == "enabled",
        disabled_reason=reason,
        is_forced_down=None if body.forced_down is msgspec.UNSET else is_true(body.forced_down),
    )
    view = await call.service.inventory.change_service(service_id, change)
    return {"service": _shown(call, view)}


async def delete_service(call: Call[Compute]) -> None:
    """Take a host without servers out of the cloud."""
    if call.at_least(2, 53):
        await call.service.inventory.delete_service(_uuid(call))
        return
    text = call["service_id"]
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise Invalid(f"service_id must be an integer: {text[:64]}")
    await call.service.inventory.delete_service(int(text))


def _uuid(call: Call[Compute]) -> str:
    text = call["service_id"]
    if not is_uuid(text):
        raise Invalid(f"Invalid uuid {text[:64]}")
    return text


async def list_migrations(_call: Call[Compute]) -> dict[str, Any]:
    """List moves of servers between hosts; there are none, for nothing moves servers yet."""
    return {"migrations": []}


_PATH = "/v2.1/os-services"
_WRITE = (400, 401, 403, 404)
_OLD: Any = {"max_version": (2, 52), "codes": _WRITE}

ENDPOINTS = (
    Endpoint(
        "GET",
        _PATH,
        list_services,
        f"{_RULE}:list",
        "os_services.list_compute_services",
        query=frozenset(("host", "binary")),
        strict_query_from=(2, 75),
        codes=(400, 401, 403),
    ),
    Endpoint(
        "PUT",
        _PATH + "/enable",
        enable_service,
        f"{_RULE}:update",
        "os_services.enable_scheduling_for_a_compute_service",
        body=ServiceOfHost,
        **_OLD,
    ),
    Endpoint(
        "PUT",
        _PATH + "/disable",
        disable_service,
        f"{_RULE}:update",
        "os_services.disable_scheduling_for_a_compute_service",
        body=ServiceOfHost,
        **_OLD,
    ),
    Endpoint(
        "PUT",
        _PATH + "/disable-log-reason",
        disable_service_with_reason,
        f"{_RULE}:update",
        "os_services.disable_scheduling_for_a_compute_service_and_log_disabled_reason",
        body=ServiceReason,
        **_OLD,
    ),
    Endpoint(
        "PUT",
        _PATH + "/force-down",
        force_down,
        f"{_RULE}:update",
        "os_services.update_forced_down",
        body=ServiceForcedDown,
        min_version=(2, 11),
        **_OLD,
    ),
    Endpoint(
        "PUT",
        _PATH + "/{service_id}",
        update_service,
        f"{_RULE}:update",
        "os_services.update_compute_service",
        body=ServiceUpdate,
        min_version=(2, 53),
        codes=_WRITE,
    ),
    Endpoint(
        "DELETE",
        _PATH + "/{service_id}",
        delete_service,
        f"{_RULE}:delete",
        "os_services.delete_compute_service",
        204,
        codes=(400, 401, 403, 404, 409),
    ),
    Endpoint(
        "GET",
        "/v2.1/os-migrations",
        list_migrations,
        "os_compute_api:os-migrations:index",
        "os_migrations.list_migrations",
        query=frozenset(
            (
                "hidden",
                "host",
                "instance_uuid",
                "source_compute",
                "status",
                "migration_type",
                "limit",
                "marker",
                "changes-since",
                "changes-before",
                "user_id",
                "project_id",
            )
        ),
        strict_query_from=(2, 59),
        codes=(400, 401, 403),
    ),
)
