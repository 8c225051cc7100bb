"""A node writes down, passes on and answers; what is in its memory can be lost at any time."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from xenith.cells import intents as rows
from xenith.cells.choosing import Wanted
from xenith.cells.intents import (
    ABSENT,
    BUILD,
    CONFIRM,
    DELETE,
    DONE,
    FENCE,
    NO,
    TAKEN,
    YES,
    Intent,
    Verdict,
    verdict_of,
)
from xenith.cells.messages import Intents, Verdicts
from xenith.core.errors import Unavailable
from xenith.core.ids import CellId

PAIR = {"api": (), "c1": ("api",)}
TWO = {"api": (), "c1": ("api",), "c2": ("api",)}
DEEP = {"api": (), "r1": ("api",), "c1": ("r1",), "c2": ("r1",)}
WANTED = Wanted(ram_mib=512, vcpus=1, disk_gib=1, project_id="p")


def build(which=1, **fields):
    values = {
        "id": f"b{which}.1",
        "subject": f"s{which}",
        "number": 1,
        "kind": BUILD,
        "body": msgspec.msgpack.encode({"what": which}),
        "wanted": WANTED,
        **fields,
    }
    return Intent(**values)


def fence(of, number=1):
    body = msgspec.msgpack.encode({"build": of})
    return Intent(id=f"f-{of}.{number}", subject="s1", number=0, kind=FENCE, body=body)


def on_a_leaf(nodes, work, **options):
    """Run ``work(tree, leaf)`` on a leaf whose parent says nothing by itself."""

    async def scenario(simulation):
        async with nodes.Tree(simulation, PAIR, **options) as tree:
            await tree.start("c1")
            await work(tree, tree.nodes["c1"])

    nodes.play(scenario)


def on_a_tree(nodes, shape, work, **options):
    """Run ``work(tree)`` on a tree whose cells know each other."""

    async def scenario(simulation):
        async with nodes.Tree(simulation, shape, **options) as tree:
            await tree.start()
            await tree.ready()
            await work(tree)

    nodes.play(scenario)


async def receive(leaf, *intents):
    said = await leaf.routing.receive(CellId("api"), list(intents))
    return {verdict.id: verdict for verdict in said}


# -- what this cell asks


def test_what_is_rolled_back_asks_for_nothing(nodes):
    async def work(tree):
        node = tree.nodes["api"]

        def fail(tx):
            nodes.wish(node, tx, "a")
            raise RuntimeError

        with pytest.raises(RuntimeError):
            await node.db.run(fail)
        await asyncio.sleep(5)
        assert await tree.rows("api", rows.intents) == []
        assert await tree.rows("c1", rows.intents) == []

    on_a_tree(nodes, PAIR, work)


def test_what_is_asked_survives_the_death_of_who_asked(nodes):
    async def work(tree):
        await tree.stop("c1")
        await tree.wish("a")
        await tree.restart("api")
        await tree.start("c1")
        await tree.reaches("a", "owned")
        await tree.settle()
        assert (await tree.thing("c1", "a")).begun == 1

    on_a_tree(nodes, PAIR, work)


def test_an_intent_of_this_cells_own_is_gone_when_it_is_answered(nodes):
    async def work(tree):
        await tree.wish("a")
        await tree.reaches("a", "owned")
        await tree.settle()
        assert await tree.rows("api", rows.intents) == []
        # A child keeps its answers for a while, in case it is asked again.
        assert {row.kind for row in await tree.rows("c1", rows.intents)} == {BUILD, CONFIRM}

    on_a_tree(nodes, PAIR, work)


# -- what a parent asks


def test_a_replay_is_answered_as_before_and_not_applied(nodes):
    async def work(tree, leaf):
        first = await receive(leaf, build())
        again = await receive(leaf, build())
        assert first == again
        assert first["b1.1"].answer == YES
        assert leaf.executor.applied == ["b1.1"]
        assert leaf.counts["replayed"] == 1
        assert leaf.executor.held == {"s1"}

    on_a_leaf(nodes, work)


def test_a_replay_is_known_after_a_restart(nodes):
    async def work(tree, leaf):
        first = await receive(leaf, build())
        await tree.restart("c1")
        leaf = tree.nodes["c1"]
        assert await receive(leaf, build()) == first
        assert leaf.executor.applied == []

    on_a_leaf(nodes, work)


def test_the_same_intent_twice_in_one_batch_is_applied_once(nodes):
    async def work(tree, leaf):
        said = await leaf.routing.receive(CellId("api"), [build(), build()])
        assert [verdict.answer for verdict in said] == [YES, YES]
        assert leaf.executor.applied == ["b1.1"]

    on_a_leaf(nodes, work)


def test_what_memory_took_for_a_replay_is_given_back(nodes):
    async def work(tree, leaf):
        await receive(leaf, build())
        await receive(leaf, Intent(id="d1", subject="s1", number=2, kind=DELETE, body=b"\x80"))
        assert leaf.executor.held == set()
        await receive(leaf, build())
        assert leaf.executor.held == set()

    on_a_leaf(nodes, work)


def test_a_router_says_that_it_has_taken_what_it_passes_on(nodes):
    async def scenario(simulation):
        async with nodes.Tree(simulation, DEEP) as tree:
            await tree.start("r1")
            said = await tree.nodes["r1"].routing.receive(CellId("api"), [build()])
            assert [verdict.answer for verdict in said] == [TAKEN]

    nodes.play(scenario)


def test_what_names_a_cell_that_is_not_below_is_absent(nodes):
    async def scenario(simulation):
        async with nodes.Tree(simulation, {**DEEP, "c9": ("api",)}) as tree:
            await tree.start("r1")
            for target in ("c9", "nobody", "api", ""):
                intent = build(target=target, kind="set", id=f"i-{target}")
                (said,) = await tree.nodes["r1"].routing.receive(CellId("api"), [intent])
                assert (said.answer, "not below" in said.detail) == (ABSENT, True)

    nodes.play(scenario)


def test_a_no_takes_a_build_to_the_next_cell(nodes):
    async def work(tree):
        tree.nodes["c1"].executor.slots = 0
        await tree.wish("a", wanted=msgspec.structs.replace(WANTED, different_cells=()))
        owned = await tree.reaches("a", "owned")
        assert owned.cell_id == "c2"
        await tree.settle()
        assert await tree.thing("c1", "a") is None

    on_a_tree(nodes, TWO, work)


def test_a_cell_may_name_another_to_try(nodes):
    shape = {"api": (), **{f"c{n}": ("api",) for n in range(1, 7)}}

    async def work(tree):
        for name in tree.leaves:
            tree.nodes[name].executor.slots = 0
            tree.nodes[name].executor.hint = "c6"
        tree.nodes["c6"].executor.slots = 10
        asked = []
        tree.air.listeners.append(
            lambda spoken: "intents" in spoken.kinds and asked.append(spoken.receiver)
        )
        await tree.wish("a")
        assert (await tree.reaches("a", "owned")).cell_id == "c6"
        assert len(asked) <= 4, "two tries and a confirm, not all six"

    on_a_tree(nodes, shape, work)


def test_when_every_cell_says_no_the_reasons_are_told(nodes):
    async def work(tree):
        for name in tree.leaves:
            tree.nodes[name].executor.slots = 0
        await tree.wish("a")
        failed = await tree.reaches("a", "failed")
        assert failed.reason == "It is full."
        assert "cell c1: " in failed.detail
        assert "cell c2: " in failed.detail
        assert await tree.is_settled()

    on_a_tree(nodes, TWO, work)


# -- fences


@pytest.mark.parametrize("is_early", [True, False])
def test_a_fenced_build_never_begins_whether_the_fence_comes_first_or_last(nodes, is_early):
    async def work(tree, leaf):
        confirm = Intent(
            id="c",
            subject="s1",
            number=0,
            kind=CONFIRM,
            body=msgspec.msgpack.encode({"build": "b1.1"}),
        )
        order = [fence("b1.1"), build()] if is_early else [build(), fence("b1.1")]
        for intent in order:
            said = await receive(leaf, intent)
        if is_early:
            assert said["b1.1"].answer == NO
        assert (await receive(leaf, build()))["b1.1"].answer == NO
        assert (await receive(leaf, confirm))["c"].answer == ABSENT
        found = await tree.thing("c1", "s1")
        assert found is None or (found.begun, found.is_gone) == (0, True)
        assert leaf.executor.held == set()

    on_a_leaf(nodes, work)


def test_a_fence_for_one_attempt_leaves_the_next_one_alone(nodes):
    async def work(tree, leaf):
        await receive(leaf, build())
        second = build(id="b1.2")
        assert (await receive(leaf, second))["b1.2"].answer == YES
        await receive(leaf, fence("b1.1"))
        assert leaf.executor.held == {"s1"}
        body = msgspec.msgpack.encode({"build": "b1.2"})
        confirm = Intent(id="c", subject="s1", number=0, kind=CONFIRM, body=body)
        assert (await receive(leaf, confirm))["c"].answer == DONE
        assert (await tree.thing("c1", "s1")).begun == 1

    on_a_leaf(nodes, work)


def test_a_fence_goes_down_to_where_the_build_is(nodes):
    async def work(tree):
        await tree.wish("a")
        await tree.reaches("a", "owned")
        await tree.settle()

    async def lost(tree):
        # The root hears of no verdict, and has the build deleted meanwhile.
        tree.air.loses = lambda spoken: spoken.receiver == "api" and "verdicts" in spoken.kinds
        await tree.wish("a")
        await tree.until(lambda: tree.nodes["c1"].executor.held or tree.nodes["c2"].executor.held)
        await tree.order("a", DELETE)
        tree.air.loses = lambda _: False
        await tree.settle()
        assert not tree.nodes["c1"].executor.held
        assert not tree.nodes["c2"].executor.held
        for name in tree.leaves:
            found = await tree.thing(name, "a")
            assert found is None or (found.begun, found.is_gone) == (0, True)

    on_a_tree(nodes, DEEP, work)
    on_a_tree(nodes, DEEP, lost)


def test_a_fence_does_not_take_back_what_was_confirmed(nodes):
    async def work(tree, leaf):
        await receive(leaf, build())
        body = msgspec.msgpack.encode({"build": "b1.1"})
        await receive(leaf, Intent(id="c", subject="s1", number=0, kind=CONFIRM, body=body))
        await receive(leaf, fence("b1.1"))
        found = await tree.thing("c1", "s1")
        assert (found.begun, found.is_gone) == (1, False)

    on_a_leaf(nodes, work)


def test_a_build_that_is_deleted_before_any_cell_took_it_waits_for_nobody(nodes):
    async def work(tree):
        await tree.stop("c1")
        await tree.wish("a")
        await tree.order("a", DELETE)
        await asyncio.sleep(3)
        assert (await tree.wished("a")).state == "gone"
        left = await tree.open_intents("api")
        assert [row.kind for row in left] in ([], [FENCE])
        await tree.start("c1")
        await tree.settle()
        found = await tree.thing("c1", "a")
        assert found is None or found.is_gone

    on_a_tree(nodes, PAIR, work)


# -- time


def test_a_build_past_its_deadline_is_refused_where_it_arrives(nodes):
    async def work(tree, leaf):
        now = leaf.world.clock.now()
        said = await receive(leaf, build(deadline_at=now - 31), build(2, deadline_at=now - 29))
        assert (said["b1.1"].answer, said["b2.1"].answer) == (NO, YES)
        assert leaf.counts["past_deadline"] == 1
        assert leaf.executor.applied == ["b2.1"]

    on_a_leaf(nodes, work)


def test_a_build_that_no_cell_takes_in_time_ends_with_a_reason(nodes):
    async def work(tree):
        tree.air.part("api", "c1")
        await tree.wish("a", life_s=30.0)
        failed = await tree.reaches("a", "failed")
        assert "No cell took the request in time." in failed.reason
        tree.air.join("api", "c1")
        await tree.settle()
        found = await tree.thing("c1", "a")
        assert found is None or (found.begun, found.is_gone) == (0, True)

    on_a_tree(nodes, PAIR, work)


def test_a_build_moves_from_a_child_that_has_died(nodes):
    async def work(tree):
        tree.nodes["c2"].executor.slots = 0
        await asyncio.sleep(3)
        # The first child takes it, and is never heard again.
        tree.air.cut.add(("c1", "api"))
        await tree.wish("a")
        await asyncio.sleep(1)
        tree.nodes["c2"].executor.slots = 10
        owned = await tree.reaches("a", "owned")
        assert owned.cell_id == "c2"
        assert tree.nodes["api"].counts["moved"] == 1
        tree.air.cut.clear()
        await tree.settle()
        assert tree.nodes["c1"].executor.held == set()
        assert (await tree.thing("c1", "a")).begun == 0
        assert (await tree.thing("c2", "a")).begun == 1

    on_a_tree(nodes, TWO, work)


def test_builds_move_also_when_much_else_waits_for_the_dead_child(nodes):
    async def work(tree):
        tree.nodes["c2"].executor.slots = 0
        for number in range(5):
            await tree.wish(f"old{number}")
        await tree.until(lambda: len(tree.nodes["c1"].executor.held) == 5)
        await tree.settle()
        await asyncio.sleep(3)
        tree.air.part("api", "c1")
        for number in range(100):
            await tree.order(f"old{number % 5}", "set", value="x")
        await tree.wish("a")
        await asyncio.sleep(1)
        tree.nodes["c2"].executor.slots = 10
        assert (await tree.reaches("a", "owned")).cell_id == "c2"
        tree.air.join("api", "c1")
        await tree.settle()

    on_a_tree(nodes, TWO, work)


def test_a_verdict_that_is_lost_after_an_intent_was_taken_is_asked_for_until_it_comes(nodes):
    async def work(tree):
        lost = []

        def loses(spoken):
            is_final = any(
                item["answer"] != TAKEN
                for message in spoken.messages
                if message["type"] == "verdicts"
                for item in message["items"]
            )
            if is_final and spoken.receiver == "api" and len(lost) < 4:
                lost.append(spoken)
                return True
            return False

        tree.air.loses = loses
        await tree.wish("a")
        await tree.reaches("a", "owned", timeout_s=300)
        assert len(lost) == 4

    on_a_tree(nodes, DEEP, work)


def test_taken_said_twice_does_not_end_the_asking(nodes):
    async def work(tree):
        child = tree.nodes["api"].children["r1"]
        tree.air.loses = lambda spoken: spoken.receiver == "api" and "verdicts" in spoken.kinds
        await tree.wish("a")
        await tree.until(lambda: child._sent)
        (hop,) = child._sent
        taken = Verdicts([Verdict(id=hop, answer=TAKEN)])
        await child._hear_verdicts([taken])
        await child._hear_verdicts([taken])
        assert child.open_count == 1
        tree.air.loses = lambda _: False
        await tree.reaches("a", "owned")

    on_a_tree(nodes, DEEP, work)


# -- wrong ones


WRONG = {
    "fails": build(9, kind="fail", number=2),
    "not msgpack": build(9, body=b"\xc1\xff"),
    "nothing to set": build(9, kind="set", number=2),
    "huge": build(9, number=2**63),
    "no such fence": Intent(id="w", subject="s9", number=0, kind=FENCE, body=b"\x80"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("is_alone", [True, False])
def test_a_wrong_intent_stands_alone_and_is_answered_no(nodes, wrong, is_alone):
    async def work(tree, leaf):
        await receive(leaf, build(9, id="b9.1"))
        others = [] if is_alone else [build(1), build(2)]
        wrong_one = msgspec.structs.replace(wrong, id="wrong")
        said = await receive(leaf, *others[:1], wrong_one, *others[1:])
        assert said.pop("wrong").answer == NO
        assert [verdict.answer for verdict in said.values()] == [YES] * len(others)
        assert leaf.counts["refused_intents"] == 1
        # It was answered for good.
        assert (await receive(leaf, wrong_one))["wrong"].answer == NO
        held = {"s9", "s1", "s2"} if others else {"s9"}
        assert leaf.executor.held == held

    on_a_leaf(nodes, work)


def test_a_build_that_does_not_say_what_it_wants_is_refused_by_a_router(nodes):
    async def scenario(simulation):
        async with nodes.Tree(simulation, DEEP) as tree:
            await tree.start("r1")
            router = tree.nodes["r1"]
            said = await router.routing.receive(CellId("api"), [build(), build(2, wanted=None)])
            assert {one.id: one.answer for one in said} == {"b1.1": TAKEN, "b2.1": NO}
            assert router.counts["refused_intents"] == 1

    nodes.play(scenario)


def test_wrong_ones_of_this_cells_own_do_not_hold_up_the_others(nodes):
    async def work(tree):
        node = tree.nodes["api"]
        await node.db.run(lambda tx: nodes.wish(node, tx, "bad", wanted=None))
        await tree.wish("good")
        assert (await tree.reaches("bad", "failed")).reason
        await tree.reaches("good", "owned")

    on_a_tree(nodes, PAIR, work)


def test_a_batch_that_is_tried_one_by_one_keeps_count_of_attempts(nodes):
    """A build that one cell has refused goes on, beside a wrong one, to another cell."""

    async def work(tree):
        node = tree.nodes["api"]
        await node.routing.stop()
        await tree.wish("a")
        await node.routing.pump_once()
        (row,) = await tree.open_intents("api")
        refused = row.next_hop
        await node.routing.hear(CellId(refused), [Verdict(id=row.hop_id, answer=NO, reason="full")])
        await node.db.run(lambda tx: nodes.wish(node, tx, "bad", wanted=None))
        offered = []
        for child in node.children.values():
            child.offer = lambda hop, *_: offered.append(hop)
        await node.routing.pump_once()
        (row,) = [row for row in await tree.open_intents("api") if row.subject == "a"]
        assert row.next_hop != refused
        assert offered == [row.hop_id]
        assert row.hop_id.endswith(".2")

    on_a_tree(nodes, TWO, work)


def test_while_the_database_is_away_nothing_is_answered_and_later_all_is(nodes):
    async def work(tree, leaf):
        run = leaf.db.run

        async def away(*_args, **_kwargs):
            raise Unavailable("away")

        leaf.db.run = away
        with pytest.raises(Unavailable):
            await receive(leaf, build())
        assert leaf.executor.held == set(), "what was claimed in memory is given back"
        leaf.db.run = run
        assert (await receive(leaf, build()))["b1.1"].answer == YES

    on_a_leaf(nodes, work)


# -- verdicts


def test_a_cell_answers_only_for_what_it_was_given(nodes):
    async def work(tree):
        tree.nodes["c2"].executor.slots = 0
        await asyncio.sleep(3)
        tree.air.cut.add(("c1", "api"))
        await tree.wish("a")
        await tree.until(lambda: tree.nodes["c1"].executor.held)
        (row,) = await tree.open_intents("api")
        assert row.next_hop == "c1"
        yes = Verdict(id=row.hop_id, answer=YES, cell="c2", build=row.hop_id)
        await nodes.say(tree, "c2", "api", Verdicts([yes]))
        await asyncio.sleep(1)
        assert (await tree.wished("a")).state == "wanted"
        assert tree.nodes["api"].counts["refused_verdicts"] == 1

    on_a_tree(nodes, TWO, work)


@pytest.mark.parametrize("named", ["c2", "api", "nobody", ""])
def test_a_yes_for_a_cell_that_is_not_below_is_refused(nodes, named):
    async def work(tree):
        tree.nodes["c2"].executor.slots = 0
        await asyncio.sleep(3)
        tree.air.cut.add(("c1", "api"))
        await tree.wish("a")
        await tree.until(lambda: tree.nodes["c1"].executor.held)
        (row,) = await tree.open_intents("api")
        yes = Verdict(id=row.hop_id, answer=YES, cell=named, build=row.hop_id)
        await tree.nodes["api"].routing.hear(CellId("c1"), [yes])
        assert (await tree.wished("a")).state == "wanted"
        assert tree.nodes["api"].counts["refused_verdicts"] == 1

    on_a_tree(nodes, TWO, work)


def test_a_verdict_that_the_origin_cannot_take_does_not_hold_up_the_others(nodes):
    async def work(tree):
        node = tree.nodes["api"]
        answered = node.origin.answered

        def fail(tx, intent, verdict):
            if intent.subject == "bad":
                raise ValueError("what is this?")
            answered(tx, intent, verdict)

        node.origin.answered = fail
        tree.air.cut.add(("c1", "api"))
        await tree.wish("bad")
        await tree.wish("good")
        await tree.until(lambda: len(tree.nodes["c1"].executor.held) == 2)
        tree.air.cut.clear()
        await tree.reaches("good", "owned")
        assert (await tree.wished("bad")).state == "wanted"
        node.origin.answered = answered
        await tree.reaches("bad", "owned")

    on_a_tree(nodes, PAIR, work)


# -- orders of one subject


@pytest.mark.slow
def test_orders_of_one_subject_are_done_in_their_order_whatever_is_lost(nodes):
    async def work(tree):
        await tree.wish("a")
        await tree.reaches("a", "owned")
        await tree.settle()
        chance = tree.simulation.ids("loss")
        tree.air.loses = lambda _: chance.uniform() < 0.3
        for number in range(40):
            await tree.order("a", "set", value=str(number))
        await tree.settle(timeout_s=3000)
        assert (await tree.thing("c1", "a") or await tree.thing("c2", "a")).value == "39"
        heard = (await tree.wished("a")).heard
        assert {number for kind, number, _ in heard if kind == "set"} == set(range(2, 42))
        (done,) = [
            [number for kind, number in tree.nodes[name].executor.done if kind == "set"]
            for name in tree.leaves
            if tree.nodes[name].executor.done
        ]
        assert done == list(range(2, 42))

    on_a_tree(nodes, DEEP, work)


# -- the topology


def test_a_cell_that_is_put_under_another_parent_is_heard_through_it(nodes):
    from xenith.cells.topology import with_parents

    async def work(tree):
        tree.parents = {**tree.parents, "c1": ("r2",)}
        await tree.nodes["api"].publish(with_parents(tree.topology, CellId("c1"), [CellId("r2")]))
        await tree.until(
            lambda: (
                set(tree.nodes["c1"].parents) == {"r2"}
                and tree.nodes["c1"].parents[CellId("r2")].link.is_open
            )
        )
        assert set(tree.nodes["r1"].children) == set()
        await tree.write("c1", "thing")
        await tree.settle()
        await tree.wish("a")
        await tree.reaches("a", "owned")
        await tree.settle()

    shape = {"api": (), "r1": ("api",), "r2": ("api",), "c1": ("r1",), "c2": ("r2",)}
    on_a_tree(nodes, shape, work)


def test_what_was_asked_by_a_parent_that_a_cell_has_left_since_goes_by_its_new_one(nodes):
    from xenith.cells.topology import with_parents

    async def work(tree):
        tree.nodes["c2"].executor.slots = 0
        await asyncio.sleep(3)
        await tree.wish("a")
        assert (await tree.reaches("a", "owned")).cell_id == "c1"
        await tree.settle()
        # What was given to r1 comes after the news that c1 is not below it any more.
        tree.air.loses = lambda spoken: "intents" in spoken.kinds
        await tree.order("a", "set", value="late")
        await tree.order("a", "delete")
        await asyncio.sleep(1)
        tree.parents = {**tree.parents, "c1": ("r2",)}
        await tree.nodes["api"].publish(with_parents(tree.topology, CellId("c1"), [CellId("r2")]))
        await asyncio.sleep(1)
        tree.air.loses = lambda _: False
        await tree.reaches("a", "gone")
        await tree.settle()
        assert (await tree.thing("c1", "a")).value == "late"
        assert (await tree.thing("c1", "a")).is_gone

    shape = {"api": (), "r1": ("api",), "r2": ("api",), "c1": ("r1",), "c2": ("r2",)}
    on_a_tree(nodes, shape, work)


def test_a_document_that_was_lost_on_its_way_is_asked_for(nodes):
    from xenith.cells.topology import with_state

    async def work(tree):
        tree.air.loses = lambda spoken: "topology" in spoken.kinds
        await tree.nodes["api"].publish(with_state(tree.topology, CellId("c1"), "draining"))
        await asyncio.sleep(2)
        assert tree.nodes["c1"].topology.version == 1
        tree.air.loses = lambda _: False
        await tree.until(lambda: all(node.topology.version == 2 for node in tree.nodes.values()))

    on_a_tree(nodes, DEEP, work)


def test_a_parent_asks_a_child_for_a_newer_document_within_a_session(nodes):
    from xenith.cells import topology as documents

    async def work(tree):
        newer = documents.with_state(tree.topology, CellId("c1"), "draining")
        signed = documents.sign(newer, tree.keys["api"])
        await tree.nodes["c2"].adopt(signed)
        await tree.until(lambda: all(node.topology.version == 2 for node in tree.nodes.values()))

    on_a_tree(nodes, DEEP, work)


# -- how old


def test_a_cell_that_has_never_changed_anything_is_known_to_be_whole(nodes):
    async def work(tree):
        await asyncio.sleep(5)
        assert {"c1", "c2"} <= set(tree.nodes["api"].ages())
        assert await tree.is_whole()

    on_a_tree(nodes, DEEP, work)


def test_a_cell_whose_database_was_lost_is_swept_from_its_parents(nodes):
    async def work(tree):
        await tree.write("c1", "a")
        await tree.settle()
        assert await tree.thing("c1", "a", at="api")
        await tree.stop("c1")
        del tree.databases["c1"]
        await tree.start("c1")
        await tree.settle()
        assert await tree.thing("c1", "a", at="api") is None
        assert (await tree.seen("api", "c1"))[0].epoch == 2

    on_a_tree(nodes, DEEP, work)


def test_the_age_of_a_cell_that_is_cut_off_grows_and_that_of_the_others_does_not(nodes):
    async def work(tree):
        tree.air.part("c1", "r1")
        await asyncio.sleep(60)
        ages = tree.nodes["api"].ages()
        assert ages["c1"] > 55
        assert ages["c2"] < 5

    on_a_tree(nodes, DEEP, work)


def test_a_wait_for_a_number_ends_when_it_has_come_up_or_in_time(nodes):
    async def work(tree):
        await tree.write("c1", "a")
        api = tree.nodes["api"]
        assert await api.wait_for(CellId("c1"), 1) is True
        assert await api.wait_for(CellId("c1"), 2, timeout_s=1.0) is False

    on_a_tree(nodes, DEEP, work)


def test_the_verdict_of_a_build_names_the_choice_at_each_level(nodes):
    async def work(tree):
        heard = []
        node = tree.nodes["api"]
        answered = node.origin.answered
        node.origin.answered = lambda tx, intent, verdict: (
            heard.append(verdict),
            answered(tx, intent, verdict),
        )
        await tree.wish("a")
        await tree.reaches("a", "owned")
        trail = heard[0].trail
        assert [step["cell_count"] for step in trail] == [1, 2]

    on_a_tree(nodes, DEEP, work)


def test_messages_of_intents_are_cut_to_their_limit(nodes):
    async def work(tree):
        sizes = []
        tree.air.listeners.append(
            lambda spoken: sizes.extend(
                len(message["items"]) for message in spoken.messages if message["type"] == "intents"
            )
        )
        for number in range(3 * rows.BATCH_INTENTS_MAX):
            await tree.wish(f"t{number}")
        await tree.settle()
        assert max(sizes) <= rows.BATCH_INTENTS_MAX
        assert len(tree.nodes["c1"].executor.held) == 3 * rows.BATCH_INTENTS_MAX

    on_a_tree(nodes, PAIR, work, slots=1000)


def test_an_answered_intent_says_the_same_from_its_row(nodes):
    async def work(tree, leaf):
        said = await receive(leaf, build())
        (row,) = await tree.rows("c1", rows.intents)
        assert verdict_of(row) == said["b1.1"]
        assert (row.intent, row.closed_at is not None) == (b"", True)

    on_a_leaf(nodes, work)


def test_an_unopened_message_of_intents_holds_what_was_asked(nodes):
    assert Intents([build()]).items[0].params == {"what": 1}


def test_what_a_cell_was_asked_that_is_taken_out_is_decided_anew(nodes):
    from xenith.cells import topology as documents

    async def scenario(simulation):
        async with nodes.Tree(simulation, {"api": (), "c1": ("api",), "c2": ("api",)}) as tree:
            owner = await tree.lose_owner("a")
            other = {"c1": "c2", "c2": "c1"}[owner]
            await tree.order("a", "set", value="late")
            await tree.order("a", "delete")
            root = tree.nodes["api"]
            await root.publish(documents.without_cell(root.topology, owner))
            await tree.reaches("a", "gone")
            await tree.wish("b")
            assert (await tree.reaches("b", "owned")).cell_id == other

    nodes.play(scenario)


def test_what_was_given_to_a_cell_that_left_while_its_parent_was_down_is_decided_anew(nodes):
    from xenith.cells import topology as documents

    async def scenario(simulation):
        async with nodes.Tree(simulation, {"api": (), "c1": ("api",), "c2": ("api",)}) as tree:
            owner = await tree.lose_owner("a")
            await tree.order("a", "delete")
            await asyncio.sleep(2)
            root = tree.nodes["api"]
            newer = documents.without_cell(root.topology, owner)
            await tree.stop("api")
            signed = documents.sign(newer, tree.keys["api"])
            await tree.databases["api"].run(documents.save, signed, newer)
            await tree.start("api")
            await tree.reaches("a", "gone")

    nodes.play(scenario)
