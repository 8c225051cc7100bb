from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa

from xenith.core.errors import Conflict
from xenith.core.ids import SagaId
from xenith.core.world import World
from xenith.db import CELL, Database, Tx, open_database
from xenith.db.migrate import prepare
from xenith.saga import Outcome, Run, Saga, SagaEngine, Step, cancel, get, start

MADE = sa.Table("made", sa.MetaData(), sa.Column("id", sa.Text, primary_key=True))


def step(name: str, *, is_failing: bool = False) -> Step[None]:
    async def do(_: None, run: Run) -> Outcome:
        await asyncio.sleep(0)
        if is_failing:
            raise Conflict("as the test wishes")
        return Outcome({}, lambda tx: tx.insert(MADE, {"id": f"{run.id} {name}"}))

    async def undo(_: None, run: Run) -> Outcome:
        def record(tx: Tx) -> None:
            tx.delete(MADE, id=f"{run.id} {name}")

        return Outcome(record=record)

    return Step(name=name, do=do, undo=undo)


SAGAS = {
    "good": Saga(name="good", steps=(step("a"), step("b"), step("c"))),
    "bad": Saga(name="bad", steps=(step("a"), step("b"), step("c", is_failing=True))),
}


@pytest.fixture
async def database(url: str):
    assert "sagas" in CELL.tables
    opened = open_database(url)
    prepare(opened)
    opened.run_script(
        lambda connection: connection.execute("CREATE TABLE made (id text PRIMARY KEY)")
    )
    yield opened
    await opened.close()


async def begin(db: Database, kind: str, subject: str) -> SagaId:
    return await db.run(start, kind, subject=subject)


async def test_sagas_end_with_the_rows_of_all_their_steps_or_of_none(database):
    engine = SagaEngine(database, World(), None, SAGAS)
    await engine.start()
    ids = await asyncio.gather(
        *(begin(database, kind, f"s{n % 7}") for n in range(10) for kind in SAGAS)
    )
    await engine.settle()
    await engine.stop()
    runs = [await database.read(get, saga_id) for saga_id in ids]
    assert {(run.kind, run.state) for run in runs} == {("good", "done"), ("bad", "unwound")}
    rows = {row.id for row in await database.read(lambda tx: tx.list(MADE))}
    assert rows == {f"{run.id} {name}" for run in runs for name in "abc" if run.kind == "good"}


async def test_an_engine_stopped_at_any_moment_leaves_what_the_next_one_can_end(database):
    ids: list[SagaId] = []
    for round_number in range(6):
        engine = SagaEngine(database, World(), None, SAGAS)
        await engine.start()
        ids += [await begin(database, kind, f"s{round_number % 3}") for kind in SAGAS]
        for _ in range(1 + round_number * 3):
            await asyncio.sleep(0)
        await engine.stop()
    last = SagaEngine(database, World(), None, SAGAS)
    await last.start()
    await last.settle()
    await last.stop()
    runs = [await database.read(get, saga_id) for saga_id in ids]
    assert {(run.kind, run.state) for run in runs} == {("good", "done"), ("bad", "unwound")}
    rows = {row.id for row in await database.read(lambda tx: tx.list(MADE))}
    assert rows == {f"{run.id} {name}" for run in runs for name in "abc" if run.kind == "good"}


async def test_a_cancel_from_elsewhere_is_seen(database):
    reached, gate = asyncio.Event(), asyncio.Event()

    async def wait(_: None, run: Run) -> None:
        reached.set()
        await gate.wait()

    saga = Saga(name="slow", steps=(step("a"), Step(name="wait", do=wait)))
    engine = SagaEngine(database, World(), None, {"slow": saga})
    await engine.start()
    saga_id = await begin(database, "slow", "s")
    await reached.wait()
    assert await database.run(lambda tx: cancel(tx, subject="s", kind="slow")) == [saga_id]
    gate.set()
    await engine.settle()
    await engine.stop()
    assert (await database.read(get, saga_id)).state == "unwound"
    assert await database.read(lambda tx: tx.list(MADE)) == []
