"""Rows of users, of groups, and of who is in which.

``generation`` counts what makes a user's tokens void (password, disabling): a token carries the
generation that it was issued in, so no list of revoked tokens is kept for these.
"""

from __future__ import annotations

import sqlalchemy as sa

from xenith.core.errors import Conflict, NotFound
from xenith.db import GLOBAL, Flag, Json, Row, Tx

USERS = sa.Table(
    "identity_users",
    GLOBAL,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("domain_id", sa.Text, nullable=False),
    sa.Column("default_project_id", sa.Text),
    sa.Column("enabled", Flag, nullable=False),
    sa.Column("password_hash", sa.Text),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("options", Json, nullable=False),
    sa.Column("extra", Json, nullable=False),
    sa.Index("identity_users_name", "domain_id", "name", unique=True),
)

GROUPS = sa.Table(
    "identity_groups",
    GLOBAL,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("domain_id", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("extra", Json, nullable=False),
    sa.Index("identity_groups_name", "domain_id", "name", unique=True),
)

MEMBERSHIPS = sa.Table(
    "identity_memberships",
    GLOBAL,
    sa.Column("group_id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Index("identity_memberships_user", "user_id"),
)


def get_user(tx: Tx, user_id: str) -> Row:
    """Get a user.

    Raises:
        NotFound: there is no such user.
    """
    row = tx.find(USERS, id=user_id)
    if row is None:
        raise NotFound(f"Could not find user: {user_id}.")
    return row


def get_group(tx: Tx, group_id: str) -> Row:
    """Get a group.

    Raises:
        NotFound: there is no such group.
    """
    row = tx.find(GROUPS, id=group_id)
    if row is None:
        raise NotFound(f"Could not find group: {group_id}.")
    return row


def check_name_is_free(
    tx: Tx, table: sa.Table, *, domain_id: str, name: str, kind: str, except_id: str | None = None
) -> None:
    """Let a user's or group's name be used only once in a domain.

    Raises:
        Conflict: another has it.
    """
    row = tx.find(table, domain_id=domain_id, name=name)
    if row is not None and row.id != except_id:
        raise Conflict(
            f"Conflict occurred attempting to store {kind} - Duplicate entry found with name "
            f"{name} at domain ID {domain_id}."
        )


def list_group_ids(tx: Tx, user_id: str) -> list[str]:
    """List the groups that a user is in."""
    return [row.group_id for row in tx.list(MEMBERSHIPS, user_id=user_id)]
