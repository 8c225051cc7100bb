"""One cloud in one process: services, a compute cell, and the hosts that it runs itself.

    Site ── identity image network compute ── intents ── cell ── XenAPI ── fleet (sim or qemu)
                     └────────────── one database ──────────┘

Start reads what an earlier process left; stop may be skipped at any time (kill -9).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from xenith.blob import open_store
from xenith.cells.keys import CellKey
from xenith.compute.endpoints.operator import service as operator_service
from xenith.compute.endpoints.service import service as compute_service
from xenith.compute.operations.operator import Operator
from xenith.compute.reconcilers import UsageRecount as ComputeRecount
from xenith.core.errors import Invalid
from xenith.core.ids import CellId, derive_uuid
from xenith.core.log import logger
from xenith.core.settings import Settings
from xenith.core.world import World
from xenith.db import Database
from xenith.dev import keys
from xenith.dev.cells import Cell, Root, Seat, tree_of_one
from xenith.dev.hosts import OwnHosts
from xenith.dev.link_buses import LinkBuses, own_broker
from xenith.dev.locks import take_lock
from xenith.dev.metrics import LoopWatch
from xenith.dev.pages import pages
from xenith.dev.rows import open_rows
from xenith.http import Service, Site
from xenith.identity.endpoints import service as identity_service
from xenith.identity.operations import CatalogEntry, Identity
from xenith.image.endpoints import service as image_service
from xenith.image.operations import Images
from xenith.network.endpoints import service as network_service
from xenith.network.operations import Networks
from xenith.network.reconcilers import UsageRecount as NetworkRecount
from xenith.reconcile import ReconcilerLoop

_log = logger("dev.cloud")

#: The one cell of a cloud that is a tree of one.
ONLY_CELL = CellId("00000000-0000-0000-0000-00000000ce11")


class Cloud:
    """A whole cloud; ``start`` it, serve its ``site``, ``stop`` it."""

    def __init__(
        self,
        settings: Settings,
        *,
        site_url: str,
        world: World | None = None,
        seat: Seat | None = None,
    ) -> None:
        self.settings = settings
        #: The place of a root that has cells below it; without one, this is a tree of one.
        self._seat = seat
        self.site_url = settings.public_url.rstrip("/") or site_url
        self.world = world or World()
        self.directory = Path(settings.data).absolute()
        self._lock: IO[str] | None = None
        self._buses: LinkBuses | None = None
        #: Cells besides the root that run in this process, as a lab has them.
        self.other_cells: Mapping[CellId, Cell] = {}
        self.watch = LoopWatch(self.world)
        self._has_started = False

    async def start(self) -> None:
        """Put the parts together and start them, lowest first; a database's server is waited for.

        Raises:
            Conflict: another process runs this cloud.
            Unavailable: the database's file or a port cannot be had.
        """
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = take_lock(self.directory)
        settings, world = self.settings, self.world
        self.db: Database = await open_rows(settings, world, self.directory)
        self.identity = Identity(
            self.db,
            world,
            key_directory=self.directory / "token-keys",
            region=settings.region,
            token_life_s=settings.token_life_s,
        )
        store = open_store(settings.image_store, self.directory / "images")
        self.images = Images(self.db, world, store)
        self.networks = Networks(self.db, world)
        self.hosts = OwnHosts(settings, world, self.directory)
        self._assemble_compute()
        self.services: list[Service[Any]] = [
            identity_service(self.identity),
            image_service(self.images),
            network_service(self.networks),
            compute_service(self.compute),
        ]
        operator = operator_service(Operator(self.context))
        self.site = Site(
            [*self.services, operator],
            world=world,
            authenticator=self.identity,
            public_url=settings.public_url,
            extra=pages(self),
        )
        self._recounts = ReconcilerLoop(world, [ComputeRecount(self.db), NetworkRecount(self.db)])
        await self.cell.node.prepare()
        await self._bootstrap()
        await self.images.recover()
        compute = self.cell.compute
        if compute is not None:
            for host in await self.hosts.start():
                await compute.hosts.add(
                    name=host.name,
                    url=host.url,
                    user=host.user,
                    password=host.password,
                    zone=self.context.default_zone,
                )
        await self.cell.start()
        if self._buses is not None:
            self._buses.start()
        self._recounts.start()
        self.watch.start()
        self._has_started = True

    async def stop(self) -> None:
        """Stop the parts, highest first. Guests run on."""
        if self._has_started:
            await self.watch.stop()
            await self._recounts.stop()
            await self.cell.stop()
            if self._buses is not None:
                await self._buses.close()
            await self.hosts.stop()
            await self.identity.close()
            await self.images.close()
            await self.db.close()
            self._has_started = False
        if self._lock is not None:
            self._lock.close()

    @property
    def is_healthy(self) -> bool:
        """Whether requests can be served."""
        return self._has_started

    def list_cells(self) -> list[Cell]:
        """List the cells that run in this process, the root first."""
        return [self.cell, *self.other_cells.values()]

    @property
    def host_count(self) -> int:
        """Hosts that this process's own cell has."""
        return 0 if self.cell.compute is None else len(self.cell.compute.hosts.drivers)

    def _assemble_compute(self) -> None:
        seat = self._seat or self._make_seat()
        self.cell = Root(
            self.db,
            self.world,
            seat,
            seal=keys.open_seal(self.directory),
            images=self.images,
            networks=self.networks,
            projects=self.identity,
            has_hosts=self._seat is None and self.settings.role != "root",
            has_forced_config_drive=self.hosts.needs_config_drive,
        )
        self.context, self.compute = self.cell.context, self.cell.service

    def _make_seat(self) -> Seat:
        """Give the place of a cell that is a cloud by itself, or the root of a tree."""
        key = CellKey.load_or_create(self.directory / "cell.key")
        if self.settings.role not in ("alone", "root"):
            raise Invalid(f"a cell whose role is {self.settings.role} runs by `xenith cell run`")
        if self.settings.role == "alone":
            return tree_of_one(ONLY_CELL, key, region=self.settings.region, world=self.world)
        own = CellId(derive_uuid("cell", key.public.fingerprint()))
        alone = tree_of_one(own, key, region=self.settings.region, world=self.world)
        buses = LinkBuses(
            self.world,
            own=own,
            key=key,
            topology=lambda: self.cell.node.topology,
            broker=own_broker(self.settings),
        )
        self._buses = buses
        return dataclasses.replace(alone, buses=buses)

    async def _bootstrap(self) -> None:
        admin, demo = keys.passwords(self.settings, self.directory, self.world.ids)
        keys.write_clouds(
            self.directory,
            site_url=self.site_url,
            region=self.settings.region,
            admin_password=admin,
            demo_password=demo,
        )
        catalog = [
            CatalogEntry(kind, name, self.site_url + service.prefix + service.catalog_path)
            for service in self.services
            for kind, name in ((service.type, service.name), *service.aliases)
        ]
        await self.identity.bootstrap(admin_password=admin, demo_password=demo, catalog=catalog)
        await self.compute.flavors.ensure_defaults()
        await self.networks.ensure_demo_network()
