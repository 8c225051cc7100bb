"""A node's side of the link to a parent: intents come down, verdicts and changed rows go up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from xenith.bus import Bus
from xenith.cells.capacity import Digest, delta
from xenith.cells.changes import TOPIC, Place, begin_epoch
from xenith.cells.intents import BATCH_INTENTS_MAX, Verdict
from xenith.cells.link import Link
from xenith.cells.messages import (
    Ask,
    Bucket,
    BucketsWanted,
    Capacity,
    CapacityDelta,
    CapacityWanted,
    ChangesAck,
    Heads,
    Hello,
    Intents,
    Ping,
    Pong,
    Roots,
    TopologyNews,
    TopologyWanted,
    Verdicts,
)
from xenith.core.errors import Forbidden, Invalid, Unavailable
from xenith.core.ids import CellId
from xenith.core.tasks import TaskOwner
from xenith.db import Tx

if TYPE_CHECKING:
    from collections.abc import Callable

    from xenith.cells.node import Node

#: Seconds that changes wait for others of the same rows: a row that changes on goes up once.
CHANGES_DELAY_S = 0.05
#: Batches of one origin that may be on their way at a time.
WINDOW_BATCHES = 4
#: Seconds until what was not acknowledged is sent again.
RETRY_S = 2.0
#: Seconds between looks at what was not acknowledged.
LOOK_PERIOD_S = 1.0
#: Seconds in which every origin's rows are compared once.
COMPARE_PERIOD_S = 60.0


@dataclass(slots=True)
class _Origin:
    """How far one origin's changes have gone up to this parent."""

    acked: Place
    sent: int
    in_flight: int = 0
    due_s: float = 0.0
    #: The parent has not heard of this epoch: it is told even if there is no row in it.
    is_news: bool = True
    #: The newest epoch that the parent knows, by way of another cell if above ours.
    known_epoch: int = 0


