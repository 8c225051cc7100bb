"""Questions go down to one cell and answers come back, in time or not at all."""

from __future__ import annotations

import asyncio

import pytest

from xenith.cells import questions as module
from xenith.cells.messages import Ask, Reply
from xenith.core.errors import NotFound, Unavailable
from xenith.core.ids import CellId

DEEP = {"api": (), "r1": ("api",), "r2": ("r1",), "c1": ("r2",), "c2": ("r1",)}
DIAMOND = {"api": (), "r1": ("api",), "r2": ("api",), "c1": ("r1", "r2")}
C1 = CellId("c1")


def on_a_tree(nodes, work, shape=DEEP):
    async def scenario(simulation):
        async with nodes.Tree(simulation, shape) as tree:
            await tree.start()
            await tree.ready()
            await work(tree, tree.nodes["api"])

    nodes.play(scenario)


def test_a_question_goes_through_two_hops_and_its_answer_comes_back(nodes):
    async def work(tree, api):
        assert await api.ask(C1, "echo", {"x": 1}) == {"cell": "c1", "x": 1}
        assert await api.ask(CellId("c2"), "echo", {}) == {"cell": "c2"}

    on_a_tree(nodes, work)


def test_a_cell_answers_itself_without_a_link(nodes):
    async def work(tree, api):
        count = tree.air.count
        assert await tree.nodes["c1"].ask(C1, "echo", {}) == {"cell": "c1"}
        assert tree.air.count == count

    on_a_tree(nodes, work)


def test_the_class_and_the_words_of_an_error_are_carried(nodes):
    async def work(tree, api):
        with pytest.raises(NotFound, match="there is no such thing"):
            await api.ask(C1, "missing", {})
        with pytest.raises(NotFound, match="has no hosts"):
            await api.ask(CellId("r1"), "echo", {})

    on_a_tree(nodes, work)


def test_a_mistake_of_the_cells_own_is_told_as_unavailable_without_its_words(nodes):
    async def work(tree, api):
        with pytest.raises(Unavailable) as told:
            await api.ask(C1, "break", {})
        assert "mistake" not in told.value.message
        assert await api.ask(C1, "echo", {}) == {"cell": "c1"}

    on_a_tree(nodes, work)


def test_an_answer_that_is_too_long_for_a_link_is_told_as_such(nodes):
    async def work(tree, api):
        with pytest.raises(Unavailable, match="too long"):
            await api.ask(C1, "long", {"bytes": module.PARTS_MAX * module.PART_BYTES + 1})

    on_a_tree(nodes, work)


def test_an_answer_above_a_frame_comes_in_parts_and_whole(nodes):
    async def work(tree, api):
        size = 5 * 1024 * 1024 + 7
        longs = (api.ask(C1, "long", {"bytes": size}, timeout_s=30) for _ in range(2))
        answers = await asyncio.gather(*longs, api.ask(C1, "echo", {}))
        assert [len(answer) for answer in answers[:2]] == [size, size]
        assert api.questions._asked == {}
        for name in ("r1", "r2"):
            assert tree.nodes[name].questions._passed == {}

    on_a_tree(nodes, work)


@pytest.mark.parametrize(
    ("heard", "said"),
    [
        ([(1, 2, b"b"), (0, 2, b"a")], b"ab"),
        ([(0, 2, b"a"), (0, 2, b"a"), (1, 2, b"b"), (1, 2, b"c")], b"ab"),
        ([(0, 1, b"")], b""),
        ([(0, 2, b"a")], None),
        ([(2, 2, b"a"), (-1, 1, b"a"), (0, 0, b"a"), (0, 10**6, b"a")], None),
    ],
)
async def test_parts_come_in_any_order_twice_and_with_numbers_that_are_none(heard, said):
    asked = module.Asked()
    for part, parts, body in heard:
        asked.hear(Reply(id="q", body=body, part=part, parts=parts))
    assert asked.reply.done() == (said is not None)
    if said is not None:
        assert asked.reply.result().body == said


