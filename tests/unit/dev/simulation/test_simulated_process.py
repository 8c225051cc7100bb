from __future__ import annotations

import asyncio
import contextlib

import pytest
import sqlalchemy as sa

from xenith.bus import Priority, SimulatedBus, SimulatedFabric
from xenith.core.errors import Unavailable
from xenith.core.tasks import TaskOwner
from xenith.dev.simulation import (
    CrashingDatabase,
    Moment,
    ProcessDied,
    SimulatedProcess,
    run_simulation,
)

THINGS = sa.Table("things", sa.MetaData(), sa.Column("name", sa.Text, primary_key=True))


@pytest.fixture
def run(tmp_path):
    """Runs ``function(simulation, database)`` with an empty table of things."""

    def run_it(function, *, seed=1):
        async def main(simulation):
            database = CrashingDatabase(f"sqlite:///{tmp_path}/rows.db", simulation.ids("database"))
            outside = database.connect(simulation.world("outside"))
            outside.run_script(lambda it: it.execute("CREATE TABLE things (name TEXT PRIMARY KEY)"))
            simulation.outside_db = outside
            try:
                return await function(simulation, database)
            finally:
                simulation.at_end(database.close)

        return run_simulation(main, seed=seed)

    return run_it


def add(tx, name):
    tx.insert(THINGS, {"name": name})


async def names(simulation):
    rows = await simulation.outside_db.read(lambda tx: tx.list(THINGS))
    return [row.name for row in rows]


def test_a_start_gives_what_those_outside_call_and_a_call_runs_within(run):
    async def check(simulation, database):
        async def start(life):
            return life.connect(database)

        process = SimulatedProcess(simulation, "p", start)
        db = await process.start()
        await process.call(db.run, add, "a")
        assert await names(simulation) == ["a"]
        with pytest.raises(ZeroDivisionError):
            await process.call(_divide)
        assert process.is_alive

    async def _divide():
        return 1 / 0

    run(check)


def test_nothing_of_a_killed_process_runs_again_not_even_a_finally(run):
    ran = []

    async def check(simulation, database):
        async def work(life, db, number):
            try:
                await life.world.clock.sleep(5 if number else 50)
                ran.append(f"worked {number}")
            finally:
                ran.append("finally")
                await db.run(add, "from a finally")

        async def keep(life, db):
            async with asyncio.TaskGroup() as group:
                for number in range(3):
                    group.create_task(work(life, db, number))

        async def start(life):
            db = life.connect(database)
            tasks = TaskOwner("component", life.world.clock)
            tasks.keep("deep", lambda: keep(life, db))
            simulation.loop.call_later(20, ran.append, "timer")
            asyncio.get_running_loop().call_soon(ran.append, "soon")
            return tasks

        process = SimulatedProcess(simulation, "p", start)
        await process.start()
        await asyncio.sleep(1)
        assert ran == ["soon"]
        process.kill()
        assert not process.is_alive
        await asyncio.sleep(1000)
        assert ran == ["soon"]
        with pytest.raises(ProcessDied):
            await process.call(asyncio.sleep, 0)
        return await names(simulation)

    assert run(check) == []


def test_what_is_buried_writes_nothing_though_its_finally_runs(run):
    async def check(simulation, database):
        async def start(life):
            db, bus = life.connect(database), life.bus(fabric)
            try:
                await asyncio.Event().wait()
            finally:
                with contextlib.suppress(Exception):
                    await db.run(add, "late")
                with contextlib.suppress(Exception):
                    await bus.publish("a>b", b"late", priority=Priority.INTENT)
                await asyncio.sleep(1)

        fabric = SimulatedFabric(simulation.ids("fabric"))
        process = SimulatedProcess(simulation, "p", start)
        process.start()
        await asyncio.sleep(1)
        process.kill()
        process.life.bury()
        await asyncio.sleep(10)
        assert fabric.counts == {}
        return await names(simulation)

    assert run(check) == []


def test_a_process_may_kill_itself_and_goes_no_further_than_its_next_wait(run):
    async def check(simulation, _database):
        reached = []

        async def start(life):
            life.kill()
            reached.append("this turn")
            await asyncio.sleep(0)
            reached.append("next turn")

        process = SimulatedProcess(simulation, "p", start)
        with pytest.raises(ProcessDied):
            await process.start()
        await asyncio.sleep(10)
        return reached

    assert run(check) == ["this turn"]


@pytest.mark.parametrize(
    ("moment", "left"), [(Moment.BEFORE_COMMIT, []), (Moment.AFTER_COMMIT, ["a"])]
)
def test_a_process_that_dies_at_its_commit_never_learns_and_begins_again_on_the_rows(
    run, moment, left
):
    learned, hinted = [], []

    def add_and_hint(tx, name):
        add(tx, name)
        tx.on_commit(lambda: hinted.append(name))
        tx.notify("things", name)

    async def check(simulation, database):
        async def start(life):
            db = life.connect(database)
            db.listen("things", hinted.append)
            name = "ab"[life.number - 1]
            try:
                await db.run(add_and_hint, name)
                learned.append(name)
            finally:
                learned.append(f"finally {name}")
            return db

        process = SimulatedProcess(simulation, "p", start)
        died = asyncio.Event()
        process.on_death = lambda _process: died.set()
        database.crash_at(moment)
        with pytest.raises(ProcessDied):
            await process.start()
        await died.wait()
        assert (learned, hinted) == ([], [])
        assert await names(simulation) == left
        await process.start()
        assert learned == ["b", "finally b"]
        assert hinted == ["b", "b"]
        assert await names(simulation) == [*left, "b"]
        assert database.counts["crashes"] == 1
        assert process.life_count == 2

    run(check)


