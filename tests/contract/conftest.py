"""Gives contract tests a database of each kind with the tables of the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from xenith.core.clock import ManualClock
from xenith.core.ids import Ids
from xenith.db import Database, Flag, Json, open_database

TABLES = sa.MetaData()
THINGS = sa.Table(
    "things",
    TABLES,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, unique=True),
    sa.Column("size_bytes", sa.BigInteger),
    sa.Column("share", sa.Double),
    sa.Column("data", Json),
    sa.Column("is_ready", Flag),
)
PARTS = sa.Table(
    "parts",
    TABLES,
    sa.Column("thing_id", sa.Text, sa.ForeignKey("things.id"), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
)
REAL = [pytest.mark.e2e, pytest.mark.slow]
KINDS = ["sqlite memory", "sqlite file", pytest.param("postgresql", marks=REAL)]


def _create_tables(database: Database) -> None:
    rules = sqlite.dialect() if database.dialect == "sqlite" else postgresql.dialect()
    statements = [
        str(sa.schema.CreateTable(table).compile(dialect=rules)) for table in TABLES.sorted_tables
    ]

    def create(connection) -> None:
        for statement in statements:
            connection.execute(statement)

    database.run_script(create)


@pytest.fixture
def url(request, tmp_path: Path) -> str:
    """The address of an empty database of the kind that the test is run for."""
    if request.param == "postgresql":
        return request.getfixturevalue("fresh_postgres_url")
    return "sqlite://" if request.param == "sqlite memory" else f"sqlite:///{tmp_path}/rows.db"


@pytest.fixture
async def db(url: str) -> AsyncIterator[Database]:
    """A database with the tables of the contract."""
    database = open_database(url, ids=Ids(seed=1), clock=ManualClock())
    _create_tables(database)
    yield database
    await database.close()


@pytest.fixture
def create_tables():
    """What makes the contract's tables in a database that a test opened itself."""
    return _create_tables


@pytest.fixture
def things() -> sa.Table:
    return THINGS


@pytest.fixture
def parts() -> sa.Table:
    return PARTS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run whatever asks for a database, or its address, on each kind."""
    if "url" in metafunc.fixturenames:
        metafunc.parametrize("url", KINDS, indirect=True)
