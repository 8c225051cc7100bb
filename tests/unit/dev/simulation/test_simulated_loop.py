from __future__ import annotations

import asyncio
import time

import pytest

from xenith.dev.simulation import Deadlock, Livelock, SimulatedClock, run_simulation
from xenith.dev.simulation import loop as loop_module


def run(function, *, seed=1, shuffles=True):
    return run_simulation(function, seed=seed, shuffles=shuffles)


def test_a_year_of_sleep_takes_no_time():
    async def sleep_a_year(simulation):
        await asyncio.sleep(365 * 86400)
        return simulation.loop.time()

    began = time.perf_counter()
    assert run(sleep_a_year) == pytest.approx(365 * 86400)
    assert time.perf_counter() - began < 1


def test_a_timeout_ends_a_wait_at_its_virtual_time():
    async def wait(simulation):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.Event().wait()
        return simulation.loop.time()

    assert run(wait) == 30


def test_timers_wake_their_sleepers_in_the_order_of_time():
    async def sleepers(simulation):
        woken = []

        async def sleep(delay_s):
            await asyncio.sleep(delay_s)
            woken.append((delay_s, simulation.loop.time()))

        await asyncio.gather(*(sleep(delay_s) for delay_s in (3, 1, 2)))
        return woken

    assert run(sleepers) == [(1, 1), (2, 2), (3, 3)]


def test_when_nothing_is_left_to_happen_the_loop_says_who_waits_and_where():
    async def wait_for_ever(_simulation):
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.Event().wait(), name="the forgotten one")

    with pytest.raises(Deadlock, match=r"the forgotten one waits at .*locks\.py:\d+ in wait"):
        run(wait_for_ever)


def test_tasks_that_wake_each_other_for_ever_are_found(monkeypatch):
    monkeypatch.setattr(loop_module, "TURNS_AT_ONE_TIME_MAX", 1000)

    async def spin(_simulation):
        while True:  # noqa: ASYNC110 - the point
            await asyncio.sleep(0)

    with pytest.raises(Livelock):
        run(spin)


async def order_of_ten(_simulation):
    began = []

    async def note(number):
        began.append(number)
        await asyncio.sleep(0)
        began.append(number + 100)

    await asyncio.gather(*(note(number) for number in range(10)))
    return began


def test_the_seed_chooses_which_task_goes_first_and_each_seed_chooses_the_same_again():
    orders = [run(order_of_ten, seed=seed) for seed in (1, 2, 3)]
    assert orders == [run(order_of_ten, seed=seed) for seed in (1, 2, 3)]
    assert len({tuple(order) for order in orders}) == 3


def test_without_shuffling_tasks_go_in_the_order_in_which_they_became_ready():
    assert run(order_of_ten, shuffles=False) == [*range(10), *range(100, 110)]


def test_sets_of_tasks_have_the_order_of_the_tasks_numbers():
    async def names_in_a_set(_simulation):
        tasks = {asyncio.ensure_future(asyncio.sleep(1)) for _ in range(50)}
        return [task.number for task in tasks]

    assert run(names_in_a_set) == run(names_in_a_set)


def test_work_for_a_thread_is_done_at_once_and_told_a_turn_later():
    async def use_a_thread(_simulation):
        done = []
        running = asyncio.ensure_future(asyncio.to_thread(done.append, 1))
        assert done == []
        await running
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)
        return done

    assert run(use_a_thread) == [1]


def test_what_a_task_does_when_it_is_cancelled_at_the_end_is_awaited():
    ended = []

    async def leave_one_behind(_simulation):
        async def linger():
            try:
                await asyncio.sleep(1000)
            finally:
                await asyncio.sleep(1)
                ended.append("linger")

        task = asyncio.ensure_future(linger())
        await asyncio.sleep(1)
        return task

    run(leave_one_behind)
    assert ended == ["linger"]


def test_a_callback_that_raises_is_noted():
    async def call(simulation):
        simulation.loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)
        return [type(each["exception"]) for each in simulation.loop.complaints]

    assert run(call) == [ZeroDivisionError]


def test_clocks_differ_by_their_skew_and_go_apart_by_their_drift():
    async def compare(simulation):
        right = SimulatedClock(simulation.loop)
        wrong = SimulatedClock(simulation.loop, skew_s=5.0, drift=0.01)
        assert wrong.now() - right.now() == pytest.approx(5.0)
        await right.sleep(100)
        assert right.monotonic() == pytest.approx(100)
        assert wrong.monotonic() == pytest.approx(101)
        assert wrong.now() - right.now() == pytest.approx(6.0)
        await wrong.sleep(101)
        assert simulation.loop.time() == pytest.approx(200)

    run(compare)


def test_each_name_has_a_world_of_its_own_and_the_same_one_after_a_restart():
    async def worlds(simulation):
        one, two = simulation.world("one"), simulation.world("two")
        assert simulation.world("one") is one
        assert one.clock.now() != two.clock.now()
        return one.ids.uuid(), two.ids.uuid()

    first, second = run(worlds)
    assert first != second
    assert run(worlds) == (first, second)
    assert run(worlds, seed=2) != (first, second)
