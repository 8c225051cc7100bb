"""The bus over RabbitMQ: one connection that comes back by itself, and a queue for each class.

Made without asking the broker anything: a bus connects when it is first used, and again, ever
more slowly, after each loss. Subscriptions then go on, with a pause; publishers try until their
deadline. A message is confirmed once a quorum of the broker's disks has it.

Credits are the broker's: a queue refuses what is above them. It counts the messages that are
ready, and a reader is handed at most as many again; so what a class can hold is bounded by twice
its credits, and by as many more as are on their way when the last credit goes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from xenith.bus.address import AmqpAddress
from xenith.bus.lost import Lost, NoCredit
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
from xenith.core.log import logger
from xenith.core.tasks import TaskOwner, end

if TYPE_CHECKING:
    from aio_pika.abc import AbstractIncomingMessage

    from xenith.bus.session import Declared, Session

__all__ = ["AmqpAddress", "AmqpBus"]

_log = logger("bus.amqp")

#: A broker on the machine next door answers in milliseconds; one that is starting takes seconds.
CONNECT_TIMEOUT_S = 10.0
#: Between two attempts to connect: the first soon, since a restart is short; none rarer than this,
#: since a link's return should not wait for long.
RECONNECT_MIN_S = 0.1
RECONNECT_MAX_S = 3.0
#: Between two attempts to publish what had no credit: twice as long each time.
CREDIT_RETRY_MIN_S = 0.02
CREDIT_RETRY_MAX_S = 0.5
#: How long who enters a subscription waits for its queues; it goes on without, as they will come.
DECLARE_TIMEOUT_S = 5.0
#: RabbitMQ writes down half a second late that a quorum queue exists. Killed before that, it
#: starts the queue without a leader, and all that asks anything of it waits for good; the way out
#: is to remove the queue and to declare it again. Source: rabbitmq-server issues 10070 and 15725;
#: with 3.10.8, 0.6 s were too few here and 1.2 s enough.
NEW_QUEUE_SETTLE_S = 1.5
#: For an acknowledgement, and for giving back what is left when a subscription ends.
ACK_TIMEOUT_S = 5.0
#: How long a reader waits for the first message of each class that the broker said is ready.
SETTLE_TIMEOUT_S = 0.5
#: Messages of one class on their way at a time: enough for the broker to write them in one go,
#: and what the credits of a queue can be passed by.
IN_FLIGHT_MAX = 64


class AmqpBus:
    """Carries messages over one broker, and outlives its absences."""

    def __init__(
        self,
        address: AmqpAddress,
        clock: Clock,
        *,
        credits_by_class: Mapping[Priority, int] = CREDITS,
        declares: bool = True,
    ) -> None:
        self._clock = clock
        self._credits = credits_by_class
        #: Whether this account makes exchanges and queues, or only uses those it is given.
        self._declares = declares
        self._line = _Line(address, clock)
        self._readers = TaskOwner("bus.amqp", clock)
        self._inboxes: set[_Inbox] = set()
        self._places = {p: asyncio.Semaphore(IN_FLIGHT_MAX) for p in Priority}
        self._publishing: set[asyncio.Timeout] = set()
        self._is_closed = False

    async def publish(
        self,
        topic: str,
        message: bytes,
        *,
        priority: Priority,
        timeout_s: float = PUBLISH_TIMEOUT_S,
    ) -> None:
        """Have a message confirmed by every queue of the topic, trying up to the deadline."""
        if len(message) > MESSAGE_BYTES_MAX:
            raise TooLarge(f"a message of {len(message)} bytes is above {MESSAGE_BYTES_MAX}")
        if self._is_closed:
            raise Unavailable("the bus is closed")
        refusal = _Refusal(self._line)
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                self._publishing.add(deadline)
                try:
                    await self._publish(topic, message, priority, refusal)
                finally:
                    self._publishing.discard(deadline)
        except TimeoutError:
            reason = "the bus is closed" if self._is_closed else refusal.reason
            raise Unavailable(f"not published within the deadline: {reason}") from None

    def subscribe(self, topic: str, *, name: str) -> Subscription:
        """Read the topic's queue of this name."""
        return self._read(topic, name)

    async def declare(self, topic: str, *, name: str, timeout_s: float = DECLARE_TIMEOUT_S) -> None:
        """Make the topic's queue of this name, to stay even if the broker is killed right after.

        What another account reads is made so, and what must not be away when a cell starts.

        Raises:
            Unavailable: the broker did not do so within ``timeout_s``.
        """
        if self._is_closed:
            raise Unavailable("the bus is closed")
        try:
            async with asyncio.timeout(timeout_s):
                session = await self._line.session()
                declared = await self._declare(session, topic, name)
                if declared.is_new:
                    await self._clock.sleep(NEW_QUEUE_SETTLE_S)
        except (Lost, TimeoutError) as error:
            raise Unavailable(f"{topic} {name} was not declared: {error}") from error

    async def close(self) -> None:
        """End the subscriptions, refuse publishers, also those that wait, and disconnect."""
        self._is_closed = True
        now_s = asyncio.get_running_loop().time()
        for deadline in self._publishing:
            if not deadline.expired():
                deadline.reschedule(now_s)
        for inbox in self._inboxes:
            inbox.close()
        await self._readers.stop()
        await self._line.close()

    async def _publish(
        self, topic: str, message: bytes, priority: Priority, refusal: _Refusal
    ) -> None:
        delay_s = CREDIT_RETRY_MIN_S
        while True:
            # Not held while waiting for a credit: other topics of the class may have some.
            async with self._places[priority]:
                try:
                    session = await self._line.session()
                    await session.publish(
                        topic, message, priority=priority, declares=self._declares
                    )
                except (Lost, NoCredit) as error:
                    refusal.note(error)
                else:
                    return
            await self._clock.sleep(delay_s)
            delay_s = min(2 * delay_s, CREDIT_RETRY_MAX_S)

    @asynccontextmanager
    async def _read(self, topic: str, name: str) -> AsyncIterator[AsyncIterator[Delivery]]:
        if self._is_closed:
            raise Unavailable("the bus is closed")
        inbox = _Inbox()
        self._inboxes.add(inbox)
        reader = self._readers.start(f"{topic} {name}", self._keep_reading(topic, name, inbox))
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DECLARE_TIMEOUT_S):
                    await inbox.attached.wait()
            yield inbox.deliveries()
        finally:
            self._inboxes.discard(inbox)
            await end({reader})

    async def _keep_reading(self, topic: str, name: str, inbox: _Inbox) -> None:
        while True:
            try:
                await self._read_once(topic, name, inbox)
            except (Lost, TimeoutError) as error:
                reason = str(error) or "a queue does not answer; it may have no leader"
                _log.warning("reading pauses", topic=topic, name=name, reason=reason)
            await self._clock.sleep(RECONNECT_MIN_S)

    async def _read_once(self, topic: str, name: str, inbox: _Inbox) -> None:
        session = await self._line.session()
        async with asyncio.timeout(DECLARE_TIMEOUT_S):
            declared = await self._declare(session, topic, name)
            reading = await session.read(topic, name, credits_by_class=self._credits, put=inbox.put)
        try:
            await inbox.settle([priority for priority, count in declared.ready.items() if count])
            await reading.lost.wait()
        finally:
            inbox.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ACK_TIMEOUT_S):
                    await reading.close()

    async def _declare(self, session: Session, topic: str, name: str) -> Declared:
        return await session.declare(
            topic, name, credits_by_class=self._credits, declares=self._declares
        )


