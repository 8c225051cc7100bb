"""Endpoints of networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from xenith.db import Row, Tx
from xenith.network.attributes import NETWORK
from xenith.network.endpoints.shared import Kind, endpoints_of
from xenith.network.endpoints.views import network_body
from xenith.network.operations import networks
from xenith.network.records.listing import Conditions
from xenith.network.records.networks import get_visible_network, visible_networks
from xenith.network.records.subnets import SUBNETS


def bodies(tx: Tx, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Give networks with the ids of their subnets. Transaction function."""
    subnets: dict[str, list[str]] = {row.id: [] for row in rows}
    if rows:
        columns = SUBNETS.c
        statement = sa.select(columns.id, columns.network_id).where(
            columns.network_id.in_(list(subnets))
        )
        for subnet in tx.all(statement.order_by(columns.id)):
            subnets[subnet.network_id].append(subnet.id)
    return [network_body(row, subnets[row.id]) for row in rows]


def _no_filters(_query: Mapping[str, Sequence[str]]) -> Conditions:
    return ()


KIND = Kind(
    NETWORK,
    get=get_visible_network,
    create=networks.create_network,
    update=networks.update_network,
    delete=networks.delete_network,
    bodies=bodies,
    visible=visible_networks,
    filters=_no_filters,
)

ENDPOINTS = endpoints_of(KIND)
