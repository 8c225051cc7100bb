"""Answers are kept for as long as a neighbour may ask again, and no longer."""

from __future__ import annotations

from xenith.cells import intents as rows
from xenith.cells.intents import NO, Intent, Verdict
from xenith.cells.pruning import KEPT_S, IntentPruning
from xenith.core.clock import ManualClock
from xenith.core.ids import Ids
from xenith.core.world import World


async def test_what_was_answered_long_ago_is_forgotten_and_what_is_open_never(nodes):
    clock = ManualClock()
    world = World(clock=clock, ids=Ids(seed=1))
    db = nodes.new_database(world)

    def write(tx, name, **options):
        intent = Intent(id=name, subject=name, number=1, kind="set", body=b"")
        rows.insert(tx, intent, parent="p", **options)

    await db.run(write, "old", verdict=Verdict(id="old", answer=NO))
    await db.run(write, "open")
    await clock.advance(KEPT_S - 1)
    await db.run(write, "new", verdict=Verdict(id="new", answer=NO))
    pruning = IntentPruning(db, world)
    assert await pruning.activate() == {"forgotten": 0}
    await clock.advance(2)
    assert await pruning.activate() == {"forgotten": 1}
    assert await pruning.activate() == {"forgotten": 0}
    left = await db.read(lambda tx: tx.list(rows.intents))
    assert {row.id for row in left} == {"open", "new"}
