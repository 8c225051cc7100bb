"""Roles, what they imply, and granting them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from xenith.core.errors import Conflict, Forbidden, Invalid, NotFound
from xenith.db import Row, Tx
from xenith.identity import schemas
from xenith.identity.operations.projects import refuse_immutable
from xenith.identity.records import epochs, people, projects
from xenith.identity.records import roles as records
from xenith.identity.records.roles import GRANTS, IMPLIED, ROLES


@dataclass(frozen=True, slots=True)
class Grant:
    """Who is granted a role, and on what."""

    actor_kind: Literal["user", "group"]
    actor_id: str
    scope_kind: Literal["project", "domain", "system"]
    scope_id: str
    is_inherited: bool = False


def create_role(tx: Tx, new: schemas.NewRole, extra: dict[str, Any]) -> Row:
    """Make a role. Transaction function.

    Raises:
        Conflict: the name is taken.
    """
    if new.domain_id is not None:
        projects.get_domain(tx, new.domain_id)
    _check_name(tx, new.domain_id or "", new.name)
    role_id = tx.world.ids.hex()
    tx.insert(
        ROLES,
        {
            "id": role_id,
            "name": new.name,
            "domain_id": new.domain_id or "",
            "description": new.description,
            "options": new.options,
            "extra": extra,
        },
    )
    return records.get_role(tx, role_id)


def update_role(tx: Tx, role_id: str, change: schemas.RoleChange, extra: dict[str, Any]) -> Row:
    """Change a role. Transaction function."""
    row = records.get_role(tx, role_id)
    values = schemas.given(change)
    refuse_immutable(row, values)
    if (values.pop("domain_id", row.domain_id) or "") != row.domain_id:
        raise Invalid("The domain of a role cannot be changed.")
    if "name" in values:
        _check_name(tx, row.domain_id, values["name"], except_id=role_id)
    if "options" in values:
        values["options"] = {**row.options, **values["options"]}
    tx.update(ROLES, {"id": role_id}, **values, extra={**row.extra, **extra})
    epochs.invalidate(tx)
    return records.get_role(tx, role_id)


def delete_role(tx: Tx, role_id: str) -> None:
    """Delete a role, its grants and what it implies. Transaction function."""
    refuse_immutable(records.get_role(tx, role_id))
    tx.delete(IMPLIED, prior_id=role_id)
    tx.delete(IMPLIED, implied_id=role_id)
    records.delete_grants(tx, role_id=role_id)
    tx.delete(ROLES, id=role_id)
    epochs.invalidate(tx)


def imply(tx: Tx, prior_id: str, implied_id: str) -> None:
    """Let one role imply another. Transaction function.

    Raises:
        Conflict: it does already.
        Invalid: it would imply itself.
        Forbidden: the role admin, or one of a domain, would be implied.
    """
    records.get_role(tx, prior_id)
    implied = records.get_role(tx, implied_id)
    if implied.name == "admin" or implied.domain_id:
        raise Forbidden(f"The role {implied.name} cannot be implied.")
    if prior_id in records.expand([implied_id], records.implications(tx)):
        raise Invalid(f"The role {prior_id} would imply itself.")
    if tx.find(IMPLIED, prior_id=prior_id, implied_id=implied_id) is not None:
        raise Conflict(f"Role {prior_id} already implies {implied_id}.")
    tx.insert(IMPLIED, {"prior_id": prior_id, "implied_id": implied_id})
    epochs.invalidate(tx)


def check_implied(tx: Tx, prior_id: str, implied_id: str) -> tuple[Row, Row]:
    """Give the two roles of a rule. Transaction function.

    Raises:
        NotFound: the one does not imply the other.
    """
    prior, implied = records.get_role(tx, prior_id), records.get_role(tx, implied_id)
    if tx.find(IMPLIED, prior_id=prior_id, implied_id=implied_id) is None:
        raise NotFound(f"{prior_id} does not imply {implied_id}.")
    return prior, implied


def stop_implying(tx: Tx, prior_id: str, implied_id: str) -> None:
    """Let one role imply another no more. Transaction function."""
    check_implied(tx, prior_id, implied_id)
    tx.delete(IMPLIED, prior_id=prior_id, implied_id=implied_id)
    epochs.invalidate(tx)


def find_domains(tx: Tx, grant: Grant, *, is_actor_needed: bool = True) -> tuple[str | None, ...]:
    """Give the domains of a grant's actor and scope. Transaction function.

    Raises:
        NotFound: the user, group, project or domain is not there.
    """
    table = people.USERS if grant.actor_kind == "user" else people.GROUPS
    actor = tx.find(table, id=grant.actor_id)
    if actor is None and is_actor_needed:
        raise NotFound(f"Could not find {grant.actor_kind}: {grant.actor_id}.")
    actor_domain = None if actor is None else actor.domain_id
    if grant.scope_kind == "system":
        return actor_domain, None
    if grant.scope_kind == "domain":
        return actor_domain, projects.get_domain(tx, grant.scope_id).id
    scope = projects.get_project(tx, grant.scope_id)
    return actor_domain, scope.id if scope.is_domain else scope.domain_id


def give(tx: Tx, grant: Grant, role_id: str) -> None:
    """Grant a role; again is no error. Transaction function.

    Raises:
        Forbidden: the role is another domain's.
    """
    _, scope_domain = find_domains(tx, grant)
    role = records.get_role(tx, role_id)
    if role.domain_id and role.domain_id != scope_domain:
        raise Forbidden(f"The role {role_id} is not of the domain {scope_domain}.")
    tx.upsert(
        GRANTS,
        {
            "actor_id": grant.actor_id,
            "scope_id": grant.scope_id,
            "role_id": role_id,
            "is_inherited": grant.is_inherited,
            "actor_kind": grant.actor_kind,
            "scope_kind": grant.scope_kind,
        },
    )
    epochs.invalidate(tx)


def check_given(tx: Tx, grant: Grant, role_id: str) -> None:
    """Tell that a role is granted. Transaction function.

    Raises:
        NotFound: it is not.
    """
    find_domains(tx, grant, is_actor_needed=False)
    records.get_role(tx, role_id)
    if tx.find(GRANTS, **_keys(grant), role_id=role_id) is None:
        raise NotFound(f"Could not find role assignment with role: {role_id}.")


def take(tx: Tx, grant: Grant, role_id: str) -> None:
    """Take a granted role away; tokens that rest on it are void at once.

    Transaction function.
    """
    check_given(tx, grant, role_id)
    tx.delete(GRANTS, **_keys(grant), role_id=role_id)
    epochs.invalidate(tx)


def list_given(tx: Tx, grant: Grant) -> list[Row]:
    """List the roles granted directly, in the order of names. Transaction function."""
    find_domains(tx, grant)
    rows = [tx.find(ROLES, id=row.role_id) for row in tx.list(GRANTS, **_keys(grant))]
    return sorted((row for row in rows if row is not None), key=lambda row: str(row.name))


def _keys(grant: Grant) -> dict[str, Any]:
    return {
        "actor_id": grant.actor_id,
        "scope_id": grant.scope_id,
        "is_inherited": grant.is_inherited,
    }


def _check_name(tx: Tx, domain_id: str, name: str, except_id: str | None = None) -> None:
    row = tx.find(ROLES, domain_id=domain_id, name=name)
    if row is not None and row.id != except_id:
        raise Conflict(
            f"Conflict occurred attempting to store role - Duplicate entry found with name {name}."
        )
