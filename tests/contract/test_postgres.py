from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import psycopg
import pytest
import sqlalchemy as sa

from xenith.core.errors import Invalid, Unavailable
from xenith.db import Database, Tx, migrate, open_database
from xenith.db.database import POSTGRES_CONNECTIONS

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ACCOUNTS = sa.Table(
    "accounts",
    sa.MetaData(),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("amount", sa.BigInteger),
)


@pytest.fixture
async def db(fresh_postgres_url: str) -> AsyncIterator[Database]:
    database = open_database(fresh_postgres_url)
    database.run_script(
        lambda connection: connection.execute(
            "CREATE TABLE accounts (id text PRIMARY KEY, amount bigint)"
        )
    )
    yield database
    await database.close()


@pytest.fixture
async def other(fresh_postgres_url: str, db: Database) -> AsyncIterator[Database]:
    """The same rows from another process: within one, writes do not race."""
    database = open_database(fresh_postgres_url)
    yield database
    await database.close()


async def test_a_transaction_that_lost_a_race_is_run_again(db, other):
    await db.run(lambda tx: tx.insert_many(ACCOUNTS, [{"id": i, "amount": 1} for i in "ab"]))
    both_read = threading.Barrier(2)
    runs: list[str] = []

    def take_if_the_other_is_left(tx: Tx, mine: str) -> bool:
        """Write skew: each alone may take, both together may not."""
        runs.append(mine)
        left = sum(row.amount for row in tx.list(ACCOUNTS))
        if runs.count(mine) == 1:
            both_read.wait(10)
        if left < 2:
            return False
        tx.update(ACCOUNTS, {"id": mine}, amount=0)
        return True

    took = await asyncio.gather(
        db.run(take_if_the_other_is_left, "a"), other.run(take_if_the_other_is_left, "b")
    )
    assert sorted(took) == [False, True]
    assert len(runs) == 3
    assert sum(row.amount for row in await db.read(lambda tx: tx.list(ACCOUNTS))) == 1


async def test_hints_of_a_run_that_lost_are_not_given(db, other):
    await db.run(lambda tx: tx.insert(ACCOUNTS, {"id": "a", "amount": 0}))
    both_read = threading.Barrier(2)
    heard: list[str] = []
    db.listen("accounts", heard.append)
    other.listen("accounts", heard.append)
    tries: list[int] = []

    def add(tx: Tx, amount: int) -> None:
        tx.notify("accounts", str(amount))
        row = tx.get(ACCOUNTS, id="a")
        tries.append(amount)
        if tries.count(amount) == 1:
            both_read.wait(10)
        tx.update(ACCOUNTS, {"id": "a"}, amount=row.amount + amount)

    await asyncio.gather(db.run(add, 1), other.run(add, 2))
    assert sorted(heard) == ["1", "2"]
    assert (await db.read(lambda tx: tx.get(ACCOUNTS, id="a"))).amount == 3


async def test_writes_of_one_process_take_turns_and_none_is_run_twice(db):
    await db.run(lambda tx: tx.insert(ACCOUNTS, {"id": "a", "amount": 0}))
    runs: list[int] = []

    def add(tx: Tx, number: int) -> None:
        runs.append(number)
        row = tx.get(ACCOUNTS, id="a")
        tx.update(ACCOUNTS, {"id": "a"}, amount=row.amount + 1)

    await asyncio.gather(*(db.run(add, number) for number in range(40)))
    assert sorted(runs) == list(range(40))
    assert (await db.read(lambda tx: tx.get(ACCOUNTS, id="a"))).amount == 40


async def test_connections_that_the_server_ended_are_replaced_without_a_failure(db):
    await asyncio.gather(*(db.read(lambda tx: tx.list(ACCOUNTS)) for _ in range(20)))
    with psycopg.connect(db._url, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert await db.read(lambda tx: tx.list(ACCOUNTS)) == []


async def test_no_more_connections_are_open_than_allowed(db):
    await asyncio.gather(*(db.read(lambda tx: tx.list(ACCOUNTS)) for _ in range(100)))
    count = sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
    assert (await db.read(lambda tx: tx.first(count)))[0] <= POSTGRES_CONNECTIONS


async def test_text_that_postgresql_cannot_hold_is_invalid(db):
    with pytest.raises(Invalid):
        await db.run(lambda tx: tx.insert(ACCOUNTS, {"id": "nul\x00", "amount": 1}))
    assert await db.read(lambda tx: tx.list(ACCOUNTS)) == []


async def test_the_password_is_not_told_when_the_server_does_not_answer():
    with pytest.raises(Unavailable) as caught:
        open_database("postgresql://me:hunter2@127.0.0.1:1/x")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_processes_that_start_at_once_make_the_tables_once(fresh_postgres_url, monkeypatch):
    tree = sa.MetaData()
    for number in range(10):
        sa.Table(f"t{number}", tree, sa.Column("id", sa.Text, primary_key=True))
    monkeypatch.setattr(migrate, "TREES", {"cell": tree})
    databases = [open_database(fresh_postgres_url) for _ in range(4)]
    await asyncio.gather(*(asyncio.to_thread(migrate.prepare, each) for each in databases))
    for each in databases:
        assert await each.read(lambda tx: tx.list(tree.tables["t9"])) == []
        await each.close()
