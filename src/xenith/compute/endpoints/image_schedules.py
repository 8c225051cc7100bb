"""Endpoints of schedules of images."""

from __future__ import annotations

from typing import Any

from xenith.compute.operations import Compute
from xenith.compute.schemas.image_schedules import ImageScheduleBody
from xenith.db import Row
from xenith.http import Call, Endpoint


def _shown(row: Row) -> dict[str, Any]:
    shown = {"retention": row.retention}
    if row.day_of_week is not None:
        shown["day_of_week"] = row.day_of_week
    return {"image_schedule": shown}


async def show_schedule(call: Call[Compute]) -> dict[str, Any]:
    """Show a server's schedule."""
    return _shown(await call.service.image_schedules.get(call.principal, call["server_id"]))


async def put_schedule(call: Call[Compute]) -> dict[str, Any]:
    """Make a server's schedule, in place of one that it has."""
    wanted = call.body.image_schedule
    return _shown(await call.service.image_schedules.put(call.principal, call["server_id"], wanted))


async def delete_schedule(call: Call[Compute]) -> None:
    """Make no more images of a server by itself."""
    await call.service.image_schedules.delete(call.principal, call["server_id"])


_PATH = "/v2.1/servers/{server_id}/rax-si-image-schedule"
_RULE = "rax-si-image-schedule"

ENDPOINTS = (
    Endpoint(
        "GET",
        _PATH,
        show_schedule,
        f"{_RULE}:show",
        "image_schedules.show",
        codes=(401, 403, 404),
    ),
    Endpoint(
        "POST",
        _PATH,
        put_schedule,
        f"{_RULE}:create",
        "image_schedules.create",
        body=ImageScheduleBody,
        codes=(400, 401, 403, 404),
    ),
    Endpoint(
        "DELETE",
        _PATH,
        delete_schedule,
        f"{_RULE}:delete",
        "image_schedules.delete",
        202,
        codes=(401, 403, 404),
    ),
)
