"""Hosts of a cell: where their XenAPI is, and what an operator said of them.

Passwords are kept encrypted with the cell's own key; a row alone opens no host.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from xenith.cells.changes import ChangedTable, carried_columns, mark_change
from xenith.db import CELL, Flag, Json, Row, Tx

hosts = sa.Table(
    "hosts",
    CELL,
    sa.Column("id", sa.Text, primary_key=True),
    *carried_columns(),
    # Numbers from before 2.53, and for services.
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("service_id", sa.Text, nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("user", sa.Text, nullable=False),
    sa.Column("sealed_password", sa.LargeBinary, nullable=False),
    sa.Column("zone", sa.Text, nullable=False),
    sa.Column("is_enabled", Flag, nullable=False),
    sa.Column("disabled_reason", sa.Text),
    sa.Column("is_forced_down", Flag, nullable=False),
    # Whether it answers its cell, and if not, why.
    sa.Column("is_up", Flag, nullable=False),
    sa.Column("down_reason", sa.Text, nullable=False),
    # What the host said of itself when it was last seen: memory, processors, disk, version.
    sa.Column("facts", Json),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    # Taken out by an operator; the row stays, so that parents learn of it.
    sa.Column("is_removed", Flag, nullable=False),
    sa.UniqueConstraint("cell_id", "name"),
)
sa.Index("hosts_by_change", hosts.c.cell_id, hosts.c.change_number)

#: How to log in there is for the cell alone.
HOSTS = ChangedTable("host", hosts, ("id",), private=frozenset({"user", "sealed_password"}))

#: Numbers of one cell's hosts begin at a multiple of this, so that no two cells share one.
NUMBERS_PER_CELL = 100_000


def insert_host(tx: Tx, values: dict[str, Any], *, cell_number: int) -> None:
    """Write a new host of this cell; ``cell_number`` tells the cell among all."""
    last = tx.scalar(sa.select(sa.func.max(hosts.c.number)))
    number = max(int(last or 0), cell_number * NUMBERS_PER_CELL) + 1
    tx.insert(hosts, {**values, "number": number, **mark_change(tx), "extra": None})


def change_host(tx: Tx, host_id: str, *, now_s: float, **values: Any) -> Row:
    """Change a host of this cell and give it as it then is."""
    tx.update(hosts, {"id": host_id}, updated_at=now_s, **mark_change(tx), **values)
    row = tx.get(hosts, id=host_id)
    tx.follow(HOSTS.kind, row)
    return row
