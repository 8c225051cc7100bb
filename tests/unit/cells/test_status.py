"""What cells say of themselves, and projections that are made anew over links that lose."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

import msgspec
import pytest

from xenith.cells.changes import Place
from xenith.cells.messages import ChangesAck
from xenith.cells.rebuilding import rebuild
from xenith.cells.status import CellStatus, status_of
from xenith.core.errors import NotFound, Unavailable

pytestmark = pytest.mark.slow


@pytest.fixture
async def tree(tree_of_cells: ModuleType) -> AsyncIterator[Any]:
    """A root, a region below it, and two leaves with a host each."""
    async with tree_of_cells.small_tree("1x1x2") as made:
        yield made


async def asked(tree: Any, name: str) -> CellStatus:
    told = await tree.root.node.ask(tree.id_of(name), "status", {})
    return msgspec.convert(told, CellStatus)


async def test_every_cell_answers_for_itself_with_hosts_or_without(tree: Any):
    await tree.build(target_cell="r1-c1")
    leaf, router, root = [await asked(tree, name) for name in ("r1-c1", "r1", "api")]
    assert [each.has_hosts for each in (leaf, router, root)] == [True, False, False]
    assert (leaf.host_count, leaf.server_count, leaf.decisions) == (1, 1, 1)
    assert (router.host_count, router.decisions) == (2, 1)
    assert leaf.number > 0
    assert router.number == 0
    assert leaf.session != router.session
    assert [link.peer for link in leaf.parents] == [tree.id_of("r1")]
    assert sorted(link.peer for link in router.children) == sorted(router.ages)
    assert all(link.is_open and link.is_alive for link in (*router.children, *router.parents))
    assert root.parents == ()


async def test_the_answer_of_a_newer_cell_is_read_as_far_as_it_is_known(tree: Any):
    told = msgspec.to_builtins(await status_of(tree.root.node))
    newer = {**told, "mood": "fine", "children": [{**told["children"][0], "colour": "blue"}]}
    assert msgspec.convert(newer, CellStatus).cell_id == tree.plan.root
    assert msgspec.convert({"cell_id": "c"}, CellStatus).children == ()


async def test_a_cell_without_hosts_has_no_other_answers(tree: Any):
    with pytest.raises(NotFound, match="has no hosts"):
        await tree.root.node.ask(tree.id_of("r1"), "console_log", {})


async def test_a_cell_that_is_gone_does_not_answer(tree: Any):
    await tree.stop_cell("r1-c2")
    with pytest.raises(Unavailable):
        await tree.root.node.ask(tree.id_of("r1-c2"), "status", {}, timeout_s=0.5)


async def test_a_child_that_did_not_hear_is_told_again_where_its_parent_stands(tree: Any):
    server_id = await tree.build(target_cell="r1-c1")
    leaf, node = tree.id_of("r1-c1"), tree.root.node
    link = node.children[tree.id_of("r1")].link
    post, lost = link.post, []

    def losing(message: Any) -> bool:
        if isinstance(message, ChangesAck) and message.place == Place() and not lost:
            lost.append(message)
            return True
        return bool(post(message))

    link.post = losing
    found = await rebuild(node, leaf, timeout_s=60)
    assert [message.origin for message in lost] == [leaf]
    assert found.whole == (leaf,)
    assert (await tree.instance(server_id)).vm_state == "active"


async def test_a_cell_rebuilds_all_below_itself(tree: Any):
    node = tree.cells["r1"].node
    found = await rebuild(node, node.cell_id, timeout_s=60)
    assert set(found.whole) == {tree.id_of("r1-c1"), tree.id_of("r1-c2")}
    assert (found.coming, found.untouched) == ((), ())


async def test_a_cell_that_is_not_below_is_none_of_its_business(tree: Any):
    node = tree.cells["r1"].node
    found = await rebuild(node, tree.plan.root, timeout_s=1)
    assert tree.plan.root not in {*found.whole, *found.coming, *found.untouched}
    leaf = tree.cells["r1-c1"].node
    assert (await rebuild(leaf, tree.id_of("r1-c2"), timeout_s=1)).whole == ()
