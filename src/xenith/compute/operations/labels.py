"""What tenants hang on a server: metadata and tags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xenith.compute.operations.context import Context
from xenith.compute.operations.requests import checked_metadata
from xenith.compute.operations.servers import get_view, refuse_locked
from xenith.compute.records.servers import update_server
from xenith.core.errors import Conflict, Invalid, NotFound
from xenith.core.limits import SERVER_TAGS_MAX
from xenith.db import Row, Tx
from xenith.http import Principal

#: States in which labels may change. Source: Compute API guide, "set, delete metadata".
_METADATA_STATES = frozenset(("active", "paused", "suspended", "stopped"))
_TAG_STATES = frozenset(("active", "paused", "suspended", "stopped"))


class ServerLabels:
    """Operations on the metadata and tags of servers."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def metadata(self, principal: Principal, server_id: str) -> dict[str, str]:
        """Give all items."""
        view = await self._context.db.read(get_view, server_id, principal)
        items: dict[str, str] = view.server.metadata
        return items

    async def metadata_item(self, principal: Principal, server_id: str, key: str) -> str:
        """Give one item."""
        items = await self.metadata(principal, server_id)
        if key not in items:
            raise NotFound("Metadata item was not found")
        return items[key]

    async def change_metadata(
        self, principal: Principal, server_id: str, items: dict[str, str], *, is_replacing: bool
    ) -> dict[str, str]:
        """Add items to what there is, or put them in its place."""

        def changed(row: Row) -> dict[str, str]:
            return checked_metadata(items if is_replacing else {**row.metadata, **items})

        kept: dict[str, str] = await self._change(
            principal, server_id, "metadata", changed, _METADATA_STATES
        )
        return kept

    async def delete_metadata_item(self, principal: Principal, server_id: str, key: str) -> None:
        """Remove one item."""

        def changed(row: Row) -> dict[str, str]:
            if key not in row.metadata:
                raise NotFound("Metadata item was not found")
            return {name: value for name, value in row.metadata.items() if name != key}

        await self._change(principal, server_id, "metadata", changed, _METADATA_STATES)

    async def tags(self, principal: Principal, server_id: str) -> list[str]:
        """Give all tags, in order."""
        view = await self._context.db.read(get_view, server_id, principal)
        tags: list[str] = view.server.tags
        return tags

    async def replace_tags(
        self, principal: Principal, server_id: str, tags: list[str]
    ) -> list[str]:
        """Put these tags in place of those there are."""
        kept: list[str] = await self._change(
            principal, server_id, "tags", lambda _row: sorted(set(tags)), _TAG_STATES
        )
        return kept

    async def add_tag(self, principal: Principal, server_id: str, tag: str) -> bool:
        """Add a tag; tell whether it is new."""
        if not 1 <= len(tag) <= 60 or "/" in tag or "," in tag:
            raise Invalid(f"Tag '{tag[:64]}' is invalid: 1 to 60 characters without '/' and ','")
        had: list[bool] = []

        def changed(row: Row) -> list[str]:
            had[:] = [tag in row.tags]
            tags = sorted({*row.tags, tag})
            if len(tags) > SERVER_TAGS_MAX:
                raise Invalid(f"The number of tags exceeded the per-server limit {SERVER_TAGS_MAX}")
            return tags

        await self._change(principal, server_id, "tags", changed, _TAG_STATES)
        return not had[0]

    async def delete_tag(self, principal: Principal, server_id: str, tag: str) -> None:
        """Remove a tag."""

        def changed(row: Row) -> list[str]:
            if tag not in row.tags:
                raise NotFound(f"Server {server_id} has no tag '{tag[:64]}'")
            return [name for name in row.tags if name != tag]

        await self._change(principal, server_id, "tags", changed, _TAG_STATES)

    async def _change(
        self,
        principal: Principal,
        server_id: str,
        column: str,
        changed: Callable[[Row], Any],
        vm_states: frozenset[str],
    ) -> Any:
        def change(tx: Tx) -> Any:
            view = get_view(tx, server_id, principal)
            if column == "metadata":
                refuse_locked(view, principal)
            if view.vm_state not in vm_states:
                raise Conflict(
                    f"Cannot 'change {column}' of instance {server_id} while it is in vm_state "
                    f"{view.vm_state}"
                )
            value = changed(view.server)
            update_server(
                tx, server_id, now_s=self._context.world.clock.now(), values={column: value}
            )
            return value

        return await self._context.db.run(change)
