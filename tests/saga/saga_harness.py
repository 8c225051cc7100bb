"""The three ways in which every saga is tried: each step twice, failing, and dying at each moment.

A test gives ``make_trial``, which makes a fresh database, context and saga each time, and gets:

    await saga_harness.do_each_step_twice(make_trial)
    await saga_harness.fail_at_each_step(make_trial)
    await saga_harness.die_at_each_moment(make_trial)

Each raises AssertionError with the step and the moment in its notes. Time is the trial's: a
``ManualClock`` is moved on while the saga runs, so delays in steps and between undos cost nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from xenith.core.clock import ManualClock
from xenith.core.errors import Conflict
from xenith.core.ids import SagaId
from xenith.core.world import World
from xenith.db import Database
from xenith.saga import Run, Saga, SagaEngine, get

#: Real seconds that one trial may take before it is held to hang.
TRIAL_TIMEOUT_S = 30.0
DO_MOMENTS = ("before do", "after do", "after commit")
UNDO_MOMENTS = ("before undo", "after undo", "after undo commit")


@dataclass
class Trial:
    """One fresh setting for one run of the saga ``kind``."""

    db: Database
    world: World
    context: Any
    #: The saga under test, and those that its endings may begin.
    sagas: Mapping[str, Saga[Any]]
    kind: str
    #: Begins the saga under test (with the rows that it needs) and tells which it is.
    begin: Callable[[], Awaitable[SagaId]]
    #: Raise if the world is not as it must be when the saga under test is done or unwound.
    check_done: Callable[[], Awaitable[None]]
    check_unwound: Callable[[], Awaitable[None]]
    #: Takes the trial down; the database is closed by the harness.
    close: Callable[[], Awaitable[None]] | None = None
    #: Gives the context of the process after one that died; without it the context lives on.
    reborn: Callable[[], Awaitable[Any]] | None = None


MakeTrial = Callable[[], Awaitable[Trial]]


async def do_each_step_twice(make_trial: MakeTrial) -> None:
    """Run every do twice in a row, then every do and every undo; the ends must be the same."""
    async with _trial(make_trial, "every do twice") as trial:
        trial.sagas = _doubled(trial)
        run = await _run(trial)
        assert run.state == "done", run
        await trial.check_done()
    async with _trial(make_trial, "every do and undo twice, the last step fails") as trial:
        trial.sagas = _doubled(trial)
        last = trial.sagas[trial.kind].steps[-1].name
        run = await _run(trial, fail=(last, "after do"))
        assert run.state == "unwound", run
        await trial.check_unwound()


async def fail_at_each_step(make_trial: MakeTrial) -> None:
    """Fail each step before it did anything and after it did all; the saga must unwind clean."""
    for step_name in await _step_names(make_trial):
        for moment in ("before do", "after do"):
            async with _trial(make_trial, f"failure {moment} of {step_name}") as trial:
                run = await _run(trial, fail=(step_name, moment))
                assert run.state == "unwound", run
                assert run.error is not None
                assert run.error["step"] == step_name
                await trial.check_unwound()


async def die_at_each_moment(make_trial: MakeTrial) -> None:
    """Drop the engine at each moment of each do and each undo; a new one must end the saga."""
    names = await _step_names(make_trial)
    for step_name in names:
        for moment in DO_MOMENTS:
            async with _trial(make_trial, f"death {moment} of {step_name}") as trial:
                run = await _run(trial, die=(step_name, moment))
                assert run.state == "done", run
                await trial.check_done()
    saga = (await _peek(make_trial)).steps
    for step in saga:
        for moment in UNDO_MOMENTS if step.undo is not None else ():
            async with _trial(make_trial, f"death {moment} of {step.name}") as trial:
                run = await _run(trial, fail=(names[-1], "after do"), die=(step.name, moment))
                assert run.state == "unwound", run
                await trial.check_unwound()


@contextlib.asynccontextmanager
async def _trial(make_trial: MakeTrial, title: str) -> AsyncIterator[Trial]:
    trial = await make_trial()
    try:
        async with asyncio.timeout(TRIAL_TIMEOUT_S):
            yield trial
    except BaseException as error:
        error.add_note(f"saga {trial.kind}: {title}")
        raise
    finally:
        if trial.close is not None:
            await trial.close()
        await trial.db.close()


async def _peek(make_trial: MakeTrial) -> Saga[Any]:
    async with _trial(make_trial, "definition") as trial:
        return trial.sagas[trial.kind]


async def _step_names(make_trial: MakeTrial) -> list[str]:
    return [step.name for step in (await _peek(make_trial)).steps]


async def _run(
    trial: Trial, *, fail: tuple[str, str] | None = None, die: tuple[str, str] | None = None
) -> Run:
    """Run the saga, failing and dying once each where told; give it as it ended."""
    dead = asyncio.Event()
    pending = {moment for moment in (fail, die) if moment is not None}

    async def probe(kind: str, step_name: str, moment: str) -> None:
        here = (step_name, moment)
        if kind != trial.kind or here not in pending:
            return
        pending.discard(here)
        if here == die:
            dead.set()
            await asyncio.Event().wait()  # until the engine is dropped
        raise Conflict(f"a failure was injected {moment} of {step_name}")

    engine = _engine(trial, probe)
    await engine.start()
    saga_id = await trial.begin()
    if die is not None:
        await _pass_time_until(trial, dead.wait())
        await engine.stop()
        if trial.reborn is not None:
            trial.context = await trial.reborn()
        engine = _engine(trial, probe)
        await engine.start()
    await _pass_time_until(trial, engine.settle())
    await engine.stop()
    assert not pending, f"the saga never came to {pending}"
    return await trial.db.read(get, saga_id)


def _engine(trial: Trial, probe: Callable[[str, str, str], Awaitable[None]]) -> SagaEngine[Any]:
    engine = SagaEngine(trial.db, trial.world, trial.context, trial.sagas)
    engine.probe = probe
    return engine


async def _pass_time_until(trial: Trial, wanted: Awaitable[Any]) -> None:
    task = asyncio.ensure_future(wanted)
    try:
        while not (await asyncio.wait({task}, timeout=0.0005))[0]:
            if isinstance(trial.world.clock, ManualClock):
                await trial.world.clock.advance(0.25)
        await task
    finally:
        task.cancel()


def _doubled(trial: Trial) -> dict[str, Saga[Any]]:
    saga = trial.sagas[trial.kind]
    steps = tuple(
        dataclasses.replace(
            step,
            do=_twice(step.do),
            undo=None if step.undo is None else _twice(step.undo),
        )
        for step in saga.steps
    )
    return {**trial.sagas, trial.kind: dataclasses.replace(saga, steps=steps)}


def _twice(action: Callable[[Any, Run], Awaitable[Any]]) -> Callable[[Any, Run], Awaitable[Any]]:
    async def do_twice(context: Any, run: Run) -> Any:
        await action(context, run)
        return await action(context, run)

    return do_twice
