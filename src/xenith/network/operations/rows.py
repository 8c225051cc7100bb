"""What creating, changing and deleting any of network's rows have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from xenith.core.errors import Conflict, Invalid
from xenith.db import Row, Tx
from xenith.http import Principal
from xenith.network.attributes import Noun
from xenith.network.policies import POLICIES, enforce


class StaleRevision(Conflict):
    """The caller knew an older revision of the thing than there is."""


def owner_of(who: Principal, values: Mapping[str, Any]) -> str:
    """Tell whose a new thing will be.

    Raises:
        Invalid: it would be another project's, and the caller is no admin; or nobody's.
    """
    asked = values.get("project_id")
    if asked is None:
        if who.project_id is None:
            raise Invalid("The token is for no project: a project_id is needed.")
        return who.project_id
    if asked != who.project_id and not who.is_admin:
        raise Invalid(
            "Specifying 'project_id' or 'tenant_id' other than the authenticated project in "
            "request requires admin privileges",
            kind="HTTPBadRequest",
        )
    return str(asked)


def enforce_attributes(
    who: Principal, verb: str, noun: Noun, values: Mapping[str, Any], **target: Any
) -> None:
    """Ask the rules of the attributes that a body gives other than their defaults.

    Raises:
        Forbidden: one does not hold.
    """
    for attribute in noun.attributes:
        rule = f"{verb}_{noun.name}:{attribute.name}"
        if rule not in POLICIES or attribute.key not in values:
            continue
        value = values[attribute.key]
        if verb == "create" and value == attribute.default:
            continue
        enforce(who, rule, value=value, **target)


def check_revision(row: Row, noun: Noun, revision: int | None) -> None:
    """Let a change go on only from the revision that the caller knows.

    Raises:
        StaleRevision: there is a later one.
    """
    if revision is not None and row.revision_number != revision:
        raise StaleRevision(
            f"Constrained to {revision}, but current revision is {row.revision_number}",
            kind="RevisionNumberConstraintFailed",
            noun=noun.name,
        )


def stamp_new(tx: Tx) -> dict[str, Any]:
    """Give the values that every new row begins with. Transaction function."""
    now = tx.world.clock.now()
    return {"id": tx.world.ids.uuid(), "revision_number": 1, "created_at": now, "updated_at": now}


def change_row(tx: Tx, table: sa.Table, row: Row, values: Mapping[str, Any]) -> None:
    """Give a row new values and its next revision. Transaction function."""
    tx.update(
        table,
        {"id": row.id},
        **values,
        revision_number=row.revision_number + 1,
        updated_at=tx.world.clock.now(),
    )
