"""Rows of ports; their addresses are rows of ``allocations``."""

from __future__ import annotations

import sqlalchemy as sa

from xenith.db import GLOBAL, Flag, Json
from xenith.http import Principal
from xenith.network.records.networks import NETWORKS, sees_all

PORTS = sa.Table(
    "ports",
    GLOBAL,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("network_id", sa.Text, nullable=False),
    sa.Column("project_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("admin_state_up", Flag, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("mac_address", sa.Text, nullable=False),
    sa.Column("device_id", sa.Text, nullable=False),
    sa.Column("device_owner", sa.Text, nullable=False),
    sa.Column("host_id", sa.Text, nullable=False),
    sa.Column("vnic_type", sa.Text, nullable=False),
    sa.Column("profile", Json),
    sa.Column("allowed_address_pairs", Json),
    sa.Column("extra_dhcp_opts", Json),
    sa.Column("port_security_enabled", Flag, nullable=False),
    #: Made for the server that it serves, and deleted with it.
    sa.Column("is_ours", Flag, nullable=False),
    #: The word by which the server's owner tells its interfaces apart.
    sa.Column("nic_tag", sa.Text),
    #: The place of an interface among its server's.
    sa.Column("nic_number", sa.BigInteger, nullable=False),
    sa.Column("tags", Json),
    sa.Column("revision_number", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Index("ports_by_network_mac", "network_id", "mac_address", unique=True),
    sa.Index("ports_by_project", "project_id", "id"),
    sa.Index("ports_by_device", "device_id"),
)


def visible_ports(who: Principal) -> list[sa.ColumnElement[bool]]:
    """Give the conditions of a list of ports: one's own, and those on one's own networks."""
    if sees_all(who):
        return []
    own = who.project_id or ""
    networks = sa.select(NETWORKS.c.id).where(NETWORKS.c.project_id == own)
    return [sa.or_(PORTS.c.project_id == own, PORTS.c.network_id.in_(networks))]
