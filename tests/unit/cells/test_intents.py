"""An intent is carried at least once and applied once, in order, whatever dies on the way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from xenith.cells.intents import Intent, IntentLink, inbox, outbox, prune_inbox
from xenith.core.clock import ManualClock
from xenith.core.ids import CellId, Ids
from xenith.core.world import World
from xenith.db import Tx, open_database
from xenith.db.migrate import prepare

CELL = CellId("c1")


@pytest.fixture
def world() -> World:
    return World(clock=ManualClock(), ids=Ids(1))


@pytest.fixture
def db(world: World) -> Any:
    database = open_database("sqlite://")
    prepare(database)
    return database


def send(link: IntentLink, tx: Tx, subject: str, number: int) -> None:
    link.send(tx, subject=subject, number=number, kind="do", params={"n": number}, request_id="r")


async def test_a_request_that_is_rolled_back_sends_nothing(db: Any, world: World) -> None:
    link = IntentLink(db, db, world, CELL)

    def accept(tx: Tx) -> None:
        send(link, tx, "s", 1)
        raise LookupError

    with pytest.raises(LookupError):
        await db.run(accept)
    assert await link.carry_now() == 0


async def test_intents_are_applied_in_order_and_leave_the_outbox(db: Any, world: World) -> None:
    link = IntentLink(db, db, world, CELL)
    seen: list[tuple[str, int]] = []
    link.handlers["do"] = lambda _tx, intent: seen.append((intent.subject, intent.number))
    for number in (1, 2, 3):
        await db.run(lambda tx, n=number: send(link, tx, "s", n))
    assert await link.carry_now() == 3
    assert seen == [("s", 1), ("s", 2), ("s", 3)]
    assert await db.read(lambda tx: tx.list(outbox)) == []


async def test_one_carried_twice_is_applied_once(db: Any, world: World) -> None:
    link = IntentLink(db, db, world, CELL)
    seen: list[Intent] = []
    link.handlers["do"] = lambda _tx, intent: seen.append(intent)
    await db.run(lambda tx: send(link, tx, "s", 1))
    row = (await db.read(lambda tx: tx.list(outbox)))[0]
    await link.carry_now()
    # The process died after the receiver's commit and before the sender's.
    await db.run(lambda tx: tx.insert(outbox, row._asdict()))
    again = IntentLink(db, db, world, CELL)
    again.handlers.update(link.handlers)
    assert await again.carry_now() == 1
    assert len(seen) == 1


async def test_a_handler_that_fails_leaves_the_intent_for_the_next_time(
    db: Any, world: World
) -> None:
    link = IntentLink(db, db, world, CELL)

    def fail(_tx: Tx, _intent: Intent) -> None:
        raise RuntimeError

    link.handlers["do"] = fail
    await db.run(lambda tx: send(link, tx, "s", 1))
    with pytest.raises(RuntimeError):
        await link.carry_now()
    assert len(await db.read(lambda tx: tx.list(outbox))) == 1
    assert await db.read(lambda tx: tx.list(inbox)) == []


async def test_a_started_link_carries_on_the_hint_of_a_commit(db: Any, world: World) -> None:
    link = IntentLink(db, db, world, CELL)
    applied = asyncio.Event()
    link.handlers["do"] = lambda tx, _intent: tx.on_commit(applied.set)
    await link.start()
    await db.run(lambda tx: send(link, tx, "s", 1))
    async with asyncio.timeout(5):
        await applied.wait()
    await link.stop()


async def test_ids_are_forgotten_after_their_time(db: Any, world: World) -> None:
    link = IntentLink(db, db, world, CELL)
    link.handlers["do"] = lambda _tx, _intent: None
    await db.run(lambda tx: send(link, tx, "s", 1))
    await link.carry_now()
    assert await db.run(lambda tx: prune_inbox(tx, before_s=world.clock.now())) == 0
    assert await db.run(lambda tx: prune_inbox(tx, before_s=world.clock.now() + 1)) == 1
