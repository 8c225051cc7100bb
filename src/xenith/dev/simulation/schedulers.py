"""Several schedulers of one leaf, each a process of its own on the leaf's rows.

The first is the leaf: it has the links, writes down what is asked, runs sagas. It leaves a share of
the builds undecided (``Sharing``); a ``FurtherScheduler`` takes those up, with a table of hosts of
its own, and the rows say who of the two was first. Neither is told what the other does, and each
dies by itself.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from xenith.cells import intents as kinds
from xenith.cells import topology as documents
from xenith.cells.capacity import Digest
from xenith.cells.intents import Intent, Verdict
from xenith.cells.node import Node
from xenith.compute.cell import ComputeCell
from xenith.compute.hosts import CellHosts
from xenith.compute.neighbours import ImageSource
from xenith.compute.operations.context import Seal
from xenith.compute.origin import TABLES
from xenith.compute.reconcilers import ClaimReconciler
from xenith.core.ids import Ids
from xenith.core.tasks import TaskOwner
from xenith.core.world import World
from xenith.db import Database, Tx
from xenith.dev.cells import Seat
from xenith.reconcile import ReconcilerLoop

#: Share of the builds that a leaf leaves to others; it decides them itself when nobody does.
LEFT_SHARE = 0.6
#: Seconds between two looks at what is undecided.
LOOK_S = 0.5


class _Left(msgspec.Struct, frozen=True):
    """What is prepared of a build that is for whoever comes first."""


class Sharing:
    """A leaf's executor that leaves builds to other schedulers, once each."""

    def __init__(self, cell: ComputeCell, ids: Ids, counts: Counter[str]) -> None:
        self._cell = cell
        self._ids = ids
        self._seen: set[str] = set()
        self._counts = counts

    def prepare(self, intent: Intent) -> Any:
        """Claim in memory, or leave it."""
        is_new = intent.kind == kinds.BUILD and intent.id not in self._seen
        if is_new and self._ids.uniform() < LEFT_SHARE:
            self._seen.add(intent.id)
            self._counts["left"] += 1
            return _Left()
        return self._cell.prepare(intent)

    def abandon(self, intent: Intent, prepared: Any) -> None:
        """Take back what was claimed."""
        if not isinstance(prepared, _Left):
            self._cell.abandon(intent, prepared)

    def apply(self, tx: Tx, intent: Intent, prepared: Any) -> Verdict | None:
        """Do what an intent asks. Transaction function."""
        return None if isinstance(prepared, _Left) else self._cell.apply(tx, intent, prepared)

    def fence(self, tx: Tx, subject: str, build: str) -> None:
        """Let go of a build. Transaction function."""
        self._cell.fence(tx, subject, build)

    def capacity(self) -> Digest:
        """Tell what is free."""
        return self._cell.capacity()

    async def answer(self, method: str, params: dict[str, Any]) -> Any:
        """Answer a question."""
        return await self._cell.answer(method, params)


class FurtherScheduler:
    """A leaf's scheduler beside the first: a table of hosts, and what is undecided."""

    def __init__(
        self,
        db: Database,
        world: World,
        seat: Seat,
        *,
        seal: Seal,
        images: ImageSource,
        counts: Counter[str],
    ) -> None:
        self._db = db
        self._counts = counts
        self._world = world
        self.compute = ComputeCell(
            db, world, cell_id=seat.cell_id, key=seat.key, images=images, seal=seal
        )
        # What hosts tell is written by the first.
        self.hosts = self.compute.hosts = CellHosts(
            db,
            world,
            seal,
            open_image=images.open_image,
            on_power=lambda _host_id, _instance_id, _power: None,
            on_up=lambda _host_id: None,
            on_down=lambda _host_id: None,
        )
        self.node = Node(
            db,
            world,
            cell_id=seat.cell_id,
            key=seat.key,
            root=seat.root,
            signed=seat.signed,
            buses=seat.buses,
            tables=TABLES,
            executor=self.compute,
        )
        self._loop = ReconcilerLoop(world, [ClaimReconciler(self.compute)])
        self._tasks = TaskOwner("further scheduler", world.clock)

    async def start(self) -> None:
        """Read the hosts and their claims, and begin to decide."""
        await self.hosts.start()
        self._loop.start()
        self._tasks.keep("decide", self._decide)

    async def _decide(self) -> None:
        while True:
            await self._world.clock.sleep(LOOK_S)
            await self._follow_topology()
            self._counts["decided"] += await self.node.routing.pump_once()

    async def _follow_topology(self) -> None:
        """Read whether the cell is open; the first writes what it is told."""
        signed = await self._db.read(documents.find_signed)
        if signed is not None and signed != self.node.signed_topology:
            self.node.topology = documents.open_signed(signed, self.node.root)
            self.node.signed_topology = signed
