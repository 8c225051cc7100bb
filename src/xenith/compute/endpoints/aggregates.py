"""Endpoints of aggregates."""

from __future__ import annotations

from typing import Any

import msgspec

from xenith.compute.operations import Compute
from xenith.compute.operations.aggregates import AggregateView
from xenith.compute.records.aggregates import ZONE
from xenith.compute.schemas.aggregates import (
    AggregateChangeBody,
    AggregateMetadata,
    HostOfAggregate,
    ImagesToCacheBody,
    NewAggregateBody,
)
from xenith.core.clock import iso_micros
from xenith.core.errors import Invalid
from xenith.http import Call, Endpoint

_RULE = "os_compute_api:os-aggregates"


def _shown(call: Call[Compute], view: AggregateView) -> dict[str, Any]:
    row = view.row
    shown = {
        "id": row.number,
        "name": row.name,
        "availability_zone": row.metadata.get(ZONE),
        "hosts": view.hosts,
        "metadata": row.metadata,
        "created_at": iso_micros(row.created_at).removesuffix("Z"),
        "updated_at": None
        if row.updated_at is None
        else iso_micros(row.updated_at).removesuffix("Z"),
        "deleted": False,
        "deleted_at": None,
    }
    if call.at_least(2, 41):
        shown["uuid"] = row.id
    return shown


def _number(call: Call[Compute]) -> int:
    text = call["aggregate_id"]
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise Invalid(f"id must be an integer: {text[:64]}")
    return int(text)


async def list_aggregates(call: Call[Compute]) -> dict[str, Any]:
    """List the aggregates."""
    views = await call.service.aggregates.list()
    return {"aggregates": [_shown(call, view) for view in views]}


async def create_aggregate(call: Call[Compute]) -> dict[str, Any]:
    """Make an aggregate."""
    body = call.body.aggregate
    zone = body.availability_zone
    view = await call.service.aggregates.create(
        name=body.name.strip(), zone=zone.strip() if zone is not None else None
    )
    shown = _shown(call, view)
    # Upstream leaves out of this one answer what a new aggregate cannot have.
    del shown["hosts"], shown["metadata"]
    return {"aggregate": shown}


async def show_aggregate(call: Call[Compute]) -> dict[str, Any]:
    """Show one aggregate."""
    return {"aggregate": _shown(call, await call.service.aggregates.get(_number(call)))}


async def update_aggregate(call: Call[Compute]) -> dict[str, Any]:
    """Rename an aggregate, or change its zone."""
    body = call.body.aggregate
    if body.name is msgspec.UNSET and body.availability_zone is msgspec.UNSET:
        raise Invalid("Invalid input for field/attribute aggregate. It has no field.")
    zone = body.availability_zone
    view = await call.service.aggregates.update(
        _number(call),
        name=None if body.name is msgspec.UNSET else body.name.strip(),
        metadata={} if zone is msgspec.UNSET else {ZONE: zone.strip() if zone else None},
    )
    return {"aggregate": _shown(call, view)}


async def delete_aggregate(call: Call[Compute]) -> None:
    """Delete an aggregate."""
    await call.service.aggregates.delete(_number(call))


async def add_host(call: Call[Compute]) -> dict[str, Any]:
    """Put a host into an aggregate."""
    view = await call.service.aggregates.add_host(_number(call), call.body.host)
    return {"aggregate": _shown(call, view)}


async def remove_host(call: Call[Compute]) -> dict[str, Any]:
    """Take a host out of an aggregate."""
    view = await call.service.aggregates.remove_host(_number(call), call.body.host)
    return {"aggregate": _shown(call, view)}


async def set_metadata(call: Call[Compute]) -> dict[str, Any]:
    """Change items of an aggregate's metadata."""
    view = await call.service.aggregates.update(
        _number(call), name=None, metadata=call.body.metadata
    )
    return {"aggregate": _shown(call, view)}


async def cache_images(call: Call[Compute]) -> None:
    """Bring images to the hosts of an aggregate before a build asks for them."""
    image_ids = [image.id for image in call.body.cache]
    if len(set(image_ids)) < len(image_ids):
        raise Invalid("Duplicate images in request")
    await call.service.aggregates.cache_images(_number(call), image_ids, call.principal)


_PATH = "/v2.1/os-aggregates"
_ONE = _PATH + "/{aggregate_id}"
_ACTION = _ONE + "/action"
_WRITE = (400, 401, 403, 404, 409)

ENDPOINTS = (
    Endpoint(
        "GET",
        _PATH,
        list_aggregates,
        f"{_RULE}:index",
        "os_aggregates.list_aggregates",
        codes=(401, 403),
    ),
    Endpoint(
        "POST",
        _PATH,
        create_aggregate,
        f"{_RULE}:create",
        "os_aggregates.create_aggregate",
        body=NewAggregateBody,
        codes=(400, 401, 403, 409),
    ),
    Endpoint(
        "GET",
        _ONE,
        show_aggregate,
        f"{_RULE}:show",
        "os_aggregates.show_aggregate_details",
        codes=(400, 401, 403, 404),
    ),
    Endpoint(
        "PUT",
        _ONE,
        update_aggregate,
        f"{_RULE}:update",
        "os_aggregates.update_aggregate",
        body=AggregateChangeBody,
        codes=_WRITE,
    ),
    Endpoint(
        "DELETE",
        _ONE,
        delete_aggregate,
        f"{_RULE}:delete",
        "os_aggregates.delete_aggregate",
        codes=(400, 401, 403, 404),
    ),
    Endpoint(
        "POST",
        _ACTION,
        add_host,
        f"{_RULE}:add_host",
        "os_aggregates.action.add_host",
        action="add_host",
        body=HostOfAggregate,
        codes=_WRITE,
    ),
    Endpoint(
        "POST",
        _ACTION,
        remove_host,
        f"{_RULE}:remove_host",
        "os_aggregates.action.remove_host",
        action="remove_host",
        body=HostOfAggregate,
        codes=_WRITE,
    ),
    Endpoint(
        "POST",
        _ACTION,
        set_metadata,
        f"{_RULE}:set_metadata",
        "os_aggregates.action.set_metadata",
        action="set_metadata",
        body=AggregateMetadata,
        codes=_WRITE,
    ),
    Endpoint(
        "POST",
        _ONE + "/images",
        cache_images,
        "compute:aggregates:images",
        "os_aggregates.request_image_pre_caching_for_aggregate",
        202,
        body=ImagesToCacheBody,
        min_version=(2, 81),
        codes=(400, 401, 403, 404),
    ),
)