def test_who_gets_no_answer_waits_no_longer_than_they_said(nodes):
    async def work(tree, api):
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(Unavailable, match="did not answer within 3 s"):
            await api.ask(C1, "never", {}, timeout_s=3.0)
        assert loop.time() - began == pytest.approx(3.0, abs=0.1)
        assert api.questions._asked == {}

    on_a_tree(nodes, work)


def test_a_cell_that_is_not_below_cannot_be_asked(nodes):
    async def work(tree, api):
        for name in ("nobody", ""):
            with pytest.raises(Unavailable, match="cannot be reached"):
                await api.ask(CellId(name), "echo", {})
        with pytest.raises(Unavailable, match="cannot be reached"):
            await tree.nodes["r2"].ask(CellId("c2"), "echo", {})

    on_a_tree(nodes, work)


def test_questions_pass_by_a_parent_that_is_alive(nodes):
    async def work(tree, api):
        tree.air.part("api", "r1")
        await asyncio.sleep(10)
        assert await api.ask(C1, "echo", {}) == {"cell": "c1"}
        tree.air.join("api", "r1")
        await asyncio.sleep(5)
        tree.air.part("api", "r2")
        await asyncio.sleep(10)
        assert await api.ask(C1, "echo", {}) == {"cell": "c1"}

    on_a_tree(nodes, work, DIAMOND)


def test_what_was_not_answered_is_forgotten_by_those_between(nodes):
    async def work(tree, api):
        for _ in range(5):
            with pytest.raises(Unavailable):
                await api.ask(C1, "never", {}, timeout_s=1.0)
        await asyncio.sleep(2)
        await api.ask(C1, "echo", {})
        assert len(tree.nodes["r1"].questions._passed) == 0

    on_a_tree(nodes, work)


def test_no_more_questions_are_passed_on_or_answered_than_the_limit(nodes, monkeypatch):
    monkeypatch.setattr(module, "QUESTIONS_MAX", 3)

    async def work(tree, api):
        asked = [asyncio.ensure_future(api.ask(C1, "never", {}, timeout_s=9)) for _ in range(5)]
        await asyncio.sleep(1)
        refused = [one for one in asked if one.done()]
        assert len(refused) == 2
        assert len(tree.nodes["r1"].questions._passed) == 3
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(one) for one in found} == {Unavailable}
        await asyncio.sleep(0.1)
        # What nobody waits for any more is not worked on any more.
        assert tree.nodes["c1"].questions._tasks.task_count == 0
        assert await api.ask(C1, "echo", {}) == {"cell": "c1"}

    on_a_tree(nodes, work)


@pytest.mark.slow
@pytest.mark.parametrize("timeout_s", [float("inf"), 1e300, float("nan"), -1.0])
def test_nobody_is_waited_for_without_end(nodes, timeout_s):
    async def work(tree, api):
        router = tree.nodes["r1"]
        ask = Ask(id="q", target="c1", method="never", body=b"\x80", timeout_s=timeout_s)
        router.questions.take(CellId("api"), ask)
        await asyncio.sleep(module.TIMEOUT_MAX_S + 1)
        router.questions.take(CellId("api"), Ask(**{**_fields(ask), "id": "q2", "timeout_s": 1.0}))
        assert set(router.questions._passed) <= {"q2"}

    on_a_tree(nodes, work)


def _fields(struct):
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def test_an_answer_to_nobodys_question_is_let_pass(nodes):
    async def work(tree, api):
        api.questions.hear(Reply(id="never asked"))
        assert api.questions._asked == {}

    on_a_tree(nodes, work)


def test_a_body_that_is_no_msgpack_is_answered_with_an_error(nodes):
    async def work(tree, api):
        said = []
        tree.air.listeners.append(
            lambda spoken: said.extend(m for m in spoken.messages if m["type"] == "reply")
        )
        ask = Ask(id="q", target="c1", method="echo", body=b"\xc1", timeout_s=5.0)
        tree.nodes["c1"].questions.take(CellId("r2"), ask)
        await asyncio.sleep(1)
        assert [reply["error"] for reply in said] == ["Invalid"]

    on_a_tree(nodes, work)
