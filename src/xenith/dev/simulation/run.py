"""A whole run from one seed: the loop, the network, and a world for each process by its name."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import hashlib
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog.testing

from xenith.core.ids import Ids
from xenith.core.world import World
from xenith.dev.simulation.clock import SimulatedClock
from xenith.dev.simulation.loop import SimulatedLoop, SimulatedTask

T = TypeVar("T")

#: Seconds by which a process's clock may be wrong, either way.
SKEW_MAX_S = 2.0
#: Share by which it may be fast or slow. Source: an ordinary quartz, 100 parts in a million.
DRIFT_MAX = 100e-6


class Simulation:
    """What a run is made of; ``run_simulation`` gives it to the function that it runs."""

    def __init__(self, loop: SimulatedLoop, seed: int) -> None:
        self.seed = seed
        self.loop = loop
        self.network = loop.network
        #: The context of no process, in which those who outlive processes are told of things.
        self.outside = contextvars.copy_context()
        self._worlds: dict[str, World] = {}
        self._undertakers: list[Callable[[], None]] = []

    def ids(self, name: str) -> Ids:
        """Make a stream of ids and chance of its own, drawn from the seed and a name."""
        return Ids(seed=derive_seed(self.seed, name))

    def world(self, name: str, *, skew_s: float | None = None, drift: float | None = None) -> World:
        """Give the world of a name, made at the first call; restarts go on with the same ids.

        The clock is wrong by chance where ``skew_s`` and ``drift`` do not say by how much.
        """
        if name not in self._worlds:
            chance = self.ids(f"clock of {name}")
            skew = (2 * chance.uniform() - 1) * SKEW_MAX_S
            rate = (2 * chance.uniform() - 1) * DRIFT_MAX
            clock = SimulatedClock(
                self.loop,
                skew_s=skew if skew_s is None else skew_s,
                drift=rate if drift is None else drift,
            )
            self._worlds[name] = World(clock=clock, ids=self.ids(name))
        return self._worlds[name]

    def at_end(self, function: Callable[[], None]) -> None:
        """Call ``function`` when the run is over and its result is known."""
        self._undertakers.append(function)

    def end(self) -> None:
        """Call what was left for the end."""
        while self._undertakers:
            self._undertakers.pop()()


def derive_seed(seed: int, name: str) -> int:
    """Derive a seed of its own for a name.

    >>> derive_seed(1, "a") == derive_seed(1, "a") != derive_seed(1, "b")
    True
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big")


def run_simulation(
    function: Callable[[Simulation], Coroutine[Any, Any, T]], *, seed: int, shuffles: bool = True
) -> T:
    """Run ``function(simulation)`` to its end on virtual time and give its result.

    Raises:
        Deadlock: nothing was left to happen before it ended.
        Livelock: time stood still.
    """
    collects = gc.isenabled()
    # Collected by allocations, garbage would run its ``finally`` blocks at another turn each time.
    # The loop does it at counted turns, and looks only at what the run itself has made.
    gc.disable()
    gc.freeze()
    loop = SimulatedLoop(seed, shuffles=shuffles)
    simulation = Simulation(loop, seed)
    try:
        return loop.run_until_complete(function(simulation))
    finally:
        try:
            loop.run_until_complete(_cancel_all(loop))
            # What the dead say as they are buried is no news.
            with structlog.testing.capture_logs():
                simulation.end()
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
            _forget(loop)
            gc.unfreeze()
            if collects:
                gc.enable()


def _forget(loop: SimulatedLoop) -> None:
    """Let go of what the run has made; what the dead left unfinished is no news now."""
    loop.set_exception_handler(lambda _loop, _context: None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* was never awaited")
        gc.collect()


async def _cancel_all(loop: SimulatedLoop) -> None:
    own = asyncio.current_task()
    while pending := [task for task in loop.pending_tasks() if task is not own and _lives(task)]:
        for task in pending:
            task.cancel()
        waits: Awaitable[Any] = asyncio.gather(*pending, return_exceptions=True)
        await waits


def _lives(task: SimulatedTask) -> bool:
    return task.owner is None or not task.owner.is_dead
