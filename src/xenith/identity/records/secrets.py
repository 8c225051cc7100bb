"""Rows of application credentials with their access rules, and of credentials kept for users."""

from __future__ import annotations

import sqlalchemy as sa

from xenith.core.errors import NotFound
from xenith.db import GLOBAL, Flag, Json, Row, Tx

APP_CREDS = sa.Table(
    "identity_app_creds",
    GLOBAL,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("project_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("secret_hash", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("expires_at", sa.Float),
    sa.Column("is_unrestricted", Flag, nullable=False),
    #: The roles' ids, as they were chosen.
    sa.Column("role_ids", Json, nullable=False),
    #: The access rules' ids; None is no limit, none at all allows nothing.
    sa.Column("rule_ids", Json),
    sa.Index("identity_app_creds_name", "user_id", "name", unique=True),
    sa.Index("identity_app_creds_project", "project_id"),
)

ACCESS_RULES = sa.Table(
    "identity_access_rules",
    GLOBAL,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("service", sa.Text, nullable=False),
    sa.Column("method", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Index("identity_access_rules_one", "user_id", "service", "method", "path", unique=True),
)

CREDENTIALS = sa.Table(
    "identity_credentials",
    GLOBAL,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("project_id", sa.Text),
    sa.Column("type", sa.Text, nullable=False),
    #: Encrypted; only the process that has the key can read it.
    sa.Column("encrypted_blob", sa.Text, nullable=False),
    sa.Column("extra", Json, nullable=False),
    sa.Index("identity_credentials_user", "user_id"),
)


def get_app_cred(tx: Tx, app_cred_id: str, *, user_id: str) -> Row:
    """Get an application credential of a user.

    Raises:
        NotFound: the user has none with this id.
    """
    row = tx.find(APP_CREDS, id=app_cred_id)
    if row is None or row.user_id != user_id:
        raise NotFound(f"Could not find Application Credential: {app_cred_id}.")
    return row


def list_rules(tx: Tx, rule_ids: list[str]) -> list[Row]:
    """List access rules by their ids."""
    if not rule_ids:
        return []
    return tx.all(
        sa.select(ACCESS_RULES).where(ACCESS_RULES.c.id.in_(rule_ids)).order_by(ACCESS_RULES.c.id)
    )


def delete_secrets(tx: Tx, **keys: str) -> None:
    """Delete what was kept for a user, or what a project gave access to."""
    tx.delete(APP_CREDS, **keys)
    tx.delete(CREDENTIALS, **keys)
    if "user_id" in keys:
        tx.delete(ACCESS_RULES, **keys)
