"""Room that is reserved at a child is given back by everything that takes a build from it."""

from __future__ import annotations

import asyncio

import msgspec

from xenith.cells import messages
from xenith.cells.choosing import Wanted
from xenith.cells.intents import BUILD, FENCE, Intent
from xenith.cells.topology import without_cell
from xenith.core.errors import Unavailable

SHAPE = {"api": (), "r1": ("api",), "c1": ("r1",)}


def reserved(node) -> int:
    return len(node.routing._reservations) + len(node.chooser._reservations)


def test_a_build_that_is_deleted_before_its_answer_keeps_nothing_reserved(nodes):
    async def scenario(simulation):
        async with nodes.Tree(simulation, SHAPE) as tree:
            await tree.start()
            await tree.ready()
            tree.air.part("api", "r1")
            await tree.wish("a")
            await tree.until(lambda: reserved(tree.nodes["api"]), timeout_s=3)
            await tree.order("a", "delete")
            await tree.until(lambda: not reserved(tree.nodes["api"]), timeout_s=3)
            tree.air.join("api", "r1")
            await tree.settle()
            assert await tree.thing("c1", "a") is None

    nodes.play(scenario)


def test_a_build_that_comes_together_with_its_fence_keeps_nothing_reserved(nodes):
    build = Intent(
        id="b.1",
        subject="a",
        number=1,
        kind=BUILD,
        body=msgspec.msgpack.encode({"what": "a"}),
        wanted=Wanted(ram_mib=nodes.RAM_MIB, vcpus=1, disk_gib=1, project_id="p"),
        created_at=1_700_000_000.0,
    )
    fence = Intent(
        id="f.1",
        subject="a",
        number=0,
        kind=FENCE,
        body=msgspec.msgpack.encode({"build": "b.1"}),
        created_at=1_700_000_000.0,
    )

    async def scenario(simulation):
        async with nodes.Tree(simulation, SHAPE) as tree:
            await tree.start()
            await tree.ready()
            await nodes.say(tree, "api", "r1", messages.Intents([build, fence]))
            await tree.until(lambda: tree.nodes["r1"].routing.decisions == 1, timeout_s=3)
            await tree.settle()
            assert reserved(tree.nodes["r1"]) == 0
            thing = await tree.thing("c1", "a")
            assert thing is None or (thing.is_gone, thing.begun) == (True, 0)

    nodes.play(scenario)


def test_an_old_build_that_comes_beside_a_new_one_takes_nothing_from_it(nodes):
    def intent(ident, kind=BUILD, **params):
        return Intent(
            id=ident,
            subject="a",
            number=1 if kind == BUILD else 0,
            kind=kind,
            body=msgspec.msgpack.encode(params),
            wanted=Wanted(ram_mib=nodes.RAM_MIB, vcpus=1, disk_gib=1, project_id="p"),
            created_at=1_700_000_000.0,
        )

    async def scenario(simulation):
        async with nodes.Tree(simulation, SHAPE) as tree:
            await tree.start()
            await tree.ready()
            leaf = tree.nodes["c1"].executor
            old, new = intent("b.1", what="a"), intent("b.2", what="a")
            await nodes.say(
                tree, "r1", "c1", messages.Intents([old, intent("f", FENCE, build="b.1")])
            )
            await asyncio.sleep(1)
            assert leaf.held == set()
            await nodes.say(tree, "r1", "c1", messages.Intents([old, new]))
            await asyncio.sleep(1)
            assert (await tree.thing("c1", "a")).build == "b.2"
            assert leaf.held == {"a"}, "what is promised is held"

    nodes.play(scenario)


def test_a_yes_whose_commit_went_unanswered_keeps_nothing_reserved(nodes):
    def lose_answer_to(database, function):
        """Have the first commit of a function be done, and its caller not hear of it."""
        run = database.run

        async def lose(asked, *args, **values):
            if asked != function:
                return await run(asked, *args, **values)
            database.run = run

            def unheard(tx):
                asked(tx, *args, **values)
                tx.hints.clear()

            await run(unheard)
            database.doubts += 1
            raise Unavailable("the database went away")

        database.run = lose

    async def scenario(simulation):
        async with nodes.Tree(simulation, SHAPE) as tree:
            await tree.start()
            await tree.ready()
            api = tree.nodes["api"]
            lose_answer_to(api.db, api.routing._hear)
            await tree.wish("a")
            await tree.until(lambda: api.db.doubts == 1, timeout_s=10)
            assert reserved(api) > 0
            await tree.until(lambda: not reserved(api), timeout_s=10)
            await tree.settle()
            assert (await tree.thing("c1", "a")).begun == 1

    nodes.play(scenario)


def test_a_build_of_a_cell_that_is_taken_out_keeps_nothing_reserved(nodes):
    async def scenario(simulation):
        shape = {"api": (), "c1": ("api",), "c2": ("api",)}
        async with nodes.Tree(simulation, shape) as tree:
            await tree.start()
            await tree.ready()
            tree.nodes["c2"].executor.slots = 0
            await asyncio.sleep(3)
            tree.air.loses = lambda spoken: "intents" in spoken.kinds
            api = tree.nodes["api"]
            await tree.wish("a")
            await tree.until(lambda: reserved(api) > 0, timeout_s=5)
            await api.publish(without_cell(api.topology, "c1"))
            await tree.until(lambda: not reserved(api), timeout_s=5)

    nodes.play(scenario)
