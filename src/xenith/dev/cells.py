"""Cells put together: a node each, with hosts for a leaf and services for a root."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xenith.bus import Bus, MemoryBus
from xenith.cells import topology as documents
from xenith.cells.keys import CellKey, PublicKey
from xenith.cells.node import Buses, Node
from xenith.cells.topology import CellEntry, State, Topology
from xenith.compute.cell import ComputeCell
from xenith.compute.neighbours import ImageSource, Networking, Projects
from xenith.compute.operations import Compute
from xenith.compute.operations.context import Context, Seal
from xenith.compute.origin import TABLES, ComputeOrigin, HostStates, follow_changes
from xenith.compute.scheduled_images import ScheduledImages
from xenith.compute.strays import Strays
from xenith.core.ids import CellId
from xenith.core.world import World
from xenith.db import Database
from xenith.reconcile import ReconcilerLoop


@dataclass(frozen=True)
class Seat:
    """A cell's place: who it is, how it proves that, and what it knows of the others."""

    cell_id: CellId
    key: CellKey
    root: PublicKey
    #: The topology, signed by the root.
    signed: bytes
    buses: Buses


class Cell:
    """A cell of any kind, from its database up.

    With ``images`` it has hosts: ``compute`` is then their part. A root is a ``Root``.
    """

    def __init__(
        self,
        db: Database,
        world: World,
        seat: Seat,
        *,
        seal: Seal,
        images: ImageSource | None = None,
        origin: ComputeOrigin | None = None,
    ) -> None:
        self.db = db
        self.world = world
        self.id = seat.cell_id
        self.compute: ComputeCell | None = None
        if images is not None:
            self.compute = ComputeCell(
                db,
                world,
                cell_id=seat.cell_id,
                key=seat.key,
                images=images,
                seal=seal,
                cell_number=number_of(documents.open_signed(seat.signed, seat.root), seat.cell_id),
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
            origin=origin,
        )

        if self.compute is not None:
            self.compute.on_choice = self.node.routing.wake

    async def start(self) -> None:
        """Start the hosts' part first, since the node's may ask for it at once."""
        await self.node.prepare()
        if self.compute is not None:
            await self.compute.start()
        await self.node.start()

    async def stop(self) -> None:
        """Stop; everything goes on from the rows."""
        await self.node.stop()
        if self.compute is not None:
            await self.compute.stop()

    async def settle(self) -> None:
        """Wait until every intent is decided and every saga has ended; for tests."""
        while True:
            if self.compute is not None:
                await self.compute.engine.settle()
            if not await self.node.routing.pump_once():
                return


class Root(Cell):
    """A root cell: the compute service over a tree, which may be a tree of one."""

    def __init__(
        self,
        db: Database,
        world: World,
        seat: Seat,
        *,
        seal: Seal,
        images: ImageSource,
        networks: Networking,
        projects: Projects,
        has_hosts: bool,
        has_forced_config_drive: bool = False,
    ) -> None:
        self.host_states = HostStates()
        follow_changes(db, networks, self.host_states)
        super().__init__(
            db,
            world,
            seat,
            seal=seal,
            images=images if has_hosts else None,
            origin=ComputeOrigin(lambda: self.context, networks),
        )
        self.context = Context(
            db=db,
            world=world,
            node=self.node,
            images=images,
            networks=networks,
            projects=projects,
            seal=seal,
            is_host_up=self.host_states.is_up,
            has_forced_config_drive=has_forced_config_drive,
        )
        self.service = Compute(self.context)

        self._reconcilers = ReconcilerLoop(
            world, [Strays(self.context), ScheduledImages(self.context)]
        )

    async def start(self) -> None:
        """Start, knowing which hosts were up."""
        await self.db.read(self.host_states.load)
        await super().start()
        self._reconcilers.start()

    async def stop(self) -> None:
        """Stop; everything goes on from the rows."""
        await self._reconcilers.stop()
        await super().stop()


def number_of(topology: Topology, cell_id: CellId) -> int:
    """Give a number that tells a cell among all: its place in the document when it came in."""
    return next((at for at, entry in enumerate(topology.cells) if entry.id == cell_id), 0)


def tree_of_one(cell_id: CellId, key: CellKey, *, region: str, world: World) -> Seat:
    """Give the place of a cell that is a cloud by itself."""
    topology = Topology(region=region, version=1, cells=(entry(cell_id, "api", key),))
    return Seat(
        cell_id=cell_id,
        key=key,
        root=key.public,
        signed=documents.sign(topology, key),
        buses=one_bus(MemoryBus(world.clock)),
    )


def entry(
    cell_id: CellId, name: str, key: CellKey, parents: Sequence[CellId] = (), state: State = "open"
) -> CellEntry:
    """Make a cell's entry."""
    return CellEntry(id=cell_id, name=name, parents=tuple(parents), key=key.public, state=state)


def one_bus(bus: Bus) -> Buses:
    """Have every link of a process on one bus."""
    return lambda _parent, _child: bus
