"""A storm over a region: tenants at work while messages, processes, hosts, databases and clocks fail.

All of it follows from the seed. After the minutes of the storm the faults stop and what is down is
started; the region must then settle within ``SETTLE_S`` and be sound.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from xenith.bus.simulated import Faults
from xenith.compute.records.instances import instances
from xenith.compute.records.servers import servers
from xenith.core.errors import XenithError
from xenith.core.ids import CellId, Ids
from xenith.core.log import logger
from xenith.db import Tx
from xenith.dev.simulation.clock import SimulatedClock
from xenith.dev.simulation.database import Moment
from xenith.dev.simulation.owner import ProcessDied
from xenith.dev.simulation.region import Region
from xenith.dev.simulation.run import Simulation, run_simulation
from xenith.dev.tree import plan_tree, read_shape

_log = logger("dev.simulation")

#: Virtual seconds in which a region must be sound after the last fault: a call to a host that hung
#: has its 60 s, a guest 60 s to shut down, an undo its tries; power is compared every 600 s.
SETTLE_S = 1800.0
#: Virtual seconds between two looks at what must hold at any time.
LOOK_PERIOD_S = 2.0
TRANSITIONS = ("os-stop", "os-start", "reboot-soft", "reboot-hard", "pause", "unpause")


class Broken(AssertionError):
    """What must hold does not; the seed repeats it."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a run came to."""

    seed: int
    shape: str
    virtual_s: float
    accepted: int
    states: dict[str, int]
    counts: dict[str, int]
    fingerprint: str


def run(*, seed: int, minutes: float, shape: str = "1x2x2", hosts: int = 2) -> Report:
    """Run a storm of so many virtual minutes and what follows.

    Raises:
        Broken: an invariant does not hold; the notes say when, and what happened last.
    """
    with tempfile.TemporaryDirectory(prefix="xenith-simulation-") as directory:

        async def play(simulation: Simulation) -> Report:
            storm = Storm(simulation, Path(directory), shape=shape, hosts=hosts)
            return await storm.play(minutes)

        return run_simulation(play, seed=seed)


