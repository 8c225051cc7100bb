"""Compute and network over one cell with simulated hosts on loopback, all real but the images.

``SmallCloud.start`` makes it, ``reborn`` stands for the process having died: what was in memory is
gone, the rows and the hosts are as they were.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Self

from xenith.cells.keys import CellKey
from xenith.compute.cell import SAGAS, ComputeCell
from xenith.compute.operations.context import Seal
from xenith.compute.operations.requests import ServerRequest
from xenith.compute.records import quotas
from xenith.compute.records.instances import instances
from xenith.compute.records.servers import servers
from xenith.compute.schemas.servers import Rescue
from xenith.core.clock import ManualClock
from xenith.core.errors import NotFound
from xenith.core.ids import CellId, Ids
from xenith.core.units import GIB
from xenith.core.world import World
from xenith.db import Row, Tx, open_database
from xenith.db.migrate import prepare
from xenith.dev.cells import Root, tree_of_one
from xenith.http import Principal
from xenith.network.operations import Networks
from xenith.saga import SagaEngine
from xenith.toolstack.backends.sim import SimBackend
from xenith.toolstack.fleet import Fleet

IMAGE_ID = "11111111-0000-4000-8000-000000000001"
PASSWORD = "pw"
CELL = CellId("cell")
KEY = CellKey.derive(b"cell")
WHO = Principal(
    user_id="u",
    user_name="u",
    user_domain_id="default",
    roles=frozenset({"member", "reader"}),
    project_id="p",
)


class QuickClock:
    """The machine's clock, on which waiting takes a hundredth of the time."""

    rate = 100.0

    def now(self) -> float:
        return 1_700_000_000.0 + self.monotonic()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time() * self.rate

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s / self.rate)


