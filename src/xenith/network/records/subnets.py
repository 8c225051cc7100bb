"""Rows of subnets."""

from __future__ import annotations

import sqlalchemy as sa

from xenith.db import GLOBAL, Flag, Json
from xenith.http import Principal
from xenith.network.records.networks import NETWORKS, sees_all

SUBNETS = sa.Table(
    "subnets",
    GLOBAL,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("network_id", sa.Text, nullable=False),
    sa.Column("project_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("ip_version", sa.BigInteger, nullable=False),
    sa.Column("cidr", sa.Text, nullable=False),
    sa.Column("gateway_ip", sa.Text),
    sa.Column("enable_dhcp", Flag, nullable=False),
    sa.Column("ipv6_address_mode", sa.Text),
    sa.Column("ipv6_ra_mode", sa.Text),
    #: ``[[first, last], …]``, in the order of addresses.
    sa.Column("pools", Json, nullable=False),
    sa.Column("dns_nameservers", Json, nullable=False),
    #: ``[[destination, next hop], …]``.
    sa.Column("host_routes", Json, nullable=False),
    sa.Column("tags", Json, nullable=False),
    sa.Column("revision_number", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Index("subnets_by_network", "network_id", "id"),
    sa.Index("subnets_by_project", "project_id", "id"),
)


def visible_subnets(who: Principal) -> list[sa.ColumnElement[bool]]:
    """Give the conditions of a list of subnets: one's own, and those of networks one may use."""
    if sees_all(who):
        return []
    own = who.project_id or ""
    networks = sa.select(NETWORKS.c.id).where(
        sa.or_(NETWORKS.c.project_id == own, NETWORKS.c.shared == 1, NETWORKS.c.external == 1)
    )
    return [sa.or_(SUBNETS.c.project_id == own, SUBNETS.c.network_id.in_(networks))]
