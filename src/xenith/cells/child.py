"""A node's side of the link to a child: intents go down, verdicts and changed rows come up."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING

from xenith.bus import Bus
from xenith.cells import intents as rows
from xenith.cells.changes import Batch, Place, cursors, root_of
from xenith.cells.intents import Intent, next_intent
from xenith.cells.link import Link
from xenith.cells.messages import (
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
    Reply,
    Roots,
    TopologyNews,
    TopologyWanted,
    Verdicts,
)
from xenith.core.errors import Conflict, Forbidden, Invalid
from xenith.core.ids import CellId
from xenith.core.log import logger
from xenith.core.tasks import TaskOwner
from xenith.db import Tx

if TYPE_CHECKING:
    from xenith.cells.node import Node

_log = logger("cells.child")

#: Intents that were sent and not yet taken, on one link.
WINDOW_INTENTS = 512
#: Seconds until an intent that was not taken is sent again; doubled each time, up to the most.
RETRY_S = 2.0
RETRY_MAX_S = 30.0
#: Seconds until a verdict is asked for again after an intent was taken.
ASK_AGAIN_S = 20.0
#: Seconds between pings: two fit into the silence after which a cell is held to be dead.
PING_PERIOD_S = 2.0
#: Times that a cell is told of the topology in which it is no child any more, each a second after
#: the other as a frame may be lost, and seconds after which that is given up if it is away.
FAREWELLS = 5
FAREWELL_S = 600.0
#: Buckets asked for at a time; the next comparison finds the others.
BUCKETS_WANTED_MAX = 8


class _Sent:
    """An intent on its way: when it is sent again, and how often it was."""

    __slots__ = ("due_s", "retries", "subject")

    def __init__(self, subject: str, due_s: float) -> None:
        self.subject = subject
        self.due_s = due_s
        self.retries = 0


class ChildLink:
    """See the module."""

    def __init__(self, node: Node, peer: CellId, bus: Bus) -> None:
        self.peer = peer
        self._node = node
        self._log = _log.bind(cell=node.cell_id, peer=peer)
        self._clock = node.world.clock
        entry = node.topology.get(peer)
        self._broker = (entry.broker, entry.broker_ca)
        #: What is to be sent, in order; ids as the child gets them, with their subjects.
        self._ready: OrderedDict[str, str] = OrderedDict()
        #: Some of them as they are sent, so that their rows need not be read at once again.
        self._fresh: dict[str, Intent] = {}
        #: Sent and not taken. A subject has one of these at a time, so its intents stay in order.
        self._sent: dict[str, _Sent] = {}
        self._busy: set[str] = set()
        #: Taken, without a last word: when to ask for it again.
        self._awaited: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._doubts = node.db.doubts
        self._ping_number = 0
        #: The version of the topology that the child goes by, as it said last.
        self.topology_version = 0
        #: The sequence of the last digest of what is free there.
        self._heard_digest = 0
        self._tasks = TaskOwner(f"child {peer}", node.world.clock)
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
                Verdicts: self._hear_verdicts,
                Batch: self._hear_changes,
                Heads: self._hear_heads,
                Roots: self._hear_roots,
                Bucket: self._hear_buckets,
                Capacity: self._hear_capacity,
                CapacityDelta: self._hear_capacity,
                Pong: self._hear_pong,
                Reply: self._hear_replies,
                TopologyWanted: self._hear_topology_wanted,
                TopologyNews: self._hear_topology,
            },
        )

    @property
    def has_told_capacity(self) -> bool:
        """Whether the child has told what it has free."""
        return self._heard_digest > 0

    def is_moved(self) -> bool:
        """Tell whether the child's broker is elsewhere since this link was made."""
        entry = self._node.topology.find(self.peer)
        return entry is not None and (entry.broker, entry.broker_ca) != self._broker

    async def start(self) -> None:
        """Begin to talk; what is open for this child is sent when it answers."""
        await self.link.start()
        self._tasks.keep("send", self._send)
        self._tasks.keep("ping", self._ping)

    async def stop(self) -> None:
        """Stop; what is open stays in the rows."""
        await self._tasks.stop()
        await self.link.stop()

    @property
    def open_count(self) -> int:
        """Intents that this child was given and has not answered for good."""
        return len(self._ready) + len(self._sent) + len(self._awaited)

    # -- intents

    def offer(self, hop_id: str, subject: str, intent: Intent | None = None) -> None:
        """Send an intent, whose row names this child, after the earlier ones."""
        self._ready[hop_id] = subject
        if intent is not None and len(self._fresh) < WINDOW_INTENTS:
            self._fresh[hop_id] = intent
        self._wake.set()

    def withdraw(self, hop_id: str) -> None:
        """Send an intent no more: it was given to another."""
        self._ready.pop(hop_id, None)
        self._forget(hop_id)

    def _forget(self, hop_id: str) -> None:
        self._fresh.pop(hop_id, None)
        self._awaited.pop(hop_id, None)
        sent = self._sent.pop(hop_id, None)
        if sent is not None:
            self._busy.discard(sent.subject)

    async def _send(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self.link.is_open:
                chosen = self._choose()
                if not chosen:
                    break
                intents = await self._intents_of(chosen)
                for hop_id in chosen:
                    self._ready.pop(hop_id, None)
                known = {intent.id for intent in intents}
                for hop_id in [one for one in chosen if one not in known]:
                    self._forget(hop_id)
                if intents and not self.link.post(Intents(intents)):
                    break

    async def _intents_of(self, hop_ids: list[str]) -> list[Intent]:
        """Give intents to be sent: those in memory, and the others from their rows."""
        fresh = [self._fresh.pop(hop_id, None) for hop_id in hop_ids]
        if None not in fresh:
            return [intent for intent in fresh if intent is not None]
        return await self._node.db.read(_read, hop_ids)

    def _choose(self) -> list[str]:
        """Choose what goes next: no two of one subject, and the link's window not above its size.

        What is chosen counts as sent, since a frame may be lost after it was as well.
        """
        now = self._clock.monotonic()
        chosen: list[str] = []
        passed_over: set[str] = set()
        for hop_id, subject in self._ready.items():
            if len(chosen) == rows.BATCH_INTENTS_MAX or len(self._sent) >= WINDOW_INTENTS:
                break
            if subject in self._busy or subject in passed_over:
                passed_over.add(subject)
                continue
            if hop_id not in self._sent:
                self._sent[hop_id] = _Sent(subject, now + RETRY_S)
            self._busy.add(subject)
            chosen.append(hop_id)
        return chosen

    async def _hear_verdicts(self, group: list[Verdicts]) -> None:
        verdicts = [verdict for message in group for verdict in message.items]
        left = await self._node.routing.hear(self.peer, verdicts)
        now = self._clock.monotonic()
        for verdict in verdicts:
            if verdict.id in left:
                continue
            is_open = verdict.id in self._sent or verdict.id in self._awaited
            self._forget(verdict.id)
            if is_open and not verdict.is_final:
                self._awaited[verdict.id] = now + ASK_AGAIN_S
        self._wake.set()

    async def _send_again(self) -> None:
        """Put what was not answered in time first in line again."""
        now = self._clock.monotonic()
        late = [hop_id for hop_id, sent in self._sent.items() if sent.due_s <= now]
        asked = [hop_id for hop_id, due_s in self._awaited.items() if due_s <= now]
        again: list[Intent] = []
        for start in range(0, len(late) + len(asked), rows.BATCH_INTENTS_MAX):
            part = (late + asked)[start : start + rows.BATCH_INTENTS_MAX]
            found = await self._node.db.read(_read, part)
            known = {intent.id for intent in found}
            for hop_id in part:
                if hop_id not in known:
                    self._forget(hop_id)
                elif hop_id in self._awaited:
                    self._awaited[hop_id] = now + ASK_AGAIN_S
                elif (sent := self._sent.get(hop_id)) is not None:
                    sent.retries += 1
                    sent.due_s = now + min(RETRY_S * 2**sent.retries, RETRY_MAX_S)
            again += found
            if found:
                self.link.post(Intents(found))
        if again:
            self._node.counts["sent_again"] += len(again)

    async def _offer_unheard(self) -> None:
        """Send what a commit gave to this child, where that commit's answer was lost."""
        doubts = self._node.db.doubts
        if doubts == self._doubts:
            return
        after = 0
        while found := await self._node.db.read(rows.list_open_at, self.peer, after=after):
            for row in found:
                if row.hop_id not in self._sent and row.hop_id not in self._awaited:
                    self._ready.setdefault(row.hop_id, row.subject)
            after = found[-1].sequence
        self._doubts = doubts
        self._wake.set()

    async def _on_open(self, hello: Hello) -> None:
        """Begin a session: all that is open for this child goes again."""
        self._ready.clear()
        self._fresh.clear()
        self._sent.clear()
        self._busy.clear()
        self._awaited.clear()
        after = 0
        while found := await self._node.db.read(rows.list_open_at, self.peer, after=after):
            for row in found:
                self._ready.setdefault(row.hop_id, row.subject)
            after = found[-1].sequence
        self._wake.set()
        self.link.post(Ping(0, self._node.topology.version))
        if hello.topology > self._node.topology.version:
            self.link.post(TopologyWanted())
        elif hello.topology < self._node.topology.version:
            self.tell_topology(self._node.signed_topology)

    # -- signs of life

    async def _ping(self) -> None:
        while True:
            if self.link.is_open:
                self._ping_number += 1
                self.link.post(Ping(self._ping_number, self._node.topology.version))
                await self._offer_unheard()
                await self._send_again()
                self._wake.set()
            await self._clock.sleep(PING_PERIOD_S)

    async def _hear_pong(self, group: list[Pong]) -> None:
        self._node.chooser.note_alive(self.peer)
        self.topology_version = group[-1].topology
        if group[-1].told != self._heard_digest:
            # What it told was lost on the way, or before this side had begun.
            self.link.post(CapacityWanted())
        if group[-1].topology > self._node.topology.version:
            self.link.post(TopologyWanted())
        self._node.routing.wake_waiting()

    async def _hear_capacity(self, group: list[Capacity] | list[CapacityDelta]) -> None:
        for message in group:
            if isinstance(message, Capacity):
                if message.digest.cell_id != self.peer:
                    self.link.refuse("not_its_own", origin=message.digest.cell_id)
                    continue
                self._node.chooser.hear(message.digest)
                self._heard_digest = message.digest.sequence
                continue
            if message.delta.cell_id != self.peer:
                self.link.refuse("not_its_own", origin=message.delta.cell_id)
                continue
            try:
                self._node.chooser.hear_delta(message.delta)
                self._heard_digest = message.delta.sequence
            except Conflict:
                self.link.post(CapacityWanted())
        self._node.routing.wake_waiting()

    # -- changes

    async def _hello(self) -> Hello:
        below = self._node.topology.descendants(self.peer) | {self.peer}

        def read(tx: Tx) -> dict[str, Place]:
            return {
                row.origin: Place(row.epoch, row.number)
                for row in tx.list(cursors)
                if row.origin in below
            }

        places = await self._node.db.read(read)
        return Hello(topology=self._node.topology.version, places=places)

    async def _hear_changes(self, group: list[Batch]) -> None:
        below = self._node.topology.descendants(self.peer) | {self.peer}
        good = []
        for batch in group:
            if batch.origin not in below:
                self.link.refuse("not_its_own", origin=batch.origin)
            elif flaw := self._node.changes.find_flaw(batch):
                self.link.refuse("flawed_changes", origin=batch.origin, flaw=flaw)
            else:
                good.append(batch)
        if not good:
            return
        places = await self._node.db.run(self._apply, good)
        self._node.counts["changes_applied"] += sum(len(batch.rows) for batch in good)
        for batch, place in zip(good, places, strict=True):
            if place == Place(batch.epoch, batch.head):
                self._node.note_whole(batch.origin, 0.0)
            self.link.post(ChangesAck(batch.origin, place))

    def _apply(self, tx: Tx, batches: list[Batch]) -> list[Place]:
        return [self._node.changes.apply(tx, batch) for batch in batches]

    async def _hear_heads(self, group: list[Heads]) -> None:
        heads = group[-1].heads
        below = self._node.topology.descendants(self.peer) | {self.peer}
        places = await self._node.places()
        for origin, (place, age_s) in heads.items():
            if origin in below and places.get(origin, Place()) == place:
                self._node.note_whole(origin, age_s)

    async def _hear_roots(self, group: list[Roots]) -> None:
        below = self._node.topology.descendants(self.peer) | {self.peer}
        for message in group:
            origin = message.origin
            if origin not in below:
                # It has left, and the child has not heard of it.
                continue

            def read(tx: Tx, origin: str = origin) -> tuple[Place, list[bytes]]:
                return self._node.changes.place(tx, origin), self._node.changes.hashes(tx, origin)

            place, hashes = await self._node.db.read(read)
            if place != message.place:
                # One of the two has lost commits, or is about to go on: the origin's side knows
                # which, and what to do, when it hears how far this is.
                self.link.post(ChangesAck(origin, place))
                continue
            if root_of(hashes) == root_of(message.hashes):
                continue
            differing = [
                bucket
                for bucket, (ours, theirs) in enumerate(zip(hashes, message.hashes, strict=False))
                if ours != theirs
            ]
            self._node.counts["buckets_differed"] += len(differing)
            self._log.warning("rows differ", origin=origin, buckets=len(differing))
            self.link.post(BucketsWanted(origin, differing[:BUCKETS_WANTED_MAX]))

    async def _hear_buckets(self, group: list[Bucket]) -> None:
        below = self._node.topology.descendants(self.peer) | {self.peer}
        for message in group:
            if message.origin not in below:
                self.link.refuse("not_its_own", origin=message.origin)
                continue
            wrong = await self._node.db.run(self._replace, message)
            self._node.counts["rows_repaired"] += wrong

    def _replace(self, tx: Tx, message: Bucket) -> int:
        if self._node.changes.place(tx, message.origin) != message.place:
            # More has come since; the next comparison sees what is left.
            return 0
        return self._node.changes.replace_bucket(tx, message.origin, message.bucket, message.rows)

    async def rebuild(self) -> int:
        """Drop what is known of all below this child and have it sent anew; tell how many cells."""
        below = sorted(self._node.topology.descendants(self.peer) | {self.peer})

        def forget(tx: Tx) -> None:
            for origin in below:
                self._node.changes.forget(tx, origin)

        await self._node.db.run(forget)
        for origin in below:
            self._node.as_of.pop(origin, None)
            self.link.post(ChangesAck(origin, Place()))
        return len(below)

    # -- questions and the topology

    async def _hear_replies(self, group: list[Reply]) -> None:
        for reply in group:
            self._node.questions.hear(reply)

    def tell_topology(self, signed: bytes) -> None:
        """Give the child the document."""
        self.link.post(TopologyNews(signed))

    async def say_farewell(self) -> None:
        """Tell the child of a topology in which it has other parents, before this link ends."""
        until = self._clock.monotonic() + FAREWELL_S
        told = 0
        while told < FAREWELLS and self._clock.monotonic() < until:
            told += self.link.post(TopologyNews(self._node.signed_topology))
            await self._clock.sleep(PING_PERIOD_S)

    async def _hear_topology_wanted(self, _group: list[TopologyWanted]) -> None:
        self.tell_topology(self._node.signed_topology)

    async def _hear_topology(self, group: list[TopologyNews]) -> None:
        try:
            await self._node.adopt(group[-1].document)
        except (Forbidden, Invalid) as error:
            self.link.refuse("topology", error=error.message)


def _read(tx: Tx, hop_ids: list[str]) -> list[Intent]:
    """Read what is still to be sent under these ids."""
    found = [tx.find(rows.intents, hop_id=hop_id) for hop_id in hop_ids]
    return [next_intent(row) for row in found if row is not None and row.closed_at is None]