class ParentLink:
    """See the module."""

    def __init__(self, node: Node, peer: CellId, bus: Bus) -> None:
        self.peer = peer
        self._node = node
        self._clock = node.world.clock
        self._origins: dict[str, _Origin] = {}
        self._dirty: set[str] = set()
        self._doubts = node.db.doubts
        self._wake = asyncio.Event()
        self._told: Digest | None = None
        self._sequence = 0
        self._compare_turn = 0
        self._unlisten: Callable[[], None] | None = None
        self._tasks = TaskOwner(f"parent {peer}", node.world.clock)
        self.link = Link(
            node.world,
            bus,
            key=node.key,
            own=node.cell_id,
            peer=peer,
            topology=lambda: node.topology,
            hello=self._hello,
            on_open=self._on_open,
            handlers={
                Intents: self._hear_intents,
                ChangesAck: self._hear_acks,
                BucketsWanted: self._hear_buckets_wanted,
                CapacityWanted: self._hear_capacity_wanted,
                Ping: self._hear_ping,
                Ask: self._hear_questions,
                TopologyWanted: self._hear_topology_wanted,
                TopologyNews: self._hear_topology,
            },
        )

    async def start(self) -> None:
        """Begin to talk."""
        self._unlisten = self._node.db.listen(TOPIC, self._on_change)
        await self.link.start()
        self._tasks.keep("changes", self._send_changes)
        self._tasks.keep("look after", self._look_after)
        self._tasks.keep("compare", self._compare)

    async def stop(self) -> None:
        """Stop; the parent asks for what it has not seen."""
        if self._unlisten is not None:
            self._unlisten()
        await self._tasks.stop()
        await self.link.stop()

    @property
    def behind(self) -> int:
        """Origins with changes that this parent has not acknowledged."""
        return sum(each.in_flight > 0 for each in self._origins.values()) + len(self._dirty)

    # -- intents

    async def _hear_intents(self, group: list[Intents]) -> None:
        asked = [intent for message in group for intent in message.items]
        for start in range(0, len(asked), BATCH_INTENTS_MAX):
            self.say(
                await self._node.routing.receive(
                    self.peer, asked[start : start + BATCH_INTENTS_MAX]
                )
            )

    def say(self, verdicts: Sequence[Verdict]) -> None:
        """Tell what became of intents; the parent asks again for what it does not hear."""
        if verdicts:
            self.link.post(Verdicts(list(verdicts)))

    # -- changes

    async def _on_open(self, hello: Hello) -> None:
        """Begin where the parent says that it stands with each origin."""
        self._told = None
        self._origins.clear()
        await self._heed_losses(hello.places.get(self._node.cell_id, Place()))
        places = await self._node.db.read(self._node.changes.places)
        for origin, place in places.items():
            if not self._is_of_this_cell(origin):
                continue
            self._stand(origin, place.epoch, hello.places.get(origin, Place()))
        self._wake.set()
        self._tell_digest()
        if hello.topology > self._node.topology.version:
            self.link.post(TopologyWanted())

    async def _heed_losses(self, told: Place) -> None:
        """Begin an epoch if the parent knows of commits that this database has lost."""
        own = await self._node.db.read(self._node.changes.place, self._node.cell_id)
        if told > own:
            self._node.counts["epochs_begun"] += 1
            await self._node.db.run(begin_epoch, beyond=told.epoch)
            # Whatever this process remembers may be of those commits.
            self._node.db.doubts += 1

    def _stand(self, origin: str, epoch: int, told: Place) -> None:
        number = told.number if told.epoch == epoch else 0
        self._origins[origin] = _Origin(
            Place(epoch, number), number, is_news=told.epoch != epoch, known_epoch=told.epoch
        )
        self._dirty.add(origin)

    def _is_of_this_cell(self, origin: str) -> bool:
        """Tell whether an origin's rows go up by this cell: it may have left, and its rows not."""
        own = self._node.cell_id
        return origin == own or origin in self._node.topology.descendants(own)

    def _on_change(self, origin: str) -> None:
        self._dirty.add(origin)
        self._wake.set()

    async def _send_changes(self) -> None:
        while True:
            await self._wake.wait()
            await self._clock.sleep(CHANGES_DELAY_S)
            self._wake.clear()
            if not self.link.is_open:
                continue
            for origin in sorted(self._dirty):
                # Before it is read: what changes from here on counts again.
                self._dirty.discard(origin)
                try:
                    await self._send_origin(origin)
                except Unavailable:
                    self._dirty.add(origin)
                    self._wake.set()
                    raise

    async def _send_origin(self, origin: str) -> None:
        """Send what an origin has beyond what was sent, as far as the window lets."""
        if not self._is_of_this_cell(origin):
            self._origins.pop(origin, None)
            return
        state = self._origins.setdefault(origin, _Origin(Place(), 0))
        while state.in_flight < WINDOW_BATCHES:
            batch = await self._node.db.read(
                self._node.changes.read_batch, origin, after=state.sent
            )
            if batch.epoch != state.acked.epoch:
                state.acked, state.sent, state.in_flight = Place(batch.epoch, 0), 0, 0
                state.is_news = True
                if batch.after != 0:
                    continue
            if batch.epoch < state.known_epoch or (batch.to <= state.sent and not state.is_news):
                return
            if not self.link.post(batch):
                self._dirty.add(origin)
                return
            state.sent = batch.to
            state.is_news = False
            if state.in_flight == 0:
                # Later ones do not put it off: behind one that was lost they are all refused.
                state.due_s = self._clock.monotonic() + RETRY_S
            state.in_flight += 1

    async def _hear_acks(self, group: list[ChangesAck]) -> None:
        for ack in group:
            state = self._origins.get(ack.origin)
            if state is None:
                continue
            sent = Place(state.acked.epoch, state.sent)
            if ack.origin == self._node.cell_id and ack.place > sent:
                # It heard of them in another session, perhaps of commits that are no more.
                await self._heed_losses(ack.place)
            state.in_flight = max(state.in_flight - 1, 0)
            state.known_epoch = max(state.known_epoch, ack.place.epoch)
            same = ack.place.epoch == state.acked.epoch
            number = ack.place.number if same else 0
            if number < state.acked.number or (number < state.sent and state.in_flight == 0):
                # It lost a batch, or lost what it had: begin where it stands.
                state.sent, state.in_flight = number, 0
            if number > state.acked.number:
                state.due_s = self._clock.monotonic() + RETRY_S
            state.acked = Place(state.acked.epoch, number)
            self._dirty.add(ack.origin)
        self._wake.set()

    def _send_again(self) -> None:
        """Begin anew with origins whose batches were not acknowledged in time."""
        now = self._clock.monotonic()
        if self._node.db.doubts != self._doubts:
            # A commit that nobody knows of told nobody of its changes.
            self._doubts = self._node.db.doubts
            self._dirty.update(self._origins)
        for origin, state in self._origins.items():
            if state.in_flight and state.due_s <= now:
                state.sent, state.in_flight = state.acked.number, 0
                state.is_news = state.sent == 0
                self._dirty.add(origin)
        if self._dirty:
            self._wake.set()

    # -- what is free, and how old things are

    async def _look_after(self) -> None:
        while True:
            if self.link.is_open:
                self._send_again()
                self._tell_digest()
            await self._clock.sleep(LOOK_PERIOD_S)

    async def _hear_ping(self, group: list[Ping]) -> None:
        # A round trip of work: the rows are read, by the worker that intents wait for too. What is
        # told each time goes with the answer, in one frame.
        own = await self._node.db.read(self._node.changes.place, self._node.cell_id)
        known = self._origins.get(self._node.cell_id)
        if known is not None and known.acked > own:
            # The database is an older one than this process began with.
            await self._heed_losses(known.acked)
        if known is not None and own > Place(known.acked.epoch, known.sent):
            # As another process of this cell wrote it, nobody told this one.
            self._on_change(self._node.cell_id)
        places = {**await self._node.places(), self._node.cell_id: own}
        topology = self._node.topology.version
        if group[-1].topology > topology:
            self.link.post(TopologyWanted())
        self.link.post(Pong(group[-1].number, self._sequence, topology))
        self._tell_digest()
        self.link.post(Heads(self._heads(places)))

    def _tell_digest(self) -> None:
        """Tell what is free, if that is not what the parent was told."""
        if not self._node.knows_capacity():
            # Nothing heard of is not nothing free: a parent would say no for cells that have room.
            return
        digest = self._node.digest(self._sequence + 1)
        told = self._told
        if told is not None and msgspec.structs.replace(told, sequence=digest.sequence) == digest:
            return
        message = Capacity(digest) if told is None else CapacityDelta(delta(told, digest))
        if self.link.post(message):
            self._sequence += 1
            self._told = digest

    def _heads(self, places: dict[str, Place]) -> dict[str, tuple[Place, float]]:
        ages = self._node.ages()
        heads = {
            origin: (place, ages[origin]) for origin, place in places.items() if origin in ages
        }
        return {**heads, self._node.cell_id: (places[self._node.cell_id], 0.0)}

    async def _hear_capacity_wanted(self, _group: list[CapacityWanted]) -> None:
        self._told = None

    # -- comparing

    async def _compare(self) -> None:
        while True:
            origins = sorted(self._origins)
            await self._clock.sleep(COMPARE_PERIOD_S / max(len(origins), 1))
            if not origins or not self.link.is_open:
                continue
            self._compare_turn = (self._compare_turn + 1) % len(origins)
            origin = origins[self._compare_turn]
            # The rows of one that has left are nothing to this parent.
            if self._is_of_this_cell(origin):
                await self._tell_roots(origin)

    async def _tell_roots(self, origin: str) -> None:
        def read(tx: Tx) -> Roots:
            changes = self._node.changes
            return Roots(origin, changes.place(tx, origin), changes.hashes(tx, origin))

        message = await self._node.db.read(read)
        state = self._origins.get(origin)
        if state is not None and state.acked == message.place:
            self.link.post(message)

    async def _hear_buckets_wanted(self, group: list[BucketsWanted]) -> None:
        for message in group:
            for bucket in message.buckets:
                found = await self._node.db.read(self._read_bucket, message.origin, bucket)
                self.link.post(found)

    def _read_bucket(self, tx: Tx, origin: str, bucket: int) -> Bucket:
        changes = self._node.changes
        rows = changes.read_bucket(tx, origin, bucket)
        return Bucket(origin, changes.place(tx, origin), bucket, rows)

    # -- questions and the topology

    async def _hear_questions(self, group: list[Ask]) -> None:
        for question in group:
            self._node.questions.take(self.peer, question)

    async def _hello(self) -> Hello:
        return Hello(topology=self._node.topology.version)

    async def _hear_topology_wanted(self, _group: list[TopologyWanted]) -> None:
        self.link.post(TopologyNews(self._node.signed_topology))

    async def _hear_topology(self, group: list[TopologyNews]) -> None:
        try:
            await self._node.adopt(group[-1].document)
        except (Forbidden, Invalid) as error:
            self.link.refuse("topology", error=error.message)
