"""Processes that are killed as by ``kill -9``, and started again on what they had written.

A process is all that its start function begins: its tasks, timers, callbacks, listeners and
connections, however deep, found by the context that they carry. Killed, none of it runs again, not
even a ``finally``: the loop drops its callbacks, its database handles and buses are cut, its peers
hear what its kernel would tell them. What is left of its coroutines is kept until the run is over,
because throwing a coroutine away would run its ``finally`` blocks.

Code from outside that calls into a process goes through ``call``, and hears of its death.
"""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from xenith.bus.simulated import SimulatedBus, SimulatedFabric
from xenith.core.world import World
from xenith.db import Database
from xenith.dev.simulation.database import CrashingDatabase
from xenith.dev.simulation.loop import SimulatedTask
from xenith.dev.simulation.owner import OWNER, ProcessDied
from xenith.dev.simulation.run import Simulation

T = TypeVar("T")
R = TypeVar("R")

#: Times that a coroutine is told to end before it is left as it is.
CLOSINGS_MAX = 10


class Life:
    """One life of a process, from a start to its death; what owns all that is begun in it."""

    def __init__(self, simulation: Simulation, name: str, number: int) -> None:
        self.simulation = simulation
        self.name = name
        self.number = number
        self.world: World = simulation.world(name)
        self.is_dead = False
        self.context = simulation.outside.copy()
        self.context.run(OWNER.set, self)
        #: Called once, outside of the process, when it has died.
        self.on_death: Callable[[Life], None] = lambda _life: None
        self._cuts: list[Callable[[], None]] = []
        self._heard_outside: dict[asyncio.Future[Any], None] = {}
        self._remains: list[SimulatedTask] = []

    def connect(self, database: CrashingDatabase) -> Database:
        """Connect to a database, until death."""
        handle = database.connect(self.world, self)
        self._cuts.append(handle.cut)
        return handle

    def bus(self, fabric: SimulatedFabric) -> SimulatedBus:
        """Connect to the fabric, until death."""
        bus = SimulatedBus(fabric, self.world.clock)
        self._cuts.append(bus.die)
        return bus

    def run(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Future[T]:
        """Begin ``work`` as a task of the process; the future is heard outside of it.

        The future raises ProcessDied when the process dies first.
        """
        loop = self.simulation.loop
        outside: asyncio.Future[T] = loop.create_future()
        if self.is_dead:
            work.close()
            outside.set_exception(ProcessDied(f"{self.name} is dead"))
            return outside
        self._heard_outside[outside] = None
        task = loop.create_task(work, name=name, context=self.context.copy())

        def tell(ended: asyncio.Task[T]) -> None:
            self._heard_outside.pop(outside, None)
            _copy_result(ended, outside)

        task.add_done_callback(tell, context=self.simulation.outside)
        outside.add_done_callback(
            lambda given_up: task.cancel() if given_up.cancelled() else None, context=self.context
        )
        return outside

    def kill(self, *, is_silent: bool = False) -> None:
        """Kill it here and now; ``is_silent``: its machine too, so no peer hears of it."""
        if self.is_dead:
            return
        self.is_dead = True
        loop = self.simulation.loop
        self._remains = [task for task in loop.pending_tasks() if task.owner is self]
        for cut in self._cuts:
            cut()
        loop.network.drop_owner(self, is_silent=is_silent)
        for waiting in self._heard_outside:
            if not waiting.done():
                waiting.set_exception(ProcessDied(f"{self.name} died"))
                waiting.exception()  # nobody need have waited for it
        self._heard_outside.clear()
        self.simulation.at_end(self.bury)
        loop.call_soon(self.on_death, self, context=self.simulation.outside)

    def bury(self) -> None:
        """Let go of the memory that the dead process had; its ``finally`` blocks do run then.

        They can reach neither database nor bus nor network any more, but whatever else they share
        with the living, they can; so this is for the end of a run.
        """
        with warnings.catch_warnings():
            # Of coroutines that the dead had made and not begun.
            warnings.filterwarnings("ignore", message=".* was never awaited")
            while self._remains:
                _end(self._remains.pop(0))


class SimulatedProcess(Generic[R]):
    """A program that can be started, killed and started again.

    ``start`` begins what the process is and gives what those outside call; it may also go on for
    as long as the process does. It takes from its ``Life`` the world, databases and buses.
    """

    def __init__(
        self, simulation: Simulation, name: str, start: Callable[[Life], Coroutine[Any, Any, R]]
    ) -> None:
        self.name = name
        self.life_count = 0
        #: Called outside of the process after each death; begins it again, if it should.
        self.on_death: Callable[[SimulatedProcess[R]], None] = lambda _process: None
        self._simulation = simulation
        self._start = start
        self._life: Life | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it has been started and not killed since."""
        return self._life is not None and not self._life.is_dead

    @property
    def life(self) -> Life:
        """Its present life, or the last one."""
        assert self._life is not None, f"{self.name} has never been started"
        return self._life

    def start(self) -> asyncio.Future[R]:
        """Begin a new life and give what the start function gives.

        Raises:
            ProcessDied: it died before that; raised by the future.
        """
        assert not self.is_alive, f"{self.name} runs already"
        self.life_count += 1
        life = self._life = Life(self._simulation, self.name, self.life_count)
        life.on_death = lambda _life: self.on_death(self)
        return life.run(life.context.run(self._start, life), name=f"{self.name}: start")

    def kill(self, *, is_silent: bool = False) -> None:
        """Kill it, if it is alive; ``is_silent``: its machine too, so no peer hears of it."""
        if self._life is not None:
            self._life.kill(is_silent=is_silent)

    async def call(self, function: Callable[..., Awaitable[T]], *args: Any, **values: Any) -> T:
        """Run ``function`` within the process and give its result.

        Raises:
            ProcessDied: it is dead, or died before the answer; what it has done is unknown.
        """

        async def work() -> T:
            return await function(*args, **values)

        return await self.life.run(work(), name=f"{self.name}: call")


def _copy_result(ended: asyncio.Task[T], to: asyncio.Future[T]) -> None:
    if to.done():
        if not ended.cancelled():
            ended.exception()
    elif ended.cancelled():
        to.cancel()
    elif (error := ended.exception()) is not None:
        to.set_exception(error)
    else:
        to.set_result(ended.result())


def _end(task: SimulatedTask) -> None:
    task.forget()
    coroutine: Any = task.get_coro()
    for _ in range(CLOSINGS_MAX):
        # One that waits again in its ``finally`` says so with a RuntimeError.
        with contextlib.suppress(RuntimeError):
            task.context.run(_close, coroutine)
            return


def _close(coroutine: Any) -> None:
    """End a coroutine of a dead process; what it raises is nobody's."""
    try:
        coroutine.close()
    except (ProcessDied, asyncio.CancelledError):
        pass
    except RuntimeError as error:
        if "ignored GeneratorExit" in str(error):
            raise
    except Exception:  # noqa: BLE001 - the dead have no supervisor
        return
