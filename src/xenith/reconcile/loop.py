"""Runs reconcilers: each at its period and on hints, never beside itself, and again if it fails.

A hint that comes while a reconciler runs makes it run once more, since it may already have looked
at what the hint is about. Periods are jittered, so that cells started together do not beat in step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from xenith.core.log import logger
from xenith.core.tasks import TaskOwner
from xenith.core.world import World
from xenith.reconcile.reconciler import Reconciler, Report

#: The share of a period by which it is shortened or lengthened at random.
JITTER = 0.1
#: Seconds after a first failure; doubled with each that follows, up to the period.
RETRY_DELAY_S = 1.0

_log = logger("reconcile")


class ReconcilerLoop:
    """Owns the reconcilers of one component, from ``start`` to ``stop``."""

    def __init__(self, world: World, reconcilers: Sequence[Reconciler]) -> None:
        self._world = world
        self._runs = {each.name: _Run(world, each) for each in reconcilers}
        assert len(self._runs) == len(reconcilers), "two reconcilers have one name"
        self._tasks = TaskOwner("reconcile", world.clock)

    def start(self) -> None:
        """Run each at once and then at its period."""
        for name, run in self._runs.items():
            self._tasks.keep(name, run.forever)
            self._tasks.keep(name + " period", run.hint_at_periods)

    async def stop(self) -> None:
        """Cancel what runs; an activation cut short is made good by the next."""
        await self._tasks.stop()

    def wake(self, name: str | None = None) -> None:
        """Run a reconciler, or all of them, without waiting for the period."""
        for run in self._runs.values() if name is None else (self._runs[name],):
            run.hinted.set()

    async def settle(self) -> dict[str, Report]:
        """Activate each once, in order, and give the reports; for tests and for an operator."""
        return {name: await run.activate() for name, run in self._runs.items()}


class _Run:
    """One reconciler's hints, failures and turn."""

    def __init__(self, world: World, reconciler: Reconciler) -> None:
        self._world = world
        self._reconciler = reconciler
        self._alone = asyncio.Lock()
        self._failure_count = 0
        self.hinted = asyncio.Event()

    async def forever(self) -> None:
        """Activate whenever hinted; after a failure, again after a delay."""
        while True:
            self.hinted.clear()
            if not await self._try():
                await self._world.clock.sleep(self._retry_delay_s())
                continue
            await self.hinted.wait()

    async def hint_at_periods(self) -> None:
        """Hint once a period."""
        while True:
            share = 1 + JITTER * (2 * self._world.ids.uniform() - 1)
            await self._world.clock.sleep(self._reconciler.period_s * share)
            self.hinted.set()

    async def activate(self) -> Report:
        """Activate, after an activation that runs already."""
        async with self._alone:
            report = await self._reconciler.activate()
        if any(report.values()):
            _log.info("reconciled", reconciler=self._reconciler.name, **report)
        return report

    async def _try(self) -> bool:
        try:
            await self.activate()
        except Exception as error:  # noqa: BLE001 - the supervisor of the reconcilers
            self._failure_count += 1
            _log.warning(
                "reconciler failed",
                reconciler=self._reconciler.name,
                failures=self._failure_count,
                error=repr(error),
            )
            return False
        self._failure_count = 0
        return True

    def _retry_delay_s(self) -> float:
        # The exponent is bounded before it is used: a float overflows at 1024.
        delay_s = RETRY_DELAY_S * 2.0 ** min(self._failure_count - 1, 20)
        return min(delay_s, self._reconciler.period_s)
