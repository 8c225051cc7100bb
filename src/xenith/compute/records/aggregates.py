"""Aggregates: named sets of hosts with metadata; the item `availability_zone` gives them a zone."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from xenith.db import GLOBAL, Json, Row, Tx

#: The metadata item that names a zone.
ZONE = "availability_zone"

aggregates = sa.Table(
    "aggregates",
    GLOBAL,
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("metadata", Json, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float),
)

aggregate_hosts = sa.Table(
    "aggregate_hosts",
    GLOBAL,
    sa.Column("aggregate", sa.BigInteger, sa.ForeignKey("aggregates.number"), primary_key=True),
    # Hosts are rows of cells, so they are known by name here, as in the API.
    sa.Column("host_name", sa.Text, primary_key=True),
)
sa.Index("aggregate_hosts_by_host", aggregate_hosts.c.host_name)


def next_number(tx: Tx) -> int:
    """Give the number of the next aggregate."""
    return int(tx.scalar(sa.select(sa.func.max(aggregates.c.number))) or 0) + 1


def host_names(tx: Tx, number: int) -> list[str]:
    """List the hosts of an aggregate by name."""
    return [row.host_name for row in tx.list(aggregate_hosts, aggregate=number)]


def all_host_names(tx: Tx) -> dict[int, list[str]]:
    """Give the hosts of every aggregate that has any."""
    found: dict[int, list[str]] = {}
    for row in tx.list(aggregate_hosts):
        found.setdefault(row.aggregate, []).append(row.host_name)
    return found


def zones_of_host(tx: Tx, host_name: str, *, without: int) -> list[str]:
    """List the zones that a host has from aggregates other than one."""
    rows = tx.all(
        sa.select(aggregates.c.metadata)
        .join(aggregate_hosts, aggregate_hosts.c.aggregate == aggregates.c.number)
        .where(aggregate_hosts.c.host_name == host_name, aggregates.c.number != without)
    )
    return sorted({row.metadata[ZONE] for row in rows if ZONE in row.metadata})


def change_aggregate(tx: Tx, number: int, *, now_s: float, **values: Any) -> Row:
    """Change an aggregate and give it as it then is."""
    tx.update(aggregates, {"number": number}, updated_at=now_s, **values)
    return tx.get(aggregates, number=number)
