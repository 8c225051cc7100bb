"""The bus of simulations keeps the port's word without faults, and fails only as it is told to."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

import pytest

from xenith.bus import Faults, Priority, SimulatedBus, SimulatedFabric
from xenith.bus.port import MESSAGE_BYTES_MAX
from xenith.core.errors import TooLarge, Unavailable
from xenith.dev.simulation import Simulation, run_simulation

TOPIC = "a>b"
CREDITS = dict.fromkeys(Priority, 4)


@dataclass
class Bench:
    simulation: Simulation
    fabric: SimulatedFabric
    a: SimulatedBus
    b: SimulatedBus

    async def declare(self, topic=TOPIC, name="q"):
        async with self.b.subscribe(topic, name=name):
            pass

    async def publish(self, *messages, priority=Priority.INTENT, topic=TOPIC, timeout_s=5.0):
        for message in messages:
            await self.a.publish(topic, message, priority=priority, timeout_s=timeout_s)

    async def take(self, count, *, ack=True, name="q", topic=TOPIC):
        """Take messages; gives up after a while and gives what came."""
        taken = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(60), self.b.subscribe(topic, name=name) as deliveries:
                async for delivery in deliveries:
                    taken.append(delivery.message)
                    if ack:
                        await delivery.ack()
                    if len(taken) == count:
                        break
        return taken


def on_fabric(function, *, seed=1, credits_by_class=CREDITS):
    async def main(simulation):
        fabric = SimulatedFabric(simulation.ids("fabric"), credits_by_class=credits_by_class)
        a, b = (SimulatedBus(fabric, simulation.world(name).clock) for name in "ab")
        return await function(Bench(simulation, fabric, a, b))

    return run_simulation(main, seed=seed)


def numbers(count):
    return [b"%d" % number for number in range(count)]


# -- the port's word


def test_messages_come_by_class_and_within_one_in_order_to_every_queue():
    async def check(bench):
        await bench.declare(name="q")
        await bench.declare(name="r")
        await bench.publish(b"s", priority=Priority.STATISTICS)
        await bench.publish(b"1", b"2", b"3")
        for name in "qr":
            assert await bench.take(4, name=name) == [b"1", b"2", b"3", b"s"]

    on_fabric(check)


def test_a_message_for_a_topic_without_queues_is_nobodys():
    async def check(bench):
        await bench.publish(b"lost")
        await bench.declare()
        await bench.publish(b"kept")
        assert await bench.take(2) == [b"kept"]

    on_fabric(check)


def test_what_was_not_acknowledged_comes_again_first_and_says_so():
    async def check(bench):
        await bench.declare()
        await bench.publish(b"1", b"2", b"3")
        assert await bench.take(2, ack=False) == [b"1", b"2"]
        async with bench.b.subscribe(TOPIC, name="q") as deliveries:
            again = [await anext(aiter(deliveries)) for _ in range(3)]
        await again[0].ack()  # too late: it was given back
        assert [each.message for each in again] == [b"1", b"2", b"3"]
        assert [each.is_redelivered for each in again] == [True, True, False]
        assert await bench.take(3) == [b"1", b"2", b"3"]

    on_fabric(check)


def test_a_publisher_without_a_credit_waits_to_its_deadline_and_goes_on_with_an_acknowledgement():
    async def check(bench):
        await bench.declare()
        await bench.publish(*numbers(4))
        with pytest.raises(Unavailable):
            await bench.publish(b"late", timeout_s=2.0)
        assert bench.simulation.loop.time() == pytest.approx(2.0, rel=0.01)
        await bench.publish(b"another class", priority=Priority.BULK)
        fifth = asyncio.ensure_future(bench.publish(b"5"))
        assert set(await bench.take(6)) == {*numbers(4), b"5", b"another class"}
        await fifth

    on_fabric(check)


def test_a_publisher_that_is_cancelled_while_it_waits_loses_no_credit():
    async def check(bench):
        await bench.declare()
        await bench.publish(*numbers(4))
        waiting = asyncio.ensure_future(bench.publish(b"5"))
        await asyncio.sleep(1)
        waiting.cancel()
        assert await bench.take(4) == numbers(4)
        await bench.publish(*numbers(4))
        assert await bench.take(4) == numbers(4)

    on_fabric(check)


def test_a_message_above_the_limit_is_refused():
    async def check(bench):
        with pytest.raises(TooLarge):
            await bench.publish(bytes(MESSAGE_BYTES_MAX + 1))

    on_fabric(check)


def test_closing_one_bus_ends_its_readers_and_publishers_and_no_others():
    async def check(bench):
        await bench.declare()
        await bench.publish(*numbers(4))
        waiting = asyncio.ensure_future(bench.publish(b"5"))
        await asyncio.sleep(1)
        await bench.a.close()
        with pytest.raises(Unavailable):
            await waiting
        with pytest.raises(Unavailable):
            await bench.publish(b"late")
        assert await bench.take(4) == numbers(4)
        reader = asyncio.ensure_future(bench.take(1))
        await asyncio.sleep(1)
        await bench.b.close()
        assert await reader == []

    on_fabric(check)


# -- faults


def test_dropped_messages_give_their_credits_back():
    async def check(bench):
        await bench.declare()
        bench.fabric.set_faults(Faults(drop_rate=1.0))
        await bench.publish(*numbers(100))
        bench.fabric.clear_faults()
        assert bench.fabric.counts["dropped"] == 100
        await bench.publish(*numbers(4))
        assert await bench.take(4) == numbers(4)

    on_fabric(check)


def test_repeated_messages_take_credits_of_their_own():
    async def check(bench):
        await bench.declare()
        bench.fabric.set_faults(Faults(duplicate_rate=1.0))
        await bench.publish(b"1", b"2")
        with pytest.raises(Unavailable):
            await bench.publish(b"3", timeout_s=1.0)
        assert await bench.take(4) == [b"1", b"1", b"2", b"2"]

    on_fabric(check)


def test_delays_change_the_order_and_lose_nothing():
    async def check(bench):
        await bench.declare()
        bench.fabric.set_faults(Faults(delay_min_s=0.1, delay_max_s=5.0))
        await bench.publish(*numbers(50))
        came = await bench.take(50)
        assert sorted(came, key=int) == numbers(50)
        assert came != numbers(50)
        return came

    many = dict.fromkeys(Priority, 100)
    first = on_fabric(check, credits_by_class=many)
    assert on_fabric(check, credits_by_class=many) == first
    assert on_fabric(check, credits_by_class=many, seed=2) != first


def test_a_cut_direction_loses_what_is_said_and_what_is_under_way_and_the_other_carries():
    async def check(bench):
        await bench.declare()
        await bench.declare("b>a")
        bench.fabric.set_faults(Faults(delay_min_s=1.0, delay_max_s=1.0))
        await bench.publish(b"under way")
        bench.fabric.cut("a", "b")
        await bench.publish(b"said")
        await bench.publish(b"back", topic="b>a")
        assert await bench.take(1, topic="b>a") == [b"back"]
        bench.fabric.heal("a", "b")
        await bench.publish(b"1", b"2", b"3", b"4")
        assert sorted(await bench.take(5)) == [b"1", b"2", b"3", b"4"]

    on_fabric(check)


def test_a_partition_mends_after_its_time():
    async def check(bench):
        await bench.declare()
        bench.fabric.partition("a", "b", duration_s=30)
        await bench.publish(b"lost")
        await asyncio.sleep(31)
        await bench.publish(b"kept")
        assert await bench.take(2) == [b"kept"]

    on_fabric(check)


def test_a_link_of_its_own_faults_does_not_follow_the_others():
    async def check(bench):
        await bench.declare()
        await bench.declare("c>b")
        bench.fabric.set_faults(Faults(drop_rate=1.0), sender="c", receiver="b")
        await bench.publish(b"1")
        await bench.publish(b"2", topic="c>b")
        assert await bench.take(1) == [b"1"]
        assert await bench.take(1, topic="c>b") == []

    on_fabric(check)


def test_a_refused_message_may_have_gone_all_the_same():
    async def check(bench):
        await bench.declare()
        bench.fabric.set_faults(Faults(refuse_rate=1.0))
        for number in numbers(40):
            with pytest.raises(Unavailable):
                await bench.publish(number)
        return len(await bench.take(40))

    many = dict.fromkeys(Priority, 100)
    assert 5 < on_fabric(check, credits_by_class=many) < 35


def test_a_broker_that_was_stopped_refuses_and_then_gives_again_what_was_not_acknowledged():
    async def check(bench):
        await bench.declare()
        await bench.publish(b"1", b"2")
        async with bench.b.subscribe(TOPIC, name="q") as deliveries:
            first = await anext(aiter(deliveries))
            bench.fabric.stop_broker("b")
            with pytest.raises(Unavailable):
                await bench.publish(b"3", timeout_s=1.0)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(10):
                    await anext(aiter(bench.b._deliveries(next(iter(bench.b._readings)))))
            waiting = asyncio.ensure_future(bench.publish(b"4"))
            bench.fabric.start_broker("b")
            await first.ack()  # of a connection that is no more
        await waiting
        assert await bench.take(3) == [b"1", b"2", b"4"]

    on_fabric(check)


def test_a_broker_that_loses_its_queues_gives_their_credits_back():
    async def check(bench):
        await bench.declare()
        await bench.publish(*numbers(4))
        bench.fabric.stop_broker("b")
        bench.fabric.start_broker("b", loses_queues=True)
        assert bench.fabric.counts["lost"] == 4
        await bench.publish(*numbers(4))
        assert await bench.take(5) == numbers(4)

    on_fabric(check)


def test_what_a_dead_reader_held_comes_to_the_next_one():
    async def check(bench):
        await bench.declare()
        await bench.publish(b"1", b"2")
        other = SimulatedBus(bench.fabric, bench.simulation.world("b").clock)
        reading = other.subscribe(TOPIC, name="q")
        deliveries = await reading.__aenter__()
        held = await anext(aiter(deliveries))
        other.die()
        await held.ack()
        assert await bench.take(2) == [b"1", b"2"]

    on_fabric(check)


def test_a_dead_publisher_that_waited_holds_no_credit():
    async def check(bench):
        await bench.declare()
        await bench.publish(*numbers(4))
        other = SimulatedBus(bench.fabric, bench.simulation.world("a").clock)
        waiting = asyncio.ensure_future(other.publish(TOPIC, b"x", priority=Priority.INTENT))
        await asyncio.sleep(1)
        async with bench.b.subscribe(TOPIC, name="q") as deliveries:
            await (await anext(aiter(deliveries))).ack()
            other.die()  # in the turn in which it was given the credit
        with pytest.raises(Unavailable):
            await waiting
        await bench.publish(b"y", timeout_s=1.0)
        assert await bench.take(5) == [b"1", b"2", b"3", b"y"]

    on_fabric(check)
