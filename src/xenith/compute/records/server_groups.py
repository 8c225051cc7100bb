"""Server groups: servers that want to be together or apart, and who is in which."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from xenith.compute.records.quotas import UNLIMITED, limits_of
from xenith.compute.records.servers import servers
from xenith.core.errors import Exhausted, Invalid
from xenith.db import GLOBAL, Json, Row, Tx
from xenith.http import Principal

server_groups = sa.Table(
    "server_groups",
    GLOBAL,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("project_id", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("policy", sa.Text, nullable=False),
    # max_server_per_host, for anti-affinity.
    sa.Column("rules", Json, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)
sa.Index("server_groups_by_project", server_groups.c.project_id, server_groups.c.created_at)

group_members = sa.Table(
    "server_group_members",
    GLOBAL,
    sa.Column("group_id", sa.Text, sa.ForeignKey("server_groups.id"), primary_key=True),
    # A server is in at most one group: the one that its create named.
    sa.Column("server_id", sa.Text, primary_key=True),
)
sa.Index("server_group_members_by_server", group_members.c.server_id)


def find_group(tx: Tx, group_id: str, principal: Principal) -> Row | None:
    """Find a group that a caller may see, or None."""
    row = tx.find(server_groups, id=group_id)
    if row is None or not (principal.is_admin or row.project_id == principal.project_id):
        return None
    return row


def list_groups(tx: Tx, project_id: str | None, *, offset: int, limit: int) -> list[Row]:
    """List a project's groups, or with None all, oldest first."""
    statement = sa.select(server_groups)
    if project_id is not None:
        statement = statement.where(server_groups.c.project_id == project_id)
    return tx.all(
        statement.order_by(server_groups.c.created_at, server_groups.c.id)
        .offset(offset)
        .limit(limit)
    )


def count_groups(tx: Tx, project_id: str) -> int:
    """Count a project's groups."""
    counted = sa.select(sa.func.count()).select_from(server_groups)
    return int(tx.scalar(counted.where(server_groups.c.project_id == project_id)))


def members_of(tx: Tx, group_ids: Sequence[str]) -> dict[str, list[str]]:
    """Give the servers in each of some groups that are not deleted."""
    members: dict[str, list[str]] = {group_id: [] for group_id in group_ids}
    rows = tx.all(
        sa.select(group_members)
        .join(servers, servers.c.id == group_members.c.server_id)
        .where(group_members.c.group_id.in_(list(group_ids)), servers.c.deleted_at.is_(None))
        .order_by(servers.c.created_at, servers.c.id)
    )
    for row in rows:
        members[row.group_id].append(row.server_id)
    return members


def groups_of(tx: Tx, server_ids: Sequence[str]) -> dict[str, str]:
    """Give the group of each of some servers that is in one."""
    rows = tx.all(sa.select(group_members).where(group_members.c.server_id.in_(list(server_ids))))
    return {row.server_id: row.group_id for row in rows}


def join_group(tx: Tx, group_id: str, principal: Principal, *, server_ids: Sequence[str]) -> Row:
    """Put new servers into a group; give the group. Transaction function.

    Raises:
        Invalid: the caller's project has no such group.
        Exhausted: the group would have more servers than the quota allows.
    """
    group = find_group(tx, group_id, principal)
    if group is None:
        raise Invalid(f"Instance group {group_id[:64]} could not be found.")
    limit = limits_of(tx, group.project_id)["server_group_members"]
    count = len(members_of(tx, [group_id])[group_id]) + len(server_ids)
    if limit != UNLIMITED and count > limit:
        raise Exhausted("Quota exceeded, too many servers in group", limit=limit)
    tx.insert_many(
        group_members,
        [{"group_id": group_id, "server_id": server_id} for server_id in server_ids],
    )
    return group


def delete_group(tx: Tx, group_id: str) -> None:
    """Delete a group; its servers stay."""
    tx.delete(group_members, group_id=group_id)
    tx.delete(server_groups, id=group_id)
