from __future__ import annotations

import asyncio
import itertools

import pytest

from xenith.core.clock import ManualClock
from xenith.core.ids import Ids
from xenith.core.world import World
from xenith.reconcile import ReconcilerLoop, Report


class Counting:
    """A reconciler that counts, fails as told, and waits at a gate."""

    def __init__(self, name: str = "counting", period_s: float = 10.0) -> None:
        self.name = name
        self.period_s = period_s
        self.count = 0
        self.running = 0
        self.running_max = 0
        self.failures = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def activate(self) -> Report:
        self.count += 1
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        await self.gate.wait()
        self.running -= 1
        if self.failures:
            self.failures -= 1
            raise RuntimeError("away")
        return {"counted": 1}


@pytest.fixture
def world() -> World:
    return World(clock=ManualClock(), ids=Ids(seed=1))


@pytest.fixture
async def counting(world):
    reconciler = Counting()
    loop = ReconcilerLoop(world, [reconciler])
    reconciler.loop = loop
    loop.start()
    await breathe()
    yield reconciler
    await loop.stop()


async def breathe() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_it_runs_at_the_start_and_then_about_once_a_period(counting, world):
    assert counting.count == 1
    await world.clock.advance(8.9)
    assert counting.count == 1
    await world.clock.advance(2.2)
    assert counting.count == 2
    await world.clock.advance(100.0)
    assert 10 <= counting.count <= 14


async def test_a_hint_runs_it_without_waiting_for_the_period(counting):
    counting.loop.wake("counting")
    await breathe()
    assert counting.count == 2


async def test_hints_while_it_runs_make_it_run_once_more_and_never_beside_itself(counting):
    counting.gate.clear()
    counting.loop.wake()
    await breathe()
    for _ in range(5):
        counting.loop.wake()
    await breathe()
    assert counting.count == 2
    counting.gate.set()
    await breathe()
    assert (counting.count, counting.running_max) == (3, 1)


async def test_settling_waits_for_a_run_that_is_under_way(counting):
    counting.gate.clear()
    counting.loop.wake()
    await breathe()
    settled = asyncio.create_task(counting.loop.settle())
    await breathe()
    assert not settled.done()
    counting.gate.set()
    assert await settled == {"counting": {"counted": 1}}
    assert counting.running_max == 1


async def test_a_failure_is_tried_again_after_a_delay_that_doubles_up_to_the_period(
    counting, world
):
    counting.period_s = 4.0
    counting.failures = 100
    counting.loop.wake()
    await breathe()
    moments = []
    for tenth in range(120):
        before = counting.count
        await world.clock.advance(0.1)
        if counting.count > before:
            moments.append(tenth / 10)
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert gaps[0] == pytest.approx(2.0, abs=0.11)
    assert gaps[1] == pytest.approx(4.0, abs=0.11)
    assert gaps[2] == pytest.approx(4.0, abs=0.11)


async def test_one_that_fails_does_not_hold_up_another(world):
    bad, good = Counting("bad"), Counting("good")
    bad.failures = 1000
    loop = ReconcilerLoop(world, [bad, good])
    loop.start()
    await breathe()
    await world.clock.advance(25.0)
    await loop.stop()
    assert good.count >= 3
    assert bad.count >= 3


async def test_two_of_one_name_are_refused(world):
    with pytest.raises(AssertionError):
        ReconcilerLoop(world, [Counting(), Counting()])


async def test_nothing_runs_after_stop(counting, world):
    await counting.loop.stop()
    count = counting.count
    counting.loop.wake()
    await world.clock.advance(100.0)
    assert counting.count == count
