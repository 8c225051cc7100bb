"""Projects and domains: making, changing and deleting them with all that is in them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from xenith.core.errors import Conflict, Forbidden, Invalid
from xenith.db import Row, Tx
from xenith.identity import schemas
from xenith.identity.records import epochs, people, projects, roles, secrets
from xenith.identity.records.projects import PROJECTS


def refuse_immutable(row: Row, change: dict[str, Any] | None = None) -> None:
    """Let only what is not marked immutable be changed, or that mark be taken away.

    Raises:
        Forbidden: it is immutable. Source: Identity API v3, resource options.
    """
    options = (change or {}).get("options") or {}
    if row.options.get("immutable") and options.get("immutable", True):
        raise Forbidden(f"Cannot change or delete {row.id}: it is immutable.")


def create_domain(
    tx: Tx, new: schemas.NewDomain, extra: dict[str, Any], *, domain_id: str | None = None
) -> Row:
    """Make a domain. Transaction function.

    Raises:
        Conflict: the name is taken.
    """
    projects.check_name_is_free(tx, domain_id="", name=new.name, kind="domain")
    row = {
        "id": domain_id or tx.world.ids.hex(),
        "name": new.name,
        "domain_id": "",
        "parent_id": None,
        "is_domain": True,
        "enabled": new.enabled,
        "description": new.description or "",
        "options": new.options,
        "extra": extra,
    }
    tx.insert(PROJECTS, row)
    return projects.get_domain(tx, str(row["id"]))


def update_domain(
    tx: Tx, domain_id: str, change: schemas.DomainChange, extra: dict[str, Any]
) -> Row:
    """Change a domain. Transaction function."""
    row = projects.get_domain(tx, domain_id)
    return _update(tx, row, schemas.given(change), extra, kind="domain")


def delete_domain(tx: Tx, domain_id: str) -> None:
    """Delete a domain that is disabled, with its projects, users, groups and roles.

    Transaction function.

    Raises:
        Forbidden: it is enabled: disable it first.
    """
    row = projects.get_domain(tx, domain_id)
    refuse_immutable(row)
    if row.enabled:
        raise Forbidden(
            "Cannot delete a domain that is enabled, please disable it first.", domain_id=domain_id
        )
    for project in reversed(projects.list_subtree(tx, domain_id)):
        _delete_row(tx, project.id)
    for user in tx.list(people.USERS, domain_id=domain_id):
        delete_user_rows(tx, user.id)
    for group in tx.list(people.GROUPS, domain_id=domain_id):
        delete_group_rows(tx, group.id)
    for role in tx.list(roles.ROLES, domain_id=domain_id):
        tx.delete(roles.IMPLIED, prior_id=role.id)
        roles.delete_grants(tx, role_id=role.id)
        tx.delete(roles.ROLES, id=role.id)
    _delete_row(tx, domain_id)
    epochs.invalidate(tx)


def create_project(
    tx: Tx, new: schemas.NewProject, extra: dict[str, Any], *, home_domain_id: str
) -> Row:
    """Make a project below its parent or, without one, its domain. Transaction function.

    Raises:
        Conflict: the name is taken in the domain.
        Invalid: the parent is of another domain.
        Forbidden: the tree would grow too deep.
    """
    if new.is_domain:
        if new.parent_id is not None or new.domain_id is not None:
            raise Invalid("A project acting as a domain has no parent and no domain.")
        domain = schemas.NewDomain(new.name, new.description, new.enabled, new.options)
        return create_domain(tx, domain, extra)
    parent = projects.get_project(tx, new.parent_id) if new.parent_id is not None else None
    if parent is not None:
        of_parent = parent.id if parent.is_domain else parent.domain_id
        if new.domain_id not in (None, of_parent):
            raise Invalid("The parent is in another domain than the project.")
        domain_id = of_parent
        if len(projects.list_ancestors(tx, parent)) + 1 >= projects.DEPTH_MAX:
            raise Forbidden(f"Max hierarchy depth reached for the branch of {parent.id}.")
        if not parent.enabled:
            raise Invalid(f"The parent {parent.id} is disabled.")
    else:
        domain_id = new.domain_id or home_domain_id
        parent = projects.get_domain(tx, domain_id)
    projects.check_name_is_free(tx, domain_id=domain_id, name=new.name, kind="project")
    project_id = tx.world.ids.hex()
    tx.insert(
        PROJECTS,
        {
            "id": project_id,
            "name": new.name,
            "domain_id": domain_id,
            "parent_id": parent.id,
            "is_domain": False,
            "enabled": new.enabled,
            "description": new.description or "",
            "options": new.options,
            "extra": extra,
        },
    )
    projects.replace_tags(tx, project_id, new.tags)
    return projects.get_project(tx, project_id)


def update_project(
    tx: Tx, project_id: str, change: schemas.ProjectChange, extra: dict[str, Any]
) -> Row:
    """Change a project. Transaction function.

    Raises:
        Invalid: it would move to another parent or domain, or change into a domain.
        Conflict: the name is taken.
    """
    row = projects.get_project(tx, project_id)
    values = schemas.given(change)
    for name in ("domain_id", "parent_id", "is_domain"):
        now = getattr(row, name) or None if name == "domain_id" else getattr(row, name)
        if name in values and values.pop(name) != now:
            raise Invalid(f"The {name} of a project cannot be changed.")
    if (tags := values.pop("tags", None)) is not None:
        projects.replace_tags(tx, project_id, tags)
    return _update(tx, row, values, extra, kind="project")


def delete_project(tx: Tx, project_id: str) -> None:
    """Delete a project, with the grants on it and the credentials for it.

    Transaction function.

    Raises:
        Forbidden: it has projects below it, or acts as an enabled domain.
    """
    row = projects.get_project(tx, project_id)
    if row.is_domain:
        delete_domain(tx, project_id)
        return
    refuse_immutable(row)
    if tx.list(PROJECTS, parent_id=project_id):
        raise Forbidden(f"Cannot delete the project {project_id}: it is not a leaf in its tree.")
    _delete_row(tx, project_id)
    epochs.invalidate(tx)


def delete_user_rows(tx: Tx, user_id: str) -> None:
    """Delete a user with memberships, grants and secrets. Transaction function."""
    tx.delete(people.MEMBERSHIPS, user_id=user_id)
    roles.delete_grants(tx, actor_id=user_id)
    secrets.delete_secrets(tx, user_id=user_id)
    tx.delete(people.USERS, id=user_id)


def delete_group_rows(tx: Tx, group_id: str) -> None:
    """Delete a group with memberships and grants. Transaction function."""
    tx.delete(people.MEMBERSHIPS, group_id=group_id)
    roles.delete_grants(tx, actor_id=group_id)
    tx.delete(people.GROUPS, id=group_id)


def _update(tx: Tx, row: Row, values: dict[str, Any], extra: dict[str, Any], *, kind: str) -> Row:
    refuse_immutable(row, values)
    if row.id == "default" and values.get("enabled") is False:
        raise Conflict("The default domain cannot be disabled: the cloud's own users are in it.")
    if "name" in values:
        projects.check_name_is_free(
            tx, domain_id=row.domain_id, name=values["name"], kind=kind, except_id=row.id
        )
    if "description" in values:
        values["description"] = values["description"] or ""
    if "options" in values:
        values["options"] = {**row.options, **values["options"]}
    tx.update(PROJECTS, {"id": row.id}, **values, extra={**row.extra, **extra})
    if values.get("enabled") is False:
        epochs.invalidate(tx)
    return projects.get_project(tx, row.id)


def _delete_row(tx: Tx, project_id: str) -> None:
    tx.delete(projects.TAGS, project_id=project_id)
    roles.delete_grants(tx, scope_id=project_id)
    secrets.delete_secrets(tx, project_id=project_id)
    tx.run(
        sa.update(people.USERS)
        .where(people.USERS.c.default_project_id == project_id)
        .values(default_project_id=None)
    )
    tx.delete(PROJECTS, id=project_id)
