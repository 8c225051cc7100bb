"""Rows of projects and of domains, which are projects that own others.

A domain is a row with ``is_domain``, so that an id names one thing whichever way it is asked for;
its own ``domain_id`` is empty, so that names are unique by one index.
Source: Identity API v3, "Projects" (a project may act as a domain).
"""

from __future__ import annotations

import sqlalchemy as sa

from xenith.core.errors import Conflict, NotFound
from xenith.db import GLOBAL, Flag, Json, Row, Tx

#: How deep projects may nest, so that every walk up ends. Source: keystone max_project_tree_depth.
DEPTH_MAX = 5

PROJECTS = sa.Table(
    "identity_projects",
    GLOBAL,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("domain_id", sa.Text, nullable=False),
    sa.Column("parent_id", sa.Text),
    sa.Column("is_domain", Flag, nullable=False),
    sa.Column("enabled", Flag, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("options", Json, nullable=False),
    sa.Column("extra", Json, nullable=False),
    sa.Index("identity_projects_name", "domain_id", "name", unique=True),
    sa.Index("identity_projects_parent", "parent_id"),
)

TAGS = sa.Table(
    "identity_project_tags",
    GLOBAL,
    sa.Column("project_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
)


def get_project(tx: Tx, project_id: str) -> Row:
    """Get a project, or a domain acting as one.

    Raises:
        NotFound: there is no such project.
    """
    row = tx.find(PROJECTS, id=project_id)
    if row is None:
        raise NotFound(f"Could not find project: {project_id}.")
    return row


def get_domain(tx: Tx, domain_id: str) -> Row:
    """Get a domain.

    Raises:
        NotFound: there is no such domain.
    """
    row = tx.find(PROJECTS, id=domain_id)
    if row is None or not row.is_domain:
        raise NotFound(f"Could not find domain: {domain_id}.")
    return row


def find_project(tx: Tx, *, domain_id: str, name: str) -> Row | None:
    """Find a project of a domain by name; with an empty ``domain_id``, a domain."""
    return tx.find(PROJECTS, domain_id=domain_id, name=name)


def list_ancestors(tx: Tx, project: Row) -> list[Row]:
    """List what stands above a project, its parent first and its domain last."""
    found: list[Row] = []
    at = project
    while at.parent_id is not None:
        assert len(found) <= DEPTH_MAX, f"the project {project.id} is above itself"
        at = get_project(tx, at.parent_id)
        found.append(at)
    return found


def list_subtree(tx: Tx, project_id: str) -> list[Row]:
    """List what stands below a project, level by level, without itself."""
    found: list[Row] = []
    level = [project_id]
    for _ in range(DEPTH_MAX + 1):
        if not level:
            break
        rows = tx.all(
            sa.select(PROJECTS).where(PROJECTS.c.parent_id.in_(level)).order_by(PROJECTS.c.id)
        )
        found += rows
        level = [row.id for row in rows]
    return found


def list_tags(tx: Tx, project_ids: list[str]) -> dict[str, list[str]]:
    """List the tags of projects."""
    tags: dict[str, list[str]] = {project_id: [] for project_id in project_ids}
    statement = sa.select(TAGS).where(TAGS.c.project_id.in_(project_ids)).order_by(TAGS.c.name)
    for row in tx.all(statement) if project_ids else []:
        tags[row.project_id].append(row.name)
    return tags


def replace_tags(tx: Tx, project_id: str, tags: list[str]) -> None:
    """Give a project these tags and no others."""
    tx.delete(TAGS, project_id=project_id)
    tx.insert_many(TAGS, [{"project_id": project_id, "name": name} for name in sorted(set(tags))])


def check_name_is_free(
    tx: Tx, *, domain_id: str, name: str, kind: str, except_id: str | None = None
) -> None:
    """Let a name be used only once in a domain.

    Raises:
        Conflict: a project there has it.
    """
    row = find_project(tx, domain_id=domain_id, name=name)
    if row is not None and row.id != except_id:
        raise Conflict(
            f"Conflict occurred attempting to store {kind} - it is not permitted to have two "
            f"{kind}s with the same name in one place: {name}."
        )
