"""What can be done with networks. Transaction functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from xenith.core.errors import Conflict
from xenith.db import Row, Tx
from xenith.http import Principal
from xenith.network.attributes import NETWORK
from xenith.network.operations.rows import (
    change_row,
    check_revision,
    enforce_attributes,
    owner_of,
    stamp_new,
)
from xenith.network.policies import enforce
from xenith.network.records import allocations, quotas
from xenith.network.records.networks import NETWORKS, get_visible_network
from xenith.network.records.ports import PORTS
from xenith.network.records.subnets import SUBNETS


def create_network(tx: Tx, who: Principal, values: Mapping[str, Any]) -> Row:
    """Make a network.

    Raises:
        Forbidden: only an admin may share it, or join it to the outside.
        Exhausted: the project has as many as it may.
    """
    project_id = owner_of(who, values)
    enforce(who, "create_network", project_id=project_id)
    enforce_attributes(who, "create", NETWORK, values, project_id=project_id)
    quotas.claim(tx, project_id, "network")
    return insert_network(tx, {**values, "project_id": project_id})


def insert_network(tx: Tx, values: Mapping[str, Any]) -> Row:
    """Insert a network's row."""
    row = {
        **stamp_new(tx),
        "status": "ACTIVE",
        "tags": [],
        **values,
        # What a network is on the wires is the hosts' affair as yet.
        "network_type": values["network_type"] or "local",
        "mtu": values["mtu"] or 1500,
    }
    tx.insert(NETWORKS, row)
    return tx.get(NETWORKS, id=row["id"])


def update_network(
    tx: Tx, who: Principal, network_id: str, values: Mapping[str, Any], *, revision: int | None
) -> Row:
    """Change a network."""
    row = get_visible_network(tx, network_id, who)
    enforce(who, "update_network", project_id=row.project_id)
    enforce_attributes(who, "update", NETWORK, values, project_id=row.project_id)
    check_revision(row, NETWORK, revision)
    if row.shared and values.get("shared") is False:
        _refuse_strangers(tx, row)
    change_row(tx, NETWORKS, row, values)
    return tx.get(NETWORKS, id=row.id)


def delete_network(tx: Tx, who: Principal, network_id: str, *, revision: int | None) -> None:
    """Delete a network and its subnets.

    Raises:
        Conflict: there are ports on it.
    """
    row = get_visible_network(tx, network_id, who)
    enforce(who, "delete_network", project_id=row.project_id)
    check_revision(row, NETWORK, revision)
    port_id = tx.scalar(sa.select(PORTS.c.id).where(PORTS.c.network_id == row.id).limit(1))
    if port_id is not None:
        raise Conflict(
            f"Unable to complete operation on network {row.id}. There are one or more ports still "
            f"in use on the network, id for these ports is {port_id}.",
            kind="NetworkInUse",
        )
    for subnet in tx.list(SUBNETS, network_id=row.id):
        allocations.forget_subnet(tx, subnet.id)
        quotas.release(tx, subnet.project_id, "subnet")
    tx.delete(SUBNETS, network_id=row.id)
    tx.delete(NETWORKS, id=row.id)
    quotas.release(tx, row.project_id, "network")


def _refuse_strangers(tx: Tx, network: Row) -> None:
    stranger = sa.select(PORTS.c.id).where(
        PORTS.c.network_id == network.id, PORTS.c.project_id != network.project_id
    )
    if tx.scalar(stranger.limit(1)) is not None:
        raise Conflict(
            f"Unable to reconfigure sharing settings for network {network.id}. Multiple tenants "
            "are using it.",
            kind="InvalidSharedSetting",
        )
