"""A node: a cell's place in the tree, whatever else the cell is.

             parents
        intents │ ▲ verdicts, changes, capacity
                ▼ │
    send ─►   intents   ─► executor (a leaf: claims hosts, begins builds)
                │ ▲
                ▼ │
             children

Here are its life, its links and what it knows of others; where intents go is in ``routing``. A root
has an *origin*, which asks and hears the verdicts; a leaf has an *executor*. A cloud of one cell
has both in one node.

What is in memory here speeds things and can be lost: everything is read again from the rows.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from xenith.bus import Bus
from xenith.cells import intents as rows
from xenith.cells import topology as documents
from xenith.cells.capacity import CapacityClass, Digest
from xenith.cells.changes import TOPIC, ChangedTable, Changes, Place, ensure_self
from xenith.cells.child import ChildLink
from xenith.cells.choosing import CellRules, Chooser, Wanted
from xenith.cells.intents import Intent, count_open
from xenith.cells.keys import CellKey, PublicKey
from xenith.cells.parent import ParentLink
from xenith.cells.pruning import IntentPruning
from xenith.cells.questions import Questions
from xenith.cells.roles import Executor, Origin
from xenith.cells.routing import Routing
from xenith.cells.topology import Topology
from xenith.core.errors import Conflict, Invalid
from xenith.core.ids import CellId
from xenith.core.log import logger
from xenith.core.tasks import TaskOwner
from xenith.core.world import World
from xenith.db import Database, Tx
from xenith.reconcile import ReconcilerLoop

_log = logger("cells.node")

#: Seconds for children to tell what they have free, before a cell that has just begun tells its
#: parents without them.
FIRST_DIGESTS_S = 5.0


#: Gives the bus that carries the link between a parent and a child.
Buses = Callable[[CellId, CellId], Bus]


class Node:
    """See the module."""

    def __init__(
        self,
        db: Database,
        world: World,
        *,
        cell_id: CellId,
        key: CellKey,
        root: PublicKey,
        signed: bytes,
        buses: Buses,
        tables: Sequence[ChangedTable],
        executor: Executor | None = None,
        origin: Origin | None = None,
    ) -> None:
        self.db = db
        self.world = world
        self.cell_id = cell_id
        self.log = _log.bind(cell=cell_id)
        self.key = key
        self.root = root
        self.topology: Topology = documents.open_signed(signed, root)
        #: The document as the root signed it, which is how neighbours are given it.
        self.signed_topology = signed
        self.changes = Changes(tables)
        self.chooser = Chooser(world)
        self.executor = executor
        self.origin = origin
        self.counts: Counter[str] = Counter()
        #: The session of this process, as digests name it.
        self.session = world.ids.hex()
        #: When, by the monotonic clock, each origin's rows were last known to be whole.
        self.as_of: dict[str, float] = {}
        self._started_s = world.clock.monotonic()
        self.questions = Questions(self)
        self.routing = Routing(self)
        self.children: dict[CellId, ChildLink] = {}
        self.parents: dict[CellId, ParentLink] = {}
        self._buses = buses
        #: Children of an earlier topology, until they have been told of it.
        self._leaving: dict[CellId, ChildLink] = {}
        #: How far origins are known, and of which that has changed since; None before all are read.
        self._places: dict[str, Place] = {}
        self._stale_places: set[str] | None = None
        #: Doubtful commits, of which nobody told what they changed, before those were read.
        self._doubts = 0
        db.listen(TOPIC, self._on_change)
        #: The version of the topology that the links are as of.
        self._followed = 0
        self._has_topology = asyncio.Event()
        self._has_followed = asyncio.Event()
        self._reconcilers = ReconcilerLoop(world, [IntentPruning(db, world)])
        self._tasks = TaskOwner(f"node {cell_id}", world.clock)

    # -- life

    async def prepare(self) -> None:
        """Have the rows say whose they are, before anything else is written."""
        await self.db.run(ensure_self, self.cell_id)

    async def start(self) -> None:
        """Take up what the rows say; neighbours may be away."""
        await self.prepare()
        if not await self.db.run(documents.save, self.signed_topology, self.topology):
            signed = await self.db.read(documents.find_signed)
            assert signed is not None, "what is not newer than nothing is there"
            self.topology, self.signed_topology = documents.open_signed(signed, self.root), signed
        await self._follow_topology()
        self._tasks.keep("topology", self._follow_topologies)
        self.routing.start()
        self._reconcilers.start()

    async def stop(self) -> None:
        """Stop; everything goes on from the rows in the next process."""
        await self._reconcilers.stop()
        await self.routing.stop()
        await self._tasks.stop()
        await self.questions.stop()
        for child in self.children.values():
            await child.stop()
        for parent in self.parents.values():
            await parent.stop()

    # -- the topology

    @property
    def is_leaf(self) -> bool:
        """Whether hosts are here rather than children."""
        return self.executor is not None

    async def adopt(self, signed: bytes) -> bool:
        """Take a newer topology over; tell whether it was newer.

        Raises:
            Invalid: it is not the root's, or not sound.
        """
        found = documents.open_signed(signed, self.root)
        if found.region != self.topology.region:
            raise Invalid(f"the topology is of region {found.region}, not {self.topology.region}")
        if not await self.db.run(documents.save, signed, found):
            return False
        self.topology, self.signed_topology = found, signed
        # Links are begun and ended by a task of the node's own: this may be called by one of them.
        self._has_topology.set()
        return True

    async def publish(self, topology: Topology) -> None:
        """Sign a changed document, as the root does, and have every cell follow it.

        Raises:
            Invalid: it is not sound.
            Conflict: this cell is not the root, or another change came first.
        """
        if self.key.public != self.root:
            raise Conflict("only the root cell changes the topology")
        documents.check(topology)
        if not await self.adopt(documents.sign(topology, self.key)):
            raise Conflict("the topology was changed meanwhile: look at it again")
        while self._followed < topology.version:
            await self._has_followed.wait()
            self._has_followed.clear()

    async def _follow_topologies(self) -> None:
        while True:
            await self._has_topology.wait()
            self._has_topology.clear()
            try:
                await self._follow_topology()
            except BaseException:
                # What was not followed to its end is followed again.
                self._has_topology.set()
                raise
            for child in self.children.values():
                child.tell_topology(self.signed_topology)

    async def _follow_topology(self) -> None:
        version = self.topology.version
        wanted_children = {entry.id for entry in self.topology.children(self.cell_id)}
        wanted_parents = {entry.id for entry in self.topology.parents(self.cell_id)}
        for peer in [peer for peer in self.children if peer not in wanted_children]:
            self._leaving[peer] = self.children.pop(peer)
            self._tasks.start("farewell", self._part(self._leaving[peer]))
            self.chooser.forget(peer)
        for peer in [peer for peer in self.parents if peer not in wanted_parents]:
            await self.parents.pop(peer).stop()
        for next_hop in sorted((await self.db.read(count_open)).keys() - wanted_children - {""}):
            # It may also have left while this cell was down.
            await self.routing.take_all_back(CellId(next_hop))
        self.chooser.own_names = self._own_names()
        for peer in [peer for peer, link in self.children.items() if link.is_moved()]:
            # Its broker has another address now.
            await self.children.pop(peer).stop()
        for peer in sorted(wanted_children):
            self._set_rules(peer)
            if peer in self._leaving:
                await self._leaving.pop(peer).stop()
            if peer not in self.children:
                self.children[peer] = ChildLink(self, peer, self._buses(self.cell_id, peer))
                await self.children[peer].start()
        for peer in sorted(wanted_parents):
            if peer not in self.parents:
                self.parents[peer] = ParentLink(self, peer, self._buses(peer, self.cell_id))
                await self.parents[peer].start()
        self._followed = version
        self._has_followed.set()

    async def _part(self, child: ChildLink) -> None:
        """Tell a cell that is no child any more: who its parents are now, nobody else can."""
        try:
            await child.say_farewell()
        finally:
            await child.stop()
            if self._leaving.get(child.peer) is child:
                del self._leaving[child.peer]

    def _own_names(self) -> frozenset[str]:
        """Give the ids and names of this cell and of all above it."""
        names: set[str] = set()
        above = [self.cell_id]
        while above:
            entry = self.topology.find(above.pop())
            if entry is not None and entry.id not in names:
                names |= {entry.id, entry.name}
                above += entry.parents
        return frozenset(names)

    def _set_rules(self, child: CellId) -> None:
        entry = self.topology.get(child)
        below = {child, entry.name}
        for each in self.topology.descendants(child):
            below |= {each, self.topology.get(each).name}
        self.chooser.set_rules(
            child,
            CellRules(
                name=entry.name,
                state=entry.state,
                weight=entry.weight,
                weight_offset=entry.weight_offset,
                projects=entry.projects,
                flavor_classes=entry.flavor_classes,
                below=frozenset(below),
            ),
        )

    # -- what this cell asks

    def send(
        self,
        tx: Tx,
        *,
        subject: str,
        number: int,
        kind: str,
        params: dict[str, Any],
        request_id: str,
        target: str = "",
        wanted: Wanted | None = None,
        principal: dict[str, str] | None = None,
        generation: int = 0,
        life_s: float | None = None,
    ) -> str:
        """Ask for something of a subject, in the transaction that it follows from."""
        now = self.world.clock.now()
        intent = Intent(
            id=self.world.ids.uuid(),
            subject=subject,
            number=number,
            kind=kind,
            body=msgspec.msgpack.encode(params),
            target=target,
            wanted=wanted,
            principal=principal or {},
            request_id=request_id,
            generation=generation,
            created_at=now,
            deadline_at=None if life_s is None else now + life_s,
        )
        rows.insert(tx, intent, parent="")
        tx.on_commit(self.routing.wake)
        return intent.id

    async def wait_for(self, origin: CellId, number: int, *, timeout_s: float = 5.0) -> bool:
        """Wait until this cell knows an origin's changes up to a number; tell whether it does."""
        until = self.world.clock.monotonic() + timeout_s
        while (await self.db.read(self.changes.place, origin)).number < number:
            if self.world.clock.monotonic() > until:
                return False
            await self.world.clock.sleep(0.02)
        return True

    async def ask(
        self, target: CellId, method: str, params: dict[str, Any], *, timeout_s: float = 10.0
    ) -> Any:
        """Ask a cell below, or this one, a question.

        Raises:
            Unavailable: it did not answer in time.
            XenithError: what it answered.
        """
        return await self.questions.ask(target, method, params, timeout_s=timeout_s)

    # -- what is free and how old things are

    def digest(self, sequence: int) -> Digest:
        """Tell parents what is free here and below."""
        if self.executor is not None:
            found = self.executor.capacity()
        else:
            classes: tuple[CapacityClass, ...] = self.chooser.classes()
            found = self.chooser.totals(classes)
        return msgspec.structs.replace(
            found,
            cell_id=self.cell_id,
            session=self.session,
            sequence=sequence,
            decisions=self.routing.decisions,
        )

    def knows_capacity(self) -> bool:
        """Tell whether what is free below has been heard, or was waited for long enough.

        While no child has told anything nothing is known, however long that takes.
        """
        heard = [child.has_told_capacity for child in self.children.values()]
        if self.is_leaf or all(heard):
            return True
        return any(heard) and self.world.clock.monotonic() - self._started_s > FIRST_DIGESTS_S

    async def places(self) -> dict[str, Place]:
        """Tell how far this cell knows each origin; what has changed since then is read."""
        doubts = self.db.doubts
        stale, self._stale_places = self._stale_places, set[str]()
        if stale is None or doubts != self._doubts:
            try:
                self._places = await self.db.read(self.changes.places)
                self._doubts = doubts
            except BaseException:
                self._stale_places = None
                raise
        elif stale:

            def read(tx: Tx) -> dict[str, Place]:
                return {origin: self.changes.place(tx, origin) for origin in sorted(stale)}

            try:
                self._places.update(await self.db.read(read))
            except BaseException:
                self._stale_places |= stale
                raise
        return self._places

    def _on_change(self, origin: str) -> None:
        if self._stale_places is not None:
            self._stale_places.add(origin)

    def note_whole(self, origin: str, age_s: float) -> None:
        """Note that an origin's rows were whole so many seconds ago."""
        at = self.world.clock.monotonic() - age_s
        self.as_of[origin] = max(at, self.as_of.get(origin, at))

    def ages(self) -> dict[str, float]:
        """Tell how many seconds ago each origin's rows were known to be whole."""
        now = self.world.clock.monotonic()
        return {origin: now - at for origin, at in self.as_of.items()}

    def age_of(self, origin: str) -> float:
        """Tell how many seconds ago an origin's rows were known to be whole.

        Of one that was not heard since this cell started, it was before that.
        """
        if origin == self.cell_id:
            return 0.0
        at = self.as_of.get(origin, self._started_s)
        return self.world.clock.monotonic() - at
