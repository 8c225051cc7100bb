"""Runs sagas: one task for a subject, a transaction for a step, and nothing kept but the rows.

A run lives in memory from step to step and is written through. Whatever ends its task other than
its own end (a stop, a crash, a database that is away) leaves the row as it was committed last, and
``start`` or the sweep begins that step again.

    running ── step fails, or cancel ──► unwinding ──► unwound
       └──► done                            └─ undo keeps failing ─► stuck ─ retry ─► unwinding
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar

from xenith.core import limits
from xenith.core.errors import Bug, Unavailable, XenithError
from xenith.core.log import logger
from xenith.core.pace import LOOK_PERIOD_S, Pace
from xenith.core.tasks import TaskOwner
from xenith.core.world import World
from xenith.db import Database
from xenith.saga import records
from xenith.saga.definition import (
    DONE,
    RUNNING,
    STUCK,
    UNWINDING,
    UNWOUND,
    Action,
    Outcome,
    Run,
    Saga,
    Step,
)

C = TypeVar("C")

#: Sagas that run however long the turns of the loop are.
RUNNING_LEAST = 8
#: Subjects whose turn is remembered; beyond that the database is asked again.
SUBJECTS_WAITING_MAX = 10_000
#: Times an undo is tried, about two minutes in all, before the saga is stuck.
UNDO_ATTEMPTS_MAX = 8
#: Seconds between two tries of an undo: doubled from the first to the second.
UNDO_DELAY_S = (0.5, 30.0)
#: Seconds between looks at the deadlines of running steps; a step may overrun by so much.
WATCH_PERIOD_S = 1.0
#: Looks between two sweeps of the database for sagas whose hint was lost.
WATCHES_PER_SWEEP = 30

#: Characters kept of a failure's message and of its details, and causes that are told.
ERROR_CHARS_MAX, CAUSES_MAX = 2000, 8

#: Called at each moment of each step with (saga kind, step name, moment); see ``MOMENTS``.
Probe = Callable[[str, str, str], "Awaitable[None] | None"]
MOMENTS = (
    "before do",
    "after do",
    "after commit",
    "before undo",
    "after undo",
    "after undo commit",
)

_log = logger("saga")


class _Active:
    """A run that is in memory, and what may interrupt the step it is in."""

    __slots__ = ("deadline_s", "interrupt", "is_cancellable", "run", "task")

    def __init__(self, run: Run) -> None:
        task = asyncio.current_task()
        assert task is not None, "a saga runs in a task of the engine's"
        self.run = run
        self.task = task
        self.deadline_s = math.inf
        self.is_cancellable = False
        self.interrupt: Exception | None = None


class _Cancelled(Exception):
    """A cancellable step was interrupted by ``cancel``."""


class _DatabaseAway(Exception):
    """A commit did not happen, or is not known to have."""


class SagaEngine(Generic[C]):
    """Runs the sagas of one cell's database, a bounded number at a time."""

    def __init__(
        self,
        db: Database,
        world: World,
        context: C,
        sagas: Mapping[str, Saga[C]],
        *,
        running_max: int = limits.SAGAS_RUNNING_MAX,
    ) -> None:
        self._db = db
        self._world = world
        self._context = context
        self._sagas = sagas
        self._pace = Pace(world.clock, least=min(RUNNING_LEAST, running_max), most=running_max)
        self._tasks = TaskOwner("saga", world.clock)
        self._is_started = False
        self._listening: list[Callable[[], None]] = []
        #: Subjects that wait for a place, and whether what they wait with may have been begun.
        self._waiting: dict[str, bool] = {}
        self._has_more = False
        self._busy: set[str] = set()
        #: How many of those rest: they are in a step that only waits.
        self._resting_count = 0
        #: Busy subjects with a saga begun since their task last looked.
        self._again: set[str] = set()
        self._active: dict[str, _Active] = {}
        self._settling: list[asyncio.Future[None]] = []
        #: For tests: sees, delays or fails each moment of each step.
        self.probe: Probe | None = None

    @property
    def running_count(self) -> int:
        """How many subjects have a saga running now."""
        return len(self._busy)

    @property
    def _at_work(self) -> int:
        return len(self._busy) - self._resting_count

    async def start(self) -> None:
        """Resume what the database holds, and run what is begun from now on."""
        self._is_started = True
        self._listening = [
            self._db.listen(records.STARTED, self._on_started),
            self._db.listen(records.CANCELLED, self._on_cancelled),
        ]
        await self._sweep()
        self._tasks.keep("watch", self._watch)
        self._tasks.start("pace", self._follow_pace())

    async def stop(self) -> None:
        """Stop at once, for good; every saga resumes from its last commit in the next engine."""
        self._is_started = False
        for end in self._listening:
            end()
        self._listening.clear()
        await self._tasks.stop()

    async def settle(self) -> None:
        """Wait until nothing runs or waits to run; stuck sagas do neither."""
        while self._busy or self._waiting:
            settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._settling.append(settled)
            await settled

    # -- whose turn it is

    def _on_started(self, subject: str) -> None:
        self._enqueue(subject, is_resumed=False)
        self._fill()

    def _on_cancelled(self, saga_id: str) -> None:
        active = self._active.get(saga_id)
        if active is not None:
            active.run.is_cancelled = True
            if active.is_cancellable:
                self._interrupt(active, _Cancelled())

    def _enqueue(self, subject: str, *, is_resumed: bool) -> None:
        if subject in self._busy:
            self._again.add(subject)
        elif len(self._waiting) < SUBJECTS_WAITING_MAX:
            self._waiting.setdefault(subject, is_resumed)
        else:
            self._has_more = True

    def _fill(self) -> None:
        while self._waiting and self._is_started and self._at_work < self._pace.limit:
            subject = next(iter(self._waiting))
            is_resumed = self._waiting.pop(subject)
            self._busy.add(subject)
            self._tasks.start(subject, self._run_subject(subject, is_resumed=is_resumed))

    async def _sweep(self) -> None:
        count = SUBJECTS_WAITING_MAX + self._pace.limit
        subjects = await self._db.read(records.list_waiting_subjects, count)
        self._has_more = len(subjects) == count
        for subject in subjects:
            if subject not in self._busy:
                self._enqueue(subject, is_resumed=True)
        self._fill()

    async def _follow_pace(self) -> None:
        while True:
            await self._world.clock.sleep(LOOK_PERIOD_S)
            # An idle engine has nothing to hold back.
            if self._busy:
                await self._pace.look()
                self._fill()

    async def _watch(self) -> None:
        for _ in range(WATCHES_PER_SWEEP):
            await self._world.clock.sleep(WATCH_PERIOD_S)
            now = self._world.clock.monotonic()
            for active in tuple(self._active.values()):
                if active.deadline_s <= now:
                    self._interrupt(active, TimeoutError("the step took too long"))
            if self._has_more and not self._waiting:
                break
        await self._sweep()

    async def _run_subject(self, subject: str, *, is_resumed: bool) -> None:
        find = records.resume_head if is_resumed else records.find_head
        try:
            while True:
                self._again.discard(subject)
                # Only a resumed one is written to; the others are but looked at.
                look = self._db.run if find is records.resume_head else self._db.read
                run = await look(find, subject)
                find = records.find_head
                try:
                    is_ended = run is not None and await self._run_saga(run)
                except records.MovedOn:
                    find = records.resume_head
                    continue
                if not is_ended and subject not in self._again:
                    break
        except (Unavailable, _DatabaseAway) as error:
            _log.warning("sagas wait for the database", subject=subject, error=str(error))
        finally:
            self._busy.discard(subject)
            self._again.discard(subject)
            self._fill()
            if not self._busy:
                for settled in self._settling:
                    if not settled.done():
                        settled.set_result(None)
                self._settling.clear()

    # -- one saga

    async def _run_saga(self, run: Run) -> bool:
        """Run a saga to its end; False if it cannot be run now."""
        saga = self._sagas.get(run.kind)
        if saga is None:
            _log.error("saga of an unknown kind is left alone", saga_id=run.id, kind=run.kind)
            return False
        active = self._active[run.id] = _Active(run)
        if run.state == RUNNING:
            run.reached = saga.reach(run.step)
        try:
            if run.state == RUNNING and run.is_cancelled:
                await self._turn_back(run, records.CANCELLED_ERROR)
            while run.state == RUNNING:
                await self._advance(saga, active)
            while run.state == UNWINDING:
                await self._retreat(saga, active)
        finally:
            del self._active[run.id]
        return True

    async def _advance(self, saga: Saga[C], active: _Active) -> None:
        run = active.run
        step, data = saga.steps[run.step], run.data
        is_last = run.step + 1 == len(saga.steps)
        try:
            outcome = await self._perform(active, step, step.do, "do")
            is_kept = True
            if not step.is_light or (outcome is not None and outcome.record is not None):
                is_kept = await self._commit(
                    records.advance, run, outcome=outcome, ending=saga.on_done, is_last=is_last
                )
                run.recorded = run.step + 1
        except (_DatabaseAway, records.MovedOn):
            raise
        except Exception as error:  # noqa: BLE001 - the supervisor of the steps
            run.data = data
            await self._turn_back(run, _describe(run, step.name, error))
            return
        if not is_kept:
            run.step = max(run.step, run.reached)
            run.state, run.error = UNWINDING, records.CANCELLED_ERROR
        else:
            run.step += 1
            run.attempt = 1
            run.state = DONE if is_last else RUNNING
        if self.probe is not None:
            await self._tell(saga.name, step.name, "after commit")
        if run.state == RUNNING and run.is_cancelled:
            # The next step was not begun, so it needs no undo.
            await self._turn_back(run, records.CANCELLED_ERROR, step=run.step - 1)

    async def _turn_back(self, run: Run, error: dict[str, str], *, step: int | None = None) -> None:
        # Undoing what was never done is harmless, and what an earlier process did is not on record.
        first = max(run.step if step is None else step, run.reached)
        await self._commit(records.unwind, run, step=first, error=error)
        run.state, run.step, run.error, run.attempt = UNWINDING, first, error, 1

    async def _retreat(self, saga: Saga[C], active: _Active) -> None:
        """Take back one step; at the last, end the saga."""
        run = active.run
        while run.step >= 0 and saga.steps[run.step].undo is None:
            run.step -= 1
        outcome, data, name = None, run.data, "the end"
        try:
            if run.step >= 0:
                step = saga.steps[run.step]
                name = step.name
                assert step.undo is not None
                outcome = await self._perform(active, step, step.undo, "undo")
            below = max(run.step - 1, -1)
            await self._commit(
                records.retreat, run, step=below, outcome=outcome, ending=saga.on_unwound
            )
        except (_DatabaseAway, records.MovedOn):
            raise
        except Exception as error:  # noqa: BLE001 - the supervisor of the steps
            run.data = data
            await self._fail_undo(run, name, error)
            return
        run.step, run.attempt = below, 1
        if below < 0:
            run.state = UNWOUND
        if self.probe is not None:
            await self._tell(saga.name, name, "after undo commit")

    async def _fail_undo(self, run: Run, name: str, error: Exception) -> None:
        is_stuck = run.attempt >= UNDO_ATTEMPTS_MAX
        await self._commit(records.fail_undo, run, is_stuck=is_stuck)
        described = _describe(run, name, error)
        if is_stuck:
            run.state = STUCK
            _log.error("saga is stuck: its undo keeps failing", saga_id=run.id, **described)
            return
        least, most = UNDO_DELAY_S
        delay_s = min(least * 2 ** (run.attempt - 1), most)
        run.attempt += 1
        await self._world.clock.sleep(delay_s * (0.5 + self._world.ids.uniform() / 2))

    async def _perform(
        self, active: _Active, step: Step[C], action: Action[C], verb: str
    ) -> Outcome | None:
        run = active.run
        active.deadline_s = self._world.clock.monotonic() + step.timeout_s
        active.is_cancellable = step.is_cancellable and verb == "do"
        is_wait = step.is_wait and verb == "do"
        if is_wait:
            self._resting_count += 1
            self._fill()
        try:
            if self.probe is not None:
                await self._tell(run.kind, step.name, "before " + verb)
            outcome = await action(self._context, run)
            if self.probe is not None:
                await self._tell(run.kind, step.name, "after " + verb)
        except asyncio.CancelledError:
            if active.interrupt is None or active.task.uncancel() > 0:
                raise
            interrupt, active.interrupt = active.interrupt, None
            raise interrupt from None
        finally:
            self._resting_count -= is_wait
            active.deadline_s = math.inf
            active.is_cancellable = False
        if outcome is not None and outcome.data:
            run.data = {**run.data, **outcome.data}
        return outcome

    def _interrupt(self, active: _Active, error: Exception) -> None:
        active.deadline_s = math.inf
        active.is_cancellable = False
        active.interrupt = error
        active.task.cancel()

    async def _commit(self, function: Callable[..., Any], run: Run, **values: Any) -> Any:
        try:
            return await self._db.run(function, run, **values)
        except Unavailable as error:
            raise _DatabaseAway(error.message) from error

    async def _tell(self, saga_kind: str, step_name: str, moment: str) -> None:
        assert self.probe is not None
        told = self.probe(saga_kind, step_name, moment)
        if told is not None:
            await told


def _describe(run: Run, step_name: str, error: Exception) -> dict[str, str]:
    """Put a failure in words: a message fit for a tenant, details for an admin."""
    message = f"step {step_name} failed"
    match error:
        case _Cancelled():
            return {**records.CANCELLED_ERROR, "step": step_name}
        case XenithError() if not isinstance(error, Bug):
            message = error.message
        case TimeoutError():
            message = f"step {step_name} took too long"
        case OSError():
            pass
        case _:
            _log.error("saga step failed", saga_id=run.id, step=step_name, exc_info=error)
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None and len(causes) < CAUSES_MAX:
        causes.append(cause)
    return {
        "class": type(error).__name__,
        "kind": getattr(error, "kind", ""),
        "step": step_name,
        "message": message[:ERROR_CHARS_MAX],
        "detail": " <- ".join(f"{type(each).__name__}: {each}" for each in causes)[
            :ERROR_CHARS_MAX
        ],
    }
