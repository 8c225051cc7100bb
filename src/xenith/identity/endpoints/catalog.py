"""Endpoints of the catalog: regions, services and their endpoints."""

from __future__ import annotations

from typing import Any

from xenith.http import Endpoint
from xenith.identity import schemas
from xenith.identity.endpoints.shared import NAME_FILTERS, PAGING, IdentityCall, answer_list
from xenith.identity.endpoints.views import endpoint_view, region_view, service_view
from xenith.identity.operations import catalog as operations
from xenith.identity.records.catalog import ENDPOINTS as ENDPOINT_TABLE
from xenith.identity.records.catalog import REGIONS, SERVICES
from xenith.identity.records.listing import list_rows


async def list_regions(call: IdentityCall) -> dict[str, Any]:
    """List regions."""
    rows, has_more = await call.service.db.read(
        list_rows, REGIONS, call.query, filters=("parent_region_id",)
    )
    return answer_list(call, "regions", rows, region_view, has_more=has_more)


async def create_region(call: IdentityCall) -> dict[str, Any]:
    """Make a region."""
    new, extra = schemas.split(call.body.region, schemas.NewRegion)
    row = await call.service.db.run(operations.create_region, new, extra)
    return {"region": region_view(call, row)}


async def show_region(call: IdentityCall) -> dict[str, Any]:
    """Show a region."""
    row = await call.service.db.read(operations.get_row, REGIONS, call["region_id"])
    return {"region": region_view(call, row)}


async def update_region(call: IdentityCall) -> dict[str, Any]:
    """Change a region."""
    change, extra = schemas.split(call.body.region, schemas.RegionChange)
    row = await call.service.db.run(operations.update_region, call["region_id"], change, extra)
    return {"region": region_view(call, row)}


async def delete_region(call: IdentityCall) -> None:
    """Delete a region."""
    await call.service.db.run(operations.delete_region, call["region_id"])


async def list_services(call: IdentityCall) -> dict[str, Any]:
    """List services."""
    rows, has_more = await call.service.db.read(
        list_rows, SERVICES, call.query, filters=("type", "name")
    )
    return answer_list(call, "services", rows, service_view, has_more=has_more)


async def create_service(call: IdentityCall) -> dict[str, Any]:
    """Make a service."""
    new, extra = schemas.split(call.body.service, schemas.NewService)
    row = await call.service.db.run(operations.create_service, new, extra)
    return {"service": service_view(call, row)}


async def show_service(call: IdentityCall) -> dict[str, Any]:
    """Show a service."""
    row = await call.service.db.read(operations.get_row, SERVICES, call["service_id"])
    return {"service": service_view(call, row)}


async def update_service(call: IdentityCall) -> dict[str, Any]:
    """Change a service."""
    change, extra = schemas.split(call.body.service, schemas.ServiceChange)
    row = await call.service.db.run(operations.update_service, call["service_id"], change, extra)
    return {"service": service_view(call, row)}


async def delete_service(call: IdentityCall) -> None:
    """Delete a service with its endpoints."""
    await call.service.db.run(operations.delete_service, call["service_id"])


async def list_endpoints(call: IdentityCall) -> dict[str, Any]:
    """List endpoints."""
    rows, has_more = await call.service.db.read(
        list_rows,
        ENDPOINT_TABLE,
        call.query,
        filters=("interface", "service_id", "region_id"),
    )
    return answer_list(call, "endpoints", rows, endpoint_view, has_more=has_more)


async def create_endpoint(call: IdentityCall) -> dict[str, Any]:
    """Make an endpoint."""
    new, extra = schemas.split(call.body.endpoint, schemas.NewEndpoint)
    row = await call.service.db.run(operations.create_endpoint, new, extra)
    return {"endpoint": endpoint_view(call, row)}


async def show_endpoint(call: IdentityCall) -> dict[str, Any]:
    """Show an endpoint."""
    row = await call.service.db.read(operations.get_row, ENDPOINT_TABLE, call["endpoint_id"])
    return {"endpoint": endpoint_view(call, row)}


async def update_endpoint(call: IdentityCall) -> dict[str, Any]:
    """Change an endpoint."""
    change, extra = schemas.split(call.body.endpoint, schemas.EndpointChange)
    row = await call.service.db.run(operations.update_endpoint, call["endpoint_id"], change, extra)
    return {"endpoint": endpoint_view(call, row)}


async def delete_endpoint(call: IdentityCall) -> None:
    """Delete an endpoint."""
    await call.service.db.run(operations.delete_endpoint, call["endpoint_id"])


def _rows(
    noun: str,
    handlers: tuple[Any, Any, Any, Any, Any],
    bodies: tuple[type[Any], type[Any]],
    *,
    query: frozenset[str],
    group: str,
) -> tuple[Endpoint, ...]:
    many, make, show, change, delete = handlers
    path = f"/v3/{noun}s"
    one = f"{path}/{{{noun}_id}}"
    return (
        Endpoint(
            "GET",
            path,
            many,
            policy=f"identity:list_{noun}s",
            name=f"{group}.list_{noun}s",
            query=PAGING | query,
            codes=(400, 401, 403),
        ),
        Endpoint(
            "POST",
            path,
            make,
            policy=f"identity:create_{noun}",
            name=f"{group}.create_{noun}",
            status=201,
            body=bodies[0],
            codes=(400, 401, 403, 404, 409),
        ),
        Endpoint(
            "GET",
            one,
            show,
            policy=f"identity:get_{noun}",
            name=f"{group}.show_{noun}_details",
            codes=(401, 403, 404),
        ),
        Endpoint(
            "PATCH",
            one,
            change,
            policy=f"identity:update_{noun}",
            name=f"{group}.update_{noun}",
            body=bodies[1],
            codes=(400, 401, 403, 404, 409),
        ),
        Endpoint(
            "DELETE",
            one,
            delete,
            policy=f"identity:delete_{noun}",
            name=f"{group}.delete_{noun}",
            status=204,
            codes=(401, 403, 404),
        ),
    )


ENDPOINTS = (
    *_rows(
        "region",
        (list_regions, create_region, show_region, update_region, delete_region),
        (schemas.RegionBody, schemas.RegionChangeBody),
        query=frozenset({"parent_region_id"}),
        group="regions",
    ),
    *_rows(
        "service",
        (list_services, create_service, show_service, update_service, delete_service),
        (schemas.ServiceBody, schemas.ServiceChangeBody),
        query=NAME_FILTERS | {"type"},
        group="service_catalog",
    ),
    *_rows(
        "endpoint",
        (list_endpoints, create_endpoint, show_endpoint, update_endpoint, delete_endpoint),
        (schemas.EndpointBody, schemas.EndpointChangeBody),
        query=frozenset({"interface", "service_id", "region_id"}),
        group="service_catalog",
    ),
)
