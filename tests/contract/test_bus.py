from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator

import pytest

from xenith.bus import Bus, MemoryBus, Priority
from xenith.bus.amqp import AmqpBus
from xenith.bus.port import MESSAGE_BYTES_MAX
from xenith.core.clock import Clock, ManualClock, SystemClock
from xenith.core.errors import TooLarge, Unavailable

CREDITS = dict.fromkeys(Priority, 4)


REAL = [pytest.mark.e2e, pytest.mark.slow]


class PassingClock(SystemClock):
    """The clock of a bus whose broker is a process: no test can move that one's time by hand."""

    async def advance(self, delay_s: float) -> None:
        """Let the time pass."""
        await self.sleep(delay_s)


@pytest.fixture(params=["memory", pytest.param("amqp", marks=REAL)])
def kind(request) -> str:
    """Each implementation of the port."""
    return request.param


@pytest.fixture
def clock(kind) -> Clock:
    return ManualClock() if kind == "memory" else PassingClock()


@pytest.fixture
def broker(request, kind):
    """The broker of the implementations that have one."""
    return None if kind == "memory" else request.getfixturevalue("rabbitmq")


@pytest.fixture
async def bus(broker, clock) -> AsyncIterator[Bus]:
    """A bus with four credits for a class, and nothing on it."""
    if broker is None:
        made: Bus = MemoryBus(clock, credits_by_class=CREDITS)
    else:
        place = secrets.token_hex(8)
        admin = broker.admin()
        await admin.add_virtual_host(place)
        await admin.close()
        address = broker.address(virtual_host=place)
        made = AmqpBus(address, clock, credits_by_class=CREDITS)
    yield made
    await made.close()


async def breathe(bus: Bus) -> None:
    """Let what was begun before reach the bus, which makes queues in the order of asking."""
    for _ in range(10):
        await asyncio.sleep(0)
    await declare(bus, "breath", "q")


async def declare(bus: Bus, topic: str, name: str) -> None:
    async with bus.subscribe(topic, name=name):
        pass


async def take(bus: Bus, topic: str, name: str, count: int, *, ack: bool = True) -> list[bytes]:
    taken: list[bytes] = []
    async with asyncio.timeout(5), bus.subscribe(topic, name=name) as deliveries:
        async for delivery in deliveries:
            taken.append(delivery.message)
            if ack:
                await delivery.ack()
            if len(taken) == count:
                break
    return taken


async def publish(bus: Bus, *messages: bytes, priority: Priority = Priority.INTENT) -> None:
    for message in messages:
        await bus.publish("t", message, priority=priority)


async def test_messages_of_a_class_come_in_order_of_publication(bus):
    await declare(bus, "t", "q")
    await publish(bus, b"1", b"2", b"3")
    assert await take(bus, "t", "q", 3) == [b"1", b"2", b"3"]


async def test_intents_overtake_lifecycle_which_overtakes_statistics_and_bulk(bus):
    await declare(bus, "t", "q")
    for priority in reversed(Priority):
        await publish(bus, priority.name.encode(), priority=priority)
    assert await take(bus, "t", "q", 4) == [b"INTENT", b"LIFECYCLE", b"STATISTICS", b"BULK"]


async def test_every_queue_of_a_topic_gets_every_message(bus):
    await declare(bus, "t", "q")
    await declare(bus, "t", "r")
    await declare(bus, "other", "q")
    await publish(bus, b"1")
    assert await take(bus, "t", "q", 1) == [b"1"]
    assert await take(bus, "t", "r", 1) == [b"1"]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), bus.subscribe("other", name="q") as deliveries:
            await anext(aiter(deliveries))


async def test_a_message_for_a_topic_without_queues_is_nobodys(bus):
    await publish(bus, b"lost")
    await declare(bus, "t", "q")
    await publish(bus, b"kept")
    assert await take(bus, "t", "q", 1) == [b"kept"]


async def test_what_was_not_acknowledged_comes_again_first_and_says_so(bus):
    await declare(bus, "t", "q")
    await publish(bus, b"1", b"2", b"3")
    assert await take(bus, "t", "q", 2, ack=False) == [b"1", b"2"]
    async with bus.subscribe("t", name="q") as deliveries:
        again = [await anext(aiter(deliveries)) for _ in range(3)]
    assert [each.message for each in again] == [b"1", b"2", b"3"]
    # What was on its way to the first reader, who left before taking it, may say so too.
    assert [each.is_redelivered for each in again[:2]] == [True, True]


