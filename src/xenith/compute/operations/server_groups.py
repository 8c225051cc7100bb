"""Server groups as tenants handle them."""

from __future__ import annotations

import msgspec

from xenith.compute.operations.context import Context
from xenith.compute.records.quotas import UNLIMITED, limits_of
from xenith.compute.records.server_groups import (
    count_groups,
    delete_group,
    find_group,
    list_groups,
    members_of,
    server_groups,
)
from xenith.core.errors import Exhausted, Invalid, NotFound
from xenith.db import Row, Tx
from xenith.http import Principal


class GroupView(msgspec.Struct, frozen=True):
    """A group with the ids of its servers."""

    group: Row
    members: list[str]


class ServerGroups:
    """Operations on server groups."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def list(
        self, principal: Principal, *, is_all: bool = False, offset: int = 0, limit: int
    ) -> list[GroupView]:
        """List the groups of the caller's project, or of all."""

        def read(tx: Tx) -> list[GroupView]:
            project_id = None if is_all else principal.project_id or ""
            rows = list_groups(tx, project_id, offset=offset, limit=limit)
            members = members_of(tx, [row.id for row in rows])
            return [GroupView(row, members[row.id]) for row in rows]

        return await self._context.db.read(read)

    async def get(self, principal: Principal, group_id: str) -> GroupView:
        """Get one group.

        Raises:
            NotFound: there is none, or it is another project's.
        """

        def read(tx: Tx) -> GroupView:
            row = _get(tx, group_id, principal)
            return GroupView(row, members_of(tx, [group_id])[group_id])

        return await self._context.db.read(read)

    async def create(
        self, principal: Principal, *, name: str, policy: str, max_server_per_host: int | None
    ) -> GroupView:
        """Make a group.

        Raises:
            Exhausted: the project has as many as its quota allows.
            Invalid: the rule does not go with the policy.
        """
        if max_server_per_host is not None and policy != "anti-affinity":
            raise Invalid("Only anti-affinity policy supports rules.")
        world = self._context.world

        def insert(tx: Tx) -> GroupView:
            limit = limits_of(tx, principal.project)["server_groups"]
            if limit != UNLIMITED and count_groups(tx, principal.project) >= limit:
                raise Exhausted("Quota exceeded, too many server groups.", limit=limit)
            group_id = world.ids.uuid()
            tx.insert(
                server_groups,
                {
                    "id": group_id,
                    "project_id": principal.project,
                    "user_id": principal.user_id,
                    "name": name,
                    "policy": policy,
                    "rules": {}
                    if max_server_per_host is None
                    else {"max_server_per_host": max_server_per_host},
                    "created_at": world.clock.now(),
                },
            )
            return GroupView(tx.get(server_groups, id=group_id), [])

        return await self._context.db.run(insert)

    async def delete(self, principal: Principal, group_id: str) -> None:
        """Delete a group; its servers stay where they are."""

        def delete(tx: Tx) -> None:
            _get(tx, group_id, principal)
            delete_group(tx, group_id)

        await self._context.db.run(delete)


def _get(tx: Tx, group_id: str, principal: Principal) -> Row:
    row = find_group(tx, group_id, principal)
    if row is None:
        raise NotFound(f"Instance group {group_id[:64]} could not be found.")
    return row
