from __future__ import annotations

import sqlite3
import stat

import pytest
import sqlalchemy as sa

from xenith.core.errors import Unavailable
from xenith.db import Prepared, open_database
from xenith.db.compiler import Compiler
from xenith.db.migrate import TREES, head

TABLE = sa.Table("t", sa.MetaData(), sa.Column("id", sa.Text, primary_key=True))


async def test_the_files_of_a_database_are_for_its_owner_alone(tmp_path):
    db = open_database(f"sqlite:///{tmp_path}/deep/rows.db")
    db.run_script(lambda connection: connection.execute("CREATE TABLE t (id text PRIMARY KEY)"))
    await db.run(lambda tx: tx.insert(TABLE, {"id": "a"}))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "deep").iterdir()}
    await db.close()
    assert set(modes) >= {"rows.db", "rows.db-wal"}
    assert set(modes.values()) == {0o600}


def test_a_path_that_cannot_be_opened_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="file"):
        open_database(f"sqlite:///{tmp_path}/file/rows.db")


def test_a_file_that_is_no_database_is_told(tmp_path):
    (tmp_path / "rows.db").write_text("not a database" * 100)
    with pytest.raises(Unavailable, match=r"rows\.db"):
        open_database(f"sqlite:///{tmp_path}/rows.db")


async def test_a_database_that_another_process_writes_to_is_busy_not_broken(tmp_path, monkeypatch):
    monkeypatch.setattr("xenith.db.database.SQLITE_BUSY_MS", 0)
    db = open_database(f"sqlite:///{tmp_path}/rows.db")
    db.run_script(lambda connection: connection.execute("CREATE TABLE t (id text PRIMARY KEY)"))
    other = sqlite3.connect(tmp_path / "rows.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable):
        await db.run(lambda tx: tx.insert(TABLE, {"id": "a"}))
    other.execute("COMMIT")
    other.close()
    await db.run(lambda tx: tx.insert(TABLE, {"id": "a"}))
    await db.close()


async def test_a_closed_database_is_a_mistake_of_ours():
    db = open_database("sqlite://")
    await db.close()
    with pytest.raises(sqlite3.ProgrammingError):
        await db.run(lambda tx: tx.list(TABLE))


def test_a_statement_is_compiled_once_for_all_its_values():
    compiler = Compiler.sqlite()
    first, parameters = compiler.compile(sa.select(TABLE).where(TABLE.c.id == "a"), {})
    second, others = compiler.compile(sa.select(TABLE).where(TABLE.c.id == "b"), {})
    assert first is second
    assert (list(parameters.values()), list(others.values())) == (["a"], ["b"])


def test_a_prepared_statement_is_looked_at_once(monkeypatch):
    compiler = Compiler.sqlite()
    prepared = Prepared(
        sa.select(TABLE).where(TABLE.c.id == sa.bindparam("wanted"), TABLE.c.id != "x").limit(3)
    )
    first, parameters = compiler.compile(prepared, {"wanted": "a"})
    monkeypatch.setattr(sa.sql.Select, "_generate_cache_key", None)
    second, others = compiler.compile(prepared, {"wanted": "b"})
    assert first is second
    assert (parameters["wanted"], others["wanted"]) == ("a", "b")
    assert {"x", 3} < set(others.values())


async def test_a_prepared_statement_runs_as_any_other():
    db = open_database("sqlite://")
    db.run_script(lambda connection: connection.execute("CREATE TABLE t (id text PRIMARY KEY)"))
    later = Prepared(
        sa.select(TABLE).where(TABLE.c.id > sa.bindparam("after")).order_by(TABLE.c.id)
    )
    for name in "abc":
        await db.run(lambda tx, name=name: tx.insert(TABLE, {"id": name}))
    assert [row.id for row in await db.read(lambda tx: tx.all(later, after="a"))] == ["b", "c"]
    assert await db.read(lambda tx: tx.scalar(later, after="b")) == "c"
    assert await db.read(lambda tx: tx.first(later, after="c")) is None
    await db.close()


def test_every_tree_has_a_head():
    assert {tree: len(head(tree)) for tree in TREES} == {"global": 4, "cell": 4}
