"""A delete is asked for while no cell has a server, and a cell accepts the server meanwhile."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from xenith.cells.changes import Batch
from xenith.cells.intents import ABSENT, CONFIRM, Intent, Verdict
from xenith.compute.records import quotas
from xenith.compute.records.instances import instances
from xenith.compute.records.servers import servers

pytestmark = pytest.mark.slow


async def test_a_delete_without_a_target_follows_the_server_to_the_cell_that_just_accepted_it(
    tree_of_cells: ModuleType,
):
    async with tree_of_cells.small_tree("1x2") as tree:
        node = tree.root.node
        hear, pump_once = node.routing.hear, node.routing.pump_once
        held: list[tuple[Any, Any]] = []

        async def hold(child: Any, verdicts: Any) -> set[str]:
            held.extend((child, each) for each in verdicts if each.is_final)
            return {each.id for each in verdicts}

        async def rest() -> int:
            return 0

        async def lose(_group: Any) -> None:
            return None

        # Nor have the cell's rows come up yet.
        handlers = [each.link._handlers for each in node.children.values()]
        changes = [each.pop(Batch) for each in handlers]
        for each in handlers:
            each[Batch] = lose
        node.routing.hear = hold
        request = tree_of_cells.ServerRequest(
            name="web", image_ref=tree_of_cells.IMAGE_ID, flavor_ref=tree_of_cells.MICRO, nics=()
        )
        service = tree.root.service.servers
        made = await service.create(tree_of_cells.ADMIN, request, request_id="req-1")
        (server_id,) = made.ids

        async def is_held() -> bool:
            return bool(held)

        await tree.until(is_held)
        # The delete is written down, and before it is looked at the cell's yes is.
        node.routing.pump_once = rest
        await service.delete(tree_of_cells.ADMIN, server_id, request_id="req-2")
        node.routing.hear = hear
        child, verdict = held[0]
        await node.routing.hear(child, [verdict])
        server = await tree.root.db.read(lambda tx: tx.get(servers, id=server_id))
        assert server.cell_id == child
        node.routing.pump_once = pump_once
        await node.routing.pump_once()
        for each, handler in zip(handlers, changes, strict=True):
            each[Batch] = handler

        async def is_gone() -> bool:
            server = await tree.root.db.read(lambda tx: tx.get(servers, id=server_id))
            return server.deleted_at is not None

        await tree.until(is_gone)
        leaf = next(cell for cell in tree.cells.values() if cell.id == child)

        async def is_deleted() -> bool:
            (row,) = await leaf.db.read(lambda tx: tx.list(instances, id=server_id))
            return row.vm_state == "deleted" and row.host_id is None

        await tree.until(is_deleted)


async def test_a_delete_that_overtook_the_word_to_begin_ends_the_server(tree_of_cells: ModuleType):
    async with tree_of_cells.small_tree("1x2") as tree:
        node = tree.root.node

        async def rest() -> int:
            return 0

        server_id = await tree.build()
        node.routing.pump_once = rest
        await tree.root.service.servers.delete(tree_of_cells.ADMIN, server_id, request_id="req-2")
        confirm = Intent(
            id="c",
            subject=server_id,
            number=0,
            kind=CONFIRM,
            body=b"\x80",
            request_id="req-1",
            created_at=tree.world.clock.now(),
        )
        absent = Verdict(id="c", answer=ABSENT, detail="it was let go")
        await tree.root.db.run(lambda tx: node.origin.answered(tx, confirm, absent))
        server = await tree.root.db.read(lambda tx: tx.get(servers, id=server_id))
        assert server.deleted_at is not None
        assert server.pending_task_state is None
        usage = await tree.root.db.read(quotas.usage_of, server.project_id)
        assert usage["instances"] == 0
