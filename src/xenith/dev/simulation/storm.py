"""A storm over a simulated region: what goes wrong, when, and for how long, all from the seed.

Each fault is one function that begins it and says how many seconds it lasts; what ends it is called
by a timer of nobody's process. ``calm`` ends them all.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from xenith.bus.simulated import Faults
from xenith.core.ids import Ids
from xenith.dev.simulation.clock import SimulatedClock
from xenith.dev.simulation.database import Moment
from xenith.dev.simulation.machines import HostPlace
from xenith.dev.simulation.region import CellPlace, Region
from xenith.toolstack.backends import DomainState

#: Seconds between two faults, on average; most last for longer.
PAUSE_S = 4.0
#: Commits that a process still makes before the one that it dies at, at most.
COMMITS_BEFORE_MAX = 25
#: Seconds by which a clock may be set wrong.
CLOCK_JUMP_MAX_S = 120.0

T = TypeVar("T")
Undo = Callable[[], object]


class Storm:
    """All faults of one run; ``blow`` goes on until it is cancelled."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._ids: Ids = region.simulation.ids("storm")
        self._loop = region.simulation.loop
        self._skews: dict[SimulatedClock, float] = {}
        #: Faults that were begun, by name.
        self.counts: Counter[str] = Counter()
        # What is likelier stands there more often.
        self._faults: tuple[Callable[[], None], ...] = (
            *[self._change_weather] * 3,
            *[self._part_neighbours] * 2,
            *[self._cut_one_way] * 2,
            *[self._kill_cell] * 3,
            *[self._kill_scheduler] * 2,
            *[self._crash_at_commit] * 4,
            *[self._lose_host] * 2,
            self._cut_host,
            self._reset_host,
            *[self._have_machine_fail] * 2,
            self._have_guest_stop,
            self._lose_database,
            *[self._crash_database] * 3,
            self._stop_broker,
            self._set_clock,
        )

    async def blow(self) -> None:
        """Begin one fault after the other."""
        while True:
            await asyncio.sleep(2 * PAUSE_S * self._ids.uniform())
            self._one_of(self._faults)()

    def calm(self) -> None:
        """End all that is wrong."""
        for clock, skew_s in self._skews.items():
            clock.skew_s = skew_s
        self._region.heal()
        self._region.events.tell("all faults end")

    # -- messages

    def _change_weather(self) -> None:
        rate = 0.0 if self._ids.uniform() < 0.25 else self._between(0.01, 0.3)
        delay_s = 0.0 if self._ids.uniform() < 0.25 else self._between(0.005, 1.5)
        faults = Faults(
            drop_rate=rate,
            duplicate_rate=self._between(0.0, rate + 0.05),
            refuse_rate=rate / 4,
            delay_max_s=delay_s,
        )
        self._tell("weather", lost=f"{rate:.0%}", delay_s=f"{delay_s:.2f}")
        self._region.fabric.set_faults(faults)

    def _part_neighbours(self) -> None:
        one, other = self._any_link()
        lasts_s = self._between(1.0, 60.0)
        self._tell("parted", one=one.name, other=other.name, s=f"{lasts_s:.0f}")
        self._region.fabric.partition(one.id, other.id)
        self._later(lasts_s, lambda: self._region.fabric.mend(one.id, other.id))

    def _cut_one_way(self) -> None:
        one, other = self._any_link()
        if self._ids.uniform() < 0.5:
            one, other = other, one
        lasts_s = self._between(1.0, 60.0)
        self._tell("cut one way", sender=one.name, receiver=other.name, s=f"{lasts_s:.0f}")
        self._region.fabric.cut(one.id, other.id)
        self._later(lasts_s, lambda: self._region.fabric.heal(one.id, other.id))

    def _stop_broker(self) -> None:
        place = self._any_cell()
        loses_queues = self._ids.uniform() < 0.6
        lasts_s = self._between(0.1, 30.0)
        self._tell("broker away", cell=place.name, s=f"{lasts_s:.0f}", loses_queues=loses_queues)
        fabric = self._region.fabric
        fabric.stop_broker(place.id)
        self._later(lasts_s, lambda: fabric.start_broker(place.id, loses_queues=loses_queues))

    # -- cells

    def _kill_cell(self) -> None:
        place = self._any_cell()
        is_silent = self._ids.uniform() < 0.3
        self._tell("killed", cell=place.name, is_silent=is_silent)
        place.process.kill(is_silent=is_silent)

    def _kill_scheduler(self) -> None:
        shared = tuple(each for each in self._region.leaves if each.second is not None)
        if not shared:
            return
        second = self._one_of(shared).second
        assert second is not None, "it was looked for"
        self._tell("killed", scheduler=second.name)
        second.kill()

    def _crash_at_commit(self) -> None:
        place = self._any_cell()
        moment = self._one_of((Moment.BEFORE_COMMIT, Moment.AFTER_COMMIT))
        commits = self._ids.below(COMMITS_BEFORE_MAX)
        self._tell("dies soon", cell=place.name, moment=moment.value, commits=commits)
        place.database.crash_at(moment, commits_before=commits)

    def _lose_database(self) -> None:
        place = self._any_cell()
        lasts_s = self._between(0.5, 25.0)
        self._tell("database away", cell=place.name, s=f"{lasts_s:.0f}")
        place.database.go_away()
        self._later(lasts_s, place.database.come_back)

    def _crash_database(self) -> None:
        place = self._any_cell()
        moment = self._one_of((Moment.BEFORE_COMMIT, Moment.AFTER_COMMIT))
        commits = self._ids.below(COMMITS_BEFORE_MAX)
        lasts_s = self._between(0.0, 10.0)

        def crashed() -> None:
            self._tell("database crashed", cell=place.name, moment=moment.value)
            self._later(lasts_s, place.database.come_back)

        place.database.crash_at(moment, commits_before=commits, on_crash=crashed)

    def _set_clock(self) -> None:
        place = self._any_cell()
        clock = self._region.simulation.world(place.name).clock
        assert isinstance(clock, SimulatedClock), "a simulated process has a simulated clock"
        before_s = self._skews.setdefault(clock, clock.skew_s)
        clock.skew_s = before_s + self._between(-CLOCK_JUMP_MAX_S, CLOCK_JUMP_MAX_S)
        self._tell("clock set", cell=place.name, wrong_s=f"{clock.skew_s:.1f}")

    # -- hosts

    def _lose_host(self) -> None:
        host = self._any_host()
        has_power = self._ids.uniform() < 0.5
        self._tell("host dies", host=host.name, has_power=has_power)
        host.kill(has_power=has_power)

    def _cut_host(self) -> None:
        host = self._any_host()
        lasts_s = self._between(1.0, 90.0)
        self._tell("host cut off", host=host.name, s=f"{lasts_s:.0f}")
        network = self._region.simulation.network
        network.cut(host.port)
        self._later(lasts_s, lambda: network.heal(host.port))

    def _reset_host(self) -> None:
        host = self._any_host()
        self._tell("connections reset", host=host.name)
        self._region.simulation.network.reset(host.port)

    def _have_machine_fail(self) -> None:
        machine = self._any_host().machine
        machine.fail_rate = self._between(0.0, 0.5)
        machine.hang_rate = self._between(0.0, 0.5)
        lasts_s = self._between(5.0, 40.0)
        self._tell("machine fails", host=machine.host, s=f"{lasts_s:.0f}")

        def end() -> None:
            machine.fail_rate = machine.hang_rate = 0.0

        self._later(lasts_s, end)

    def _have_guest_stop(self) -> None:
        host = self._any_host()
        life = host.process.life
        stopped = host.machine.any_domain(self._ids)
        if stopped is None or life.is_dead:
            return
        state: DomainState = "halted" if self._ids.uniform() < 0.5 else "crashed"
        self._tell("guest stops", host=host.name, domain=stopped, state=state)
        life.context.copy().run(host.machine.change, stopped, state)

    # -- drawing

    def _any_cell(self) -> CellPlace:
        return self._one_of(tuple(self._region.cells.values()))

    def _any_host(self) -> HostPlace:
        return self._one_of(tuple(self._region.hosts))

    def _any_link(self) -> tuple[CellPlace, CellPlace]:
        by_id = {place.id: place for place in self._region.cells.values()}
        links = tuple(
            (by_id[parent], place) for place in by_id.values() for parent in place.entry.parents
        )
        return self._one_of(links)

    def _between(self, least: float, most: float) -> float:
        return least + (most - least) * self._ids.uniform()

    def _one_of(self, choices: tuple[T, ...]) -> T:
        return choices[self._ids.below(len(choices))]

    def _tell(self, name: str, **fields: object) -> None:
        self.counts[name] += 1
        self._region.events.tell(name, **fields)

    def _later(self, delay_s: float, function: Undo) -> None:
        self._loop.call_later(delay_s, function, context=self._region.simulation.outside.copy())
