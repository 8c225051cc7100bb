"""Hosts of a cell: where their XenAPI is, and what an operator said of them.

Passwords are kept encrypted with the cell's own key; a row alone opens no host.
"""

from __future__ import annotations

import sqlalchemy as sa

from xenith.db import CELL, Flag, Json, Tx

hosts = sa.Table(
    "hosts",
    CELL,
    sa.Column("id", sa.Text, primary_key=True),
    # Numbers from before 2.53, and for services.
    sa.Column("number", sa.BigInteger, nullable=False, unique=True),
    sa.Column("service_id", sa.Text, nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("url", sa.Text, nullable=False, unique=True),
    sa.Column("user", sa.Text, nullable=False),
    sa.Column("sealed_password", sa.LargeBinary, nullable=False),
    sa.Column("zone", sa.Text, nullable=False),
    sa.Column("is_enabled", Flag, nullable=False),
    sa.Column("disabled_reason", sa.Text),
    sa.Column("is_forced_down", Flag, nullable=False),
    # What the host said of itself when it was last seen: memory, processors, disk, version.
    sa.Column("facts", Json),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
)


def next_number(tx: Tx) -> int:
    """Give the number of the next host."""
    return int(tx.scalar(sa.select(sa.func.max(hosts.c.number))) or 0) + 1
