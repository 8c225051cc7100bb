"""Task groups: every task has an owner that awaits it, and stopping is an ordinary path.

A ``TaskOwner`` starts tasks for a component that lives as long as the process; ``stop`` cancels
them and waits. A task that fails is logged and, if it has a ``restart_delay_s``, begun again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from xenith.core.log import logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from xenith.core.clock import Clock

_log = logger("core.tasks")

#: Seconds that a task has for its clean-up before it is cancelled once more.
CANCEL_AGAIN_S = 20.0


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until all have ended.

    One that lost the word is told again. Source: CPython issue 86296: before 3.12, ``wait_for``
    returns as if nothing were said when it is cancelled in the turn in which its wait ends, and
    libraries are full of it.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
        for task in pending:
            _log.warning("task is cancelled again", task=task.get_name())


class TaskOwner:
    """Owns the tasks of one component, from ``start`` to ``stop``."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    @property
    def task_count(self) -> int:
        """How many tasks run now."""
        return len(self._tasks)

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` as a task of this owner; a failure is logged, never lost."""
        if self._is_stopping:
            work.close()
            raise asyncio.CancelledError
        task = asyncio.create_task(self._supervise(name, work), name=f"{self._name}:{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Cancelled before its first turn, a task never awaits what it was given.
        task.add_done_callback(lambda _: work.close())
        return task

    def keep(
        self, name: str, work: Callable[[], Awaitable[None]], *, restart_delay_s: float = 1.0
    ) -> asyncio.Task[None]:
        """Run ``work`` for good: when it returns or fails, begin it again after a delay."""
        return self.start(name, self._repeat(name, work, restart_delay_s))

    async def stop(self) -> None:
        """Cancel what runs and wait until all of it has ended."""
        self._is_stopping = True
        while self._tasks:
            await end(self._tasks)

    async def _supervise(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001 - the task supervisor
            _log.exception("task failed", owner=self._name, task=name)

    async def _repeat(
        self, name: str, work: Callable[[], Awaitable[None]], restart_delay_s: float
    ) -> None:
        while not self._is_stopping:
            try:
                await work()
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - the task supervisor
                _log.warning("task restarts", owner=self._name, task=name, error=repr(error))
            await self._clock.sleep(restart_delay_s)
