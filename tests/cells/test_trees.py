"""A tree of bare nodes does what a tree is for."""

from __future__ import annotations

SHAPE = {"api": (), "r1": ("api",), "c1": ("r1",), "c2": ("r1",)}


def test_a_build_goes_down_two_hops_and_its_rows_come_up(nodes):
    async def scenario(simulation):
        async with nodes.Tree(simulation, SHAPE) as tree:
            await tree.start()
            await tree.ready()
            await tree.wish("a")
            owned = await tree.reaches("a", "owned")
            await tree.settle()
            thing = await tree.thing(owned.cell_id, "a")
            seen = await tree.thing(owned.cell_id, "a", at="api")
            assert (thing.begun, seen.begun) == (1, 1)
            assert (thing.secret, seen.secret) == ("only here", None)

    nodes.play(scenario)
