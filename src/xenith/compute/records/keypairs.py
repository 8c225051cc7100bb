"""Keypairs: public keys by user and name. Private halves are never kept."""

from __future__ import annotations

import sqlalchemy as sa

from xenith.core.errors import Invalid
from xenith.db import GLOBAL, Row, Tx

keypairs = sa.Table(
    "keypairs",
    GLOBAL,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    # The `id` of the detail view, a number.
    sa.Column("number", sa.BigInteger, nullable=False, unique=True),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("public_key", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)


def find_keypair(tx: Tx, user_id: str, name: str) -> Row | None:
    """Find a user's keypair by name, or None. Transaction function."""
    return tx.find(keypairs, user_id=user_id, name=name)


def count_keypairs(tx: Tx, user_id: str) -> int:
    """Count a user's keypairs."""
    return int(
        tx.scalar(
            sa.select(sa.func.count()).select_from(keypairs).where(keypairs.c.user_id == user_id)
        )
    )


def next_number(tx: Tx) -> int:
    """Give the number of the next keypair."""
    return int(tx.scalar(sa.select(sa.func.max(keypairs.c.number))) or 0) + 1


def list_keypairs(tx: Tx, user_id: str, *, limit: int, marker: str | None) -> list[Row]:
    """List a user's keypairs by name from after ``marker``, at most ``limit``.

    Raises:
        Invalid: the marker names none.
    """
    statement = sa.select(keypairs).where(keypairs.c.user_id == user_id)
    if marker is not None:
        if find_keypair(tx, user_id, marker) is None:
            raise Invalid(f"Marker {marker[:255]} could not be found.")
        statement = statement.where(keypairs.c.name > marker)
    return tx.all(statement.order_by(keypairs.c.name).limit(limit))
