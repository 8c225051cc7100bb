"""Rows of networks, and who may see them."""

from __future__ import annotations

import sqlalchemy as sa

from xenith.core.errors import NotFound
from xenith.db import GLOBAL, Flag, Json, Row, Tx
from xenith.http import Principal

NETWORKS = sa.Table(
    "networks",
    GLOBAL,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("project_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("admin_state_up", Flag, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("shared", Flag, nullable=False),
    sa.Column("external", Flag, nullable=False),
    sa.Column("is_default", Flag, nullable=False),
    sa.Column("mtu", sa.BigInteger, nullable=False),
    sa.Column("port_security_enabled", Flag, nullable=False),
    sa.Column("availability_zone_hints", Json, nullable=False),
    sa.Column("network_type", sa.Text),
    sa.Column("physical_network", sa.Text),
    sa.Column("segmentation_id", sa.BigInteger),
    sa.Column("tags", Json, nullable=False),
    sa.Column("revision_number", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Index("networks_by_project", "project_id", "id"),
    sa.Index("networks_by_shared", "shared", "id"),
    sa.Index("networks_by_external", "external", "id"),
)


def sees_all(who: Principal) -> bool:
    """Tell whether a caller sees every project's networks, subnets and ports."""
    return who.is_admin or "service" in who.roles


def is_visible(who: Principal, network: Row) -> bool:
    """Tell whether a caller may know of a network."""
    return bool(
        network.shared
        or network.external
        or (who.project_id is not None and network.project_id == who.project_id)
        or sees_all(who)
    )


def find_visible_network(tx: Tx, network_id: str, who: Principal) -> Row | None:
    """Find a network that a caller may know of. Transaction function."""
    network = tx.find(NETWORKS, id=network_id)
    return network if network is not None and is_visible(who, network) else None


def get_visible_network(tx: Tx, network_id: str, who: Principal) -> Row:
    """Get a network that a caller may know of. Transaction function.

    Raises:
        NotFound: there is none, or not for this caller.
    """
    network = find_visible_network(tx, network_id, who)
    if network is None:
        raise NotFound(f"Network {network_id[:64]} could not be found.", kind="NetworkNotFound")
    return network


def visible_networks(who: Principal) -> list[sa.ColumnElement[bool]]:
    """Give the conditions of a list of networks for a caller."""
    if sees_all(who):
        return []
    table = NETWORKS.c
    return [
        sa.or_(table.project_id == (who.project_id or ""), table.shared == 1, table.external == 1)
    ]
