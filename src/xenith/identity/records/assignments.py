"""Grants as one list: as they were given, or what they come to for each user.

The effective form replaces groups by their members, inherited grants by the projects below, and
adds what each role implies. Source: Identity API v3, "List role assignments".
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import sqlalchemy as sa

from xenith.db import Row, Tx
from xenith.identity.records.people import MEMBERSHIPS, list_group_ids
from xenith.identity.records.projects import PROJECTS, list_ancestors, list_subtree
from xenith.identity.records.roles import GRANTS, ROLES, implications


class Filters(msgspec.Struct, frozen=True):
    """Which assignments are asked for."""

    user_id: str | None = None
    group_id: str | None = None
    role_id: str | None = None
    #: A project, a domain or SYSTEM, with all that is below a project when asked.
    scope_id: str | None = None
    is_inherited: bool | None = None
    has_subtree: bool = False
    #: Only what is in this domain.
    domain_id: str | None = None


class Assignment(msgspec.Struct, frozen=True):
    """One role of one user or group on one thing."""

    role_id: str
    actor_kind: str
    actor_id: str
    scope_kind: str
    scope_id: str
    is_inherited: bool = False
    #: Where an effective one comes from.
    group_id: str | None = None
    prior_role_id: str | None = None
    granted_on_kind: str | None = None
    granted_on_id: str | None = None


def list_assignments(tx: Tx, filters: Filters, *, is_effective: bool) -> list[Assignment]:
    """List assignments. Transaction function."""
    scopes = _scopes(tx, filters)
    statement = sa.select(GRANTS).order_by(*GRANTS.primary_key)
    if filters.user_id is not None:
        actors = [filters.user_id]
        if is_effective:
            actors += list_group_ids(tx, filters.user_id)
        statement = statement.where(GRANTS.c.actor_id.in_(actors))
    if filters.group_id is not None:
        statement = statement.where(GRANTS.c.actor_id == filters.group_id)
    if scopes is not None:
        above = set(scopes)
        if is_effective:
            for scope_id in scopes:
                row = tx.find(PROJECTS, id=scope_id)
                above.update(one.id for one in (list_ancestors(tx, row) if row else ()))
        statement = statement.where(GRANTS.c.scope_id.in_(sorted(above)))
    if filters.is_inherited is not None:
        statement = statement.where(GRANTS.c.is_inherited == int(filters.is_inherited))
    rows = tx.all(statement)
    found = _effective(tx, rows) if is_effective else [_plain(row) for row in rows]
    wanted = [one for one in found if _is_wanted(one, filters, scopes)]
    if filters.domain_id is not None:
        in_domain = {filters.domain_id, *(row.id for row in list_subtree(tx, filters.domain_id))}
        wanted = [one for one in wanted if one.scope_id in in_domain]
    if not is_effective:
        return wanted
    # What comes to someone in several ways is listed once.
    first: dict[tuple[str, str, str], Assignment] = {}
    for one in wanted:
        first.setdefault((one.actor_id, one.scope_id, one.role_id), one)
    return list(first.values())


def _is_wanted(one: Assignment, filters: Filters, scopes: set[str] | None) -> bool:
    return (
        filters.role_id in (None, one.role_id)
        and filters.user_id in (None, one.actor_id)
        and (scopes is None or one.scope_id in scopes)
    )


def _scopes(tx: Tx, filters: Filters) -> set[str] | None:
    if filters.scope_id is None:
        return None
    scopes = {filters.scope_id}
    if filters.has_subtree:
        scopes.update(row.id for row in list_subtree(tx, filters.scope_id))
    return scopes


def _plain(row: Row) -> Assignment:
    return Assignment(
        role_id=row.role_id,
        actor_kind=row.actor_kind,
        actor_id=row.actor_id,
        scope_kind=row.scope_kind,
        scope_id=row.scope_id,
        is_inherited=row.is_inherited,
    )


def _effective(tx: Tx, rows: list[Row]) -> list[Assignment]:
    implied = implications(tx)
    own_of_domains = {
        row.id for row in tx.all(sa.select(ROLES.c.id, ROLES.c.domain_id)) if row.domain_id
    }
    found: list[Assignment] = []
    for grant in rows:
        members: list[tuple[str, str | None]] = [(grant.actor_id, None)]
        if grant.actor_kind == "group":
            memberships = tx.list(MEMBERSHIPS, group_id=grant.actor_id)
            members = [(row.user_id, grant.actor_id) for row in memberships]
        scopes: list[tuple[str, str]] = [(grant.scope_kind, grant.scope_id)]
        if grant.is_inherited:
            scopes = [("project", row.id) for row in list_subtree(tx, grant.scope_id)]
        pairs = [
            pair for pair in _implied_by(grant.role_id, implied) if pair[0] not in own_of_domains
        ]
        for actor_id, group_id in members:
            for kind, scope_id in scopes:
                found += [
                    Assignment(
                        role_id=role_id,
                        actor_kind="user",
                        actor_id=actor_id,
                        scope_kind=kind,
                        scope_id=scope_id,
                        group_id=group_id,
                        prior_role_id=prior_id,
                        granted_on_kind=grant.scope_kind if grant.is_inherited else None,
                        granted_on_id=grant.scope_id if grant.is_inherited else None,
                    )
                    for role_id, prior_id in pairs
                ]
    return found


def _implied_by(role_id: str, implied: dict[str, set[str]]) -> Iterator[tuple[str, str | None]]:
    """Give a role and all that it implies, each with the role that implies it."""
    seen = {role_id}
    yield role_id, None
    waiting = [role_id]
    while waiting:
        prior_id = waiting.pop()
        for following in sorted(implied.get(prior_id, set()) - seen):
            seen.add(following)
            waiting.append(following)
            yield following, prior_id