class _Line:
    """The connection, made when it is first asked for, and made again whenever it is lost."""

    def __init__(self, address: AmqpAddress, clock: Clock) -> None:
        self.reason = "the broker has not answered yet"
        self._address = address
        self._clock = clock
        self._tasks = TaskOwner("bus.amqp.line", clock)
        self._keeper: asyncio.Task[None] | None = None
        self._session: Session | None = None
        self._is_up = asyncio.Event()

    async def session(self) -> Session:
        """Give the session, waiting for as long as the broker is away."""
        if self._keeper is None:
            self._keeper = self._tasks.start("keep", self._keep())
        while self._session is None:
            await self._is_up.wait()
        return self._session

    async def close(self) -> None:
        """Disconnect for good."""
        await self._tasks.stop()

    async def _keep(self) -> None:
        delay_s = RECONNECT_MIN_S
        while True:
            session = await self._connect()
            if session is None:
                await self._clock.sleep(delay_s)
                delay_s = min(2 * delay_s, RECONNECT_MAX_S)
                continue
            delay_s = RECONNECT_MIN_S
            self.reason = "a queue did not confirm it"
            _log.info("connected", broker=repr(self._address))
            self._session = session
            self._is_up.set()
            try:
                await session.lost.wait()
            finally:
                self._session = None
                self._is_up.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CONNECT_TIMEOUT_S):
                        await session.close()
            self._say("the connection closed")

    async def _connect(self) -> Session | None:
        # A cloud whose links are in process never pays for this import.
        from xenith.bus.session import connect  # noqa: PLC0415

        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await connect(self._address)
        except TimeoutError:
            self._say("the broker did not answer in time")
        except Lost as error:
            self._say(str(error))
        return None

    def _say(self, reason: str) -> None:
        if reason != self.reason:
            _log.warning("broker away", broker=repr(self._address), reason=reason)
        self.reason = reason


