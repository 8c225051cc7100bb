"""A simulated region: the real code of every cell, each a process of its own on its own rows.

    root ── routers ── leaves        processes; SQLite files; clocks that differ
      └──── one fabric ────┘         links that fail as they are told to
                leaves ── XenAPI ── hosts     toolstacks as processes, machines beneath them

Everything follows from the simulation's seed. A process that dies is started again by the region,
as a machine's supervisor would, after a while that the seed chooses.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from xenith.bus.simulated import SimulatedFabric
from xenith.cells.keys import CellKey
from xenith.cells.topology import CellEntry, Topology
from xenith.compute.operations.context import Seal
from xenith.compute.operations.flavors import FlavorSpec
from xenith.compute.records import quotas
from xenith.compute.records.flavors import flavors
from xenith.compute.records.hosts import hosts as host_rows
from xenith.core.errors import XenithError
from xenith.core.ids import CellId
from xenith.db import Database, Tx, open_database
from xenith.db.migrate import prepare
from xenith.dev.cells import Cell, Root, Seat, one_bus
from xenith.dev.simulation.database import CrashingDatabase
from xenith.dev.simulation.events import Events
from xenith.dev.simulation.images import SimulatedImages
from xenith.dev.simulation.machines import PASSWORD, USER, HostPlace
from xenith.dev.simulation.owner import ProcessDied
from xenith.dev.simulation.process import Life, SimulatedProcess
from xenith.dev.simulation.run import Simulation
from xenith.dev.simulation.schedulers import FurtherScheduler, Sharing
from xenith.dev.tree import TreePlan, plan_tree, read_shape
from xenith.network.operations import Networks
from xenith.toolstack.backends import BackendError

T = TypeVar("T")

REGION = "simulated"
ZONES = ("nova", "east")
#: Ports of the hosts; above are those that the network gives by itself.
FIRST_HOST_PORT = 10_000
#: Seconds until a dead process is begun again, at least and at most.
RESTART_MIN_S, RESTART_MAX_S = 0.5, 20.0
#: Seconds that a start may take before it is given up, and begun again.
START_TIMEOUT_S = 60.0

#: Nothing is kept from anyone here, and what is sealed would be different in each run.
_OPEN_SEAL = Seal(close=lambda data: data, open=lambda data: data)


class RegionShape(msgspec.Struct, frozen=True, kw_only=True):
    """How large a region is."""

    tree: str = "1x2x3"
    #: Leaves with a second parent, from the first on.
    second_parents: int = 2
    hosts_least: int = 3
    hosts_most: int = 6
    #: Leaves with a second scheduler, from the second on: some have two parents, some one.
    second_schedulers: int = 3
    #: Memory of a host: few servers fit, so that cells are full now and then.
    host_memory_mib: int = 512


#: Projects whose quota is not the ordinary one.
UNLIMITED = ("tenant-1", "tenant-2")
#: What tenants may ask for, as RAM in MiB by the id.
FLAVORS = {"s": 64, "m": 128, "l": 256}


@dataclass
class CellPlace:
    """One cell: its process, its rows, and what a look at those from outside needs."""

    entry: CellEntry
    key: CellKey
    #: The topology as it was when the cell came in.
    signed: bytes
    is_leaf: bool
    process: SimulatedProcess[Cell]
    database: CrashingDatabase
    #: Reads the rows at any time, also while the database is away from the cell.
    observer: Database
    hosts: list[HostPlace]
    #: The present cell; None while it is dead or about to start.
    cell: Cell | None = None
    #: A second scheduler of a leaf, where there is one, and the same of it.
    second: SimulatedProcess[FurtherScheduler] | None = None
    scheduler: FurtherScheduler | None = None

    @property
    def id(self) -> CellId:
        """Its id, which is its name on the fabric."""
        return self.entry.id

    @property
    def name(self) -> str:
        """Its name in the tree."""
        return self.entry.name


class Region:
    """See the module. ``start`` it, work on it, ``heal`` it, and look at its places."""

    def __init__(
        self, simulation: Simulation, events: Events, shape: RegionShape, directory: Path
    ) -> None:
        self.simulation = simulation
        self.events = events
        self.shape = shape
        self.chance = simulation.ids("region")
        self.plan: TreePlan = plan_tree(
            read_shape(shape.tree),
            region=REGION,
            secret=f"seed {simulation.seed}".encode(),
            second_parents=shape.second_parents,
        )
        events.names = {entry.id: entry.name for entry in self.plan.topology.cells}
        self.fabric = SimulatedFabric(simulation.ids("fabric"))
        self.images = SimulatedImages()
        #: While false, a process that died is begun again at once.
        self.has_faults = True
        self.deaths = 0
        #: Builds that leaves left to their second schedulers, and what those decided.
        self.shared: Counter[str] = Counter()
        #: Hears the instance of each VM that is started on any host.
        self.on_start: Callable[[str], None] = lambda _instance_id: None
        self._directory = directory
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._next_port = FIRST_HOST_PORT
        leaf_ids = {entry.id for entry in self.plan.leaves}
        shared = {entry.id for entry in self.plan.leaves[1 : 1 + shape.second_schedulers]}
        self.cells: dict[str, CellPlace] = {
            entry.name: self._make_cell(
                entry,
                key=self.plan.keys[entry.id],
                signed=self.plan.signed,
                is_leaf=entry.id in leaf_ids,
                is_shared=entry.id in shared,
            )
            for entry in self.plan.topology.cells
        }
        #: Cells that were taken out of the tree, with the hosts that went with them.
        self.removed: list[CellPlace] = []

    @property
    def root(self) -> CellPlace:
        """The root's place."""
        return next(place for place in self.cells.values() if place.id == self.plan.root)

    @property
    def leaves(self) -> list[CellPlace]:
        """The places with hosts."""
        return [place for place in self.cells.values() if place.is_leaf]

    @property
    def hosts(self) -> list[HostPlace]:
        """All hosts."""
        return [host for place in self.leaves for host in place.hosts]

    @property
    def topology(self) -> Topology:
        """The document as the root has it, or had it at the beginning."""
        root = self.root.cell
        return self.plan.topology if root is None else root.node.topology

    # -- life

    async def start(self) -> None:
        """Start everything, and wait until the root knows of all hosts."""
        for place in self.cells.values():
            self._keep_all(place)
        while not self._is_ready():
            await asyncio.sleep(0.5)
            self.check_tasks()

    def check_tasks(self) -> None:
        """Raise what ended one of the region's own tasks; they have no end of their own."""
        for task in self._tasks.values():
            if task.done():
                task.result()

    def stop(self) -> None:
        """Let go of what looks after the processes."""
        for task in self._tasks.values():
            task.cancel()
        for place in (*self.cells.values(), *self.removed):
            place.database.close()

    def join(self, entry: CellEntry, *, key: CellKey, signed: bytes) -> CellPlace:
        """Begin a leaf that has joined the tree, and its hosts."""
        self.events.names[entry.id] = entry.name
        is_shared = self.chance.uniform() < 0.5
        place = self._make_cell(entry, key=key, signed=signed, is_leaf=True, is_shared=is_shared)
        self.cells[entry.name] = place
        self._keep_all(place)
        return place

    def leave(self, place: CellPlace) -> None:
        """End a cell that was taken out of the tree, and its hosts, for good."""
        del self.cells[place.name]
        self.removed.append(place)
        names = [place.name, *(host.name for host in place.hosts)]
        if place.second is not None:
            names.append(place.second.name)
            place.second.kill()
            place.scheduler = None
        for name in names:
            self._tasks.pop(name).cancel()
        place.process.kill()
        place.cell = None
        for host in place.hosts:
            host.kill(has_power=False)

    def heal(self) -> None:
        """End all that is wrong from outside; what is dead is started at once."""
        self.has_faults = False
        self.fabric.clear_faults()
        for place in self.cells.values():
            place.database.forget_crashes()
            place.database.come_back()
        for host in self.hosts:
            host.machine.fail_rate = host.machine.hang_rate = 0.0
            self.simulation.network.heal(host.port)

    async def call(self, function: Callable[[Root], Awaitable[T]]) -> T:
        """Run a function within the root's process.

        Raises:
            ProcessDied: it is dead, or died before the answer.
        """
        place = self.root
        root = place.cell
        if root is None:
            raise ProcessDied("the root is dead")
        assert isinstance(root, Root)
        return await place.process.call(function, root)

    def _is_ready(self) -> bool:
        root = self.root.cell
        if root is None:
            return False
        # What has two parents is told by both.
        return root.node.chooser.totals().hosts_up_count >= len(self.hosts)

    def _keep_all(self, place: CellPlace) -> None:
        for host in place.hosts:
            self._keep(self._keep_host(host), host.name)
        self._keep(self._keep_cell(place), place.name)
        if place.second is not None:
            self._keep(self._keep_scheduler(place, place.second), place.second.name)

    def _keep(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks[name] = asyncio.create_task(work, name=f"keep {name}")

    async def _keep_cell(self, place: CellPlace) -> None:
        died = asyncio.Event()
        place.process.on_death = lambda _process: died.set()
        while True:
            died.clear()
            try:
                async with asyncio.timeout(START_TIMEOUT_S):
                    place.cell = await place.process.start()
            except ProcessDied:
                self.events.tell("died at its start", cell=place.name)
            except (XenithError, TimeoutError) as error:
                # As its command would end, and be begun again.
                self.events.tell("did not start", cell=place.name, error=str(error))
                place.process.kill()
            else:
                self.events.tell("started", cell=place.name, life=place.process.life_count)
                await died.wait()
                place.cell = None
                self.deaths += 1
                self.events.tell("died", cell=place.name)
            await self._rest()

    async def _keep_scheduler(
        self, place: CellPlace, second: SimulatedProcess[FurtherScheduler]
    ) -> None:
        died = asyncio.Event()
        second.on_death = lambda _process: died.set()
        while True:
            died.clear()
            if place.cell is None:
                # The first makes the rows.
                await self._rest()
                continue
            try:
                async with asyncio.timeout(START_TIMEOUT_S):
                    place.scheduler = await second.start()
            except ProcessDied:
                self.events.tell("died at its start", scheduler=second.name)
            except (XenithError, TimeoutError) as error:
                self.events.tell("did not start", scheduler=second.name, error=str(error))
                second.kill()
            else:
                self.events.tell("started", scheduler=second.name, life=second.life_count)
                await died.wait()
                place.scheduler = None
                self.deaths += 1
                self.events.tell("died", scheduler=second.name)
            await self._rest()

    async def _keep_host(self, host: HostPlace) -> None:
        died = asyncio.Event()
        host.process.on_death = lambda _process: died.set()
        while True:
            died.clear()
            try:
                await host.start()
            except ProcessDied:
                self.events.tell("died at its start", host=host.name)
            except BackendError as error:
                # A machine that fails as its toolstack starts ends that, and it is begun again.
                self.events.tell("did not start", host=host.name, error=str(error))
                host.kill(has_power=True)
            else:
                self.events.tell("started", host=host.name, life=host.process.life_count)
                await died.wait()
                self.deaths += 1
                self.events.tell("died", host=host.name)
            await self._rest()

    async def _rest(self) -> None:
        rest_s = RESTART_MIN_S
        if self.has_faults:
            rest_s += (RESTART_MAX_S - RESTART_MIN_S) * self.chance.uniform() ** 2
        await asyncio.sleep(rest_s)

    # -- cells

    def _make_cell(
        self, entry: CellEntry, *, key: CellKey, signed: bytes, is_leaf: bool, is_shared: bool
    ) -> CellPlace:
        path = self._directory / entry.name / "xenith.db"
        database = CrashingDatabase(
            f"sqlite:///{path}", self.simulation.ids(f"database {entry.name}")
        )
        outside = self.simulation.world("observer", skew_s=0.0, drift=0.0)
        place = CellPlace(
            entry=entry,
            key=key,
            signed=signed,
            is_leaf=is_leaf,
            process=SimulatedProcess(
                self.simulation, entry.name, lambda life: self._start_cell(place, life)
            ),
            database=database,
            observer=open_database(f"sqlite:///{path}", ids=outside.ids, clock=outside.clock),
            hosts=[],
        )
        if is_shared:
            place.second = SimulatedProcess(
                self.simulation,
                f"{entry.name}-second",
                lambda life: self._start_scheduler(place, life),
            )
        if is_leaf:
            shape = self.shape
            count = shape.hosts_least + self.chance.below(shape.hosts_most - shape.hosts_least + 1)
            place.hosts = [
                HostPlace(
                    self.simulation,
                    f"{entry.name}-h{number}",
                    self._directory / entry.name / f"h{number}",
                    port=self._take_port(),
                    memory_mib=shape.host_memory_mib,
                )
                for number in range(1, count + 1)
            ]
            for host in place.hosts:
                host.machine.on_start = self._hear_start
        return place

    def _hear_start(self, instance_id: str) -> None:
        self.on_start(instance_id)

    def _take_port(self) -> int:
        self._next_port += 1
        return self._next_port

    async def _start_cell(self, place: CellPlace, life: Life) -> Cell:
        db = life.connect(place.database)
        seat = self._seat(place, life)
        if place.id == self.plan.root:
            return await self._start_root(db, life, seat)
        prepare(db, trees=("cell",))
        images = self.images if place.is_leaf else None
        cell = Cell(db, life.world, seat, seal=_OPEN_SEAL, images=images)
        await cell.node.prepare()
        if cell.compute is not None and place.second is not None:
            chance = self.simulation.ids(f"builds of {place.name}, life {life.number}")
            cell.node.executor = Sharing(cell.compute, chance, self.shared)
        if cell.compute is not None:
            known = {row.url for row in await db.read(lambda tx: tx.list(host_rows))}
            for at, host in enumerate(place.hosts):
                if host.url not in known:
                    await cell.compute.hosts.add(
                        name=host.name,
                        url=host.url,
                        user=USER,
                        password=PASSWORD,
                        zone=ZONES[at % len(ZONES)],
                    )
        await cell.start()
        return cell

    async def _start_scheduler(self, place: CellPlace, life: Life) -> FurtherScheduler:
        scheduler = FurtherScheduler(
            life.connect(place.database),
            life.world,
            self._seat(place, life),
            seal=_OPEN_SEAL,
            images=self.images,
            counts=self.shared,
        )
        await scheduler.start()
        return scheduler

    def _seat(self, place: CellPlace, life: Life) -> Seat:
        root = self.plan.keys[self.plan.root].public
        buses = one_bus(life.bus(self.fabric))
        return Seat(place.id, place.key, root, place.signed, buses)

    async def _start_root(self, db: Database, life: Life, seat: Seat) -> Root:
        prepare(db)
        networks = Networks(db, life.world)
        root = Root(
            db,
            life.world,
            seat,
            seal=_OPEN_SEAL,
            images=self.images,
            networks=networks,
            projects=_Projects(),
            has_hosts=False,
        )
        await root.node.prepare()
        await networks.ensure_demo_network()
        await _ensure_flavors(root)
        await db.run(_lift_quotas)
        await root.start()
        return root


class _Projects:
    """An identity service in which every project is."""

    def has_project(self, _tx: Tx, _project_id: str) -> bool:
        return True


async def _ensure_flavors(root: Root) -> None:
    known = {row.id for row in await root.db.read(lambda tx: tx.list(flavors))}
    for flavor_id, ram_mib in FLAVORS.items():
        if flavor_id not in known:
            await root.service.flavors.create(
                FlavorSpec(
                    id=flavor_id,
                    name=flavor_id,
                    vcpus=1 + ram_mib // 256,
                    ram_mib=ram_mib,
                    root_gib=1 + ram_mib // 256,
                )
            )


def _lift_quotas(tx: Tx) -> None:
    limits = {"instances": -1, "cores": -1, "ram": -1}
    for project_id in UNLIMITED:
        quotas.set_limits(tx, scope="project", owner=project_id, limits=limits)
