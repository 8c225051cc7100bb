"""An event loop on virtual time: when nothing is ready, the clock jumps to the next timer.

The same seed gives the same run. Nothing here waits for the machine: no selector, no thread, no
socket. What asyncio leaves to chance or to addresses in memory is fixed: tasks hash by their
number, so sets of them have one order, and garbage is collected at counted turns. The order in
which tasks that are ready in one turn take their steps is the seed's to choose.

Every callback runs in the context that it was made in, and a context may name the process that it
belongs to. Callbacks of a dead process are dropped: not even a ``finally`` of its runs again.
"""

# ruff: noqa: SLF001 - this is asyncio's own loop with another way to wait
from __future__ import annotations

import asyncio
import contextvars
import gc
import hashlib
import heapq
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, TypeVar, TypeVarTuple, Unpack, cast

from xenith.dev.simulation.owner import OWNER, Owner
from xenith.dev.simulation.sockets import SimulatedNetwork, SimulatedServer

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: Turns without time moving on, after which two tasks are held to wake each other for ever.
TURNS_AT_ONE_TIME_MAX = 1_000_000
#: Turns between collections of garbage, which may run ``finally`` blocks and so must be counted.
TURNS_BETWEEN_COLLECTIONS = 200_000
#: Pending tasks that a deadlock's message names.
TASKS_SHOWN_MAX = 40
#: Cancelled timers that are worth sweeping out, when they are also the greater part.
CANCELLED_TIMERS_MIN = 100


class Deadlock(RuntimeError):
    """Nothing is ready and no timer is left, so nothing will ever happen."""


class Livelock(RuntimeError):
    """The loop turns and turns and time stands still."""


class SimulatedTask(asyncio.Task[Any]):
    """A task that hashes by its number and remembers its process."""

    _log_destroy_pending: bool

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        *,
        loop: SimulatedLoop,
        context: contextvars.Context,
        **options: Any,
    ) -> None:
        # Before the base class, which puts the task into a set.
        self.number = loop.next_task_number()
        self.context = context
        self.owner: Owner | None = context.get(OWNER)
        super().__init__(coroutine, loop=loop, context=context, **options)

    def __hash__(self) -> int:
        """Hash by number: an address would order sets of tasks anew in each run."""
        return self.number

    def __eq__(self, other: object) -> bool:
        """Be equal to itself alone."""
        return self is other

    def forget(self) -> None:
        """Say nothing when this is dropped unfinished."""
        self._log_destroy_pending = False