class _Refusal:
    """Why a publisher's last attempt failed; while none did, why there is no connection."""

    def __init__(self, line: _Line) -> None:
        self._line = line
        self._last: Exception | None = None

    @property
    def reason(self) -> str:
        """Tell it in words."""
        return self._line.reason if self._last is None else str(self._last)

    def note(self, error: Exception) -> None:
        """Keep the newest."""
        self._last = error


class _AmqpDelivery:
    """A message that stays its queue's until acknowledged over the channel that it came by."""

    def __init__(self, priority: Priority, incoming: AbstractIncomingMessage) -> None:
        self.message = incoming.body
        self.priority = priority
        self.is_redelivered = bool(incoming.redelivered)
        self._incoming: AbstractIncomingMessage | None = incoming

    async def ack(self) -> None:
        """Tell the broker; where that is not heard, the message comes again."""
        from xenith.bus.session import acknowledge  # noqa: PLC0415 - imported by now

        incoming, self._incoming = self._incoming, None
        if incoming is None:
            return
        with contextlib.suppress(Lost, TimeoutError):
            async with asyncio.timeout(ACK_TIMEOUT_S):
                await acknowledge(incoming)


class _Inbox:
    """What the broker has handed to one subscription and its reader has not yet taken."""

    def __init__(self) -> None:
        self.attached = asyncio.Event()
        self._ready: dict[Priority, deque[_AmqpDelivery]] = {p: deque() for p in Priority}
        self._arrived = asyncio.Event()
        self._is_settled = False
        self._is_closed = False

    def put(self, priority: Priority, incoming: AbstractIncomingMessage) -> None:
        """Add what came."""
        self._ready[priority].append(_AmqpDelivery(priority, incoming))
        self._arrived.set()

    async def settle(self, expected: list[Priority]) -> None:
        """Let the reader in once each class that had messages has shown one.

        Queues are handed over in any order; without this, statistics that wait could be taken
        before an intent that waits. Other readers of the name may take all: hence a deadline.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_TIMEOUT_S):
                while not all(self._ready[priority] for priority in expected):
                    self._arrived.clear()
                    await self._arrived.wait()
        self._is_settled = True
        self._arrived.set()
        self.attached.set()

    async def deliveries(self) -> AsyncGenerator[_AmqpDelivery, None]:
        """Give messages as they come, the first class first, until the bus is closed."""
        while not self._is_closed:
            ready = next((line for line in self._ready.values() if line), None)
            if ready is None or not self._is_settled:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            yield ready.popleft()

    def clear(self) -> None:
        """Forget what was not taken: the broker has it, and will hand it over again."""
        for line in self._ready.values():
            line.clear()
        self._is_settled = False

    def close(self) -> None:
        """End the reader."""
        self._is_closed = True
        self._arrived.set()
