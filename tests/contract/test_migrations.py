"""A new database and one that Alembic brought up revision by revision have the same tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import xenith.dev.cloud  # noqa: F401 - imports the records of every room
from xenith.core.errors import Conflict
from xenith.db import open_database
from xenith.db.migrate import TREES, head, prepare, upgrade


def shape(url: str) -> dict[str, Any]:
    """Give what a database's tables are, as the database itself tells."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    found: dict[str, Any] = {}
    inspector = sa.inspect(engine)
    for name in inspector.get_table_names():
        columns = [
            (column["name"], str(column["type"]), column["nullable"])
            for column in inspector.get_columns(name)
        ]
        indexes = sorted(
            (str(index["name"]), tuple(index["column_names"]), bool(index["unique"]))
            for index in inspector.get_indexes(name)
        )
        uniques = sorted(
            tuple(unique["column_names"]) for unique in inspector.get_unique_constraints(name)
        )
        keys = sorted(
            (tuple(key["constrained_columns"]), key["referred_table"])
            for key in inspector.get_foreign_keys(name)
        )
        primary = tuple(inspector.get_pk_constraint(name)["constrained_columns"])
        found[name] = (columns, primary, indexes, uniques, keys)
    engine.dispose()
    return found


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new.db'}", f"sqlite:///{tmp_path / 'old.db'}"
    server = request.getfixturevalue("postgres_server")
    return server.create(), server.create()


def put_at(connection: Any, tree: str, number: str) -> None:
    connection.execute(f"CREATE TABLE alembic_version_{tree} (version_num VARCHAR(32) NOT NULL)")
    connection.execute(f"INSERT INTO alembic_version_{tree} VALUES ('{number}')")


async def test_both_ways_lead_to_the_same_tables(urls: tuple[str, str]) -> None:
    new_url, old_url = urls
    new, old = open_database(new_url), open_database(old_url)
    prepare(new)
    for tree in TREES:
        old.run_script(lambda connection, tree=tree: put_at(connection, tree, "0000"))
        upgrade(old, tree)
    await new.close()
    await old.close()
    made, grown = shape(new_url), shape(old_url)
    versions = {f"alembic_version_{tree}" for tree in TREES}
    assert set(made) == set(grown)
    for name in sorted(set(made) - versions):
        assert made[name] == grown[name], name


async def test_every_tree_has_a_first_revision() -> None:
    assert {tree: head(tree) for tree in TREES} == {"global": "0001", "cell": "0001"}


async def test_a_database_of_a_later_program_is_refused(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'later.db'}")
    database.run_script(lambda connection: put_at(connection, "global", "9999"))
    with pytest.raises(Conflict, match="newer"):
        prepare(database)
    await database.close()