class Images:
    """One raw image of a MiB; ``trouble`` is raised in its middle."""

    def __init__(self) -> None:
        self.trouble: Exception | None = None
        #: Properties of servers' images without bytes, and bytes of those that are whole.
        self.queued: dict[str, dict[str, Any]] = {}
        #: All that was ever described, and how many of a kind were to be kept, in order.
        self.described: dict[str, dict[str, Any]] = {}
        self.rotations: list[int] = []
        self.stored: dict[str, bytes] = {}
        self.info = SimpleNamespace(
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

    def add_snapshot(self, tx: Tx, **described: Any) -> str:
        image_id = tx.world.ids.uuid()
        tx.on_commit(lambda: self.queued.update({image_id: described}))
        tx.on_commit(lambda: self.described.update({image_id: described}))
        return image_id

    def drop_snapshot(self, tx: Tx, image_id: str) -> None:
        tx.on_commit(lambda: self.queued.pop(image_id, None))

    def find_imaged(self, _tx: Tx, image_id: str) -> str | None:
        return self.queued[image_id]["properties"]["instance_uuid"]

    async def store_image(
        self, image_id: str, chunks: AsyncIterator[bytes], *, rotation: int | None = None
    ) -> None:
        data = b""
        async for chunk in chunks:
            data += chunk
            if self.trouble is not None:
                raise self.trouble
        if image_id not in self.queued and image_id not in self.stored:
            raise NotFound(f"image {image_id} is gone")
        self.queued.pop(image_id, None)
        self.stored[image_id] = data
        if rotation is not None:
            self.rotations.append(rotation)

    async def drop_image(self, image_id: str) -> None:
        self.queued.pop(image_id, None)

    async def open_image(self, _image_id: str) -> AsyncIterator[bytes]:
        yield bytes(2**19)
        if self.trouble is not None:
            raise self.trouble
        yield bytes(2**19)


class SmallCloud:
    """See the module."""

    def __init__(self, world: World, database: str) -> None:
        self.world = world
        self.images = Images()
        self.db = open_database(database, ids=world.ids, clock=world.clock)
        self.networks = Networks(self.db, world)
        self.fleet = Fleet(world, event_batch_s=0.0)
        self.backends: dict[str, SimBackend] = {}
        self.addresses: dict[str, str] = {}
        self.has_config_drive = True
        self._requests = itertools.count(1)

    @classmethod
    async def start(
        cls,
        *,
        host_count: int = 2,
        clock: Any = None,
        seed: int = 7,
        file: Path | None = None,
        memory_bytes: int = 8 * GIB,
        disk_bytes: int = 400 * GIB,
    ) -> Self:
        world = World(clock=clock or ManualClock(), ids=Ids(seed=seed))
        cloud = cls(world, "sqlite://" if file is None else f"sqlite:///{file}")
        prepare(cloud.db)
        for number in range(1, host_count + 1):
            await cloud.start_host(
                f"host-{number}", memory_bytes=memory_bytes, disk_bytes=disk_bytes
            )
        cloud.cell = cloud._make_cell()
        await cloud.node.prepare()
        await cloud.networks.ensure_demo_network()
        for name, url in cloud.addresses.items():
            await cloud.cell.hosts.add(
                name=name, url=url, user="root", password=PASSWORD, zone="nova"
            )
        await cloud.cell.hosts.start()
        await cloud.compute.flavors.ensure_defaults()
        return cloud

    async def revive_host(self, name: str) -> None:
        """Have a host that died answer again, where it was."""
        host, _, port = self.addresses[name].removeprefix("http://").rpartition(":")
        await self.fleet.hosts[name].listen(host, int(port))

    async def start_host(
        self, name: str, *, memory_bytes: int, disk_bytes: int = 400 * GIB
    ) -> None:
        backend = SimBackend(
            self.world, memory_bytes=memory_bytes, cpu_count=64, disk_bytes=disk_bytes
        )
        endpoint = await self.fleet.add_host(name, backend, password=PASSWORD)
        self.backends[name], self.addresses[name] = backend, endpoint.url

    def _make_cell(self) -> ComputeCell:
        world = self.world
        seal = Seal(close=lambda data: data, open=lambda data: data)
        self.house = Root(
            self.db,
            world,
            tree_of_one(CELL, KEY, region="r", world=world),
            seal=seal,
            images=self.images,
            networks=self.networks,
            projects=None,  # type: ignore[arg-type]
            has_hosts=True,
        )
        self.node, self.compute = self.house.node, self.house.service
        assert self.house.compute is not None
        return self.house.compute

    async def reborn(self) -> ComputeCell:
        """Drop all that the process had in memory and begin anew from the rows."""
        await self.house.stop()
        self.cell = self._make_cell()
        await self.cell.hosts.start()
        return self.cell

    async def close(self) -> None:
        await self.house.stop()
        await self.fleet.stop()

    async def problems(self, invariants: ModuleType, *, without: Sequence[str] = ()) -> list[str]:
        """Find what is wrong; hosts that are not up are named in ``without``."""
        up = {name: url for name, url in self.addresses.items() if name not in without}
        records = await invariants.records_of(up, password=PASSWORD)
        found: list[str] = await invariants.find_problems(
            self.db, records, table=self.cell.hosts.table
        )
        return found

    # -- what a tenant does

    def of_trial(self) -> dict[str, Any]:
        """Give what a trial of a saga takes from the cloud that it runs in."""
        return {
            "db": self.db,
            "world": self.world,
            "context": self.cell,
            "sagas": SAGAS,
            "close": self.close,
            "reborn": self.reborn,
        }

    async def create(self, *, count: int = 1, **fields: Any) -> list[str]:
        """Ask for servers; their intents are in the outbox."""
        fields = {"flavor_ref": "64", "config_drive": self.has_config_drive, **fields}
        request = ServerRequest(
            name="web", image_ref=IMAGE_ID, min_count=count, max_count=count, **fields
        )
        made = await self.compute.servers.create(WHO, request, request_id=self._request_id())
        return list(made.ids)

    async def allow_many(self) -> None:
        """Lift the tenant's quota."""
        limits = {"instances": -1, "cores": -1, "ram": -1}
        await self.db.run(
            lambda tx: quotas.set_limits(tx, scope="project", owner="p", limits=limits)
        )

    async def delete(self, server_id: str) -> str:
        request_id = self._request_id()
        await self.compute.servers.delete(WHO, server_id, request_id=request_id)
        return request_id

    async def power(self, server_id: str, transition: str) -> str:
        request_id = self._request_id()
        await self.compute.actions.power(WHO, server_id, transition, request_id=request_id)
        return request_id

    async def resize(self, server_id: str, flavor: str) -> str:
        request_id = self._request_id()
        await self.compute.resizes.resize(WHO, server_id, flavor, request_id=request_id)
        return request_id

    async def image(self, server_id: str, name: str = "mine") -> str:
        return await self.compute.images.create(
            WHO, server_id, name=name, metadata={}, request_id=self._request_id()
        )

    async def rebuild(self, server_id: str, **fields: Any) -> str:
        request_id = self._request_id()
        wanted = SimpleNamespace(**{"image_ref": IMAGE_ID, "admin_pass": "pw", **fields})
        await self.compute.rebuilds.rebuild(WHO, server_id, wanted, request_id=request_id)
        return request_id

    async def rescue(self, server_id: str, **fields: Any) -> str:
        request_id = self._request_id()
        wanted = Rescue(**{"admin_pass": "pw", **fields})
        await self.compute.rescues.rescue(WHO, server_id, wanted, request_id=request_id)
        return request_id

    async def unrescue(self, server_id: str) -> str:
        request_id = self._request_id()
        await self.compute.rescues.unrescue(WHO, server_id, request_id=request_id)
        return request_id

    async def confirm_resize(self, server_id: str) -> str:
        request_id = self._request_id()
        await self.compute.resizes.confirm(WHO, server_id, request_id=request_id)
        return request_id

    async def revert_resize(self, server_id: str) -> str:
        request_id = self._request_id()
        await self.compute.resizes.revert(WHO, server_id, request_id=request_id)
        return request_id

    async def instance(self, server_id: str) -> Row:
        return await self.db.read(lambda tx: tx.get(instances, id=server_id))

    async def server(self, server_id: str) -> Row:
        return await self.db.read(lambda tx: tx.get(servers, id=server_id))

    async def settle(self) -> None:
        """Wait until all that was asked for is done; for a cell that was started."""
        await self.house.settle()

    def _request_id(self) -> str:
        return f"req-{next(self._requests)}"

    async def carry(self) -> None:
        """Have what was asked for accepted and begun."""
        while await self.node.routing.pump_once():
            pass

    async def build(self, **fields: Any) -> list[str]:
        """Have servers built, with an engine of this call's own."""
        ids = await self.create(**fields)
        await self.work()
        return ids

    async def work(self) -> None:
        """Do all that was asked for, with an engine of this call's own."""
        engine = SagaEngine(self.db, self.world, self.cell, SAGAS)
        await engine.start()
        try:
            await self.carry()
            await engine.settle()
        finally:
            await engine.stop()

    async def until(self, holds: Callable[[], Awaitable[bool]], *, timeout_s: float = 20) -> None:
        """Wait until something holds."""
        async with asyncio.timeout(timeout_s):
            while not await holds():
                await self.world.clock.sleep(0.5)

    async def until_sound(self, invariants: ModuleType, **options: Any) -> None:
        """Wait until nothing is wrong; reconcilers are told to look meanwhile."""
        found: list[str] = []

        async def is_sound() -> bool:
            nonlocal found
            self.cell.clean_later()
            found = await self.problems(invariants, **options)
            return not found

        try:
            await self.until(is_sound)
        except TimeoutError:
            raise AssertionError(found) from None

    # -- what an observer sees

    def objects(self, class_name: str) -> list[tuple[str, Any]]:
        return [
            (name, record)
            for name, host in self.fleet.hosts.items()
            for record in host.objects.all(class_name).values()
        ]

    def by_ref(self, class_name: str) -> dict[str, Any]:
        return {
            ref: record
            for host in self.fleet.hosts.values()
            for ref, record in host.objects.all(class_name).items()
        }