class SimulatedLoop(asyncio.BaseEventLoop):
    """See the module. ``shuffles``: the seed chooses among the tasks that are ready in one turn."""

    # What the base class keeps and its interface does not show.
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _stopping: bool
    _timer_cancelled_count: int

    def __init__(self, seed: int, *, shuffles: bool = True) -> None:
        super().__init__()
        self._now_s = 0.0
        self._order = random.Random(f"order {seed}") if shuffles else None  # noqa: S311 - replayed
        self._task_count = 0
        self._turns_at_one_time = 0
        self._agen_owners: dict[int, Owner] = {}
        self.turn_count = 0
        self._noted = hashlib.sha256()
        #: What went wrong where nobody was told: callbacks that raised, errors never looked at.
        self.complaints: list[dict[str, Any]] = []
        self.network = SimulatedNetwork(self, random.Random(f"network {seed}"))  # noqa: S311 - replayed
        self.set_task_factory(cast("Any", _make_task))
        self.set_exception_handler(_complain)

    def time(self) -> float:
        """Tell the virtual time in seconds since the loop was made."""
        return self._now_s

    def note(self, what: bytes) -> None:
        """Have what happened now count for the fingerprint; the network notes what it carries."""
        self._noted.update(b"%r %d " % (self._now_s, self.turn_count))
        self._noted.update(what)

    def fingerprint(self) -> str:
        """Tell two runs apart: by what was noted, when, and how often the loop has turned."""
        return f"{self._noted.hexdigest()[:16]} {self.turn_count} {self._now_s!r}"

    def next_task_number(self) -> int:
        """Count a task."""
        self._task_count += 1
        return self._task_count

    def pending_tasks(self) -> list[SimulatedTask]:
        """List the tasks that have not ended, in the order in which they were made."""
        pending = cast("set[SimulatedTask]", asyncio.all_tasks(self))
        return sorted(pending, key=lambda task: task.number)

    # -- turning

    def _run_once(self) -> None:
        """Run what is ready; if nothing is, move time on to the next timer first."""
        self.turn_count += 1
        self._sweep_timers()
        ready = self._ready
        if not ready and not self._stopping:
            self._jump()
        self._take_due_timers()
        self._turns_at_one_time += 1
        if self._turns_at_one_time > TURNS_AT_ONE_TIME_MAX:
            self._turns_at_one_time = 0
            raise Livelock(f"time stands still at {self._now_s:.6f} s\n{self._pending_text()}")
        if self.turn_count % TURNS_BETWEEN_COLLECTIONS == 0:
            gc.collect()
        count = len(ready)
        if count > 1 and self._order is not None:
            self._shuffle(self._order)
        for _ in range(count):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            if not _is_dead(handle):
                handle._run()

    def _jump(self) -> None:
        timers = self._scheduled
        while timers and _is_dead(timers[0]):
            heapq.heappop(timers)._scheduled = False  # type: ignore[attr-defined]
        if not timers:
            raise Deadlock(
                f"nothing is left to happen at {self._now_s:.6f} s\n{self._pending_text()}"
            )
        if timers[0].when() > self._now_s:
            self._now_s = timers[0].when()
            self._turns_at_one_time = 0

    def _take_due_timers(self) -> None:
        timers = self._scheduled
        while timers and timers[0].when() <= self._now_s:
            handle = heapq.heappop(timers)
            handle._scheduled = False  # type: ignore[attr-defined]
            self._ready.append(handle)

    def _sweep_timers(self) -> None:
        timers = self._scheduled
        cancelled = self._timer_cancelled_count
        if cancelled > CANCELLED_TIMERS_MIN and cancelled * 2 > len(timers):
            kept = []
            for handle in timers:
                if handle._cancelled:
                    handle._scheduled = False  # type: ignore[attr-defined]
                else:
                    kept.append(handle)
            heapq.heapify(kept)
            self._scheduled = kept
            self._timer_cancelled_count = 0
            return
        while timers and timers[0]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(timers)._scheduled = False  # type: ignore[attr-defined]

    def _shuffle(self, order: random.Random) -> None:
        """Let tasks' steps change places with each other; other callbacks keep theirs.

        A transport's or a future's callbacks have an order that means something. Tasks have none:
        each has one step in a turn, and which goes first is what a race is about.
        """
        handles = list(self._ready)
        places = [index for index, handle in enumerate(handles) if _is_step(handle)]
        if len(places) < 2:
            return
        steps = [handles[index] for index in places]
        order.shuffle(steps)
        for index, handle in zip(places, steps, strict=True):
            handles[index] = handle
        self._ready.clear()
        self._ready.extend(handles)

    def _pending_text(self) -> str:
        pending = [
            task for task in self.pending_tasks() if task.owner is None or not task.owner.is_dead
        ]
        lines = [f"  {_who(task)} waits at {_where(task)}" for task in pending[:TASKS_SHOWN_MAX]]
        if len(pending) > TASKS_SHOWN_MAX:
            lines.append(f"  and {len(pending) - TASKS_SHOWN_MAX} more")
        return "\n".join(lines)

    # -- what would reach outside

    def _process_events(self, _events: Any) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nothing sleeps, so nothing is to be woken."""

    def run_in_executor(
        self, _executor: Any, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run ``func`` here and now; its result comes a turn later, as from a thread."""
        future: asyncio.Future[T] = self.create_future()
        try:
            result = func(*args)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
            self.call_soon(_tell_error, future, error)
        else:
            self.call_soon(_tell_result, future, result)
        return future

    async def create_connection(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        **options: Any,
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Connect within the simulated network.

        Raises:
            OSError: nobody listens there.
        """
        assert options.get("ssl") is None, "the simulated network carries no TLS"
        return await self.network.connect(protocol_factory, host, port)

    async def create_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        **options: Any,
    ) -> SimulatedServer:
        """Listen within the simulated network; port 0 is the next free one.

        Raises:
            OSError: the port is taken.
        """
        assert options.get("ssl") is None, "the simulated network carries no TLS"
        return self.network.listen(protocol_factory, host, port)

    # -- generators that nobody finished

    def _asyncgen_firstiter_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        super()._asyncgen_firstiter_hook(agen)  # type: ignore[misc]
        owner = OWNER.get()
        # By address, as the generator's finalizer comes after its weak references are gone; the
        # next generator at the same address writes over it.
        if owner is not None:
            self._agen_owners[id(agen)] = owner
        else:
            self._agen_owners.pop(id(agen), None)

    def _asyncgen_finalizer_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        owner = self._agen_owners.pop(id(agen), None)
        if owner is None or not owner.is_dead:
            super()._asyncgen_finalizer_hook(agen)  # type: ignore[misc]


def _make_task(
    loop: SimulatedLoop,
    coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
    *,
    context: contextvars.Context | None = None,
    **options: Any,
) -> SimulatedTask:
    return SimulatedTask(
        cast("Coroutine[Any, Any, Any]", coroutine),
        loop=loop,
        context=contextvars.copy_context() if context is None else context,
        **options,
    )


def _complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    owner = getattr(context.get("task") or context.get("future"), "owner", None)
    if owner is None or not owner.is_dead:
        cast("SimulatedLoop", loop).complaints.append(context)
        loop.default_exception_handler(context)


def _is_dead(handle: asyncio.Handle) -> bool:
    owner = handle._context.get(OWNER)  # type: ignore[attr-defined]
    return owner is not None and owner.is_dead


def _is_step(handle: asyncio.Handle) -> bool:
    callback = handle._callback  # type: ignore[attr-defined]
    return isinstance(getattr(callback, "__self__", None), asyncio.Task)


def _tell_result(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _tell_error(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _who(task: SimulatedTask) -> str:
    return f"{task.owner.name}: {task.get_name()}" if task.owner else task.get_name()


def _where(task: SimulatedTask) -> str:
    """Find the innermost line that a task waits at."""
    place, waiting = "its start", cast("Any", task.get_coro())
    while waiting is not None:
        for kind in ("cr", "ag", "gi"):
            frame = getattr(waiting, f"{kind}_frame", None)
            if frame is not None:
                place = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        waiting = next(
            (
                inner
                for name in ("cr_await", "ag_await", "gi_yieldfrom")
                if (inner := getattr(waiting, name, None)) is not None
            ),
            None,
        )
    return place
