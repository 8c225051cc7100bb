"""One connection to a broker while it stands: publishing, declaring and reading over it.

The only module that imports aio-pika, and imported only when a bus first connects. Whatever the
library raises when a broker goes away leaves here as ``Lost``; nothing here waits by itself, so
callers set the deadlines.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import aio_pika
from aio_pika.abc import (
    AbstractChannel,
    AbstractConnection,
    FieldValue,
)
from aio_pika.exceptions import (
    AMQPError,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    DeliveryError,
)
from aiormq.abc import AbstractChannel as UnderChannel

from xenith.bus.address import AmqpAddress, exchange_name, queue_name, routing_key
from xenith.bus.lost import Lost, NoCredit
from xenith.bus.port import Priority
from xenith.core.limits import MIB

#: Silence after which either side holds the other to be gone; the library waits three of them.
HEARTBEAT_S = 5
#: What a class may keep ready in a queue: far above what its credits come to in practice, and a
#: bound where every message is as long as a message can be.
QUEUE_BYTES_MAX = 64 * MIB
#: RabbitMQ 4 drops a message that came back twenty times; ours must come until dealt with.
DELIVERIES_MAX = 1_000_000_000

#: A message's head. The name is for messages that come back, which ours never do; the library
#: would make a random one for each.
HEAD = aio_pika.Message(
    b"", delivery_mode=aio_pika.DeliveryMode.PERSISTENT, message_id="-"
).properties

# The bus tells of losses itself, once each; the libraries tell of each attempt and each frame.
for _name in ("aiormq", "aio_pika"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

Put = Callable[[Priority, aio_pika.abc.AbstractIncomingMessage], None]


async def connect(address: AmqpAddress) -> Session:
    """Open a connection.

    Raises:
        Lost: the broker is away, is not who it should be, or does not know the account.
    """
    context = None
    if address.tls_ca is not None:
        context = ssl.create_default_context(cadata=address.tls_ca.decode())
    with _broker():
        connection = await aio_pika.connect(
            host=address.host,
            port=address.port,
            login=address.user,
            password=address.password,
            virtualhost=address.virtual_host,
            ssl=context is not None,
            ssl_context=context,
            heartbeat=HEARTBEAT_S,
        )
    return Session(connection)


class Declared(NamedTuple):
    """What was found or made: the messages that are ready by class, and whether it was made."""

    ready: dict[Priority, int]
    is_new: bool


class Session:
    """A connection that stands, until ``lost`` is set."""

    def __init__(self, connection: AbstractConnection) -> None:
        self.lost = asyncio.Event()
        self._connection = connection
        # Two locks, since who publishes to a new topic has to declare it.
        self._opening = asyncio.Lock()
        self._declaring = asyncio.Lock()
        self._declarer: AbstractChannel | None = None
        self._publisher: AbstractChannel | None = None
        #: Those whose exchanges are known to be there.
        self._topics: set[str] = set()
        connection.close_callbacks.add(lambda *_: self.lost.set())
        if connection.is_closed:
            self.lost.set()

    async def publish(
        self, topic: str, message: bytes, *, priority: Priority, declares: bool
    ) -> None:
        """Publish a message and wait until each queue has it on its disk.

        Raises:
            Lost: nobody knows whether the queues have it.
            NoCredit: a queue is full; others may have it.
        """
        with _broker():
            channel = await self._publishing_channel(topic, declares=declares)
            await channel.basic_publish(
                message,
                exchange=exchange_name(topic),
                routing_key=routing_key(priority),
                properties=HEAD,
            )

    async def declare(
        self, topic: str, name: str, *, credits_by_class: Mapping[Priority, int], declares: bool
    ) -> Declared:
        """Make the queues of a name, or only look whether they are there.

        Raises:
            Lost: the broker is away, or the queues are not there and this account makes none.
        """
        counts = {}
        with _broker():
            is_new = declares and not await self._has(queue_name(topic, name, Priority.INTENT))
            for priority in Priority:
                queue = queue_name(topic, name, priority)
                arguments = queue_arguments(credits_by_class[priority]) if declares else None
                counts[priority] = await self._declare_queue(topic, queue, priority, arguments)
        return Declared(counts, is_new)

    async def read(
        self, topic: str, name: str, *, credits_by_class: Mapping[Priority, int], put: Put
    ) -> Reading:
        """Have every message of the name's queues handed to ``put``, the first class first."""
        with _broker():
            reading = Reading(await self._open_channel())
            for priority in Priority:
                await reading.begin(
                    queue_name(topic, name, priority),
                    prefetch_count=credits_by_class[priority],
                    put=partial(put, priority),
                )
        return reading

    async def close(self) -> None:
        """End the connection; what was not acknowledged goes back to its queues."""
        with contextlib.suppress(Lost), _broker():
            await self._connection.close()

    async def _publishing_channel(self, topic: str, *, declares: bool) -> UnderChannel:
        if topic not in self._topics:
            # Asked on another channel: publishing to an exchange that is not there ends its own.
            async with self._declarer_channel() as channel:
                await channel.declare_exchange(
                    exchange_name(topic), durable=True, passive=not declares
                )
            self._topics.add(topic)
        if self._publisher is None or self._publisher.is_closed:
            async with self._opening:
                if self._publisher is None or self._publisher.is_closed:
                    # What ended the last one may be that an exchange was removed.
                    self._topics.clear()
                    self._publisher = await self._open_channel()
        return await self._publisher.get_underlay_channel()

    async def _has(self, queue: str) -> bool:
        try:
            async with self._declarer_channel() as channel:
                await _ready_count(channel, queue)
        except ChannelNotFoundEntity:
            return False
        return True

    async def _declare_queue(
        self, topic: str, queue: str, priority: Priority, arguments: dict[str, FieldValue] | None
    ) -> int:
        try:
            async with self._declarer_channel() as channel:
                if arguments is None:
                    return await _ready_count(channel, queue)
                await channel.declare_exchange(exchange_name(topic), durable=True)
                made = await channel.declare_queue(queue, durable=True, arguments=arguments)
                await made.bind(exchange_name(topic), routing_key(priority))
                return made.declaration_result.message_count or 0
        except ChannelPreconditionFailed:
            # Made by another version of us, with other limits: they hold until it is made anew.
            async with self._declarer_channel() as channel:
                return await _ready_count(channel, queue)

    @contextlib.asynccontextmanager
    async def _declarer_channel(self) -> AsyncIterator[AbstractChannel]:
        """Give the channel for questions, alone: an answer of "no" ends it, and nothing else."""
        async with self._declaring:
            if self._declarer is None or self._declarer.is_closed:
                self._declarer = await self._open_channel()
            yield self._declarer

    async def _open_channel(self) -> AbstractChannel:
        channel = self._connection.channel(publisher_confirms=True)
        await channel.initialize()
        return channel


