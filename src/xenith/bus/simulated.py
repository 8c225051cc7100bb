"""The bus of a simulation: one fabric that all cells' buses are on, which fails as it is told to.

A topic is named ``SENDER>RECEIVER``, so that a link can be cut in one direction by the two names,
and the broker of a receiver can be stopped. A message takes its credit when it is published and
gives it back when it is acknowledged or lost, so that what is under way is bounded as well. With
all faults at nothing the fabric is a bus like any other.

Delays are the wire's, in the loop's time; deadlines are the publisher's, by its own clock.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

import msgspec

from xenith.bus.port import (
    CREDITS,
    MESSAGE_BYTES_MAX,
    PUBLISH_TIMEOUT_S,
    Delivery,
    Priority,
    Subscription,
)
from xenith.core.clock import Clock
from xenith.core.errors import TooLarge, Unavailable
from xenith.core.ids import Ids

#: Seconds between a publisher's looks for a broker that is away.
BROKER_LOOK_S = 0.1


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """How links fail: rates are shares of the messages, delays are drawn evenly."""

    drop_rate: float = 0.0
    duplicate_rate: float = 0.0
    #: Publishing fails, and half of those messages have gone all the same.
    refuse_rate: float = 0.0
    delay_min_s: float = 0.0
    delay_max_s: float = 0.0


NO_FAULTS = Faults()


class SimulatedFabric:
    """All topics of a simulation, and their faults; made outside of any simulated process."""

    def __init__(self, ids: Ids, *, credits_by_class: Mapping[Priority, int] = CREDITS) -> None:
        self._ids = ids
        self._credits = credits_by_class
        self._topics: dict[str, dict[str, _Queue]] = {}
        self._faults = NO_FAULTS
        self._link_faults: dict[str, Faults] = {}
        self._cut: set[str] = set()
        self._stopped: set[str] = set()
        self._buses: dict[SimulatedBus, None] = {}
        # What is under way belongs to nobody: it arrives also when its sender has died.
        self._context = contextvars.copy_context()
        #: Messages published, delayed, duplicated, dropped, refused and lost, by those names.
        self.counts: Counter[str] = Counter()

    # -- faults

    def set_faults(
        self, faults: Faults, *, sender: str | None = None, receiver: str | None = None
    ) -> None:
        """Have all links fail so, or the one that is named, whose faults go before all's."""
        if sender is None or receiver is None:
            assert sender is receiver, "a link has two ends"
            self._faults = faults
        else:
            self._link_faults[_topic(sender, receiver)] = faults

    def clear_faults(self) -> None:
        """Have every link carry all, at once; what was cut or stopped works again."""
        self._faults = NO_FAULTS
        self._link_faults.clear()
        self._cut.clear()
        for receiver in sorted(self._stopped):
            self.start_broker(receiver)

    def cut(self, sender: str, receiver: str) -> None:
        """Lose what ``sender`` says to ``receiver``, also what is under way, until healed."""
        self._cut.add(_topic(sender, receiver))

    def heal(self, sender: str, receiver: str) -> None:
        """Carry again what ``sender`` says to ``receiver``."""
        self._cut.discard(_topic(sender, receiver))

    def partition(self, one: str, other: str, *, duration_s: float | None = None) -> None:
        """Cut both directions; they are mended after ``duration_s``, if given."""
        self.cut(one, other)
        self.cut(other, one)
        if duration_s is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(duration_s, self.mend, one, other, context=self._context)

    def mend(self, one: str, other: str) -> None:
        """Heal both directions."""
        self.heal(one, other)
        self.heal(other, one)

    def stop_broker(self, receiver: str) -> None:
        """Take nothing for ``receiver`` and give it nothing, until the broker is started."""
        self._stopped.add(receiver)
        for queue in self._queues_of(receiver):
            queue.is_held = True

    def start_broker(self, receiver: str, *, loses_queues: bool = False) -> None:
        """Begin again: what was not acknowledged comes again, or all of it is lost."""
        self._stopped.discard(receiver)
        for queue in self._queues_of(receiver):
            for bus in self._buses:
                bus.give_back(queue)
            if loses_queues:
                self.counts["lost"] += queue.empty()
            queue.is_held = False
            queue.arrived.set()

    # -- for the buses

    def join(self, bus: SimulatedBus) -> None:
        """Count a bus in."""
        self._buses[bus] = None

    def leave(self, bus: SimulatedBus) -> None:
        """Count a bus out."""
        self._buses.pop(bus, None)

    def queue(self, topic: str, name: str) -> _Queue:
        """Give the topic's queue of a name, made if need be."""
        queues = self._topics.setdefault(topic, {})
        if name not in queues:
            queues[name] = _Queue(self._credits)
            queues[name].is_held = self.is_stopped(topic)
        return queues[name]

    def queues(self, topic: str) -> tuple[_Queue, ...]:
        """List the topic's queues."""
        return tuple(self._topics.get(topic, {}).values())

    def is_stopped(self, topic: str) -> bool:
        """Tell whether the broker of a topic is away."""
        return bool(self._stopped) and _receiver(topic) in self._stopped

    def draw_refusal(self, topic: str) -> tuple[bool, bool]:
        """Draw whether publishing fails, and whether the message is carried."""
        rate = self._faults_of(topic).refuse_rate
        if not rate or self._ids.uniform() >= rate:
            return False, True
        self.counts["refused"] += 1
        return True, self._ids.uniform() < 0.5

    def carry(self, topic: str, queue: _Queue, message: bytes, priority: Priority) -> None:
        """Bring a message that has its credit to a queue, once, twice or not at all."""
        self.counts["published"] += 1
        faults = self._faults_of(topic)
        if topic in self._cut or self._happens(faults.drop_rate):
            self._drop(queue, priority)
            return
        self._send(topic, queue, message, priority)
        # The second copy needs a credit like the first; without one there is none.
        if self._happens(faults.duplicate_rate) and queue.take_credit(priority):
            self.counts["duplicated"] += 1
            self._send(topic, queue, message, priority)

    def _send(self, topic: str, queue: _Queue, message: bytes, priority: Priority) -> None:
        faults = self._faults_of(topic)
        delay_s = faults.delay_min_s
        if faults.delay_max_s > delay_s:
            delay_s += self._ids.uniform() * (faults.delay_max_s - delay_s)
        delivery = _Delivery(message, priority, queue)
        if delay_s <= 0:
            queue.put(delivery)
            return
        self.counts["delayed"] += 1
        loop = asyncio.get_running_loop()
        loop.call_later(delay_s, self._arrive, topic, delivery, context=self._context)

    def _arrive(self, topic: str, delivery: _Delivery) -> None:
        if topic in self._cut or self.is_stopped(topic):
            self._drop(delivery.queue, delivery.priority)
        else:
            delivery.queue.put(delivery)

    def _drop(self, queue: _Queue, priority: Priority) -> None:
        self.counts["dropped"] += 1
        queue.return_credit(priority)

    def _happens(self, rate: float) -> bool:
        return rate > 0 and self._ids.uniform() < rate

    def _faults_of(self, topic: str) -> Faults:
        return self._link_faults.get(topic, self._faults)

    def _queues_of(self, receiver: str) -> list[_Queue]:
        return [
            queue
            for topic, queues in self._topics.items()
            if _receiver(topic) == receiver
            for queue in queues.values()
        ]


