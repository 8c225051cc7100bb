"""Regions, services and endpoints: making, changing and deleting what the catalog shows."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from xenith.core.errors import Conflict, Forbidden, Invalid, NotFound
from xenith.db import Row, Tx
from xenith.identity import schemas
from xenith.identity.records.catalog import ENDPOINTS, REGIONS, SERVICES

_NOUNS = {REGIONS.name: "region", SERVICES.name: "service", ENDPOINTS.name: "endpoint"}


def get_row(tx: Tx, table: sa.Table, row_id: str) -> Row:
    """Get a row of the catalog. Transaction function.

    Raises:
        NotFound: there is none with this id.
    """
    row = tx.find(table, id=row_id)
    if row is None:
        raise NotFound(f"Could not find {_NOUNS[table.name]}: {row_id}.")
    return row


def create_region(tx: Tx, new: schemas.NewRegion, extra: dict[str, Any]) -> Row:
    """Make a region, under an id of the client's or one of ours. Transaction function.

    Raises:
        Conflict: the id is taken.
    """
    region_id = new.id or tx.world.ids.hex()
    if tx.find(REGIONS, id=region_id) is not None:
        raise Conflict(f"Conflict occurred attempting to store region - Duplicate ID, {region_id}.")
    _check_parent(tx, new.parent_region_id)
    tx.insert(
        REGIONS,
        {
            "id": region_id,
            "parent_region_id": new.parent_region_id,
            "description": new.description or "",
            "extra": extra,
        },
    )
    return get_row(tx, REGIONS, region_id)


def update_region(
    tx: Tx, region_id: str, change: schemas.RegionChange, extra: dict[str, Any]
) -> Row:
    """Change a region. Transaction function.

    Raises:
        Invalid: it would stand below itself.
    """
    row = get_row(tx, REGIONS, region_id)
    values = schemas.given(change)
    if "description" in values:
        values["description"] = values["description"] or ""
    above = values.get("parent_region_id")
    while above is not None:
        if above == region_id:
            raise Invalid(f"The region {region_id} would stand below itself.")
        above = get_row(tx, REGIONS, above).parent_region_id
    tx.update(REGIONS, {"id": region_id}, **values, extra={**row.extra, **extra})
    return get_row(tx, REGIONS, region_id)


def delete_region(tx: Tx, region_id: str) -> None:
    """Delete a region. Transaction function.

    Raises:
        Forbidden: it has regions below it, or endpoints.
    """
    get_row(tx, REGIONS, region_id)
    if tx.list(REGIONS, parent_region_id=region_id) or tx.list(ENDPOINTS, region_id=region_id):
        raise Forbidden(
            f"Unable to delete region {region_id} because it or its child regions have "
            "associated endpoints."
        )
    tx.delete(REGIONS, id=region_id)


def create_service(tx: Tx, new: schemas.NewService, extra: dict[str, Any]) -> Row:
    """Make a service. Transaction function."""
    service_id = tx.world.ids.hex()
    tx.insert(
        SERVICES,
        {
            "id": service_id,
            "type": new.type,
            "name": new.name,
            "description": new.description,
            "enabled": new.enabled,
            "is_ours": False,
            "extra": extra,
        },
    )
    return get_row(tx, SERVICES, service_id)


def update_service(
    tx: Tx, service_id: str, change: schemas.ServiceChange, extra: dict[str, Any]
) -> Row:
    """Change a service. Transaction function."""
    row = get_row(tx, SERVICES, service_id)
    tx.update(SERVICES, {"id": service_id}, **schemas.given(change), extra={**row.extra, **extra})
    return get_row(tx, SERVICES, service_id)


def delete_service(tx: Tx, service_id: str) -> None:
    """Delete a service with its endpoints. Transaction function."""
    get_row(tx, SERVICES, service_id)
    tx.delete(ENDPOINTS, service_id=service_id)
    tx.delete(SERVICES, id=service_id)


def create_endpoint(tx: Tx, new: schemas.NewEndpoint, extra: dict[str, Any]) -> Row:
    """Make an endpoint. Transaction function.

    Raises:
        Invalid: its service or region is not there.
    """
    region_id = new.region_id or new.region
    _check_service(tx, new.service_id)
    _check_region(tx, region_id, is_old_name=new.region_id is None)
    endpoint_id = tx.world.ids.hex()
    tx.insert(
        ENDPOINTS,
        {
            "id": endpoint_id,
            "service_id": new.service_id,
            "region_id": region_id,
            "interface": new.interface,
            "url": new.url,
            "name": new.name,
            "enabled": new.enabled,
            "extra": extra,
        },
    )
    return get_row(tx, ENDPOINTS, endpoint_id)


def update_endpoint(
    tx: Tx, endpoint_id: str, change: schemas.EndpointChange, extra: dict[str, Any]
) -> Row:
    """Change an endpoint. Transaction function."""
    row = get_row(tx, ENDPOINTS, endpoint_id)
    values = schemas.given(change)
    if "region" in values:
        region = values.pop("region")
        values.setdefault("region_id", region)
    if "service_id" in values:
        _check_service(tx, values["service_id"])
    _check_region(tx, values.get("region_id"), is_old_name=change.region_id is msgspec.UNSET)
    tx.update(ENDPOINTS, {"id": endpoint_id}, **values, extra={**row.extra, **extra})
    return get_row(tx, ENDPOINTS, endpoint_id)


def delete_endpoint(tx: Tx, endpoint_id: str) -> None:
    """Delete an endpoint. Transaction function."""
    get_row(tx, ENDPOINTS, endpoint_id)
    tx.delete(ENDPOINTS, id=endpoint_id)


def _check_parent(tx: Tx, region_id: str | None) -> None:
    if region_id is not None:
        get_row(tx, REGIONS, region_id)


def _check_service(tx: Tx, service_id: str) -> None:
    if tx.find(SERVICES, id=service_id) is None:
        raise Invalid(f"Could not find service: {service_id}.")


def _check_region(tx: Tx, region_id: str | None, *, is_old_name: bool) -> None:
    """Let a region be named that is there; by its older name it is made. Source: keystone."""
    if region_id is None or tx.find(REGIONS, id=region_id) is not None:
        return
    if not is_old_name:
        raise Invalid(f"Could not find region: {region_id}.")
    tx.insert(REGIONS, {"id": region_id, "parent_region_id": None, "description": "", "extra": {}})
