"""Every task has an owner that ends it."""

import asyncio

import pytest
import structlog

from xenith.core.clock import ManualClock
from xenith.core.tasks import TaskOwner


@pytest.fixture
def clock():
    """A clock that stands still."""
    return ManualClock()


async def test_stopping_cancels_what_runs_and_waits_for_its_last_words(clock):
    said = []

    async def work():
        try:
            await clock.sleep(1000)
        finally:
            await asyncio.sleep(0)
            said.append("closed")

    owner = TaskOwner("test", clock)
    task = owner.start("work", work())
    await asyncio.sleep(0)
    assert owner.task_count == 1
    await owner.stop()
    assert said == ["closed"]
    assert task.cancelled()
    assert owner.task_count == 0


async def test_a_task_that_loses_the_word_is_told_again(clock, monkeypatch):
    monkeypatch.setattr("xenith.core.tasks.CANCEL_AGAIN_S", 0.01)
    lost = []

    async def work():
        while True:
            try:
                await clock.sleep(1000)
            except asyncio.CancelledError:
                if lost:
                    raise
                lost.append("once, as wait_for does")

    owner = TaskOwner("test", clock)
    owner.start("work", work())
    await asyncio.sleep(0)
    with structlog.testing.capture_logs() as logged:
        await owner.stop()
    assert (lost, owner.task_count) == (["once, as wait_for does"], 0)
    assert [line["event"] for line in logged] == ["task is cancelled again"]


async def test_a_task_begun_while_stopping_is_stopped_too(clock):
    owner = TaskOwner("test", clock)

    async def last():
        await clock.sleep(1000)

    async def work():
        try:
            await clock.sleep(1000)
        finally:
            with pytest.raises(asyncio.CancelledError):
                owner.start("last", last())

    owner.start("work", work())
    await asyncio.sleep(0)
    await owner.stop()
    assert owner.task_count == 0


async def test_stopping_twice_or_with_nothing_running_is_no_error(clock):
    owner = TaskOwner("test", clock)
    await owner.stop()
    await owner.stop()


async def test_a_failure_is_logged_with_its_owner_and_does_not_end_the_others(clock):
    owner, done = TaskOwner("test", clock), asyncio.Event()

    async def fails():
        raise ValueError("broken")

    async def works():
        done.set()

    with structlog.testing.capture_logs() as events:
        task = owner.start("fails", fails())
        owner.start("works", works())
        await done.wait()
        await task
    assert [(event["owner"], event["task"]) for event in events] == [("test", "fails")]
    await owner.stop()


async def test_what_is_kept_begins_again_after_its_delay_whether_it_failed_or_returned(clock):
    owner, begun = TaskOwner("test", clock), []

    async def work():
        begun.append(clock.monotonic())
        if len(begun) == 1:
            raise ValueError("broken")

    with structlog.testing.capture_logs() as events:
        owner.keep("work", work, restart_delay_s=2.0)
        await asyncio.sleep(0)
        await clock.advance(5)
    assert begun == [0.0, 2.0, 4.0]
    assert [event["event"] for event in events] == ["task restarts"]
    await owner.stop()
    await clock.advance(10)
    assert len(begun) == 3


async def test_what_is_kept_ends_when_its_owner_stops_in_the_middle(clock):
    owner, ended = TaskOwner("test", clock), []

    async def work():
        try:
            await clock.sleep(1000)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    owner.keep("work", work)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await owner.stop()
    assert ended == ["cancelled"]


async def test_a_finished_task_is_forgotten(clock):
    owner = TaskOwner("test", clock)

    async def work():
        return None

    await owner.start("work", work())
    await asyncio.sleep(0)
    assert owner.task_count == 0