class Storm:
    """One run."""

    def __init__(self, simulation: Simulation, directory: Path, *, shape: str, hosts: int) -> None:
        plan = plan_tree(
            read_shape(shape), region="simulated", secret=b"simulated", second_parents=2
        )
        self.region = Region(simulation, plan, directory, hosts_per_leaf=hosts)
        self.counts: Counter[str] = Counter()
        #: What happened, for who looks for the reason; the last of it.
        self.events: list[str] = []
        self._shape = shape
        self._simulation = simulation
        self._chance: Ids = simulation.ids("storm")
        self._accepted: set[str] = set()
        self._deleted: set[str] = set()
        self._confirmed: dict[str, str] = {}
        self._is_over = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def play(self, minutes: float) -> Report:
        """Go through the storm, then wait until all is well."""
        try:
            return await self._play(minutes)
        except Broken as error:
            error.add_note("\n".join(self.events[-40:]))
            raise

    async def _play(self, minutes: float) -> Report:
        loop = self._simulation.loop
        await self.region.start()
        for cell_id, process in self.region.processes.items():
            process.on_death = lambda _process, of=cell_id: self._on_death(of)
        self._begin("look", self._look)
        until = loop.time() + minutes * 60
        self._begin("tenants", self._work)
        self._begin("faults", self._fail)
        while loop.time() < until:
            await asyncio.sleep(1.0)
            self._check_tasks()
        self._is_over = True
        self._note("the faults stop")
        await self._mend()
        await self._settle()
        states = await self.region.read(self.region.plan.root, _count_states)
        return Report(
            seed=self._simulation.seed,
            shape=self._shape,
            virtual_s=round(loop.time(), 3),
            accepted=len(self._accepted),
            states=states,
            counts=dict(sorted({**self.counts, **self._totals()}.items())),
            fingerprint=loop.fingerprint(),
        )

    def _totals(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for database in self.region.databases.values():
            found.update(database.counts)
        found.update({f"messages_{name}": n for name, n in self.region.fabric.counts.items()})
        for cell in self.region.cells.values():
            found.update({f"node_{name}": n for name, n in cell.node.counts.items()})
        return found

    # -- tenants

    async def _work(self) -> None:
        while not self._is_over:
            await asyncio.sleep(3.0 * self._chance.uniform())
            await self._try(self._choose_work())

    def _choose_work(self) -> Callable[[], Awaitable[None]]:
        drawn = self._chance.uniform()
        if drawn < 0.45 or not self._accepted:
            return self._create
        if drawn < 0.7:
            return self._delete
        return self._power if drawn < 0.9 else self._list

    async def _try(self, work: Callable[[], Awaitable[None]]) -> None:
        name = work.__name__.strip("_")
        try:
            async with asyncio.timeout(30.0):
                await work()
            self.counts[name] += 1
        except XenithError as error:
            self.counts[f"{name}_refused"] += 1
            self._note(f"{name} refused: {error}")
        except (ProcessDied, TimeoutError):
            self.counts[f"{name}_unanswered"] += 1

    async def _create(self) -> None:
        fields: dict[str, Any] = {}
        if self._chance.uniform() < 0.2:
            leaves = sorted(self.region.leaves.values())
            hint = leaves[self._chance.below(len(leaves))]
            fields["hints"] = {"target_cell": hint}
        ids = await self.region.create(**fields)
        self._accepted.update(ids)
        self._note(f"created {ids}")

    def _any_server(self) -> str:
        known = sorted(self._accepted)
        return known[self._chance.below(len(known))]

    async def _delete(self) -> None:
        server_id = self._any_server()
        await self.region.delete(server_id)
        self._note(f"deleted {server_id}")

    async def _power(self) -> None:
        server_id = self._any_server()
        transition = TRANSITIONS[self._chance.below(len(TRANSITIONS))]
        await self.region.power(server_id, transition)
        self._note(f"{transition} {server_id}")

    async def _list(self) -> None:
        region = self.region
        await region.processes[region.plan.root].call(
            lambda: region.root.db.read(lambda tx: tx.list(servers))
        )

    # -- faults

    async def _fail(self) -> None:
        faults = (
            self._kill,
            self._kill,
            self._crash,
            self._crash,
            self._part,
            self._cut_one_way,
            self._disturb,
            self._disturb,
            self._lose_host,
            self._lose_host,
            self._lose_database,
            self._lose_broker,
            self._bend_clock,
        )
        while not self._is_over:
            await asyncio.sleep(1.0 + 8.0 * self._chance.uniform())
            if not self._is_over:
                faults[self._chance.below(len(faults))]()

    def _any_cell(self) -> CellId:
        cells = list(self.region.processes)
        return cells[self._chance.below(len(cells))]

    def _any_link(self) -> tuple[CellId, CellId]:
        links = [
            (parent, entry.id)
            for entry in self.region.plan.topology.cells
            for parent in entry.parents
        ]
        return links[self._chance.below(len(links))]

    def _span(self, least: float, most: float) -> float:
        return least + (most - least) * self._chance.uniform()

    def _kill(self) -> None:
        cell_id = self._any_cell()
        self._note(f"kill {self.region.name(cell_id)}")
        self.counts["kills"] += 1
        self.region.processes[cell_id].kill(is_silent=self._chance.uniform() < 0.3)

    def _crash(self) -> None:
        cell_id = self._any_cell()
        moment = Moment.BEFORE_COMMIT if self._chance.uniform() < 0.5 else Moment.AFTER_COMMIT
        self._note(f"{self.region.name(cell_id)} dies {moment.value}")
        self.region.databases[cell_id].crash_at(moment, commits_before=self._chance.below(20))

    def _part(self) -> None:
        one, other = self._any_link()
        duration_s = self._span(1.0, 45.0)
        self._note(f"part {self.region.name(one)} {self.region.name(other)} {duration_s:.0f} s")
        self.counts["partitions"] += 1
        self.region.fabric.partition(one, other, duration_s=duration_s)

    def _cut_one_way(self) -> None:
        sender, receiver = self._any_link()
        if self._chance.uniform() < 0.5:
            sender, receiver = receiver, sender
        self._note(f"cut {self.region.name(sender)} > {self.region.name(receiver)}")
        self.region.fabric.cut(sender, receiver)
        self._later(self._span(1.0, 30.0), lambda: self.region.fabric.heal(sender, receiver))

    def _disturb(self) -> None:
        rate = 0.0 if self._chance.uniform() < 0.3 else self._span(0.01, 0.25)
        faults = Faults(
            drop_rate=rate,
            duplicate_rate=rate,
            refuse_rate=rate / 4,
            delay_max_s=self._span(0.0, 1.0),
        )
        self._note(f"links lose {rate:.2f}")
        self.region.fabric.set_faults(faults)

    def _lose_host(self) -> None:
        names = sorted(self.region.addresses)
        name = names[self._chance.below(len(names))]
        self._note(f"lose host {name}")
        self.counts["hosts_lost"] += 1
        self.region.kill_host(name)
        self._later(
            self._span(2.0, 60.0),
            lambda: self._begin("revive", lambda: self.region.revive_host(name)),
        )

    def _lose_database(self) -> None:
        cell_id = self._any_cell()
        database = self.region.databases[cell_id]
        self._note(f"the database of {self.region.name(cell_id)} goes away")
        database.go_away()
        self._later(self._span(1.0, 20.0), database.come_back)

    def _lose_broker(self) -> None:
        cell_id = self._any_cell()
        loses_queues = self._chance.uniform() < 0.5
        self._note(f"the broker of {self.region.name(cell_id)} stops")
        self.region.fabric.stop_broker(cell_id)
        self._later(
            self._span(1.0, 20.0),
            lambda: self.region.fabric.start_broker(cell_id, loses_queues=loses_queues),
        )

    def _bend_clock(self) -> None:
        cell_id = self._any_cell()
        clock = self._simulation.world(self.region.name(cell_id)).clock
        assert isinstance(clock, SimulatedClock), "a simulated cell has a simulated clock"
        clock.skew_s = self._span(-20.0, 20.0)
        self._note(f"the clock of {self.region.name(cell_id)} is {clock.skew_s:.0f} s wrong")

    def _on_death(self, cell_id: CellId) -> None:
        self.counts["deaths"] += 1
        delay_s = 0.5 if self._is_over else self._span(0.5, 15.0)
        self._later(
            delay_s, lambda: self._begin("restart", lambda: self.region.start_cell(cell_id))
        )

    def _later(self, delay_s: float, function: Callable[[], Any]) -> None:
        self._simulation.loop.call_later(delay_s, function, context=self._simulation.outside.copy())

    def _begin(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        async def go() -> None:
            await work()

        task = self._simulation.loop.create_task(
            go(), name=name, context=self._simulation.outside.copy()
        )
        self._tasks.add(task)

    def _check_tasks(self) -> None:
        for task in sorted(self._tasks, key=lambda one: one.get_name()):
            if task.done():
                self._tasks.discard(task)
                task.result()

    def _note(self, event: str) -> None:
        at_s = self._simulation.loop.time()
        self.events.append(f"{at_s:9.3f} {event}")
        self._simulation.loop.note(event.encode())

    # -- what must hold

    async def _look(self) -> None:
        """Hold at any time what must hold at any time."""
        while True:
            await asyncio.sleep(LOOK_PERIOD_S)
            self.counts["looks"] += 1
            await self._look_at_rows()
            for server_id, found in self.region.machines().items():
                cells = {
                    self.region.leaf_of_host[host]
                    for host, power in found
                    if power in ("Running", "Paused")
                }
                if len(cells) > 1:
                    raise Broken(f"server {server_id} runs in two cells: {found}")

    async def _look_at_rows(self) -> None:
        region = self.region
        gone = await region.read(region.plan.root, _read_deleted)
        if gone is not None:
            back = self._deleted - gone
            if back:
                raise Broken(f"servers were deleted and are back: {sorted(back)}")
            self._deleted = gone
        for leaf, name in region.leaves.items():
            for server_id in await region.read(leaf, _read_confirmed) or ():
                other = self._confirmed.setdefault(server_id, name)
                if other != name:
                    raise Broken(f"server {server_id} was begun in {other} and in {name}")

    async def _mend(self) -> None:
        """Stop every fault and start all that is down."""
        self.region.fabric.clear_faults()
        for database in self.region.databases.values():
            database.come_back()
            database.crash_rate = 0.0
        for cell_id in self.region.processes:
            await self.region.start_cell(cell_id)
        for name in sorted(self.region.down_hosts):
            await self.region.revive_host(name)

    async def _settle(self) -> None:
        loop = self._simulation.loop
        until = loop.time() + SETTLE_S
        found: list[str] = ["nothing was looked at"]
        while loop.time() < until:
            await asyncio.sleep(10.0)
            self._check_tasks()
            found = await self.region.problems()
            if not found:
                self._check_known(await self.region.read(self.region.plan.root, _read_known))
                return
        raise Broken(f"{len(found)} things are wrong:\n" + "\n".join(found[:20]))

    def _check_known(self, known: set[str]) -> None:
        lost = self._accepted - known
        if lost:
            raise Broken(f"servers were accepted and are lost: {sorted(lost)}")


def _read_known(tx: Tx) -> set[str]:
    return {row.id for row in tx.list(servers)}


def _read_deleted(tx: Tx) -> set[str]:
    gone = sa.select(servers.c.id).where(servers.c.deleted_at.is_not(None))
    return {row.id for row in tx.all(gone)}


def _read_confirmed(tx: Tx) -> list[str]:
    return [row.id for row in tx.list(instances, is_confirmed=True)]


def _count_states(tx: Tx) -> dict[str, int]:
    found: Counter[str] = Counter()
    for row in tx.list(servers):
        instance = tx.find(instances, id=row.id, cell_id=row.cell_id or "")
        if row.deleted_at is not None:
            found["deleted"] += 1
        elif instance is None:
            found["refused" if row.fault else "lost"] += 1
        else:
            found[instance.vm_state] += 1
    return dict(sorted(found.items()))
