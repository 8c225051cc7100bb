from __future__ import annotations

from typing import NamedTuple

import pytest

from xenith.core.clock import ManualClock
from xenith.core.ids import Ids
from xenith.core.world import World
from xenith.db import open_database
from xenith.db.migrate import prepare
from xenith.saga import SagaPruning, StuckSagas, list_of_subject, reconcilers
from xenith.saga import start as begin
from xenith.saga.reconcilers import KEPT_HOURS, STUCK_RETRY_S, plan_pruning, plan_retries
from xenith.saga.records import SAGAS


class Old(NamedTuple):
    id: str
    updated_at: float


@pytest.fixture
def world() -> World:
    return World(clock=ManualClock(), ids=Ids(seed=7))


@pytest.fixture
async def db(world):
    database = open_database("sqlite://", ids=world.ids, clock=world.clock)
    prepare(database)
    yield database
    await database.close()


async def saga_in(db, state: str, subject: str = "s") -> str:
    saga_id = await db.run(begin, "k", subject=subject)
    await db.run(lambda tx: tx.update(SAGAS, {"id": saga_id}, state=state))
    return saga_id


def test_the_plan_takes_what_is_old_and_the_oldest_of_what_is_too_much(monkeypatch):
    monkeypatch.setattr(reconcilers, "KEPT_MAX", 10)
    hour = 3600.0
    rows = [Old("a", 0.0), Old("b", 50 * hour), Old("c", 60 * hour), Old("d", 70 * hour)]
    now_s = (KEPT_HOURS + 40) * hour
    assert plan_pruning(rows, ended_count=4, now_s=now_s) == ["a"]
    assert plan_pruning(rows, ended_count=13, now_s=now_s) == ["a", "b", "c"]
    assert plan_pruning([], ended_count=0, now_s=now_s) == []


def test_the_plan_retries_only_what_has_been_stuck_long_enough():
    rows = [Old("a", 100.0), Old("b", 101.0)]
    assert plan_retries(rows, now_s=100.0 + STUCK_RETRY_S) == ["a"]


async def test_ended_sagas_go_after_their_time_and_open_ones_never(db, world, monkeypatch):
    monkeypatch.setattr(reconcilers, "PRUNED_AT_ONCE_MAX", 2)
    for _ in range(3):
        await saga_in(db, "done")
        await saga_in(db, "unwound")
    kept = {await saga_in(db, state) for state in ("running", "unwinding", "stuck")}
    pruning = SagaPruning(db, world)
    assert await pruning.activate() == {"pruned": 0}
    await world.clock.advance(KEPT_HOURS * 3600 + 1)
    assert await pruning.activate() == {"pruned": 6}
    assert await pruning.activate() == {"pruned": 0}
    assert {run.id for run in await db.read(list_of_subject, "s")} == kept


async def test_more_ended_sagas_than_are_kept_go_before_their_time(db, world, monkeypatch):
    monkeypatch.setattr(reconcilers, "KEPT_MAX", 2)
    for _ in range(5):
        await saga_in(db, "done")
        await world.clock.advance(1.0)
    assert await SagaPruning(db, world).activate() == {"pruned": 3}
    turns = await db.read(lambda tx: [row.turn for row in tx.list(SAGAS)])
    assert sorted(turns) == [4, 5]


async def test_a_turn_is_never_given_twice_while_a_later_saga_stands(db, world):
    await saga_in(db, "done")
    standing = await saga_in(db, "running")
    await world.clock.advance(KEPT_HOURS * 3600 + 1)
    await SagaPruning(db, world).activate()
    newest = await saga_in(db, "running")
    assert [run.id for run in await db.read(list_of_subject, "s")] == [standing, newest]


async def test_a_stuck_saga_unwinds_again_after_its_wait(db, world):
    await saga_in(db, "stuck")
    stuck = StuckSagas(db, world)
    assert await stuck.activate() == {"retried": 0}
    await world.clock.advance(STUCK_RETRY_S)
    assert await stuck.activate() == {"retried": 1}
    assert [run.state for run in await db.read(list_of_subject, "s")] == ["unwinding"]
