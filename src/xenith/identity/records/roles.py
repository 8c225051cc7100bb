"""Rows of roles, of which role implies which, and of who has which role on what.

What a user may do somewhere is computed from these rows when a token is made or checked, so a
grant that is gone is gone at once. Source: Identity API v3, "Roles" and OS-INHERIT.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from xenith.core.errors import NotFound
from xenith.db import GLOBAL, Flag, Json, Row, Tx
from xenith.identity.records.people import MEMBERSHIPS, list_group_ids
from xenith.identity.records.projects import PROJECTS, list_ancestors, list_subtree

#: What a grant on the whole system has for a scope's id.
SYSTEM = "system"

ROLES = sa.Table(
    "identity_roles",
    GLOBAL,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    # Empty for a role of the whole cloud; a domain's own role only stands for what it implies.
    sa.Column("domain_id", sa.Text, nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("options", Json, nullable=False),
    sa.Column("extra", Json, nullable=False),
    sa.Index("identity_roles_name", "domain_id", "name", unique=True),
)

IMPLIED = sa.Table(
    "identity_implied_roles",
    GLOBAL,
    sa.Column("prior_id", sa.Text, primary_key=True),
    sa.Column("implied_id", sa.Text, primary_key=True),
)

GRANTS = sa.Table(
    "identity_grants",
    GLOBAL,
    sa.Column("actor_id", sa.Text, primary_key=True),
    # An id, or SYSTEM. Ids of projects and domains are one set.
    sa.Column("scope_id", sa.Text, primary_key=True),
    sa.Column("role_id", sa.Text, primary_key=True),
    # An inherited grant holds on what is below the scope, not on the scope itself.
    sa.Column("is_inherited", Flag, primary_key=True),
    sa.Column("actor_kind", sa.Text, nullable=False),
    sa.Column("scope_kind", sa.Text, nullable=False),
    sa.Index("identity_grants_scope", "scope_id"),
    sa.Index("identity_grants_role", "role_id"),
)


def get_role(tx: Tx, role_id: str) -> Row:
    """Get a role.

    Raises:
        NotFound: there is no such role.
    """
    row = tx.find(ROLES, id=role_id)
    if row is None:
        raise NotFound(f"Could not find role: {role_id}.")
    return row


def implications(tx: Tx) -> dict[str, set[str]]:
    """Tell which roles each role implies directly."""
    found: dict[str, set[str]] = {}
    for row in tx.list(IMPLIED):
        found.setdefault(row.prior_id, set()).add(row.implied_id)
    return found


def expand(role_ids: Iterable[str], implied: dict[str, set[str]]) -> set[str]:
    """Give the roles with all that they imply, at any remove."""
    found: set[str] = set()
    waiting = list(role_ids)
    while waiting:
        role_id = waiting.pop()
        if role_id not in found:
            found.add(role_id)
            waiting.extend(implied.get(role_id, ()))
    return found


def effective_roles(tx: Tx, user_id: str, *, scope_id: str) -> list[Row]:
    """List the roles that a user has on a project, a domain or SYSTEM, in the order of names."""
    # Fixed statements, one for each actor: this is read for every token that is not known yet,
    # and a list in a statement has it compiled anew each time.
    above: set[str] = set()
    if scope_id != SYSTEM and (scope := tx.find(PROJECTS, id=scope_id)) is not None:
        above = {row.id for row in list_ancestors(tx, scope)}
    held: set[str] = set()
    for actor_id in (user_id, *list_group_ids(tx, user_id)):
        for row in tx.list(GRANTS, actor_id=actor_id):
            if row.scope_id in above if row.is_inherited else row.scope_id == scope_id:
                held.add(row.role_id)
    return list_roles(tx, held)


def list_roles(tx: Tx, role_ids: Iterable[str]) -> list[Row]:
    """List roles and what they imply, without the domains' own, in the order of names."""
    wanted = set(role_ids)
    if not wanted:
        return []
    wanted = expand(wanted, implications(tx))
    rows = tx.list(ROLES, domain_id="")
    return sorted((row for row in rows if row.id in wanted), key=lambda row: str(row.name))


def list_projects_of(tx: Tx, user_id: str) -> list[Row]:
    """List the projects on which a user has a role, in the order of ids."""
    rows = tx.all(sa.select(GRANTS.c.scope_id, GRANTS.c.is_inherited).where(_is_actor(user_id)))
    ids = {row.scope_id for row in rows if not row.is_inherited}
    for above in {row.scope_id for row in rows if row.is_inherited}:
        ids.update(row.id for row in list_subtree(tx, above))
    if not ids:
        return []
    statement = sa.select(PROJECTS).where(
        PROJECTS.c.id.in_(sorted(ids)), PROJECTS.c.is_domain == sa.literal(0)
    )
    return tx.all(statement.order_by(PROJECTS.c.id))


def list_domains_of(tx: Tx, user_id: str) -> list[Row]:
    """List the domains on which a user has a role of their own, in the order of ids."""
    statement = sa.select(PROJECTS).where(
        PROJECTS.c.is_domain == sa.literal(1),
        PROJECTS.c.id.in_(
            sa.select(GRANTS.c.scope_id).where(
                _is_actor(user_id), GRANTS.c.is_inherited == sa.literal(0)
            )
        ),
    )
    return tx.all(statement.order_by(PROJECTS.c.id))


def _is_actor(user_id: str) -> sa.ColumnElement[bool]:
    groups = sa.select(MEMBERSHIPS.c.group_id).where(MEMBERSHIPS.c.user_id == user_id)
    return sa.or_(GRANTS.c.actor_id == user_id, GRANTS.c.actor_id.in_(groups))


def delete_grants(tx: Tx, **keys: str) -> None:
    """Delete the grants of an actor, on a scope or of a role."""
    tx.delete(GRANTS, **keys)
