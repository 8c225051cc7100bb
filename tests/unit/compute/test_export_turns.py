"""A host gives so many disks at a time, and projects have their turns."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from xenith.compute.export_turns import EXPORTS_PER_HOST_MAX, ExportTurns


class Bench:
    def __init__(self):
        self.turns = ExportTurns()
        self.begun = []
        self.ends = {}
        self.tasks = {}

    def ask(self, name, project, host="h1"):
        self.ends[name] = asyncio.Event()

        async def export():
            await self.turns.take(host, project, name)
            try:
                # Who has a place keeps that one.
                await self.turns.take(host, project, name)
                self.begun.append(name)
                await self.ends[name].wait()
            finally:
                self.turns.give_back(name)
                self.turns.give_back(name)

        self.tasks[name] = asyncio.create_task(export())

    async def end(self, name):
        self.ends[name].set()
        await self.tasks[name]
        await self.rest()

    @staticmethod
    async def rest():
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
async def bench():
    bench = Bench()
    yield bench
    for task in bench.tasks.values():
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert (bench.turns._hosts, bench.turns._held) == ({}, {}), "nothing is kept of a host at rest"


async def test_two_at_a_time_on_each_host(bench):
    for number in range(4):
        bench.ask(f"a{number}", "p")
    bench.ask("b", "p", host="h2")
    await bench.rest()
    assert EXPORTS_PER_HOST_MAX == 2
    assert bench.begun == ["a0", "a1", "b"]
    await bench.end("a1")
    assert bench.begun == ["a0", "a1", "b", "a2"]


async def test_a_project_with_many_does_not_hold_up_one_with_one(bench):
    for number in range(20):
        bench.ask(f"many{number}", "many")
    bench.ask("one", "one")
    await bench.rest()
    await bench.end("many0")
    await bench.end("many1")
    assert bench.begun == ["many0", "many1", "many2", "one"]
    await bench.end("one")
    assert bench.begun[-1] == "many3"


async def test_all_may_leave_at_once(bench):
    for name in "abcde":
        bench.ask(name, name)
    await bench.rest()
    for task in bench.tasks.values():
        task.cancel()


async def test_who_leaves_the_queue_or_a_place_gives_it_to_the_next(bench):
    for name in ("a", "b", "c", "d", "e"):
        bench.ask(name, name)
    await bench.rest()
    bench.tasks["c"].cancel()
    bench.tasks["a"].cancel()
    await bench.rest()
    assert bench.begun == ["a", "b", "d"]
    # A place that is given to one who is cancelled at that moment is not lost.
    bench.ends["b"].set()
    await asyncio.sleep(0)
    bench.tasks["e"].cancel()
    await bench.rest()
    bench.ask("f", "f")
    await bench.rest()
    assert bench.begun == ["a", "b", "d", "f"]
