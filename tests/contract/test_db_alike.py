from __future__ import annotations

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xenith.core.errors import Conflict, XenithError
from xenith.db import Database, Tx, open_database

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

IDS = st.sampled_from(["a", "b", "c", "ü", "A"])
SIZES = st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3)
# PostgreSQL holds no NUL; JSON text escapes it, so there it is allowed.
NAMES = st.none() | st.text(
    st.characters(blacklist_characters="\x00", blacklist_categories=["Cs"]), max_size=4
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)
ROWS = st.fixed_dictionaries(
    {"id": IDS},
    optional={
        "name": NAMES,
        "size_bytes": SIZES,
        "share": st.floats(allow_nan=False, allow_infinity=False),
        "data": JSON,
        "is_ready": st.none() | st.booleans(),
    },
)
CHANGES = st.fixed_dictionaries({"data": JSON}, optional={"size_bytes": SIZES})
OPERATIONS = st.one_of(
    st.tuples(st.just("insert"), ROWS),
    st.tuples(st.just("upsert"), ROWS),
    st.tuples(st.just("update"), st.tuples(IDS, CHANGES)),
    st.tuples(st.just("delete"), IDS),
    st.tuples(st.just("search"), st.tuples(st.lists(IDS), st.integers(-9, 9), st.booleans())),
)


def apply(tx: Tx, table: sa.Table, operations: list[tuple[str, Any]]) -> list[Any]:
    answers: list[Any] = []
    for verb, what in operations:
        match verb:
            case "insert":
                tx.insert(table, what)
            case "upsert":
                tx.upsert(table, what)
            case "update":
                answers.append(tx.update(table, {"id": what[0]}, **what[1]))
            case "delete":
                answers.append(tx.delete(table, id=what))
            case "search":
                ids, size, is_ready = what
                query = sa.select(table).where(table.c.is_ready == is_ready)
                query = query.where(sa.or_(table.c.id.in_(ids), table.c.size_bytes > size))
                found = tx.all(query)
                answers.append(sorted((tuple(row) for row in found), key=lambda row: row[0]))
    return answers


async def outcome(db: Database, table: sa.Table, batches: list[list[tuple[str, Any]]]) -> list[Any]:
    told: list[Any] = []
    await db.run(lambda tx: tx.run(sa.delete(table)))
    for batch in batches:
        try:
            told.append(await db.run(apply, table, batch))
        except Conflict as error:
            told.append(("conflict", error.kind))
        except XenithError as error:
            told.append(type(error).__name__)
    rows = await db.read(lambda tx: tx.list(table))
    told.append(sorted((tuple(row) for row in rows), key=lambda row: row[0]))
    return told


@pytest.fixture
def pair(fresh_postgres_url, create_tables):
    loop = asyncio.new_event_loop()
    databases = [open_database("sqlite://"), open_database(fresh_postgres_url)]
    for database in databases:
        create_tables(database)
    yield loop, databases
    for database in databases:
        loop.run_until_complete(database.close())
    loop.close()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batches=st.lists(st.lists(OPERATIONS, max_size=4), max_size=4))
def test_any_operations_give_the_same_answers_and_rows_on_both_databases(pair, things, batches):
    loop, databases = pair
    one, other = (loop.run_until_complete(outcome(db, things, batches)) for db in databases)
    assert one == other