class SimulatedBus:
    """One process's connection to the fabric."""

    def __init__(self, fabric: SimulatedFabric, clock: Clock) -> None:
        self._fabric = fabric
        self._clock = clock
        self._readings: dict[_Reading, None] = {}
        self._asking: dict[asyncio.Future[None], tuple[_Queue, Priority]] = {}
        self._is_closed = False
        fabric.join(self)

    async def publish(
        self,
        topic: str,
        message: bytes,
        *,
        priority: Priority,
        timeout_s: float = PUBLISH_TIMEOUT_S,
    ) -> None:
        """Hand a message to every queue of the topic, as far as the fabric carries it."""
        if len(message) > MESSAGE_BYTES_MAX:
            raise TooLarge(f"a message of {len(message)} bytes is above {MESSAGE_BYTES_MAX}")
        self._check_open()
        deadline_s = self._clock.monotonic() + timeout_s
        await self._wait_for_broker(topic, deadline_s)
        is_refused, is_carried = self._fabric.draw_refusal(topic)
        if is_carried:
            for queue in self._fabric.queues(topic):
                if not queue.take_credit(priority):
                    await self._wait_for_credit(queue, priority, deadline_s)
                self._fabric.carry(topic, queue, message, priority)
        if is_refused:
            raise Unavailable("the broker did not confirm the message")

    def subscribe(self, topic: str, *, name: str) -> Subscription:
        """Read the topic's queue of this name."""
        return self._read(topic, name)

    async def close(self) -> None:
        """End this bus's subscriptions and refuse its publishers, also those that wait."""
        self.die()

    def die(self) -> None:
        """Lose the connection for good: what was taken and not acknowledged comes to others."""
        self._is_closed = True
        self._fabric.leave(self)
        for given, (queue, priority) in tuple(self._asking.items()):
            # A killed process never comes to give back a credit that it was given in this turn.
            if not given.cancel() and not given.cancelled():
                queue.return_credit(priority)
        self._asking.clear()
        for reading in tuple(self._readings):
            reading.give_back()
            reading.queue.arrived.set()

    def give_back(self, queue: _Queue) -> None:
        """Give back what this bus's readers have of a queue; they stay its readers."""
        for reading in self._readings:
            if reading.queue is queue:
                reading.give_back()

    @asynccontextmanager
    async def _read(self, topic: str, name: str) -> AsyncIterator[AsyncIterator[Delivery]]:
        self._check_open()
        reading = _Reading(self._fabric.queue(topic, name))
        self._readings[reading] = None
        try:
            yield self._deliveries(reading)
        finally:
            self._readings.pop(reading, None)
            reading.give_back()

    async def _deliveries(self, reading: _Reading) -> AsyncGenerator[_Delivery, None]:
        while not self._is_closed:
            delivery = reading.take()
            if delivery is None:
                reading.queue.arrived.clear()
                await reading.queue.arrived.wait()
            else:
                yield delivery

    def _check_open(self) -> None:
        if self._is_closed:
            raise Unavailable("the bus is closed")

    async def _wait_for_broker(self, topic: str, deadline_s: float) -> None:
        while self._fabric.is_stopped(topic):
            left_s = deadline_s - self._clock.monotonic()
            if left_s <= 0:
                raise Unavailable(f"the broker of {topic} is away")
            await self._clock.sleep(min(left_s, BROKER_LOOK_S))
            self._check_open()

    async def _wait_for_credit(self, queue: _Queue, priority: Priority, deadline_s: float) -> None:
        given = queue.ask_credit(priority)
        self._asking[given] = queue, priority
        wait_s = max(deadline_s - self._clock.monotonic(), 0.0)
        deadline = asyncio.ensure_future(self._clock.sleep(wait_s))
        try:
            await asyncio.wait({given, deadline}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            # Cancelling fails when the credit was given in the same turn of the loop.
            if not given.cancel() and not given.cancelled() and given in self._asking:
                queue.return_credit(priority)
            raise
        finally:
            deadline.cancel()
            self._asking.pop(given, None)
        self._check_open()
        if given.cancel() or given.cancelled():
            raise Unavailable(f"no credit for {priority.name} within the deadline")


class _Delivery:
    """One message in one queue; while taken it stands in its reader's list."""

    def __init__(
        self, message: bytes, priority: Priority, queue: _Queue, *, is_redelivered: bool = False
    ) -> None:
        self.message = message
        self.priority = priority
        self.is_redelivered = is_redelivered
        self.queue = queue
        self.reading: _Reading | None = None

    async def ack(self) -> None:
        """Free the credit; nothing when it was given back or acknowledged before."""
        if self.reading is not None and self.reading.settle(self):
            self.queue.return_credit(self.priority)


class _Reading:
    """One reader of a queue and what it has taken, in that order."""

    def __init__(self, queue: _Queue) -> None:
        self.queue = queue
        self._taken: dict[_Delivery, None] = {}

    def take(self) -> _Delivery | None:
        """Take the next message, if there is one."""
        delivery = self.queue.take()
        if delivery is not None:
            delivery.reading = self
            self._taken[delivery] = None
        return delivery

    def settle(self, delivery: _Delivery) -> bool:
        """Strike a message off; False when it was before."""
        if delivery not in self._taken:
            return False
        del self._taken[delivery]
        return True

    def give_back(self) -> None:
        """Put what is left to the front of the queue again."""
        for delivery in reversed(self._taken):
            # A new object: a late acknowledgement of the old one must not count for it.
            self.queue.put_first(
                _Delivery(delivery.message, delivery.priority, self.queue, is_redelivered=True)
            )
        self._taken.clear()


class _Queue:
    """Messages of one name, by class, and the credits that are left."""

    def __init__(self, credits_by_class: Mapping[Priority, int]) -> None:
        self._credits = dict(credits_by_class)
        self._asking: dict[Priority, deque[asyncio.Future[None]]] = {p: deque() for p in Priority}
        self._ready: dict[Priority, deque[_Delivery]] = {p: deque() for p in Priority}
        self.arrived = asyncio.Event()
        #: The broker is away: nothing is given.
        self.is_held = False

    def take_credit(self, priority: Priority) -> bool:
        """Take a credit, if one is free."""
        is_free = self._credits[priority] > 0
        self._credits[priority] -= is_free
        return is_free

    def ask_credit(self, priority: Priority) -> asyncio.Future[None]:
        """Stand in line for a credit; who cancels the future leaves the line."""
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asking[priority].append(given)
        return given

    def return_credit(self, priority: Priority) -> None:
        """Give a credit to the first in line, or put it back."""
        line = self._asking[priority]
        while line:
            given = line.popleft()
            if not given.done():
                given.set_result(None)
                return
        self._credits[priority] += 1

    def put(self, delivery: _Delivery) -> None:
        """Add a message, its credit having been taken."""
        self._ready[delivery.priority].append(delivery)
        self.arrived.set()

    def put_first(self, delivery: _Delivery) -> None:
        """Put back a message that still has its credit."""
        self._ready[delivery.priority].appendleft(delivery)
        self.arrived.set()

    def take(self) -> _Delivery | None:
        """Take the next message of the first class that has one."""
        if self.is_held:
            return None
        return next((line.popleft() for line in self._ready.values() if line), None)

    def empty(self) -> int:
        """Lose what nobody has taken; tell how many messages that were."""
        lost = [delivery for line in self._ready.values() for delivery in line]
        for line in self._ready.values():
            line.clear()
        for delivery in lost:
            self.return_credit(delivery.priority)
        return len(lost)


def _topic(sender: str, receiver: str) -> str:
    return f"{sender}>{receiver}"


def _receiver(topic: str) -> str:
    return topic.rpartition(">")[2]
