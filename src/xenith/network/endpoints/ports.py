"""Endpoints of ports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from xenith.core.errors import Invalid
from xenith.db import Row, Tx
from xenith.http import Principal
from xenith.network.attributes import PORT
from xenith.network.endpoints.shared import Kind, endpoints_of
from xenith.network.endpoints.views import port_body
from xenith.network.operations import ports
from xenith.network.records.allocations import IP_ALLOCATIONS, addresses_of_many
from xenith.network.records.listing import Conditions
from xenith.network.records.ports import PORTS, visible_ports


def get(tx: Tx, port_id: str, who: Principal) -> Row:
    """Get a port that a caller may know of. Transaction function."""
    return ports.get_visible_port(tx, port_id, who)[0]


def bodies(tx: Tx, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Give ports with their addresses. Transaction function."""
    found = addresses_of_many(tx, [row.id for row in rows])
    return [port_body(row, found[row.id]) for row in rows]


def _address_filters(query: Mapping[str, Sequence[str]]) -> Conditions:
    """Filter by addresses: ``fixed_ips=ip_address=10.0.0.3``, and the like.

    Values of one kind are alternatives, kinds are not: a port must have an address on one of
    the subnets, and one of the addresses.
    """
    asked: dict[str, list[str]] = {}
    for text in query.get("fixed_ips", ()):
        name, sign, value = text.partition("=")
        if not sign or name not in _ADDRESSES:
            raise Invalid(f"Invalid input for fixed_ips. Reason: '{text[:80]}' is no such filter.")
        asked.setdefault(name, []).append(value)
    for name in ("ip_address", "subnet_id"):
        asked.setdefault(name, []).extend(query.get(name, ()))
    found: list[sa.ColumnElement[bool]] = []
    for name, values in asked.items():
        if values:
            having = sa.or_(*(_ADDRESSES[name](value) for value in values))
            found.append(PORTS.c.id.in_(sa.select(IP_ALLOCATIONS.c.port_id).where(having)))
    if any(query.get("security_groups", ())):
        found.append(sa.false())
    return found


_ADDRESSES: dict[str, Any] = {
    "ip_address": lambda value: IP_ALLOCATIONS.c.address == value,
    "ip_address_substr": lambda value: IP_ALLOCATIONS.c.address.contains(value, autoescape=True),
    "subnet_id": lambda value: IP_ALLOCATIONS.c.subnet_id == value,
}


def _visible(who: Principal) -> Conditions:
    return visible_ports(who)


KIND = Kind(
    PORT,
    get=get,
    create=ports.create_port,
    update=ports.update_port,
    delete=ports.delete_port,
    bodies=bodies,
    visible=_visible,
    filters=_address_filters,
)

ENDPOINTS = endpoints_of(KIND)
