"""The bus in one process: a queue is a deque for each class and a count of credits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

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


class MemoryBus:
    """Carries messages between tasks of one loop; they are gone with the process."""

    def __init__(self, clock: Clock, *, credits_by_class: Mapping[Priority, int] = CREDITS) -> None:
        self._clock = clock
        self._credits = credits_by_class
        self._topics: dict[str, dict[str, _Queue]] = {}
        self._is_closed = False

    async def publish(
        self,
        topic: str,
        message: bytes,
        *,
        priority: Priority,
        timeout_s: float = PUBLISH_TIMEOUT_S,
    ) -> None:
        """Hand a message to every queue of the topic, waiting for credits up to the deadline."""
        if len(message) > MESSAGE_BYTES_MAX:
            raise TooLarge(f"a message of {len(message)} bytes is above {MESSAGE_BYTES_MAX}")
        if self._is_closed:
            raise Unavailable("the bus is closed")
        deadline_s = self._clock.monotonic() + timeout_s
        for queue in tuple(self._topics.get(topic, {}).values()):
            if not queue.take_credit(priority):
                await self._wait_for_credit(queue, priority, deadline_s)
            queue.put(_MemoryDelivery(message, priority, queue))

    def subscribe(self, topic: str, *, name: str) -> Subscription:
        """Read the topic's queue of this name."""
        return self._read(topic, name)

    async def close(self) -> None:
        """End the subscriptions and refuse publishers, also those that wait."""
        self._is_closed = True
        for queues in self._topics.values():
            for queue in queues.values():
                queue.close()

    @asynccontextmanager
    async def _read(self, topic: str, name: str) -> AsyncIterator[AsyncIterator[Delivery]]:
        if self._is_closed:
            raise Unavailable("the bus is closed")
        queue = self._topics.setdefault(topic, {}).setdefault(name, _Queue(self._credits))
        taken: dict[_MemoryDelivery, None] = {}
        try:
            yield queue.deliveries(taken)
        finally:
            queue.give_back(taken)

    async def _wait_for_credit(self, queue: _Queue, priority: Priority, deadline_s: float) -> None:
        given = queue.ask_credit(priority)
        wait_s = max(deadline_s - self._clock.monotonic(), 0.0)
        deadline = asyncio.ensure_future(self._clock.sleep(wait_s))
        try:
            await asyncio.wait({given, deadline}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            # Cancelling fails when the credit was given in the same turn of the loop.
            if not given.cancel() and not given.cancelled():
                queue.return_credit(priority)
            raise
        finally:
            deadline.cancel()
        if given.cancel() or given.cancelled():
            raise Unavailable(f"no credit for {priority.name} within the deadline")


class _MemoryDelivery:
    """One message in one queue; while taken it stands in its reader's list."""

    def __init__(
        self, message: bytes, priority: Priority, queue: _Queue, *, is_redelivered: bool = False
    ) -> None:
        self.message = message
        self.priority = priority
        self.is_redelivered = is_redelivered
        self.queue = queue
        self.taken: dict[_MemoryDelivery, None] = {}

    async def ack(self) -> None:
        """Free the credit; nothing when it was given back or acknowledged before."""
        if self in self.taken:
            del self.taken[self]
            self.queue.return_credit(self.priority)


class _Queue:
    """Messages of one name, by class, and the credits that are left."""

    def __init__(self, credits_by_class: Mapping[Priority, int]) -> None:
        self._credits = dict(credits_by_class)
        self._asking: dict[Priority, deque[asyncio.Future[None]]] = {p: deque() for p in Priority}
        self._ready: dict[Priority, deque[_MemoryDelivery]] = {p: deque() for p in Priority}
        self._arrived = asyncio.Event()
        self._is_closed = False

    def take_credit(self, priority: Priority) -> bool:
        """Take a credit if one is free and nobody waits for it."""
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

    def put(self, delivery: _MemoryDelivery) -> None:
        """Add a message, its credit having been taken."""
        self._ready[delivery.priority].append(delivery)
        self._arrived.set()

    async def deliveries(
        self, taken: dict[_MemoryDelivery, None]
    ) -> AsyncGenerator[_MemoryDelivery, None]:
        """Give messages as they come, each noted in ``taken``, until the bus is closed."""
        while not self._is_closed:
            ready = next((line for line in self._ready.values() if line), None)
            if ready is None:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            delivery = ready.popleft()
            delivery.taken = taken
            taken[delivery] = None
            yield delivery

    def give_back(self, taken: dict[_MemoryDelivery, None]) -> None:
        """Put what was taken and not acknowledged at the front again, in its order."""
        for delivery in reversed(taken):
            # A new object: a late acknowledgement of the old one must not count for it.
            again = _MemoryDelivery(delivery.message, delivery.priority, self, is_redelivered=True)
            self._ready[delivery.priority].appendleft(again)
        taken.clear()
        self._arrived.set()

    def close(self) -> None:
        """End the readers, and refuse the publishers that stand in line."""
        self._is_closed = True
        self._arrived.set()
        for line in self._asking.values():
            for given in line:
                given.cancel()
            line.clear()
