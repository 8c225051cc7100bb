"""What older designs of cells failed at, held against real nodes."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

import msgspec
import pytest

from xenith.bus import MemoryBus
from xenith.cells.intents import DELETE
from xenith.cells.link import Link
from xenith.cells.messages import Hello, Ping
from xenith.cells.topology import without_cell
from xenith.core.ids import CellId

TWO = {"api": (), "c1": ("api",), "c2": ("api",)}
DEEP = {"api": (), "r1": ("api",), "c1": ("r1",), "c2": ("r1",)}


def test_fifteen_builds_fit_cells_with_twelve_and_ten_slots_though_no_digest_comes(nodes):
    async def scenario(simulation):
        async with nodes.Tree(simulation, TWO, slots={"c1": 12, "c2": 10}) as tree:
            await tree.start()
            await tree.ready()
            tree.air.loses = lambda spoken: bool({"capacity", "capacity_delta"} & set(spoken.kinds))
            for number in range(15):
                await tree.wish(f"t{number}")
            for number in range(15):
                await tree.reaches(f"t{number}", "owned", timeout_s=20)
            held = [tree.nodes[name].executor.held for name in tree.leaves]
            assert sum(map(len, held)) == 15
            await tree.settle()
            assert len(await tree.rows("api", begun=1)) == 15

    nodes.play(scenario)


def count_frames(nodes):
    """Count the frames from a wish until it is settled, when nothing goes wrong."""

    async def scenario(simulation):
        async with nodes.Tree(simulation, DEEP) as tree:
            await tree.start()
            await tree.ready()
            before = tree.air.count
            await tree.wish("a")
            await tree.reaches("a", "owned")
            await tree.settle()
            return tree.air.count - before

    return nodes.play(scenario)


@pytest.mark.slow
def test_a_delete_at_every_moment_of_a_build_leaves_nothing(nodes):
    async def scenario(simulation, moment):
        async with nodes.Tree(simulation, DEEP) as tree:
            await tree.start()
            await tree.ready()
            stopped_at = tree.air.count + moment
            tree.air.loses = lambda _: tree.air.count > stopped_at
            await tree.wish("a")
            await tree.until(lambda: tree.air.count > stopped_at, timeout_s=60)
            await tree.order("a", DELETE)
            await asyncio.sleep(0.5)
            tree.air.loses = lambda _: False
            await tree.settle()
            assert (await tree.wished("a")).state == "gone"
            for name in tree.leaves:
                assert tree.nodes[name].executor.held == set()
                assert all(row.is_gone for row in await tree.rows(name))

    frames = count_frames(nodes)
    assert frames > 8
    for moment in range(frames + 1):
        nodes.play(lambda simulation, moment=moment: scenario(simulation, moment))


@pytest.mark.parametrize("named", ["c2", "nobody", "r1"])
def test_what_the_root_looks_for_in_the_wrong_cell_can_still_be_deleted(nodes, named):
    async def scenario(simulation):
        async with nodes.Tree(simulation, DEEP) as tree:
            await tree.start()
            await tree.ready()
            tree.nodes["c2"].executor.slots = 0
            await tree.wish("a")
            await tree.reaches("a", "owned")
            await tree.settle()
            await tree.databases["api"].run(
                lambda tx: tx.update(nodes.wishes, {"id": "a"}, cell_id=named)
            )
            await tree.order("a", DELETE)
            gone = await tree.reaches("a", "gone", timeout_s=30)
            assert gone.heard[-1][0] == DELETE
            assert gone.heard[-1][2] in {"absent", "no"}, "the origin is told, and looks elsewhere"
            await tree.settle()

    nodes.play(scenario)


@pytest.mark.slow
@pytest.mark.parametrize("order", [("api", "r1", "c1", "c2"), ("c2", "c1", "r1", "api")])
def test_cells_start_while_every_neighbour_is_away(nodes, order):
    async def scenario(simulation):
        async with nodes.Tree(simulation, DEEP) as tree:
            for name in order:
                await tree.start(name)
                if name == "api":
                    await tree.wish("a")
                # Less than a router waits for a cell below it before it says no.
                await asyncio.sleep(9)
            owned = await tree.reaches("a", "owned", timeout_s=30)
            await tree.settle()
            assert (await tree.thing(owned.cell_id, "a", at="api")).begun == 1

    nodes.play(scenario)


def rows_of(spoken):
    return sum(len(message["rows"]) for message in spoken.messages if message["type"] == "changes")


@pytest.mark.slow
def test_ten_thousand_changes_of_one_row_cost_one_record_when_the_parent_is_back(nodes):
    async def scenario(simulation):
        async with nodes.Tree(simulation, DEEP) as tree:
            await tree.start()
            await tree.ready()
            await tree.stop("r1")
            for number in range(10_000):
                await tree.write("c1", "a", value=str(number))
            sent = []
            tree.air.listeners.append(lambda spoken: sent.append((spoken.sender, rows_of(spoken))))
            await tree.start("r1")
            await tree.settle()
            assert sum(count for sender, count in sent if sender == "c1") == 1
            assert sum(count for sender, count in sent if sender == "r1") == 1
            assert (await tree.thing("c1", "a", at="api")).value == "9999"

    nodes.play(scenario)


@pytest.mark.slow
def test_a_flood_of_changes_while_the_parent_is_there_costs_a_bounded_number(nodes):
    async def scenario(simulation):
        async with nodes.Tree(simulation, DEEP) as tree:
            await tree.start()
            await tree.ready()
            sent = []
            tree.air.listeners.append(lambda spoken: sent.append((spoken.sender, rows_of(spoken))))
            for second in range(10):
                for number in range(1000):
                    await tree.write("c1", "a", value=f"{second} {number}")
                    await asyncio.sleep(0.001)
            await tree.settle()
            of_leaf = sum(count for sender, count in sent if sender == "c1")
            # At most one for each turn of the batches' delay, in ten seconds and a little.
            assert 1 <= of_leaf <= 10 / 0.05 + 10
            assert (await tree.thing("c1", "a", at="api")).value == "9 999"

    nodes.play(scenario)


@pytest.mark.slow
def test_memory_and_tasks_are_flat_over_very_many_messages(nodes, record_property):
    """Half a million messages; the bus and both links hold no more after them than before."""
    total, part = 500_000, 2_000

    async def scenario(simulation):
        world = simulation.world("here", skew_s=0.0, drift=0.0)
        bus = MemoryBus(world.clock)
        tree = nodes.Tree(simulation, {"api": (), "c1": ("api",)})
        heard = 0

        async def hear(group):
            nonlocal heard
            heard += len(group)

        async def hello():
            return Hello()

        async def opened(_hello):
            return None

        def end(own, peer):
            return Link(
                world,
                bus,
                key=tree.keys[own],
                own=CellId(own),
                peer=CellId(peer),
                topology=lambda: tree.topology,
                hello=hello,
                on_open=opened,
                handlers={Ping: hear},
            )

        up, down = end("api", "c1"), end("c1", "api")
        await up.start()
        await down.start()
        await asyncio.sleep(2)
        sizes, tasks = [], set()
        tracemalloc.start()
        for number in range(total // part):
            for each in range(part):
                assert up.post(Ping(each))
            await asyncio.sleep(0.05)
            tasks.add(len(asyncio.all_tasks()))
            if number in (20, total // part - 1):
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        await up.stop()
        await down.stop()
        assert heard == total
        record_property("traced bytes after 42,000 messages and at the end", sizes)
        assert abs(sizes[1] - sizes[0]) < 100_000
        assert len(tasks) == 1
        assert up.counts["no_credit"] == down.counts["overflow"] == 0

    nodes.play(scenario)


def test_changes_of_a_commit_whose_answer_was_lost_go_up_as_others_do(nodes):
    def write_unheard(tx):
        nodes.write_thing(tx, "a", value="new")
        tx.hints.clear()

    async def scenario(simulation):
        async with nodes.Tree(simulation, DEEP) as tree:
            await tree.start()
            await tree.ready()
            await tree.write("c1", "a", value="old")
            await tree.settle()
            await tree.databases["c1"].run(write_unheard)
            tree.databases["c1"].doubts += 1
            await tree.settle(timeout_s=30)
            assert (await tree.thing("c1", "a", at="api")).value == "new"

    nodes.play(scenario)


def test_a_cell_whose_database_is_restored_hears_of_it_from_its_parent(nodes):
    async def scenario(simulation):
        async with nodes.Tree(simulation, DEEP) as tree:
            await tree.start()
            await tree.ready()
            await tree.write("c1", "a", value="kept")
            await tree.settle()
            database = tree.databases["c1"]
            copy = database._connection.serialize()
            await tree.write("c1", "a", value="lost")
            await tree.write("c1", "b", value="lost")
            await tree.settle()
            # Under a process and a link that go on: nobody begins anew.
            database._connection.deserialize(copy)
            await tree.settle(timeout_s=200)
            assert tree.nodes["c1"].counts["epochs_begun"] == 1
            assert (await tree.thing("c1", "a", at="api")).value == "kept"
            assert await tree.thing("c1", "b", at="api") is None
            await tree.write("c1", "a", value="after")
            await tree.settle()
            assert (await tree.thing("c1", "a", at="api")).value == "after"

    nodes.play(scenario)


@pytest.mark.parametrize("cell", ["r1", "api"])
def test_a_parent_whose_database_is_restored_has_its_rows_again(nodes, cell):
    async def scenario(simulation):
        async with nodes.Tree(simulation, DEEP) as tree:
            await tree.start()
            await tree.ready()
            await tree.write("c1", "a", value="old")
            await tree.settle()
            database = tree.databases[cell]
            copy = database._connection.serialize()
            await tree.write("c1", "a", value="new")
            await tree.write("c1", "b", value="new")
            await tree.settle()
            database._connection.deserialize(copy)
            # Nobody writes anything: a comparison is what tells.
            await tree.until(tree.is_settled, timeout_s=200)
            for subject in ("a", "b"):
                assert (await tree.thing("c1", subject, at=cell)).value == "new"
                assert (await tree.thing("c1", subject, at="api")).value == "new"

    nodes.play(scenario)


def test_an_intent_of_a_commit_whose_answer_was_lost_is_sent_on(nodes):
    def order_unheard(tx, node):
        nodes.order(node, tx, "a", "power")
        tx.hints.clear()

    async def scenario(simulation):
        async with nodes.Tree(simulation, DEEP) as tree:
            await tree.start()
            await tree.ready()
            await tree.wish("a")
            await tree.settle()
            database = tree.databases["api"]
            await database.run(order_unheard, tree.nodes["api"])
            assert len(await tree.open_intents("api")) == 1
            database.doubts += 1
            await tree.settle(timeout_s=60)

    nodes.play(scenario)


def moved(node, cell, *parents):
    """The document with a cell below other parents."""
    cells = tuple(
        msgspec.structs.replace(one, parents=parents) if one.id == cell else one
        for one in node.topology.cells
    )
    version = node.topology.version + 1
    return msgspec.structs.replace(node.topology, version=version, cells=cells)


TWO_PARENTS = {"api": (), "r1": ("api",), "r2": ("api",), "c1": ("r1", "r2")}


def test_a_cell_that_accepted_a_build_and_left_its_parent_has_it(nodes):
    async def scenario(simulation):
        async with nodes.Tree(simulation, TWO_PARENTS) as tree:
            await tree.start()
            await tree.ready()
            await tree.wish("a")
            await tree.until(lambda: tree.nodes["c1"].executor.held, step_s=0.001)
            (row,) = await tree.open_intents("api")
            other = {"r1": "r2", "r2": "r1"}[row.next_hop]
            # The yes is on its way while the cell moves.
            tree.air.cut.add((row.next_hop, "api"))
            api = tree.nodes["api"]
            await api.publish(moved(api, "c1", other))
            await tree.until(lambda: len(tree.nodes["c1"].parents) == 1)
            tree.air.cut.clear()
            await tree.reaches("a", "owned")
            await tree.settle()
            assert (await tree.thing("c1", "a")).begun == 1

    nodes.play(scenario)


def test_a_cell_lets_go_of_what_it_cannot_tell_a_cell_that_left_it(nodes):
    async def scenario(simulation):
        async with nodes.Tree(simulation, TWO_PARENTS) as tree:
            await tree.start()
            await tree.ready()
            await tree.wish("a")
            await tree.until(lambda: tree.nodes["c1"].executor.held, step_s=0.001)
            (row,) = await tree.open_intents("api")
            left, other = row.next_hop, {"r1": "r2", "r2": "r1"}[row.next_hop]
            # Its yes is not heard in time: the build goes the other way and is fenced here.
            tree.air.cut |= {(left, "api"), ("api", left)}
            await tree.reaches("a", "owned")
            api = tree.nodes["api"]
            await api.publish(moved(api, "c1", other))
            await tree.until(lambda: len(tree.nodes["c1"].parents) == 1)
            tree.air.cut.clear()
            await tree.settle()
            assert (await tree.thing("c1", "a")).begun == 1

    nodes.play(scenario)


ONE_OF_TWO = {"api": (), "r1": ("api",), "r2": ("api",), "c1": ("r1",), "c2": ("r2",)}


def test_what_a_router_could_not_pass_on_is_done_once_the_cell_is_below_it_again(nodes):
    async def scenario(simulation):
        async with nodes.Tree(simulation, ONE_OF_TWO) as tree:
            await tree.start()
            await tree.ready()
            tree.nodes["c2"].executor.slots = 0
            await asyncio.sleep(3)
            await tree.wish("a")
            assert (await tree.reaches("a", "owned")).cell_id == "c1"
            await tree.settle()
            api, router = tree.nodes["api"], tree.nodes["r1"]
            tree.air.loses = lambda spoken: "intents" in spoken.kinds
            await tree.order("a", "set", value="late")
            # It is given to the router that the cell is below by now, and is lost on its way.
            await asyncio.sleep(1)
            await api.publish(moved(api, "c1", "r2"))
            await tree.until(lambda: router.topology.version == api.topology.version)
            # It says that the cell is not below it, and is heard when that is again.
            tree.air.loses = lambda spoken: spoken.receiver == "api" and "verdicts" in spoken.kinds
            await asyncio.sleep(10)
            await api.publish(moved(api, "c1", "r1"))
            tree.air.loses = lambda _: False
            await tree.settle()
            assert (await tree.thing("c1", "a")).value == "late"

    nodes.play(scenario)


def test_rows_of_a_cell_that_has_left_are_compared_no_more(nodes):
    async def scenario(simulation):
        async with nodes.Tree(simulation, ONE_OF_TWO) as tree:
            await tree.start()
            await tree.ready()
            await tree.write("c1", "a", value="old")
            await tree.settle()
            api = tree.nodes["api"]
            await api.publish(without_cell(api.topology, CellId("c1")))
            # As where its rows are said to be gone by who took it out.
            await tree.databases["api"].run(lambda tx: tx.delete(nodes.things, id="a"))
            heard = []
            tree.air.listeners.append(
                lambda spoken: heard.extend(
                    message
                    for message in spoken.messages
                    if message["type"] in ("roots", "buckets_wanted")
                    and message["origin"] == "c1"
                    and spoken.sender != "c1"
                )
            )
            await asyncio.sleep(200)
            assert heard == []

    nodes.play(scenario)


def test_what_another_process_of_a_cell_writes_goes_up_as_its_own_does(nodes):
    async def scenario(simulation):
        async with nodes.Tree(simulation, DEEP) as tree:
            await tree.start()
            await tree.ready()
            await tree.write("c1", "a", value="old")
            await tree.settle()
            # Another process has its commits followed in its own memory alone.
            await tree.databases["c1"].run(write_elsewhere, nodes)
            await tree.until(lambda: is_told(tree, "new"), timeout_s=10)

    nodes.play(scenario)


def write_elsewhere(tx, nodes):
    nodes.write_thing(tx, "a", value="new")
    tx.hints.clear()


async def is_told(tree, value):
    return (await tree.thing("c1", "a", at="api")).value == value


def test_a_build_that_a_cell_accepted_before_it_was_removed_goes_elsewhere(nodes):
    async def scenario(simulation):
        async with nodes.Tree(simulation, ONE_OF_TWO) as tree:
            await tree.start()
            await tree.ready()
            tree.nodes["c2"].executor.slots = 0
            await asyncio.sleep(3)
            await tree.wish("a")
            # The yes is on its way while the cell is taken out.
            tree.air.loses = lambda spoken: spoken.receiver == "api" and "verdicts" in spoken.kinds
            await tree.until(lambda: tree.nodes["c1"].executor.held, step_s=0.001)
            await asyncio.sleep(1)
            api = tree.nodes["api"]
            await api.publish(without_cell(api.topology, CellId("c1")))
            tree.nodes["c2"].executor.slots = 10
            await tree.until(lambda: tree.nodes["r1"].topology.version == api.topology.version)
            await tree.stop("c1")
            tree.air.loses = lambda _: False
            assert (await tree.reaches("a", "owned", timeout_s=60)).cell_id == "c2"

    nodes.play(scenario)


def test_a_batch_that_is_lost_is_sent_again_though_its_origin_changes_on(nodes):
    async def scenario(simulation):
        async with nodes.Tree(simulation, DEEP) as tree:
            await tree.start()
            await tree.ready()
            await tree.settle()
            lost = []

            def lose(spoken):
                is_first = not lost and spoken.sender == "c1" and "changes" in spoken.kinds
                if is_first:
                    lost.append(spoken)
                return is_first

            tree.air.loses = lose
            for number in range(20):
                await tree.write("c1", "a", value=f"{number}")
                await asyncio.sleep(1)
            assert lost
            # It has never been still for as long as a batch may be on its way.
            assert int((await tree.thing("c1", "a", at="api")).value) >= 18

    nodes.play(scenario)
