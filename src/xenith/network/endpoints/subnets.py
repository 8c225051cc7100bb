"""Endpoints of subnets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from xenith.db import Row, Tx
from xenith.http import Principal
from xenith.network.attributes import SUBNET
from xenith.network.endpoints.shared import Kind, endpoints_of
from xenith.network.endpoints.views import subnet_body
from xenith.network.operations import subnets
from xenith.network.records.listing import Conditions, equals_any
from xenith.network.records.networks import NETWORKS
from xenith.network.records.subnets import SUBNETS, visible_subnets


def get(tx: Tx, subnet_id: str, who: Principal) -> Row:
    """Get a subnet that a caller may know of. Transaction function."""
    return subnets.get_visible_subnet(tx, subnet_id, who)[0]


def bodies(_tx: Tx, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Give subnets. Transaction function."""
    return [subnet_body(row) for row in rows]


def _network_filters(query: Mapping[str, Sequence[str]]) -> Conditions:
    """Filter by what a subnet has of its network."""
    found = [
        equals_any(NETWORKS.c[column], query[name])
        for name, column in (("shared", "shared"), ("router:external", "external"))
        if name in query
    ]
    if not found:
        return ()
    return [SUBNETS.c.network_id.in_(sa.select(NETWORKS.c.id).where(*found))]


KIND = Kind(
    SUBNET,
    get=get,
    create=subnets.create_subnet,
    update=subnets.update_subnet,
    delete=subnets.delete_subnet,
    bodies=bodies,
    visible=visible_subnets,
    filters=_network_filters,
)

ENDPOINTS = endpoints_of(KIND)
