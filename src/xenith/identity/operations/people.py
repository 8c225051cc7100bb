"""Users and groups: making, changing and deleting them, and who is in which."""

from __future__ import annotations

from typing import Any

from xenith.core.errors import Invalid, NotFound
from xenith.db import Row, Tx
from xenith.identity import schemas
from xenith.identity.operations.projects import (
    delete_group_rows,
    delete_user_rows,
    refuse_immutable,
)
from xenith.identity.records import epochs, people, projects
from xenith.identity.records.people import GROUPS, MEMBERSHIPS, USERS


def create_user(
    tx: Tx,
    new: schemas.NewUser,
    extra: dict[str, Any],
    *,
    domain_id: str,
    password_hash: str | None,
) -> Row:
    """Make a user. Transaction function.

    Raises:
        Conflict: the name is taken in the domain.
        NotFound: there is no such domain.
    """
    projects.get_domain(tx, domain_id)
    _check_default_project(tx, new.default_project_id)
    people.check_name_is_free(tx, USERS, domain_id=domain_id, name=new.name, kind="user")
    user_id = tx.world.ids.hex()
    tx.insert(
        USERS,
        {
            "id": user_id,
            "name": new.name,
            "domain_id": domain_id,
            "default_project_id": new.default_project_id,
            "enabled": new.enabled,
            "password_hash": password_hash,
            "generation": 1,
            "options": new.options,
            "extra": extra,
        },
    )
    return people.get_user(tx, user_id)


def update_user(
    tx: Tx,
    user_id: str,
    change: schemas.UserChange,
    extra: dict[str, Any],
    *,
    password_hash: str | None,
) -> Row:
    """Change a user; a new password, or disabling, voids the user's tokens.

    Transaction function.
    """
    row = people.get_user(tx, user_id)
    values = schemas.given(change)
    refuse_immutable(row, values)
    if values.pop("domain_id", row.domain_id) != row.domain_id:
        raise Invalid("The domain of a user cannot be changed.")
    if "name" in values:
        people.check_name_is_free(
            tx, USERS, domain_id=row.domain_id, name=values["name"], kind="user", except_id=row.id
        )
    if "default_project_id" in values:
        _check_default_project(tx, values["default_project_id"])
    if "options" in values:
        values["options"] = {**row.options, **values["options"]}
    has_password = "password" in values
    if has_password:
        del values["password"]
        values["password_hash"] = password_hash
    if has_password or values.get("enabled") is False:
        values["generation"] = row.generation + 1
        epochs.invalidate(tx)
    tx.update(USERS, {"id": user_id}, **values, extra={**row.extra, **extra})
    return people.get_user(tx, user_id)


def set_password(tx: Tx, user: Row, password_hash: str) -> bool:
    """Give a user a new password if nothing has changed it meanwhile; voids their tokens.

    Transaction function.
    """
    met = tx.update(
        USERS,
        {"id": user.id, "generation": user.generation},
        password_hash=password_hash,
        generation=user.generation + 1,
    )
    epochs.invalidate(tx)
    return bool(met)


def delete_user(tx: Tx, user_id: str) -> None:
    """Delete a user. Transaction function."""
    refuse_immutable(people.get_user(tx, user_id))
    delete_user_rows(tx, user_id)
    epochs.invalidate(tx)


def create_group(tx: Tx, new: schemas.NewGroup, extra: dict[str, Any], *, domain_id: str) -> Row:
    """Make a group. Transaction function.

    Raises:
        Conflict: the name is taken in the domain.
    """
    projects.get_domain(tx, domain_id)
    people.check_name_is_free(tx, GROUPS, domain_id=domain_id, name=new.name, kind="group")
    group_id = tx.world.ids.hex()
    tx.insert(
        GROUPS,
        {
            "id": group_id,
            "name": new.name,
            "domain_id": domain_id,
            "description": new.description or "",
            "extra": extra,
        },
    )
    return people.get_group(tx, group_id)


def update_group(tx: Tx, group_id: str, change: schemas.GroupChange, extra: dict[str, Any]) -> Row:
    """Change a group. Transaction function."""
    row = people.get_group(tx, group_id)
    values = schemas.given(change)
    if values.pop("domain_id", row.domain_id) != row.domain_id:
        raise Invalid("The domain of a group cannot be changed.")
    if "name" in values:
        people.check_name_is_free(
            tx, GROUPS, domain_id=row.domain_id, name=values["name"], kind="group", except_id=row.id
        )
    if "description" in values:
        values["description"] = values["description"] or ""
    tx.update(GROUPS, {"id": group_id}, **values, extra={**row.extra, **extra})
    return people.get_group(tx, group_id)


def delete_group(tx: Tx, group_id: str) -> None:
    """Delete a group. Transaction function."""
    people.get_group(tx, group_id)
    delete_group_rows(tx, group_id)
    epochs.invalidate(tx)


def add_member(tx: Tx, group_id: str, user_id: str) -> None:
    """Put a user in a group; again is no error. Transaction function."""
    people.get_group(tx, group_id)
    people.get_user(tx, user_id)
    tx.upsert(MEMBERSHIPS, {"group_id": group_id, "user_id": user_id})
    epochs.invalidate(tx)


def remove_member(tx: Tx, group_id: str, user_id: str) -> None:
    """Take a user out of a group. Transaction function.

    Raises:
        NotFound: the user is not in it.
    """
    check_member(tx, group_id, user_id)
    tx.delete(MEMBERSHIPS, group_id=group_id, user_id=user_id)
    epochs.invalidate(tx)


def check_member(tx: Tx, group_id: str, user_id: str) -> None:
    """Tell that a user is in a group. Transaction function.

    Raises:
        NotFound: the user is not in it.
    """
    people.get_group(tx, group_id)
    people.get_user(tx, user_id)
    if tx.find(MEMBERSHIPS, group_id=group_id, user_id=user_id) is None:
        raise NotFound(f"User '{user_id}' not found in group '{group_id}'.")


def _check_default_project(tx: Tx, project_id: str | None) -> None:
    # A project that is not there (yet) is let through, as keystone does; a domain is not.
    if project_id is None:
        return
    row = tx.find(projects.PROJECTS, id=project_id)
    if row is not None and row.is_domain:
        raise Invalid("A user's default project cannot be a domain.")
