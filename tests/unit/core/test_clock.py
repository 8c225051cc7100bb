"""Time that stands still until a test moves it."""

import asyncio

import pytest

from xenith.core.clock import ManualClock, SystemClock, iso_micros, iso_seconds, parse_iso


async def test_sleepers_wake_in_the_order_of_their_times_not_of_their_calls():
    clock, woken = ManualClock(), []

    async def sleeper(delay_s):
        await clock.sleep(delay_s)
        woken.append((delay_s, clock.monotonic()))

    tasks = [asyncio.create_task(sleeper(delay_s)) for delay_s in (3.0, 1.0, 2.0)]
    await asyncio.sleep(0)
    await clock.advance(10)
    assert woken == [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]
    await asyncio.gather(*tasks)


async def test_those_who_sleep_until_the_same_moment_wake_in_the_order_of_their_calls():
    clock, woken = ManualClock(), []

    async def sleeper(name):
        await clock.sleep(1)
        woken.append(name)

    tasks = [asyncio.create_task(sleeper(name)) for name in "abc"]
    await asyncio.sleep(0)
    await clock.advance(1)
    assert woken == ["a", "b", "c"]
    await asyncio.gather(*tasks)


async def test_a_loop_of_sleeps_runs_as_often_as_time_allows():
    clock, ticks = ManualClock(), []

    async def tick():
        while True:
            await clock.sleep(1)
            ticks.append(clock.monotonic())

    task = asyncio.create_task(tick())
    await asyncio.sleep(0)
    await clock.advance(3.5)
    assert ticks == [1.0, 2.0, 3.0]
    assert clock.monotonic() == 3.5
    task.cancel()


async def test_a_sleeper_whose_time_has_not_come_sleeps_on():
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(5))
    await asyncio.sleep(0)
    await clock.advance(4.9)
    assert not task.done()
    await clock.advance(0.1)
    assert task.done()


async def test_a_cancelled_sleeper_does_not_trouble_the_clock():
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(1))
    await asyncio.sleep(0)
    task.cancel()
    await clock.advance(2)
    assert task.cancelled()
    assert clock.monotonic() == 2


async def test_no_sleep_needs_no_advance():
    clock = ManualClock()
    await clock.sleep(0)
    await clock.sleep(-1)
    assert clock.monotonic() == 0


async def test_the_machines_clock_waits_and_goes_on():
    clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(0)
    assert clock.monotonic() >= before
    assert clock.now() > 1_700_000_000


@pytest.mark.parametrize("write", [iso_seconds, iso_micros])
def test_a_written_time_is_read_back(write):
    assert parse_iso(write(1_700_000_000)) == 1_700_000_000


def test_microseconds_are_kept_where_the_api_shows_them_and_cut_where_not():
    assert iso_micros(1.25) == "1970-01-01T00:00:01.250000Z"
    assert iso_seconds(1.99) == "1970-01-01T00:00:01Z"


@pytest.mark.parametrize(
    "text", ["1970-01-01T01:00:01+01:00", "1970-01-01T00:00:01", "1970-01-01 00:00:01Z"]
)
def test_offsets_count_and_a_time_without_one_is_utc(text):
    assert parse_iso(text) == 1.0


@pytest.mark.parametrize("text", ["", "yesterday", "1970-13-01T00:00:00Z"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        parse_iso(text)


@pytest.mark.parametrize(
    ("text", "at_s"),
    [("0001-01-01T00:00:00Z", -62_135_596_800.0), ("9999-12-31T23:59:59Z", 253_402_300_799.0)],
)
def test_the_calendars_first_and_last_seconds_are_read(text, at_s):
    assert parse_iso(text) == at_s
