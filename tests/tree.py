"""A tree of cells in one process: every node, database and host real, the images alone made up.

``SmallTree.start`` makes it of a shape (``1x2x2``); each cell can be stopped and started again on
its rows, as if its process had died. Tests get this module by the fixture ``tree_of_cells``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, Self

from xenith.bus import MemoryBus
from xenith.cells.keys import CellKey
from xenith.compute.endpoints.operator import service as operator_service
from xenith.compute.endpoints.service import service as compute_service
from xenith.compute.operations.context import Seal
from xenith.compute.operations.operator import Operator
from xenith.compute.operations.requests import ServerRequest
from xenith.compute.records import quotas
from xenith.compute.records.hosts import hosts
from xenith.compute.records.instances import instances
from xenith.core.ids import CellId, Ids
from xenith.core.units import GIB
from xenith.core.world import World
from xenith.db import Database, Row, Tx, open_database
from xenith.db.migrate import prepare
from xenith.dev.cells import Cell, Root, Seat, one_bus
from xenith.dev.tree import give_sim_hosts, plan_tree, read_shape
from xenith.http import Principal
from xenith.network.operations import Networks
from xenith.toolstack.fleet import Fleet

IMAGE_ID = "11111111-0000-4000-8000-000000000001"
MICRO = "64"
ADMIN = Principal(
    user_id="u-admin",
    user_name="admin",
    user_domain_id="default",
    roles=frozenset({"admin", "manager", "member", "reader"}),
    project_id="p1",
)


class QuickClock:
    """The machine's clock, on which waiting takes a fraction of the time."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def now(self) -> float:
        return 1_700_000_000.0 + self.monotonic()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time() * self.rate

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s / self.rate)


class Images:
    """One raw image of a MiB, for everyone."""

    info = SimpleNamespace(
        id=IMAGE_ID,
        name="image",
        status="active",
        disk_format="raw",
        container_format="bare",
        size_bytes=2**20,
        virtual_size_bytes=2**20,
        min_ram_mib=0,
        min_disk_gib=0,
        properties={},
    )

    def find_image(self, _tx: Tx, image_id: str, _who: Principal) -> Any:
        return self.info if image_id == IMAGE_ID else None

    async def open_image(self, _image_id: str) -> AsyncIterator[bytes]:
        yield bytes(2**20)


