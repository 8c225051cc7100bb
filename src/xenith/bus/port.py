"""The port: what every bus does, whether in process, over AMQP or simulated.

A subscription is a queue with a name. It exists from its first ``async with`` on, also while
nobody reads it, and holds a message until that is acknowledged: one that was taken and not
acknowledged comes again. Each class of message has its own credits in each queue, so a flood of
statistics cannot hold up an intent; a publisher without a credit waits, up to its deadline.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from enum import IntEnum
from typing import Protocol

from xenith.core.limits import MIB


class Priority(IntEnum):
    """The classes of message; a lower one is delivered first."""

    INTENT = 0
    LIFECYCLE = 1
    STATISTICS = 2
    BULK = 3


#: Messages of each class that a queue holds, the unacknowledged ones included. Statistics are
#: few because only the newest matter; bulk because each message is large.
CREDITS = {
    Priority.INTENT: 4096,
    Priority.LIFECYCLE: 2048,
    Priority.STATISTICS: 64,
    Priority.BULK: 32,
}
#: Bytes of one message: a batch of changes is cut to fit.
MESSAGE_BYTES_MAX = 1 * MIB
#: Seconds that a publisher waits for a credit when it does not say.
PUBLISH_TIMEOUT_S = 5.0


class Delivery(Protocol):
    """A message that was taken from a queue and is still owed an acknowledgement."""

    @property
    def message(self) -> bytes:
        """The message as published."""

    @property
    def priority(self) -> Priority:
        """Its class."""

    @property
    def is_redelivered(self) -> bool:
        """Whether it may have been delivered before."""

    async def ack(self) -> None:
        """Say that it is dealt with and need not come again; saying so twice does no harm."""


#: Deliveries by class, and within one in order of publication. Leaving gives the rest back.
Subscription = AbstractAsyncContextManager[AsyncIterator[Delivery]]


class Bus(Protocol):
    """Carries messages from publishers to the queues of a topic."""

    async def publish(
        self,
        topic: str,
        message: bytes,
        *,
        priority: Priority,
        timeout_s: float = PUBLISH_TIMEOUT_S,
    ) -> None:
        """Hand a message to every queue of the topic; with no queue it is nobody's.

        Blocks up to the deadline. After an error some queues may have it: publish it again.

        Raises:
            Unavailable: a queue had no credit within ``timeout_s``, or the bus is closed.
            TooLarge: the message is above ``MESSAGE_BYTES_MAX``.
        """

    def subscribe(self, topic: str, *, name: str) -> Subscription:
        """Read the topic's queue of this name, made if need be; readers of a name share it."""

    async def close(self) -> None:
        """End every subscription's iteration and refuse what is published from now on."""