async def test_an_acknowledgement_after_leaving_counts_for_nothing(bus):
    await declare(bus, "t", "q")
    await publish(bus, b"1")
    async with bus.subscribe("t", name="q") as deliveries:
        late = await anext(aiter(deliveries))
    await late.ack()
    assert await take(bus, "t", "q", 1) == [b"1"]


async def test_a_publisher_without_a_credit_is_told_so_at_its_deadline(bus, clock):
    await declare(bus, "t", "q")
    await publish(bus, b"1", b"2", b"3", b"4", priority=Priority.BULK)

    async def publish_fifth() -> float:
        begun_s = clock.monotonic()
        with pytest.raises(Unavailable):
            await bus.publish("t", b"5", priority=Priority.BULK, timeout_s=2.0)
        return clock.monotonic() - begun_s

    fifth = asyncio.create_task(publish_fifth())
    await breathe(bus)
    await clock.advance(1.9)
    await clock.advance(0.2)
    assert await fifth > 1.95
    assert await take(bus, "t", "q", 4) == [b"1", b"2", b"3", b"4"]


async def test_a_flood_of_statistics_does_not_hold_up_an_intent(bus):
    await declare(bus, "t", "q")
    await publish(bus, b"s", b"s", b"s", b"s", priority=Priority.STATISTICS)
    await publish(bus, b"intent")
    assert (await take(bus, "t", "q", 1)) == [b"intent"]


async def test_an_acknowledgement_lets_a_waiting_publisher_go_on(bus):
    await declare(bus, "t", "q")
    await publish(bus, b"1", b"2", b"3", b"4")
    fifth = asyncio.create_task(bus.publish("t", b"5", priority=Priority.INTENT))
    assert await take(bus, "t", "q", 5) == [b"1", b"2", b"3", b"4", b"5"]
    await fifth


async def test_acknowledging_twice_frees_one_credit_only(bus, clock):
    await declare(bus, "t", "q")
    await publish(bus, b"1", b"2", b"3", b"4")
    async with bus.subscribe("t", name="q") as deliveries:
        first = await anext(aiter(deliveries))
        await first.ack()
        await first.ack()
    await publish(bus, b"5")
    sixth = asyncio.create_task(bus.publish("t", b"6", priority=Priority.INTENT, timeout_s=1.0))
    await breathe(bus)
    await clock.advance(1.5)
    with pytest.raises(Unavailable):
        await sixth


async def test_a_publisher_that_is_cancelled_while_it_waits_loses_no_credit(bus):
    await declare(bus, "t", "q")
    await publish(bus, b"1", b"2", b"3", b"4")
    waiting = asyncio.create_task(bus.publish("t", b"5", priority=Priority.INTENT))
    await breathe(bus)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    assert len(await take(bus, "t", "q", 4)) == 4
    await publish(bus, b"a", b"b", b"c", b"d")
    assert await take(bus, "t", "q", 4) == [b"a", b"b", b"c", b"d"]


async def test_a_reader_that_waits_is_woken_by_a_message(bus):
    reader = asyncio.create_task(take(bus, "t", "q", 1))
    await breathe(bus)
    await publish(bus, b"1")
    assert await reader == [b"1"]


async def test_a_message_above_the_limit_is_refused(bus):
    await declare(bus, "t", "q")
    with pytest.raises(TooLarge):
        await publish(bus, bytes(MESSAGE_BYTES_MAX + 1))


async def test_closing_ends_readers_and_refuses_publishers_also_those_that_wait(bus):
    reader = asyncio.create_task(take(bus, "t", "q", 99))
    await declare(bus, "full", "q")
    for _ in range(4):
        await bus.publish("full", b"x", priority=Priority.INTENT)
    waiting = asyncio.create_task(bus.publish("full", b"y", priority=Priority.INTENT))
    await breathe(bus)
    await bus.close()
    assert await reader == []
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await publish(bus, b"late")