class SmallTree:
    """See the module. Cells are named as in ``plan_tree``: ``api``, ``r1``, ``r1-c1``."""

    def __init__(self, shape: str, *, rate: float, seed: int, second_parents: int) -> None:
        self.world = World(clock=QuickClock(rate), ids=Ids(seed=seed))
        self.bus = MemoryBus(self.world.clock)
        self.plan = plan_tree(
            read_shape(shape), region="r", secret=b"s", second_parents=second_parents
        )
        self.images = Images()
        self.fleet = Fleet(self.world, event_batch_s=0.0)
        #: Cells that run, by name; and every cell's database, which outlives it.
        self.cells: dict[str, Cell] = {}
        self.databases: dict[str, Database] = {}
        self.memory_bytes = 8 * GIB
        buses = one_bus(self.bus)
        self._seats = {
            entry.name: self.plan.seat(entry.id, buses) for entry in self.plan.topology.cells
        }
        #: Names of the cells that have hosts.
        self.leaves = {entry.name for entry in self.plan.leaves}
        self._networks: Networks | None = None

    @classmethod
    async def start(
        cls,
        shape: str = "1x2x2",
        *,
        hosts_per_cell: int = 1,
        rate: float = 5.0,
        seed: int = 7,
        second_parents: int = 0,
        memory_bytes: int = 8 * GIB,
    ) -> Self:
        tree = cls(shape, rate=rate, seed=seed, second_parents=second_parents)
        tree.memory_bytes = memory_bytes
        for entry in tree.plan.topology.cells:
            tree.databases[entry.name] = tree._database()
        tree._networks = Networks(tree.databases["api"], tree.world)
        for entry in tree.plan.topology.cells:
            cell = tree._make(entry.name)
            await cell.node.prepare()
            if entry.name in tree.leaves and entry.name != "api":
                await tree._give_hosts(cell, entry.name, hosts_per_cell)
            tree.cells[entry.name] = cell
        await tree._networks.ensure_demo_network()
        await tree.root.service.flavors.ensure_defaults()
        for cell in tree.cells.values():
            await cell.start()
        return tree

    def _database(self) -> Database:
        database = open_database("sqlite://", ids=self.world.ids, clock=self.world.clock)
        prepare(database)
        return database

    async def _give_hosts(self, cell: Cell, name: str, count: int) -> None:
        await give_sim_hosts(
            cell,
            self.fleet,
            prefix=name,
            count=count,
            password="p",
            zone="nova",
            world=self.world,
            memory_bytes=self.memory_bytes,
        )

    def _make(self, name: str) -> Cell:
        seat = self._seats[name]
        seal = Seal(close=lambda data: data, open=lambda data: data)
        database = self.databases[name]
        if name != "api":
            images: Any = self.images if name in self.leaves else None
            return Cell(database, self.world, seat, seal=seal, images=images)
        assert self._networks is not None
        return Root(
            database,
            self.world,
            seat,
            seal=seal,
            images=self.images,
            networks=self._networks,
            projects=SimpleNamespace(has_project=lambda _tx, _id: True),  # type: ignore[arg-type]
            has_hosts="api" in self.leaves,
        )

    async def close(self) -> None:
        for cell in reversed(list(self.cells.values())):
            await cell.stop()
        await self.fleet.stop()
        for database in self.databases.values():
            await database.close()

    # -- cells

    @property
    def root(self) -> Root:
        root = self.cells["api"]
        assert isinstance(root, Root)
        return root

    def id_of(self, name: str) -> CellId:
        return self.root.node.topology.get(name).id

    async def stop_cell(self, name: str) -> None:
        """Have a cell's process end; its rows stay."""
        await self.cells.pop(name).stop()

    async def start_cell(self, name: str) -> None:
        """Have a cell's process begin again on its rows."""
        cell = self._make(name)
        self.cells[name] = cell
        await cell.start()

    async def run_joined(self, told: dict[str, Any], key: CellKey, *, host_count: int = 1) -> Cell:
        """Run a leaf that has joined by what the root told it."""
        name = str(told["name"])
        signed = bytes.fromhex(told["topology"])
        root = self.plan.keys[self.plan.root].public
        self._seats[name] = Seat(CellId(told["cell_id"]), key, root, signed, one_bus(self.bus))
        self.leaves.add(name)
        self.databases[name] = self._database()
        cell = self.cells[name] = self._make(name)
        await cell.node.prepare()
        await self._give_hosts(cell, name, host_count)
        await cell.start()
        return cell

    # -- the root's API

    def services(self) -> list[Any]:
        """Give what a ``Site`` serves."""
        return [
            compute_service(self.root.service),
            operator_service(Operator(self.root.context)),
        ]

    async def until(self, holds: Callable[[], Awaitable[bool]], *, timeout_s: float = 20) -> None:
        """Wait until something holds; the time allowed is of the machine's clock."""
        async with asyncio.timeout(timeout_s):
            while not await holds():
                await self.world.clock.sleep(0.1)

    async def settle(self) -> None:
        """Wait until the root knows every leaf: its hosts, what it has free, and how old that is.

        Cells that are not running are not waited for.
        """
        leaves = [self.cells[name].id for name in self.leaves & self.cells.keys() - {"api"}]

        async def is_known() -> bool:
            known = await self.root.db.read(lambda tx: tx.list(hosts, is_up=True))
            up = {row.cell_id for row in known}
            ages = self.root.node.ages()
            return all(leaf in up and leaf in ages for leaf in leaves) and all(
                self._knows_below(cell) for cell in self.cells.values()
            )

        await self.until(is_known)

    def _knows_below(self, cell: Cell) -> bool:
        """Tell whether a cell without hosts knows what those that run below it have."""
        below = self.root.node.topology.descendants(cell.id)
        up = sum(
            int(leaf.compute.hosts.table.is_up.sum())
            for leaf in self.cells.values()
            if leaf.compute is not None and leaf.id in below
        )
        return not below or 0 < up <= cell.node.chooser.totals().hosts_up_count

    async def allow_many(self, project_id: str = "p1") -> None:
        """Lift a project's quota."""
        limits = {"instances": -1, "cores": -1, "ram": -1}
        await self.root.db.run(
            lambda tx: quotas.set_limits(tx, scope="project", owner=project_id, limits=limits)
        )

    async def build(self, *, who: Principal = ADMIN, **hints: Any) -> str:
        """Have a server built, and give its id when it is ACTIVE for the root."""
        request = ServerRequest(
            name="web", image_ref=IMAGE_ID, flavor_ref=MICRO, nics=(), hints=hints
        )
        made = await self.root.service.servers.create(who, request, request_id="req-1")
        await self.until(lambda: self._is_active(made.ids[0]))
        return made.ids[0]

    async def instance(self, server_id: str) -> Row | None:
        """Give what the root knows of a server's instance."""
        found = await self.root.db.read(lambda tx: tx.list(instances, id=server_id))
        return found[0] if found else None

    async def _is_active(self, server_id: str) -> bool:
        row = await self.instance(server_id)
        return row is not None and row.vm_state == "active" and row.task_state is None


@contextlib.asynccontextmanager
async def small_tree(shape: str = "1x2x2", **options: Any) -> AsyncIterator[SmallTree]:
    """Give a tree whose leaves the root knows, and stop it in the end."""
    tree = await SmallTree.start(shape, **options)
    try:
        await tree.settle()
        yield tree
    finally:
        await tree.close()
