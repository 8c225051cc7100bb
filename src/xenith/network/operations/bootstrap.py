"""The network that a new cloud begins with."""

from __future__ import annotations

import sqlalchemy as sa

from xenith.db import Tx
from xenith.network.addresses import default_gateway, default_pools, read_network
from xenith.network.attributes import NETWORK
from xenith.network.operations.networks import insert_network
from xenith.network.operations.rows import stamp_new
from xenith.network.records import quotas
from xenith.network.records.networks import NETWORKS
from xenith.network.records.subnets import SUBNETS

#: No project's: an id that no project can have.
NOBODY = ""
SHARED_NAME = "shared"
SHARED_CIDR = "192.168.0.0/16"


def ensure_shared_network(tx: Tx) -> None:
    """Make the shared network and its subnet when there is no network. Transaction function."""
    if tx.scalar(sa.select(NETWORKS.c.id).limit(1)) is not None:
        return
    quotas.claim(tx, NOBODY, "network")
    values = NETWORK.read_new({"name": SHARED_NAME, "shared": True})
    network = insert_network(tx, {**values, "project_id": NOBODY})
    quotas.claim(tx, NOBODY, "subnet")
    cidr = read_network(SHARED_CIDR, "cidr")
    gateway = default_gateway(cidr)
    tx.insert(
        SUBNETS,
        {
            **stamp_new(tx),
            "network_id": network.id,
            "project_id": NOBODY,
            "name": SHARED_NAME,
            "description": "",
            "ip_version": cidr.version,
            "cidr": str(cidr),
            "gateway_ip": gateway,
            "enable_dhcp": True,
            "ipv6_address_mode": None,
            "ipv6_ra_mode": None,
            "pools": default_pools(cidr, gateway),
            "dns_nameservers": [],
            "host_routes": [],
            "tags": [],
        },
    )