def test_only_commits_count_down_to_a_crash(run):
    async def check(simulation, database):
        def fail(tx):
            add(tx, "rolled back")
            raise KeyError

        db = database.connect(simulation.world("w"))
        database.crash_at(Moment.AFTER_COMMIT, commits_before=1)
        with pytest.raises(KeyError):
            await db.run(fail)
        await db.run(add, "a")
        with pytest.raises(ProcessDied):
            await db.run(add, "b")
        assert await names(simulation) == ["a", "b"]
        assert database.counts["commits"] == 2

    run(check)


def test_a_rate_of_crashes_follows_the_seed(run):
    async def check(simulation, database):
        db = database.connect(simulation.world("w"))
        database.crash_rate = 0.3
        crashed = []
        for number in range(40):
            try:
                await db.run(lambda tx: tx.list(THINGS))
            except ProcessDied:
                crashed.append(number)
        simulation.outside_db.run_script(lambda it: it.execute("DROP TABLE things"))
        return crashed

    first = run(check)
    assert 5 < len(first) < 20
    assert run(check) == first != run(check, seed=2)


def test_a_database_that_is_away_refuses_and_then_answers(run):
    async def check(simulation, database):
        db = database.connect(simulation.world("w"))
        database.go_away()
        with pytest.raises(Unavailable):
            await db.run(add, "a")
        with pytest.raises(Unavailable):
            await db.read(lambda tx: tx.list(THINGS))
        database.come_back()
        await db.run(add, "b")
        assert await names(simulation) == ["b"]
        assert database.counts["refusals"] == 2

    run(check)


@pytest.mark.parametrize(
    ("moment", "left"), [(Moment.BEFORE_COMMIT, []), (Moment.AFTER_COMMIT, ["a"])]
)
def test_a_database_that_crashes_at_a_commit_leaves_its_client_in_doubt(run, moment, left):
    hinted = []

    def add_and_hint(tx, name):
        add(tx, name)
        tx.on_commit(lambda: hinted.append(name))

    async def check(simulation, database):
        crashed = []
        db = database.connect(simulation.world("w"))
        database.crash_at(moment, on_crash=lambda: crashed.append(moment))
        with pytest.raises(Unavailable, match="went away"):
            await db.run(add_and_hint, "a")
        assert (crashed, hinted, db.doubts) == ([moment], [], 1)
        with pytest.raises(Unavailable):
            await db.run(add_and_hint, "b")
        database.come_back()
        assert await names(simulation) == left
        await db.run(add_and_hint, "c")
        assert await names(simulation) == [*left, "c"]
        assert (hinted, db.doubts) == (["c"], 1)
        assert database.counts["database crashes"] == 1

    run(check)


class Ear(asyncio.Protocol):
    """Notes how its connection ends."""

    def __init__(self):
        self.error = "open"

    def connection_lost(self, error):
        self.error = error


@pytest.mark.parametrize("is_silent", [False, True])
def test_peers_of_a_killed_process_hear_of_it_unless_its_machine_died(run, is_silent):
    async def check(simulation, _database):
        async def start(_life):
            return await simulation.loop.create_server(Ear, "127.0.0.1", 7)

        process = SimulatedProcess(simulation, "p", start)
        await process.start()
        _, ear = await simulation.loop.create_connection(Ear, "127.0.0.1", 7)
        await asyncio.sleep(1)
        process.kill(is_silent=is_silent)
        await asyncio.sleep(1)
        with pytest.raises(ConnectionRefusedError):
            await simulation.loop.create_connection(Ear, "127.0.0.1", 7)
        await process.start()
        return ear.error

    error = run(check)
    assert error == "open" if is_silent else isinstance(error, ConnectionResetError)


def test_messages_that_a_killed_process_held_come_again_and_those_it_sent_arrive(run):
    async def check(simulation, _database):
        fabric = SimulatedFabric(simulation.ids("fabric"))
        got = []

        async def start(life):
            bus = life.bus(fabric)
            async with bus.subscribe("x>p", name="p") as deliveries:
                async for delivery in deliveries:
                    got.append((life.number, delivery.message, delivery.is_redelivered))
                    if life.number == 2:
                        await delivery.ack()

        process = SimulatedProcess(simulation, "p", start)
        process.start()
        await asyncio.sleep(1)
        sender = SimulatedBus(fabric, simulation.world("x").clock)
        await sender.publish("x>p", b"1", priority=Priority.INTENT)
        await asyncio.sleep(1)
        process.kill()
        await sender.publish("x>p", b"2", priority=Priority.INTENT)
        process.start()
        await asyncio.sleep(1)
        return got

    assert run(check) == [(1, b"1", False), (2, b"1", True), (2, b"2", False)]


def test_a_call_that_is_given_up_is_cancelled_within_the_process(run):
    async def check(simulation, _database):
        ended = []

        async def start(_life):
            return None

        async def wait():
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        process = SimulatedProcess(simulation, "p", start)
        await process.start()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await process.call(wait)
        await asyncio.sleep(1)
        return ended

    assert run(check) == ["cancelled"]


def test_generators_that_a_dead_process_left_open_are_left_so(run):
    ended = []

    async def check(simulation, _database):
        async def count():
            try:
                while True:
                    yield 1
                    await asyncio.sleep(1)
            finally:
                ended.append("generator")

        async def start(_life):
            async for _ in count():
                await asyncio.sleep(1)

        process = SimulatedProcess(simulation, "p", start)
        process.start()
        await asyncio.sleep(10)
        process.kill()
        process.life.bury()
        await asyncio.sleep(10)
        return list(ended)

    assert run(check) == []
