"""A new database and one that Alembic brought up have the same tables, and rows are kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
import sqlalchemy as sa

import xenith.cells.joining
import xenith.dev.cloud  # noqa: F401 - imports the records of every room
from xenith.cells.changes import Changes, cell_self, ensure_self, mark_change
from xenith.cells.intents import Intent, insert, list_undecided
from xenith.compute.origin import TABLES
from xenith.core.errors import Conflict
from xenith.core.ids import CellId
from xenith.db import Database, Tx, migrate, open_database
from xenith.db.migrate import TREES, head, prepare, upgrade

ONLY_CELL = CellId("00000000-0000-0000-0000-00000000ce11")


def shape(url: str) -> dict[str, Any]:
    """Give what a database's tables are, but for those of versions, as the database tells."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    found: dict[str, Any] = {}
    inspector = sa.inspect(engine)
    for name in set(inspector.get_table_names()) - {f"alembic_version_{tree}" for tree in TREES}:
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


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=[pytest.mark.e2e, pytest.mark.slow])]
)
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
    assert set(made) == set(grown)
    for name in sorted(made):
        assert made[name] == grown[name], name


async def test_every_tree_is_at_its_newest_revision() -> None:
    assert {tree: head(tree) for tree in TREES} == {"global": "0007", "cell": "0003"}


async def test_a_database_of_a_later_program_is_refused(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'later.db'}")
    database.run_script(lambda connection: put_at(connection, "global", "9999"))
    with pytest.raises(Conflict, match="newer"):
        prepare(database)
    await database.close()


@pytest.fixture
def make_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Database]:
    """What makes a database as 0.1.0 left it, of both trees or of one."""

    def make(url: str, *trees: str) -> Database:
        database = open_database(url)
        for tree in trees or TREES:
            (tmp_path / "first" / tree).mkdir(parents=True)
            shutil.copy(
                migrate.MIGRATIONS / tree / "0001_first_tables.py", tmp_path / "first" / tree
            )
            database.run_script(lambda connection, tree=tree: put_at(connection, tree, "0000"))
            with monkeypatch.context() as patched:
                patched.setattr(migrate, "MIGRATIONS", tmp_path / "first")
                upgrade(database, tree)
        return database

    return make


