"""One seed from its beginning to its end, and what is said of it."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from traceback import format_exception

import msgspec

from xenith.dev.simulation.checks import Broken, Watch, count_states, find_unsettled
from xenith.dev.simulation.events import Events
from xenith.dev.simulation.operators import Operator
from xenith.dev.simulation.region import Region, RegionShape
from xenith.dev.simulation.run import Simulation, run_simulation
from xenith.dev.simulation.storm import Storm
from xenith.dev.simulation.turnover import Turnover
from xenith.dev.simulation.workload import Workload, WrongAnswer

#: Virtual seconds after the last fault in which a region must have settled. The longest that it has
#: to wait for is the comparison of power states, every 600 s.
SETTLE_S = 900.0
#: Virtual seconds between looks whether it has.
SETTLE_LOOK_S = 5.0
#: Virtual seconds of work after the faults have begun, before the first is counted as progress.
PROGRESS_PERIOD_S = 30.0
#: Events that a failure is told with.
EVENTS_TOLD = 60
#: Sentences of a violation that are told.
PROBLEMS_TOLD = 20

Progress = Callable[[str], None]


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a run came to; ``problems`` is empty when all held."""

    seed: int
    minutes: float
    shape: str
    problems: list[str]
    #: The last events, when something is wrong.
    events: list[str]
    #: What became of the servers.
    states: dict[str, int]
    #: How often each thing happened.
    counts: dict[str, int]
    #: Virtual seconds from the last fault until all was well.
    settled_s: float
    virtual_s: float
    real_s: float
    #: Equal for equal runs.
    fingerprint: str

    @property
    def is_sound(self) -> bool:
        """Whether all held."""
        return not self.problems


def run_seed(
    seed: int,
    *,
    minutes: float,
    shape: RegionShape | None = None,
    has_faults: bool = True,
    has_operator: bool = False,
    on_progress: Progress = lambda _line: None,
) -> RunReport:
    """Run a seed: so many virtual minutes of work and faults, then until all has settled."""
    region_shape = shape or RegionShape()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="xenith-simulation-") as directory:

        async def play(simulation: Simulation) -> RunReport:
            run = _Run(simulation, Path(directory), region_shape, on_progress)
            return await run.play(minutes, has_faults=has_faults, has_operator=has_operator)

        found = run_simulation(play, seed=seed)
    return msgspec.structs.replace(found, real_s=round(time.perf_counter() - began, 1))


class _Run:
    def __init__(
        self, simulation: Simulation, directory: Path, shape: RegionShape, on_progress: Progress
    ) -> None:
        self._loop = simulation.loop
        self._seed = simulation.seed
        self._shape = shape
        self._on_progress = on_progress
        self.events = Events(simulation.loop)
        with self.events.listening():
            self.region = Region(simulation, self.events, shape, directory)
        self.workload = Workload(self.region)
        self.operator = Operator(self.region)
        self.turnover: Turnover | None = None
        self.storm = Storm(self.region)
        self.watch = Watch(self.region, self.workload)
        self._settled_s = 0.0

    async def play(self, minutes: float, *, has_faults: bool, has_operator: bool) -> RunReport:
        problems: list[str] = []
        with self.events.listening():
            try:
                await self._play(minutes, has_faults=has_faults, has_operator=has_operator)
            except* (Broken, WrongAnswer) as group:
                problems += [str(error) for error in _leaves(group)]
            except* Exception as group:  # noqa: BLE001 - whatever it is, the seed repeats it
                problems += ["".join(format_exception(error)) for error in _leaves(group)]
            report = await self._report(minutes, problems)
            self.region.stop()
        return report

    async def _play(self, minutes: float, *, has_faults: bool, has_operator: bool) -> None:
        await self.region.start()
        self._say("started")
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self.watch.watch(), name="watch")
            working = group.create_task(self.workload.work(), name="work")
            failing = operating = turning = None
            if has_operator:
                self.turnover = Turnover(self.region, self.workload, group)
                operating = group.create_task(self.operator.work(), name="operate")
                turning = group.create_task(self.turnover.work(), name="turn over")
            if has_faults:
                failing = group.create_task(self.storm.blow(), name="storm")
            until_s = self._loop.time() + minutes * 60
            while (left_s := until_s - self._loop.time()) > 0:
                await asyncio.sleep(min(left_s, PROGRESS_PERIOD_S))
                self._say("storm")
            working.cancel()
            if operating is not None:
                operating.cancel()
            if turning is not None:
                turning.cancel()
            if failing is not None:
                failing.cancel()
            self.storm.calm()
            if self.turnover is not None:
                await self.turnover.finish()
            await self.operator.restore()
            await self._settle()
            watching.cancel()

    async def _settle(self) -> None:
        began_s = self._loop.time()
        found = ["nothing was looked at"]
        while self._loop.time() - began_s < SETTLE_S:
            await asyncio.sleep(SETTLE_LOOK_S)
            found = await find_unsettled(self.region, self.workload)
            if not found:
                self._settled_s = self._loop.time() - began_s
                return
        raise Broken("\n".join([f"it has not settled in {SETTLE_S:.0f} s:", *found]))

    def _say(self, phase: str) -> None:
        self._on_progress(
            f"{self._loop.time():7.0f} s  {phase}: {len(self.workload.accepted)} servers asked "
            f"for, {self.region.deaths} deaths, {self.region.fabric.counts['published']} frames"
        )

    async def _report(self, minutes: float, problems: list[str]) -> RunReport:
        states = {}
        with contextlib.suppress(Exception):
            states = await self.region.root.observer.read(count_states)
        lines = [line for problem in problems for line in problem.splitlines()]
        return RunReport(
            seed=self._seed,
            minutes=minutes,
            shape=self._shape.tree,
            problems=lines,
            events=self.events.last(EVENTS_TOLD) if lines else [],
            states=states,
            counts=self._count(),
            settled_s=round(self._settled_s, 3),
            virtual_s=round(self._loop.time(), 3),
            real_s=0.0,
            fingerprint=self._loop.fingerprint(),
        )

    def _count(self) -> dict[str, int]:
        region = self.region
        found: Counter[str] = Counter()
        for place in (*region.cells.values(), *region.removed):
            found.update({f"database {name}": n for name, n in place.database.counts.items()})
        found.update({f"frames {name}": n for name, n in region.fabric.counts.items()})
        found.update({f"fault {name}": n for name, n in self.storm.counts.items()})
        found.update({f"asked {name}": n for name, n in self.workload.counts.items()})
        found.update({f"operator {name}": n for name, n in self.operator.counts.items()})
        if self.turnover is not None:
            found.update({f"turnover {name}": n for name, n in self.turnover.counts.items()})
        for name in ("build moved", "build fenced", "build overdue", "rows differ", "refused"):
            found[name] = self.events.counts[name]
        found.update({f"schedulers {name}": n for name, n in region.shared.items()})
        found["deaths"] = region.deaths
        found["looks"] = self.watch.look_count
        found["turns"] = self._loop.turn_count
        return dict(sorted(found.items()))


def _leaves(group: BaseExceptionGroup[Exception]) -> list[Exception]:
    found: list[Exception] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
