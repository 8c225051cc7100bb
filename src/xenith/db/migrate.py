"""Bring a database to this version's tables: made at once when new, by Alembic when old.

Two trees (``global``, ``cell``) with a version table each. A revision is a file
``migrations/<tree>/NNNN_title.py``; the newest number is the head. A new database gets the tables
from their definitions, which takes milliseconds; a test holds both ways to be equal.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from xenith.core.errors import Conflict
from xenith.core.log import logger
from xenith.db.database import Database
from xenith.db.patterns import matches
from xenith.db.schema import CELL, GLOBAL

_log = logger("db.migrate")

TREES = {"global": GLOBAL, "cell": CELL}
MIGRATIONS = Path(__file__).parent / "migrations"

#: Of two processes that start at once, the second waits here and finds the first's tables.
_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtext('xenith migrate'))"


def head(tree: str) -> str:
    """Tell the newest revision of a tree, or "0000" when there is none."""
    numbers = [path.name[:4] for path in (MIGRATIONS / tree).glob("[0-9][0-9][0-9][0-9]_*.py")]
    return max(numbers, default="0000")


def prepare(database: Database, *, trees: Iterable[str] | None = None) -> None:
    """Make or upgrade the trees' tables. The rooms' ``records`` must have been imported.

    A cell that is not a root has the tree ``cell`` alone.

    Raises:
        Conflict: the database is newer than this program.
    """
    for tree in TREES if trees is None else trees:
        found = database.run_script(partial(_find_or_create, tree=tree, dialect=database.dialect))
        newest = head(tree)
        if found > newest:
            raise Conflict(
                f"the database's {tree} tables are of revision {found}, this program knows up to "
                f"{newest}: start the newer program"
            )
        if found < newest:
            _log.info("tables are upgraded", tree=tree, old=found, new=newest)
            upgrade(database, tree)


def upgrade(database: Database, tree: str) -> None:
    """Run the tree's revisions that the database lacks, through Alembic, in one transaction."""
    from alembic.migration import MigrationContext  # noqa: PLC0415 - only an old database pays
    from alembic.operations import Operations  # noqa: PLC0415

    def run(connection: Any) -> None:
        with _engine(connection, database.dialect).connect() as wrapped:
            # SQLAlchemy rolls back when it first meets a connection: the transaction begins anew.
            wrapped.exec_driver_sql(
                "BEGIN IMMEDIATE" if database.dialect == "sqlite" else _ONE_AT_A_TIME
            )
            context = MigrationContext.configure(
                wrapped, opts={"version_table": _version_table(tree)}
            )
            found = context.get_current_revision() or "0000"
            with Operations.context(context):
                for path in sorted((MIGRATIONS / tree).glob("[0-9][0-9][0-9][0-9]_*.py")):
                    number = path.name[:4]
                    if number > found:
                        _load(path).upgrade()
            wrapped.exec_driver_sql(f"DELETE FROM {_version_table(tree)}")  # noqa: S608 - our name
            wrapped.exec_driver_sql(
                f"INSERT INTO {_version_table(tree)} VALUES ('{head(tree)}')"  # noqa: S608
            )
            wrapped.commit()
        if database.dialect == "sqlite":
            # SQLAlchemy puts the standard library's patterns, which may take for ever, in place of
            # ours when it meets a connection.
            connection.create_function("REGEXP", 2, matches, deterministic=True)

    database.run_script(run)


def _load(path: Path) -> Any:
    import importlib.util  # noqa: PLC0415

    spec = importlib.util.spec_from_file_location("xenith_migration_" + path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _engine(connection: Any, dialect: str) -> sa.Engine:
    from sqlalchemy.pool import StaticPool  # noqa: PLC0415

    url = "sqlite://" if dialect == "sqlite" else "postgresql+psycopg://"
    return sa.create_engine(url, creator=lambda: connection, poolclass=StaticPool)


def _version_table(tree: str) -> str:
    return f"alembic_version_{tree}"


def _find_or_create(connection: Any, *, tree: str, dialect: str) -> str:
    """Tell the revision of a tree's tables; make them when there are none."""
    cursor = connection.cursor()
    if dialect == "postgresql":
        cursor.execute(_ONE_AT_A_TIME)
    found = _version(cursor, tree, dialect)
    if found is not None:
        return found
    _create(cursor, tree, dialect)
    return head(tree)


def _version(cursor: Any, tree: str, dialect: str) -> str | None:
    table = _version_table(tree)
    is_there = (
        f"SELECT name FROM sqlite_master WHERE type = 'table' AND name = '{table}'"  # noqa: S608
        if dialect == "sqlite"
        else f"SELECT to_regclass('{table}')"
    )
    row = cursor.execute(is_there).fetchone()
    if row is None or row[0] is None:
        return None
    row = cursor.execute(f"SELECT version_num FROM {table}").fetchone()  # noqa: S608 - our name
    return str(row[0]) if row else None


def _create(cursor: Any, tree: str, dialect: str) -> None:
    rules = cast("Any", sqlite.dialect if dialect == "sqlite" else postgresql.dialect)()
    for table in TREES[tree].sorted_tables:
        cursor.execute(str(sa.schema.CreateTable(table).compile(dialect=rules)))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            cursor.execute(str(sa.schema.CreateIndex(index).compile(dialect=rules)))
    table_name = _version_table(tree)
    cursor.execute(f"CREATE TABLE {table_name} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    cursor.execute(f"INSERT INTO {table_name} VALUES ('{head(tree)}')")  # noqa: S608