class Rows:
    """Rows as the database itself has them, whatever this program's definitions are."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()

    def add(self, into: str, /, **values: Any) -> None:
        """Insert a row; columns that must have a value and got none have an empty one."""
        table = sa.Table(into, sa.MetaData(), autoload_with=self._engine)
        for column in table.columns:
            if not column.nullable and column.name not in values:
                kind = column.type.python_type
                values[column.name] = "{}" if kind is str else kind()
        with self._engine.begin() as connection:
            connection.execute(table.insert().values(values))

    def by(self, name: str, key: str) -> dict[Any, dict[str, Any]]:
        """Give all rows by the value of one column."""
        table = sa.Table(name, sa.MetaData(), autoload_with=self._engine)
        with self._engine.begin() as connection:
            rows = connection.execute(table.select()).mappings().all()
        return {row[key]: dict(row) for row in rows}


def fill(rows: Rows) -> None:
    """Make a small cloud of 0.1.0, some of it on the way from one state to the next."""
    for number, name in enumerate(("red", "blue"), start=1):
        rows.add(
            "hosts",
            id=f"host-{name}",
            number=number,
            service_id=f"service-{name}",
            name=name,
            url=f"https://{name}",
            user="root",
            sealed_password=b"\x00\xff" + name.encode(),
            is_enabled=1,
        )
    running = {"cell_id": ONLY_CELL, "project_id": "p", "applied_intent": 1, "generation": 7}
    for server in ("runs", "stops", "new", "lost", "dead"):
        rows.add(
            "servers",
            id=server,
            project_id="p",
            intent_number=1,
            pending_task_state="scheduling",
            created_at=1700000000.5,
            deleted_at=1.0 if server == "dead" else None,
        )
    rows.add("instances", id="stops", vm_state="active", created_at=20.0, **running)
    rows.add(
        "instances",
        id="runs",
        vm_state="active",
        host_id="host-red",
        fault='{"code":500}',
        placement='[{"attempt":1}]',
        created_at=10.0,
        **running,
    )
    rows.add(
        "instances",
        id="new",
        vm_state="building",
        task_state="scheduling",
        request='{"name":"new"}',
        created_at=30.0,
        **running,
    )
    rows.add("sagas", id="saga", kind="build", subject="new", state="running")
    rows.add("intent_inbox", id="intent-new")
    # Applied, and the process died before it could take it from the outbox.
    for sequence, (server, kind) in enumerate(
        [("new", "build"), ("lost", "build"), ("stops", "power"), ("dead", "build")], start=1
    ):
        rows.add(
            "intent_outbox", sequence=sequence, id=f"intent-{server}", subject=server, kind=kind
        )
    rows.add("instance_actions", instance_id="runs", request_id="req")
    for attempt in (1, 2):
        rows.add(
            "instance_action_events",
            instance_id="runs",
            request_id="req",
            event="build",
            attempt=attempt,
            started_at=float(attempt),
            details="why",
        )


def assert_filled(rows: Rows) -> None:
    """Check that the small cloud is there, as this version has it."""
    instances = rows.by("instances", "id")
    assert {name: row["change_number"] for name, row in instances.items()} == {
        "runs": 1,
        "stops": 2,
        "new": 3,
    }
    common = {"cell_id": ONLY_CELL, "build": "", "is_confirmed": 1, "extra": None, "generation": 7}
    for row in instances.values():
        assert common.items() <= row.items()
    runs = {"host_id": "host-red", "fault": '{"code":500}', "placement": '[{"attempt":1}]'}
    assert runs.items() <= instances["runs"].items()
    building = {"task_state": "scheduling", "request": '{"name":"new"}', "vm_state": "building"}
    assert building.items() <= instances["new"].items()
    assert rows.by("sagas", "id")["saga"]["state"] == "running"

    hosts = rows.by("hosts", "id")
    assert [hosts["host-red"]["change_number"], hosts["host-blue"]["change_number"]] == [4, 5]
    blue = {
        "cell_id": ONLY_CELL,
        "number": 2,
        "user": "root",
        "sealed_password": b"\x00\xffblue",
        "is_enabled": 1,
        "is_up": 0,
        "down_reason": "not yet connected",
        "is_removed": 0,
        "extra": None,
    }
    assert blue.items() <= hosts["host-blue"].items()

    events = rows.by("instance_action_events", "attempt")
    assert {attempt: row["change_number"] for attempt, row in events.items()} == {1: 6, 2: 7}
    assert {row["cell_id"] for row in events.values()} == {ONLY_CELL}
    assert {row["details"] for row in events.values()} == {"why"}
    assert set(rows.by("instance_actions", "instance_id")) == {"runs"}
    assert rows.by("cell_self", "id") == {
        1: {"id": 1, "cell_id": ONLY_CELL, "epoch": 1, "number": 7}
    }

    servers = rows.by("servers", "id")
    placed = {name for name, row in servers.items() if row["cell_id"] == ONLY_CELL}
    assert placed == {"runs", "stops", "new"}
    waiting = {name for name, row in servers.items() if row["pending_task_state"] is not None}
    assert waiting == {"runs"}, "it had no open intent; what it waits for has its own end"
    faults = {name: row["fault"] for name, row in servers.items() if row["fault"] is not None}
    assert set(faults) == {"lost"}
    assert json.loads(faults["lost"]) == {
        "code": 500,
        "created": 1700000000.5,
        "message": "The cloud was upgraded before the server was placed; create it again.",
        "details": "",
    }


@pytest.mark.slow
@pytest.mark.parametrize("order", [("global", "cell"), ("cell", "global")])
async def test_rows_are_kept_whichever_tree_is_brought_over_first(
    urls: tuple[str, str], order: tuple[str, str], make_old: Callable[..., Database]
) -> None:
    new_url, old_url = urls
    new, old = open_database(new_url), make_old(old_url)
    with Rows(old_url) as rows:
        fill(rows)
        for tree in order:
            upgrade(old, tree)
        assert_filled(rows)
        prepare(old)
        assert_filled(rows)
    prepare(new)
    await new.close()
    await old.close()
    assert shape(new_url) == shape(old_url)


@pytest.mark.slow
async def test_a_cell_goes_on_from_the_rows_that_were_brought_over(
    urls: tuple[str, str], make_old: Callable[..., Database]
) -> None:
    old = make_old(urls[1])
    with Rows(urls[1]) as rows:
        fill(rows)
    prepare(old)

    def go_on(tx: Tx) -> None:
        assert ensure_self(tx, ONLY_CELL).number == 7
        sent = Changes(TABLES).read_batch(tx, ONLY_CELL, after=0)
        assert [row["change_number"] for _, row in sent.rows] == [1, 2, 3, 4, 5, 6, 7]
        assert mark_change(tx) == {"cell_id": ONLY_CELL, "change_number": 8}
        insert(tx, Intent(id="i", subject="runs", number=2, kind="power", body=b""), parent="")
        assert [row.id for row in list_undecided(tx, after=0)] == ["i"]

    await old.run(go_on)
    await old.close()


@pytest.mark.slow
async def test_an_old_database_without_rows_is_no_ones_cell_yet(
    urls: tuple[str, str], make_old: Callable[..., Database]
) -> None:
    old = make_old(urls[1])
    prepare(old)
    assert await old.read(lambda tx: tx.list(cell_self)) == []
    await old.close()


@pytest.mark.slow
@pytest.mark.parametrize("tree", ["global", "cell"])
async def test_a_tree_that_is_alone_is_brought_over_and_given_the_other(
    urls: tuple[str, str], tree: str, make_old: Callable[..., Database]
) -> None:
    new_url, old_url = urls
    new, old = open_database(new_url), make_old(old_url, tree)
    with Rows(old_url) as rows:
        if tree == "global":
            rows.add("servers", id="lost", pending_task_state="scheduling", created_at=5.0)
            rows.add("intent_outbox", sequence=1, id="i", subject="lost", kind="build")
        else:
            rows.add("hosts", id="host", name="red", number=1)
        prepare(old)
        prepare(new)
        if tree == "global":
            lost = rows.by("servers", "id")["lost"]
            assert lost["pending_task_state"] is None
            assert json.loads(lost["fault"])["created"] == 5.0
            assert rows.by("cell_self", "id") == {}
        else:
            found = rows.by("hosts", "id")["host"]
            assert (found["cell_id"], found["change_number"]) == (ONLY_CELL, 1)
            assert rows.by("cell_self", "id")[1]["number"] == 1
    await new.close()
    await old.close()
    assert shape(new_url) == shape(old_url)