class Reading:
    """A channel that reads the queues of one name, until ``lost`` is set."""

    def __init__(self, channel: AbstractChannel) -> None:
        self.lost = asyncio.Event()
        self._channel = channel
        channel.close_callbacks.add(lambda *_: self.lost.set())

    async def begin(
        self,
        queue: str,
        *,
        prefetch_count: int,
        put: Callable[[aio_pika.abc.AbstractIncomingMessage], None],
    ) -> None:
        """Read one queue; the broker counts its unacknowledged messages alone."""

        async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            put(message)

        under = await self._channel.get_underlay_channel()
        under.on_consumer_cancel_callbacks.add(lambda _: self.lost.set())
        await self._channel.set_qos(prefetch_count=prefetch_count)
        found = await self._channel.get_queue(queue, ensure=False)
        await found.consume(take)

    async def close(self) -> None:
        """Stop reading; what was not acknowledged goes back to the front, in its order."""
        with contextlib.suppress(Lost), _broker():
            await self._channel.close()


async def acknowledge(message: aio_pika.abc.AbstractIncomingMessage) -> None:
    """Acknowledge a message over the channel that it came by.

    Raises:
        Lost: that channel is closed, and the message will come again.
    """
    with _broker():
        assert message.delivery_tag is not None, "what was delivered has a tag"
        await message.channel.basic_ack(message.delivery_tag, wait=False)


def queue_arguments(credit_count: int) -> dict[str, FieldValue]:
    """Say what a queue of one class is.

    A quorum queue refuses once *more* than its length is ready, hence one less than the credits.
    Source: RabbitMQ 3.10, "Queue Length Limit" and "Quorum Queues".
    """
    return {
        "x-queue-type": "quorum",
        "x-max-length": max(credit_count - 1, 0),
        "x-max-length-bytes": QUEUE_BYTES_MAX,
        "x-overflow": "reject-publish",
        "x-delivery-limit": DELIVERIES_MAX,
    }


async def _ready_count(channel: AbstractChannel, queue: str) -> int:
    found = await channel.declare_queue(queue, passive=True)
    return found.declaration_result.message_count or 0


@contextlib.contextmanager
def _broker() -> Iterator[None]:
    """Let what the library raises for a broker that is away out as ``Lost``."""
    task = asyncio.current_task()
    assert task is not None, "sessions live in tasks"
    cancel_count = task.cancelling()
    try:
        yield
    except DeliveryError as error:
        raise NoCredit("a queue is full") from error
    except asyncio.CancelledError as error:
        # The library cancels its own tasks when a connection closes, and lets that out to us.
        if task.cancelling() != cancel_count:
            raise
        raise Lost("the connection closed") from error
    except (AMQPError, OSError, RuntimeError) as error:
        raise Lost(f"{type(error).__name__}: {error}") from error
