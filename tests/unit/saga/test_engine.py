from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import sqlalchemy as sa

from xenith.core.clock import ManualClock
from xenith.core.errors import Conflict, Unavailable
from xenith.core.ids import Ids, RequestId, SagaId
from xenith.core.world import World
from xenith.db import Database, Tx, open_database
from xenith.db.migrate import prepare
from xenith.saga import Outcome, Run, Saga, SagaEngine, Step, cancel, get, list_of_subject, retry
from xenith.saga import engine as engine_module
from xenith.saga import start as begin
from xenith.saga.records import SAGAS

SWEEP_S = engine_module.WATCHES_PER_SWEEP * engine_module.WATCH_PERIOD_S + 1.0


class Journal:
    """What the steps did, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.failing: dict[str, list[Exception]] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.reached: dict[str, asyncio.Event] = {}

    async def note(self, event: str) -> None:
        self.events.append(event)
        if event in self.gates:
            self.reached[event].set()
            await self.gates[event].wait()
        if self.failing.get(event):
            raise self.failing[event].pop(0)

    def gate(self, event: str) -> None:
        self.gates[event] = asyncio.Event()
        self.reached[event] = asyncio.Event()


def step(name: str, *, is_cancellable: bool = False, timeout_s: float = 60.0) -> Step[Journal]:
    async def do(journal: Journal, run: Run) -> Outcome:
        await journal.note(f"do {name}")
        return Outcome({name: run.attempt})

    async def undo(journal: Journal, run: Run) -> None:
        await journal.note(f"undo {name}")

    return Step(name=name, do=do, undo=undo, is_cancellable=is_cancellable, timeout_s=timeout_s)


ABC = Saga(name="abc", steps=(step("a"), step("b", is_cancellable=True), step("c")))

WAITING = Saga(
    name="waiting",
    steps=(replace(step("wait", is_cancellable=True), is_wait=True), step("then")),
)


@pytest.fixture
def world() -> World:
    return World(clock=ManualClock(), ids=Ids(seed=7))


@pytest.fixture
async def db(world: World) -> AsyncIterator[Database]:
    database = open_database("sqlite://", ids=world.ids, clock=world.clock)
    prepare(database)
    yield database
    await database.close()


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
async def engines(db, world, journal):
    """Make engines on the one database; all are stopped in the end."""
    made: list[SagaEngine[Journal]] = []

    async def make(*sagas: Saga[Journal], **options) -> SagaEngine[Journal]:
        named = {saga.name: saga for saga in sagas or (ABC,)}
        engine = SagaEngine(db, world, journal, named, **options)
        made.append(engine)
        await engine.start()
        return engine

    yield make
    for engine in made:
        await engine.stop()


async def pass_time(world: World, seconds: float) -> None:
    """Let what was begun come to its first wait, then move time on."""
    for _ in range(10):
        await asyncio.sleep(0)
    await world.clock.advance(seconds)


async def state_of(db: Database, saga_id: SagaId) -> Run:
    return await db.read(get, saga_id)


async def test_a_saga_does_its_steps_in_order_and_keeps_what_they_gave(db, engines, journal):
    engine = await engines()
    saga_id = await db.run(
        begin, "abc", subject="s", params={"x": 1}, request_id=RequestId("req-1")
    )
    await engine.settle()
    run = await state_of(db, saga_id)
    assert journal.events == ["do a", "do b", "do c"]
    assert (run.state, run.step, run.data) == ("done", 3, {"a": 1, "b": 1, "c": 1})
    assert (run.params, run.request_id, run.error) == ({"x": 1}, "req-1", None)


async def test_a_saga_of_a_transaction_that_rolls_back_never_runs(db, engines, journal):
    engine = await engines()

    def begin_and_fail(tx: Tx) -> None:
        begin(tx, "abc", subject="s")
        raise Conflict("no")

    with pytest.raises(Conflict):
        await db.run(begin_and_fail)
    await engine.settle()
    assert journal.events == []
    assert await db.read(list_of_subject, "s") == []


async def test_a_failed_step_is_undone_with_those_before_it_in_reverse(db, engines, journal):
    journal.failing["do b"] = [Conflict("the SR is full", kind="SRFull")]
    engine = await engines()
    saga_id = await db.run(begin, "abc", subject="s")
    await engine.settle()
    run = await state_of(db, saga_id)
    assert journal.events == ["do a", "do b", "undo b", "undo a"]
    assert run.state == "unwound"
    assert run.error is not None
    assert (run.error["class"], run.error["kind"]) == ("Conflict", "SRFull")
    assert (run.error["step"], run.error["message"]) == ("b", "the SR is full")


async def test_an_unforeseen_failure_tells_the_tenant_nothing_and_the_admin_all(
    db, engines, journal
):
    cause = KeyError("OpaqueRef:secret")
    error = RuntimeError("host 10.0.0.7 said boo")
    error.__cause__ = cause
    journal.failing["do a"] = [error]
    engine = await engines()
    saga_id = await db.run(begin, "abc", subject="s")
    await engine.settle()
    kept = (await state_of(db, saga_id)).error
    assert kept is not None
    assert kept["message"] == "step a failed"
    assert "10.0.0.7" in kept["detail"]
    assert "OpaqueRef" in kept["detail"]


async def test_the_rows_of_a_step_are_written_with_its_progress_or_not_at_all(db, engines):
    written: list[str] = []

    async def do(_: Journal, run: Run) -> Outcome:
        def record(tx: Tx) -> None:
            written.append(run.subject)
            begin(tx, "other", subject="child")
            raise Conflict("the row is gone")

        return Outcome({"half": True}, record)

    engine = await engines(Saga(name="one", steps=(Step(name="only", do=do),)))
    saga_id = await db.run(begin, "one", subject="s")
    await engine.settle()
    run = await state_of(db, saga_id)
    assert written == ["s"]
    assert (run.state, run.data) == ("unwound", {})
    assert await db.read(list_of_subject, "child") == []


async def test_on_done_runs_in_the_transaction_of_the_last_step(db, engines):
    async def do(_: Journal, run: Run) -> Outcome:
        return Outcome({"vm": "v1"})

    def on_done(tx: Tx, run: Run) -> None:
        assert tx.find(SAGAS, id=run.id).state == "done"
        begin(tx, "abc", subject=run.data["vm"])

    engine = await engines(ABC, Saga(name="one", steps=(Step(name="x", do=do),), on_done=on_done))
    await db.run(begin, "one", subject="s")
    await engine.settle()
    assert [run.state for run in await db.read(list_of_subject, "v1")] == ["done"]


async def test_an_on_done_that_fails_unwinds_the_saga(db, engines, journal):
    def on_done(tx: Tx, run: Run) -> None:
        raise Conflict("the server was deleted")

    engine = await engines(Saga(name="abc", steps=ABC.steps, on_done=on_done))
    saga_id = await db.run(begin, "abc", subject="s")
    await engine.settle()
    assert (await state_of(db, saga_id)).state == "unwound"
    assert journal.events[-3:] == ["undo c", "undo b", "undo a"]


async def test_an_unwound_saga_may_begin_the_next_try_in_the_same_transaction(db, engines, journal):
    def on_unwound(tx: Tx, run: Run) -> None:
        begin(tx, "abc", subject=run.subject, params={"host": run.params["host"] + 1})

    journal.failing["do c"] = [Unavailable("host 1 is down")]
    engine = await engines(Saga(name="abc", steps=ABC.steps, on_unwound=on_unwound))
    await db.run(begin, "abc", subject="s", params={"host": 1})
    await engine.settle()
    runs = await db.read(list_of_subject, "s")
    assert [(run.state, run.params["host"]) for run in runs] == [("unwound", 1), ("done", 2)]


async def test_sagas_of_one_subject_run_one_at_a_time_in_order_of_creation(db, engines, journal):
    journal.gate("do a")
    engine = await engines()
    for _ in range(3):
        await db.run(begin, "abc", subject="s")
    await journal.reached["do a"].wait()
    assert engine.running_count == 1
    journal.gates["do a"].set()
    await engine.settle()
    assert journal.events == ["do a", "do b", "do c"] * 3


async def test_no_more_than_running_max_run_and_the_rest_wait_their_turn(db, engines, journal):
    journal.gate("do a")
    engine = await engines(running_max=2)
    for number in range(5):
        await db.run(begin, "abc", subject=f"s{number}")
    await journal.reached["do a"].wait()
    await asyncio.sleep(0)
    assert engine.running_count == 2
    assert journal.events == ["do a", "do a"]
    journal.gates["do a"].set()
    await engine.settle()
    assert journal.events.count("do c") == 5


async def test_who_only_waits_leaves_its_place_to_others(db, engines, journal):
    journal.gate("do wait")
    engine = await engines(running_max=2)
    engine._sagas = {**engine._sagas, "waiting": WAITING}
    for number in range(5):
        await db.run(begin, "waiting", subject=f"w{number}")
    await journal.reached["do wait"].wait()
    await db.run(begin, "abc", subject="s")
    for _ in range(100):
        await asyncio.sleep(0)
    assert journal.events.count("do wait") == 5
    assert journal.events[-1] == "do c"
    journal.gates["do wait"].set()
    await engine.settle()
    assert engine._resting_count == 0
    # One that is interrupted gives the count back too.
    journal.gate("do wait")
    saga_id = await db.run(begin, "waiting", subject="w9")
    await journal.reached["do wait"].wait()
    await db.run(lambda tx: cancel(tx, saga_id=saga_id))
    await engine.settle()
    assert (await state_of(db, saga_id)).state == "unwound"
    assert engine._resting_count == 0


async def test_more_subjects_than_are_remembered_are_found_again_in_the_database(
    db, engines, journal, world, monkeypatch
):
    monkeypatch.setattr(engine_module, "SUBJECTS_WAITING_MAX", 2)
    engine = await engines(running_max=1)
    for number in range(8):
        await db.run(begin, "abc", subject=f"s{number}")
    await pass_time(world, 20.0)
    await engine.settle()
    assert journal.events.count("do c") == 8


async def test_a_new_engine_resumes_where_the_old_one_stopped(db, engines, journal):
    journal.gate("do b")
    old = await engines()
    saga_id = await db.run(begin, "abc", subject="s")
    await journal.reached["do b"].wait()
    await old.stop()
    assert (await state_of(db, saga_id)).step == 1
    journal.gates.clear()
    new = await engines()
    await new.settle()
    run = await state_of(db, saga_id)
    assert journal.events == ["do a", "do b", "do b", "do c"]
    assert run.state == "done"
    assert run.data["b"] == 2, "the step is told that it may have been begun before"


async def test_a_saga_begun_while_no_engine_ran_is_run_at_the_next_start(db, engines, journal):
    await db.run(begin, "abc", subject="s")
    engine = await engines()
    await engine.settle()
    assert journal.events == ["do a", "do b", "do c"]


async def test_a_cancel_lets_the_current_step_end_and_then_unwinds(db, engines, journal):
    journal.gate("do a")
    engine = await engines()
    saga_id = await db.run(begin, "abc", subject="s")
    await journal.reached["do a"].wait()
    assert await db.run(lambda tx: cancel(tx, subject="s")) == [saga_id]
    journal.gates["do a"].set()
    await engine.settle()
    run = await state_of(db, saga_id)
    assert journal.events == ["do a", "undo a"]
    assert (run.state, run.is_cancelled) == ("unwound", True)
    assert run.error is not None
    assert run.error["class"] == "Cancelled"


async def test_a_cancel_interrupts_a_step_that_allows_it(db, engines, journal):
    journal.gate("do b")
    engine = await engines()
    saga_id = await db.run(begin, "abc", subject="s")
    await journal.reached["do b"].wait()
    await db.run(lambda tx: cancel(tx, saga_id=saga_id))
    await engine.settle()
    assert journal.events == ["do a", "do b", "undo b", "undo a"]


async def test_a_cancel_at_the_last_step_still_unwinds(db, engines, journal):
    journal.gate("do c")
    engine = await engines()
    saga_id = await db.run(begin, "abc", subject="s")
    await journal.reached["do c"].wait()
    await db.run(lambda tx: cancel(tx, saga_id=saga_id))
    journal.gates["do c"].set()
    await engine.settle()
    assert (await state_of(db, saga_id)).state == "unwound"
    assert journal.events[3:] == ["undo c", "undo b", "undo a"]


async def test_a_cancel_whose_hint_was_lost_is_seen_at_the_last_commit(db, engines, journal):
    journal.gate("do c")
    engine = await engines()
    saga_id = await db.run(begin, "abc", subject="s")
    await journal.reached["do c"].wait()
    await db.run(lambda tx: tx.update(SAGAS, {"id": saga_id}, is_cancelled=True))
    journal.gates["do c"].set()
    await engine.settle()
    assert (await state_of(db, saga_id)).state == "unwound"


async def test_a_cancel_after_the_end_is_refused(db, engines):
    engine = await engines()
    saga_id = await db.run(begin, "abc", subject="s")
    await engine.settle()
    assert await db.run(lambda tx: cancel(tx, saga_id=saga_id)) == []
    assert (await state_of(db, saga_id)).state == "done"


async def test_a_cancelled_saga_that_waits_is_unwound_and_what_follows_runs(db, engines, journal):
    journal.gate("do a")
    engine = await engines()
    await db.run(begin, "abc", subject="s")
    second = await db.run(begin, "abc", subject="s")
    third = await db.run(begin, "abc", subject="s")
    await journal.reached["do a"].wait()
    await db.run(lambda tx: cancel(tx, saga_id=second))
    journal.gates["do a"].set()
    await engine.settle()
    assert (await state_of(db, second)).state == "unwound"
    assert (await state_of(db, third)).state == "done"


async def test_a_step_over_its_deadline_fails_and_is_undone(db, engines, journal, world):
    journal.gate("do slow")
    engine = await engines(Saga(name="one", steps=(step("slow", timeout_s=5.0),)))
    saga_id = await db.run(begin, "one", subject="s")
    await journal.reached["do slow"].wait()
    await world.clock.advance(4.0)
    assert journal.events == ["do slow"]
    await world.clock.advance(2.0)
    await engine.settle()
    run = await state_of(db, saga_id)
    assert (run.state, run.error and run.error["class"]) == ("unwound", "TimeoutError")
    assert run.error is not None
    assert run.error["message"] == "step slow took too long"


async def test_an_undo_that_fails_is_tried_again_after_a_delay(db, engines, journal, world):
    journal.failing = {"do b": [Conflict("x")], "undo b": [Unavailable("y"), Unavailable("y")]}
    engine = await engines()
    saga_id = await db.run(begin, "abc", subject="s")
    await pass_time(world, 5.0)
    await engine.settle()
    assert journal.events == ["do a", "do b", "undo b", "undo b", "undo b", "undo a"]
    assert (await state_of(db, saga_id)).state == "unwound"


async def test_an_undo_that_keeps_failing_leaves_the_saga_stuck_until_it_is_retried(
    db, engines, journal, world
):
    tries = engine_module.UNDO_ATTEMPTS_MAX
    journal.failing = {"do b": [Conflict("x")], "undo a": [Unavailable("away")] * tries}
    engine = await engines()
    saga_id = await db.run(begin, "abc", subject="s")
    later = await db.run(begin, "abc", subject="s")
    await pass_time(world, 300.0)
    await engine.settle()
    assert (await state_of(db, saga_id)).state == "stuck"
    assert journal.events.count("undo a") == tries
    assert (await state_of(db, later)).step == 0, "the subject waits for what is stuck"

    assert await db.run(retry, saga_id)
    await engine.settle()
    assert (await state_of(db, saga_id)).state == "unwound"
    assert (await state_of(db, later)).state == "done"
    assert not await db.run(retry, saga_id)


async def test_an_ending_that_fails_is_tried_again_like_an_undo(db, engines, journal, world):
    failures = [RuntimeError("a bug of the ending")]

    def on_unwound(tx: Tx, run: Run) -> None:
        if failures:
            raise failures.pop()

    journal.failing["do a"] = [Conflict("x")]
    engine = await engines(Saga(name="abc", steps=ABC.steps, on_unwound=on_unwound))
    saga_id = await db.run(begin, "abc", subject="s")
    await pass_time(world, 5.0)
    await engine.settle()
    assert (await state_of(db, saga_id)).state == "unwound"
    assert failures == []


async def test_a_saga_of_an_unknown_kind_is_left_for_a_program_that_knows_it(db, engines, journal):
    engine = await engines()
    saga_id = await db.run(begin, "newer", subject="s")
    await engine.settle()
    assert (await state_of(db, saga_id)).state == "running"
    await db.run(begin, "abc", subject="other")
    await engine.settle()
    assert journal.events == ["do a", "do b", "do c"]


async def test_a_database_that_was_away_at_a_commit_has_the_step_done_again(
    db, engines, journal, world, monkeypatch
):
    engine = await engines()
    real, away = db.run, [True]

    async def flaky(function, *args, **kwargs):
        if function.__name__ == "advance" and away:
            away.pop()
            raise Unavailable("disk full")
        return await real(function, *args, **kwargs)

    monkeypatch.setattr(db, "run", flaky)
    saga_id = await db.run(begin, "abc", subject="s")
    await engine.settle()
    assert (await state_of(db, saga_id)).state == "running"
    await pass_time(world, SWEEP_S)
    await engine.settle()
    assert journal.events == ["do a", "do a", "do b", "do c"]
    assert (await state_of(db, saga_id)).state == "done"


async def test_a_hint_that_was_lost_is_made_good_by_the_sweep(db, engines, journal, world):
    engine = await engines()
    await db.run(begin, "abc", subject="s")
    await engine.settle()
    await db.run(lambda tx: tx.run(sa.update(SAGAS).values(state="running", step=0)))
    await pass_time(world, SWEEP_S)
    await engine.settle()
    assert journal.events == ["do a", "do b", "do c"] * 2


async def test_outputs_that_are_not_json_fail_the_step(db, engines):
    async def do(_: Journal, run: Run) -> Outcome:
        return Outcome({"bad": object()})

    engine = await engines(Saga(name="one", steps=(Step(name="x", do=do),)))
    saga_id = await db.run(begin, "one", subject="s")
    await engine.settle()
    assert (await state_of(db, saga_id)).state == "unwound"


async def test_a_commit_that_landed_after_the_row_was_read_is_not_recorded_twice(
    db, engines, journal
):
    journal.gate("do b")
    engine = await engines()
    saga_id = await db.run(begin, "abc", subject="s")
    await journal.reached["do b"].wait()
    await db.run(lambda tx: tx.update(SAGAS, {"id": saga_id}, step=2))
    journal.gates["do b"].set()
    await engine.settle()
    assert journal.events == ["do a", "do b", "do c"]
    assert (await state_of(db, saga_id)).state == "done"


async def test_a_light_step_is_on_record_with_the_next_and_undone_after_a_death(
    db, engines, journal
):
    heavy_done: list[str] = []

    def made(name: str, *, is_light: bool = False) -> Step[Journal]:
        async def do(found: Journal, _run: Run) -> None:
            await found.note(f"do {name}")
            if name == "heavy":
                heavy_done.append(name)
                if len(heavy_done) == 2:
                    raise Unavailable("gone")

        async def undo(found: Journal, _run: Run) -> None:
            await found.note(f"undo {name}")

        return Step(name=name, do=do, undo=undo, is_light=is_light)

    saga = Saga(name="mixed", steps=(made("first"), made("light", is_light=True), made("heavy")))
    assert (saga.reach(0), saga.reach(1), saga.reach(2)) == (0, 2, 2)
    dead = asyncio.Event()

    async def probe(_kind: str, step_name: str, moment: str) -> None:
        if (step_name, moment) == ("heavy", "after do") and not dead.is_set():
            dead.set()
            await asyncio.Event().wait()

    engine = await engines(saga)
    engine.probe = probe
    saga_id = await db.run(lambda tx: begin(tx, "mixed", subject="s"))
    await dead.wait()
    assert (await db.read(get, saga_id)).step == 1, "the light step is not on record yet"
    await engine.stop()
    again = await engines(saga)
    await again.settle()
    assert (await db.read(get, saga_id)).state == "unwound"
    undone = [line for line in journal.events if line.startswith("undo")]
    assert undone == ["undo heavy", "undo light", "undo first"]
