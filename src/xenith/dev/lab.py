"""A lab: a simulated region in one process, every cell of it with a database of its own.

    root (a whole Cloud: its API is the real one) ── routers ── leaves ── XenAPI ── one fleet
         DIR/xenith.db                              DIR/cells/NAME/xenith.db     DIR/toolstack

Cells talk over one bus in memory; who they are follows from a secret in the directory, so that a
lab goes on where it was when it is started there again.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import sqlalchemy as sa

from xenith.bus import MemoryBus
from xenith.cells.topology import CellEntry
from xenith.compute.records.hosts import hosts as host_table
from xenith.core.errors import Conflict, Exhausted, Invalid
from xenith.core.ids import CellId, Ids
from xenith.core.log import logger
from xenith.core.settings import Settings
from xenith.core.world import World
from xenith.db import open_database
from xenith.db.migrate import prepare
from xenith.dev import keys
from xenith.dev.cells import Cell, one_bus
from xenith.dev.cloud import Cloud
from xenith.dev.hosts import SIM_CPUS, SIM_DISK_BYTES, SIM_MEMORY_BYTES
from xenith.dev.tree import TreePlan, plan_tree, read_shape
from xenith.toolstack.backends.sim import SimBackend
from xenith.toolstack.fleet import Fleet, HostEndpoint

_log = logger("dev.lab")

SHAPE_FILE = "lab.json"
SECRET_FILE = "lab.secret"  # noqa: S105 - where it is, not what it is
#: Leaves that start at a time. Each connects to all its hosts at once, and all share one core.
LEAVES_STARTING_MAX = 2
#: Open files of one host: its port and the two ends of its driver's wait for events (measured), and
#: on average as many again for calls, which have more connections as long as there are many.
FILES_PER_HOST = 5
#: Open files that a cell's database has, and what is left for the API's clients.
FILES_PER_CELL = 4
FILES_OF_THE_REST = 512
#: Seconds that the root has to learn of every leaf's hosts: a digest a second, level by level.
KNOWN_TIMEOUT_S = 15.0
_LOOK_S = 0.05
_HOSTS_UP = (
    sa.select(sa.func.count())
    .select_from(host_table)
    .where(
        host_table.c.is_up == sa.bindparam("is_up"),
        host_table.c.is_removed == sa.bindparam("is_removed"),
    )
)


class LabShape(msgspec.Struct, frozen=True):
    """What a lab consists of; kept beside it, since its cells follow from it."""

    tree: str
    hosts_per_cell: int


#: A region that starts in seconds on a laptop.
DEFAULT = LabShape(tree="1x2x2", hosts_per_cell=3)


@dataclass(frozen=True)
class LabCounts:
    """How large a lab is."""

    cells: int
    leaves: int
    hosts: int


class Lab:
    """A region; ``start`` it, serve its ``cloud.site``, ``stop`` it."""

    def __init__(
        self,
        settings: Settings,
        shape: LabShape,
        *,
        site_url: str,
        world: World | None = None,
        without: Collection[str] = (),
    ) -> None:
        self.world = world or World()
        self.shape = shape
        self.directory = Path(settings.data).absolute()
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._settings = settings
        self._password = keys.host_password(self.directory, self.world.ids)
        self.plan: TreePlan = plan_tree(
            read_shape(shape.tree),
            region=settings.region,
            secret=_secret(self.directory, self.world.ids),
        )
        _check_file_limit(self.counts)
        self._absent = _check_names(without, self.plan)
        self._buses = one_bus(MemoryBus(self.world.clock))
        self.fleet = Fleet(self.world, self.directory / "toolstack")
        self.cloud = Cloud(
            msgspec.structs.replace(settings, hosts=0, backend="sim"),
            site_url=site_url,
            world=self.world,
            seat=self.plan.seat(self.plan.root, self._buses),
        )
        #: All but the root, those above before those below.
        self.cells: dict[CellId, Cell] = {}
        self.cloud.other_cells = self.cells

    @property
    def counts(self) -> LabCounts:
        """How large it is."""
        leaves = len(self.plan.leaves)
        return LabCounts(
            cells=len(self.plan.topology.cells),
            leaves=leaves,
            hosts=leaves * self.shape.hosts_per_cell,
        )

    async def start(self) -> None:
        """Start the root, then what is below it, and wait until the root knows all the hosts.

        Raises:
            Conflict: another process runs this lab.
            Unavailable: a database or a port cannot be had.
        """
        await self.cloud.start()
        # All before the first driver connects, which could be given the port of a host to come.
        present = [entry for entry in self.plan.leaves if entry.name not in self._absent]
        hosts = [(entry, await self._start_hosts(entry)) for entry in present]
        await self.fleet.start()
        for entry in self.plan.routers:
            if entry.name in self._absent:
                continue
            await self._cell(entry, is_leaf=False).start()
        leaves = iter(hosts)
        starting = [
            asyncio.create_task(self._start_leaves(leaves)) for _ in range(LEAVES_STARTING_MAX)
        ]
        try:
            await asyncio.gather(*starting)
        finally:
            for task in starting:
                task.cancel()
        await self._wait_known(len(present) * self.shape.hosts_per_cell)

    async def stop(self) -> None:
        """Stop the leaves first, which go on from their rows."""
        cells = list(self.cells.values())
        await asyncio.gather(*(cell.stop() for cell in cells))
        await self.cloud.stop()
        await self.fleet.stop()
        for cell in cells:
            await cell.db.close()
        self.cells.clear()

    async def _start_hosts(self, entry: CellEntry) -> list[HostEndpoint]:
        return [
            await self.fleet.add_host(
                f"{entry.name}-host-{number}",
                SimBackend(
                    self.world,
                    memory_bytes=SIM_MEMORY_BYTES,
                    cpu_count=SIM_CPUS,
                    disk_bytes=SIM_DISK_BYTES,
                    latency_s=self._settings.sim_latency_s,
                    failure_rate=self._settings.sim_failure_rate,
                ),
                password=self._password,
            )
            for number in range(1, self.shape.hosts_per_cell + 1)
        ]

    async def _start_leaves(self, leaves: Iterator[tuple[CellEntry, list[HostEndpoint]]]) -> None:
        for entry, hosts in leaves:
            await self._start_leaf(entry, hosts)

    async def _start_leaf(self, entry: CellEntry, hosts: list[HostEndpoint]) -> None:
        cell = self._cell(entry, is_leaf=True)
        assert cell.compute is not None, "a leaf has hosts"
        await cell.node.prepare()
        known = {(row.name, row.url) for row in await cell.db.read(lambda tx: tx.list(host_table))}
        for host in hosts:
            if (host.name, host.url) not in known:
                await cell.compute.hosts.add(
                    name=host.name,
                    url=host.url,
                    user="root",
                    password=self._password,
                    zone=self.cloud.context.default_zone,
                )
        await cell.start()

    def _cell(self, entry: CellEntry, *, is_leaf: bool) -> Cell:
        directory = self.directory / "cells" / entry.name
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        db = open_database(
            f"sqlite:///{directory / 'xenith.db'}", ids=self.world.ids, clock=self.world.clock
        )
        prepare(db, trees=("cell",))
        cell = Cell(
            db,
            self.world,
            self.plan.seat(entry.id, self._buses),
            seal=keys.open_seal(directory),
            images=self.cloud.images if is_leaf else None,
        )
        self.cells[entry.id] = cell
        return cell

    async def _wait_known(self, hosts: int) -> None:
        """Wait until the root knows the hosts: by digests, for choices, and by rows, for lists.

        A router that has heard of no hosts yet says that it has no room.
        """
        until = self.world.clock.monotonic() + KNOWN_TIMEOUT_S
        while (known := await self._count_known()) < hosts:
            if self.world.clock.monotonic() > until:
                _log.warning("hosts are not known yet", known=known, hosts=hosts)
                return
            await self.world.clock.sleep(_LOOK_S)

    async def _count_known(self) -> int:
        told = self.cloud.cell.node.chooser.totals().hosts_up_count
        listed = await self.cloud.db.read(
            lambda tx: tx.scalar(_HOSTS_UP, is_up=True, is_removed=False)
        )
        return min(told, int(listed))


def choose_shape(directory: Path, tree: str | None, hosts_per_cell: int | None) -> LabShape:
    """Give the shape of the lab in a directory: as it was there, or as it is asked for.

    Raises:
        Invalid: it is no shape, or too large.
        Conflict: the directory has a lab of another tree, or a cloud that is no lab.
    """
    path = directory / SHAPE_FILE
    if not path.exists():
        if (directory / "xenith.db").exists():
            raise Conflict(f"{directory} has a cloud that is no lab: choose another --data")
        shape = LabShape(
            tree or DEFAULT.tree,
            DEFAULT.hosts_per_cell if hosts_per_cell is None else hosts_per_cell,
        )
        if len(read_shape(shape.tree)) == 1:
            raise Invalid("a lab has cells below its root, like 1x2; `xenith up` runs a cell alone")
    else:
        known = msgspec.json.decode(path.read_bytes(), type=LabShape)
        shape = LabShape(
            tree or known.tree, known.hosts_per_cell if hosts_per_cell is None else hosts_per_cell
        )
        if read_shape(shape.tree) != read_shape(known.tree):
            raise Conflict(
                f"the lab in {directory} is {known.tree}, not {shape.tree}: leave --tree out, or "
                "choose another --data"
            )
        if shape.hosts_per_cell < known.hosts_per_cell:
            raise Conflict(
                f"the cells in {directory} have {known.hosts_per_cell} hosts each: a lab grows, "
                "and does not shrink"
            )
    if shape.hosts_per_cell < 0:
        raise Invalid("--hosts-per-cell is a count")
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    keys.write_private(path, msgspec.json.encode(shape).decode() + "\n")
    return shape


def _secret(directory: Path, ids: Ids) -> bytes:
    """Give what the cells' keys are derived from, made the first time."""
    path = directory / SECRET_FILE
    if not path.exists():
        keys.write_private(path, ids.secret(32))
    return path.read_text().strip().encode()


def _check_names(names: Collection[str], plan: TreePlan) -> frozenset[str]:
    known = {entry.name for entry in (*plan.routers, *plan.leaves)}
    for name in names:
        if name not in known:
            raise Invalid(f"the lab has no cell named {name} below its root")
    return frozenset(names)


def _check_file_limit(counts: LabCounts) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = counts.hosts * FILES_PER_HOST + counts.cells * FILES_PER_CELL + FILES_OF_THE_REST
    if most != resource.RLIM_INFINITY and needed > most:
        raise Exhausted(
            f"{counts.hosts} hosts need about {needed} open files, and this user may have {most}: "
            "take fewer --hosts-per-cell, or raise the limit (ulimit -n)",
            what="open files",
            limit=most,
        )
