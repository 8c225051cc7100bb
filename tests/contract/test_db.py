from __future__ import annotations

import asyncio
import threading

import pytest
import sqlalchemy as sa

from xenith.core.errors import Bug, Conflict, Invalid, NotFound, Unavailable
from xenith.db import Tx, migrate, open_database
from xenith.db.compiler import COMPILED_MAX


async def test_a_row_comes_back_with_json_and_flags_as_they_went_in(db, things):
    data = {"list": [1, 2.5, None, "ü\u2028"], "nested": {"yes": True}, "": {}}
    await db.run(
        lambda tx: tx.insert(
            things,
            {
                "id": "a",
                "name": "ü'\"; --",
                "size_bytes": 2**62,
                "share": 0.1,
                "data": data,
                "is_ready": True,
            },
        )
    )
    row = await db.read(lambda tx: tx.get(things, id="a"))
    assert row == ("a", "ü'\"; --", 2**62, 0.1, data, True)
    assert row.is_ready is True
    assert row.data["nested"]["yes"] is True


async def test_what_is_not_given_is_none(db, things):
    await db.run(lambda tx: tx.insert(things, {"id": "a"}))
    row = await db.read(lambda tx: tx.get(things, id="a"))
    assert row == ("a", None, None, None, None, None)


@pytest.mark.parametrize("value", [{}, [], "text", 0, False, 1.5, {"a": [None]}])
async def test_any_json_value_can_be_kept(db, things, value):
    await db.run(lambda tx: tx.insert(things, {"id": "a", "data": value}))
    assert (await db.read(lambda tx: tx.get(things, id="a"))).data == value


async def test_find_gives_none_and_get_raises_when_there_is_no_row(db, things):
    assert await db.read(lambda tx: tx.find(things, id="x")) is None
    with pytest.raises(NotFound):
        await db.read(lambda tx: tx.get(things, id="x"))


async def test_many_rows_go_in_at_once_and_are_listed_in_key_order(db, things):
    rows = [{"id": f"{n:03}", "size_bytes": n % 2, "is_ready": n < 5} for n in range(50)]
    await db.run(lambda tx: tx.insert_many(things, list(reversed(rows))))
    await db.run(lambda tx: tx.insert_many(things, []))
    listed = await db.read(lambda tx: tx.list(things, size_bytes=1, is_ready=True))
    assert [row.id for row in listed] == ["001", "003"]
    assert len(await db.read(lambda tx: tx.list(things))) == 50


async def test_update_and_delete_tell_how_many_rows_they_met(db, things):
    def work(tx: Tx) -> tuple[int, int, int, int]:
        tx.insert_many(things, [{"id": str(n), "size_bytes": n // 2} for n in range(4)])
        return (
            tx.update(things, {"size_bytes": 1}, data=[1], is_ready=False),
            tx.update(things, {"id": "none"}, data=[]),
            tx.delete(things, size_bytes=0),
            tx.delete(things, id="none"),
        )

    assert await db.run(work) == (2, 0, 2, 0)
    rows = await db.read(lambda tx: tx.list(things))
    assert [(row.id, row.data, row.is_ready) for row in rows] == [
        ("2", [1], False),
        ("3", [1], False),
    ]


async def test_an_update_may_change_the_column_it_looks_for(db, things):
    await db.run(lambda tx: tx.insert(things, {"id": "a", "size_bytes": 1}))
    assert await db.run(lambda tx: tx.update(things, {"size_bytes": 1}, size_bytes=2)) == 1
    assert await db.run(lambda tx: tx.update(things, {"size_bytes": 1}, size_bytes=3)) == 0


async def test_a_delete_without_a_condition_is_refused(db, things):
    with pytest.raises(AssertionError):
        await db.run(lambda tx: tx.delete(things))


async def test_upsert_inserts_and_then_changes_only_what_it_is_given(db, things):
    await db.run(lambda tx: tx.upsert(things, {"id": "a", "name": "n", "size_bytes": 1}))
    await db.run(lambda tx: tx.upsert(things, {"id": "a", "size_bytes": 2}))
    await db.run(lambda tx: tx.upsert(things, {"id": "a"}))
    rows = await db.read(lambda tx: tx.list(things))
    assert [(row.name, row.size_bytes) for row in rows] == [("n", 2)]


async def test_queries_with_other_values_do_not_share_them(db, things):
    rows = [
        {"id": str(n), "size_bytes": n, "is_ready": n % 2 == 0, "data": {"n": n}} for n in range(10)
    ]
    await db.run(lambda tx: tx.insert_many(things, rows))

    def search(tx: Tx, least: int, *, is_ready: bool | None, limit: int) -> list[str]:
        query = sa.select(things.c.id, things.c.data).where(things.c.size_bytes >= least)
        if is_ready is not None:
            query = query.where(things.c.is_ready == is_ready)
        found = tx.all(query.order_by(things.c.size_bytes.desc()).limit(limit))
        assert [row.data["n"] for row in found] == [int(row.id) for row in found]
        return [row.id for row in found]

    assert await db.read(search, 3, is_ready=True, limit=2) == ["8", "6"]
    assert await db.read(search, 7, is_ready=False, limit=5) == ["9", "7"]
    assert await db.read(search, 8, is_ready=None, limit=5) == ["9", "8"]


@pytest.mark.parametrize("wanted", [[], ["1"], ["1", "3", "x"], [str(n) for n in range(600)]])
async def test_lists_of_any_length_can_be_asked_for(db, things, wanted):
    await db.run(lambda tx: tx.insert_many(things, [{"id": str(n)} for n in range(5)]))
    query = sa.select(things.c.id).where(things.c.id.in_(wanted)).order_by(things.c.id)
    found = await db.read(lambda tx: tx.all(query))
    assert [row.id for row in found] == [id_ for id_ in "01234" if id_ in wanted]


async def test_statements_take_named_values_and_count_what_they_met(db, things):
    await db.run(lambda tx: tx.insert_many(things, [{"id": str(n)} for n in range(5)]))
    change = sa.update(things).where(things.c.id < sa.bindparam("below")).values(size_bytes=7)
    assert await db.run(lambda tx: tx.run(change, below="3")) == 3
    count = sa.select(sa.func.count()).where(things.c.size_bytes == sa.bindparam("size"))
    assert await db.read(lambda tx: tx.scalar(count, size=7)) == 3
    assert await db.read(lambda tx: tx.scalar(count, size=8)) == 0
    nothing = sa.select(things.c.id).where(things.c.id == "x")
    assert await db.read(lambda tx: (tx.scalar(nothing), tx.first(nothing))) == (None, None)


async def test_a_statement_may_give_the_rows_it_changed(db, things):
    await db.run(lambda tx: tx.insert(things, {"id": "a", "size_bytes": 1}))
    change = (
        sa.update(things)
        .where(things.c.id == "a")
        .values(size_bytes=things.c.size_bytes + 5)
        .returning(things.c.size_bytes)
    )
    assert await db.run(lambda tx: tx.scalar(change)) == 6


@pytest.mark.parametrize("failure", [ValueError("mine"), Conflict("ours")])
async def test_what_a_transaction_raises_comes_out_and_nothing_stays(db, things, failure):
    def work(tx: Tx) -> None:
        tx.insert(things, {"id": "a"})
        raise failure

    with pytest.raises(type(failure)) as caught:
        await db.run(work)
    assert caught.value is failure
    assert await db.read(lambda tx: tx.list(things)) == []
    await db.run(lambda tx: tx.insert(things, {"id": "b"}))
    assert len(await db.read(lambda tx: tx.list(things))) == 1


@pytest.mark.parametrize("row", [{"id": "a"}, {"id": "b", "name": "n"}])
async def test_a_row_that_is_there_already_is_a_conflict_that_tells_no_more(db, things, row):
    await db.run(lambda tx: tx.insert(things, {"id": "a", "name": "n"}))
    with pytest.raises(Conflict) as caught:
        await db.run(lambda tx: tx.insert(things, row))
    assert caught.value.kind == "unique"
    assert caught.value.message == "a row like this exists"


async def test_a_row_that_others_refer_to_cannot_go(db, things, parts):
    def work(tx: Tx) -> None:
        tx.insert(things, {"id": "a"})
        tx.insert(parts, {"thing_id": "a", "number": 1})

    await db.run(work)
    with pytest.raises(Conflict) as caught:
        await db.run(lambda tx: tx.delete(things, id="a"))
    assert caught.value.kind == "reference"
    with pytest.raises(Conflict):
        await db.run(lambda tx: tx.insert(parts, {"thing_id": "none", "number": 1}))


async def test_a_mistake_of_ours_is_not_made_to_look_like_the_callers(db, things):
    with pytest.raises(Exception, match=r"(?i)null") as caught:
        await db.run(lambda tx: tx.insert(things, {"id": None}))
    assert not isinstance(caught.value, Conflict)
    with pytest.raises(Exception, match="nowhere") as caught:
        await db.run(lambda tx: tx.all(sa.text("SELECT 1 FROM nowhere")))
    assert not isinstance(caught.value, Unavailable)


async def test_a_number_that_no_column_can_hold_is_invalid(db, things):
    with pytest.raises(Invalid):
        await db.run(lambda tx: tx.insert(things, {"id": "a", "size_bytes": 2**64}))
    with pytest.raises(Invalid):
        await db.read(lambda tx: tx.find(things, size_bytes=2**64))


async def test_a_read_cannot_write(db, things):
    for write in (
        lambda tx: tx.insert(things, {"id": "a"}),
        lambda tx: tx.insert_many(things, [{"id": "a"}]),
        lambda tx: tx.upsert(things, {"id": "a"}),
        lambda tx: tx.update(things, {"id": "a"}, data=1),
        lambda tx: tx.delete(things, id="a"),
        lambda tx: tx.run(sa.delete(things)),
    ):
        with pytest.raises(Bug):
            await db.read(write)
    assert await db.read(lambda tx: tx.list(things)) == []


async def test_hints_come_after_the_commit_on_the_loop_and_never_after_a_failure(db, things):
    heard: list[tuple[str, bool]] = []
    here = threading.get_ident()
    loop = asyncio.get_running_loop()

    def hint() -> None:
        heard.append(("hint", threading.get_ident() == here and loop.is_running()))

    stop = db.listen("things", lambda payload: heard.append((payload, True)))

    def work(tx: Tx, *, is_failing: bool) -> None:
        tx.on_commit(hint)
        tx.notify("things", "a")
        tx.notify("nobody listens", "b")
        assert heard == []
        if is_failing:
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await db.run(work, is_failing=True)
    assert heard == []
    await db.run(work, is_failing=False)
    assert heard == [("hint", True), ("a", True)]
    stop()
    heard.clear()
    await db.run(work, is_failing=False)
    assert heard == [("hint", True)]


async def test_a_transaction_sees_the_databases_clock_and_ids(db):
    moment, first = await db.run(lambda tx: (tx.world.clock.now(), tx.world.ids.uuid()))
    assert moment == 1_700_000_000.0
    assert first != await db.run(lambda tx: tx.world.ids.uuid())


async def test_many_transactions_at_once_lose_no_update(db, things):
    await db.run(lambda tx: tx.insert(things, {"id": "a", "size_bytes": 0}))

    def add_one(tx: Tx) -> None:
        row = tx.get(things, id="a")
        tx.update(things, {"id": "a"}, size_bytes=row.size_bytes + 1)

    await asyncio.gather(*(db.run(add_one) for _ in range(24)))
    assert (await db.read(lambda tx: tx.get(things, id="a"))).size_bytes == 24


async def test_kept_statements_are_bounded(db, things, monkeypatch):
    monkeypatch.setattr("xenith.db.compiler.COMPILED_MAX", 10)

    def work(tx: Tx) -> None:
        tx.insert(things, {"id": "a", "size_bytes": 5})
        for number in range(1, 40):
            conditions = [things.c.size_bytes == 5] * number
            assert len(tx.all(sa.select(things).where(*conditions))) == 1
            labelled = sa.select(things.c.id.label(f"id{number}")).where(things.c.id == "a")
            assert tx.scalar(labelled) == "a"

    await db.run(work)
    assert db._compiler.kept_count <= 2 * 10
    assert COMPILED_MAX > 10


async def test_a_new_database_gets_its_tables_once(db, monkeypatch):
    tree = sa.MetaData()
    sa.Table("kept", tree, sa.Column("id", sa.Text, primary_key=True), sa.Column("n", sa.Integer))
    sa.Index("kept_n", tree.tables["kept"].c.n)
    monkeypatch.setattr(migrate, "TREES", {"cell": tree})
    migrate.prepare(db)
    await db.run(lambda tx: tx.insert(tree.tables["kept"], {"id": "a", "n": 1}))
    migrate.prepare(db)
    assert len(await db.read(lambda tx: tx.list(tree.tables["kept"]))) == 1


async def test_a_failed_preparation_leaves_nothing_half_made(db, monkeypatch, things):
    tree = sa.MetaData()
    sa.Table("apple", tree, sa.Column("id", sa.Text, primary_key=True))
    sa.Table("things", tree, sa.Column("id", sa.Text, primary_key=True))  # is there already
    monkeypatch.setattr(migrate, "TREES", {"cell": tree})
    with pytest.raises(Exception, match="things"):
        migrate.prepare(db)
    del_things = sa.MetaData()
    sa.Table("apple", del_things, sa.Column("id", sa.Text, primary_key=True))
    monkeypatch.setattr(migrate, "TREES", {"cell": del_things})
    migrate.prepare(db)
    assert await db.read(lambda tx: tx.list(del_things.tables["apple"])) == []


async def test_a_database_of_a_newer_program_is_refused(db, monkeypatch):
    monkeypatch.setattr(migrate, "TREES", {"cell": sa.MetaData()})
    monkeypatch.setattr(migrate, "head", lambda tree: "0002")
    migrate.prepare(db)
    monkeypatch.setattr(migrate, "head", lambda tree: "0001")
    with pytest.raises(Conflict, match="newer"):
        migrate.prepare(db)


@pytest.mark.slow
async def test_an_old_database_is_upgraded_by_its_revisions_in_order(db, monkeypatch, tmp_path):
    tree = sa.MetaData()
    table = sa.Table("kept", tree, sa.Column("id", sa.Text, primary_key=True))
    monkeypatch.setattr(migrate, "TREES", {"cell": tree})
    monkeypatch.setattr(migrate, "MIGRATIONS", tmp_path)
    migrate.prepare(db)
    await db.run(lambda tx: tx.insert(table, {"id": "a"}))
    (tmp_path / "cell").mkdir()
    for number, column in ((1, "colour"), (2, "weight")):
        (tmp_path / "cell" / f"000{number}_add.py").write_text(
            "import sqlalchemy as sa\nfrom alembic import op\n\n"
            f"def upgrade():\n    op.add_column('kept', sa.Column('{column}', sa.Text))\n"
        )
    migrate.prepare(db)
    table.append_column(sa.Column("colour", sa.Text))
    table.append_column(sa.Column("weight", sa.Text))
    await db.run(lambda tx: tx.update(table, {"id": "a"}, colour="red", weight="1"))
    migrate.prepare(db)
    assert await db.read(lambda tx: tx.get(table, id="a")) == ("a", "red", "1")


async def test_a_revision_that_fails_changes_nothing(db, monkeypatch, tmp_path):
    tree = sa.MetaData()
    table = sa.Table("kept", tree, sa.Column("id", sa.Text, primary_key=True))
    monkeypatch.setattr(migrate, "TREES", {"cell": tree})
    monkeypatch.setattr(migrate, "MIGRATIONS", tmp_path)
    migrate.prepare(db)
    (tmp_path / "cell").mkdir()
    revision = tmp_path / "cell" / "0001_add.py"
    head = "import sqlalchemy as sa\nfrom alembic import op\n\ndef upgrade():\n"
    add = "    op.add_column('kept', sa.Column('colour', sa.Text))\n"
    revision.write_text(head + add + "    raise ValueError('broken')\n")
    with pytest.raises(ValueError, match="broken"):
        migrate.prepare(db)
    revision.write_text(head + add)
    migrate.prepare(db)
    await db.run(lambda tx: tx.run(sa.insert(table).values(id="a")))
    assert await db.read(lambda tx: tx.first(sa.text("SELECT colour FROM kept"))) == (None,)


async def test_rows_are_there_when_the_database_is_opened_again(url):
    if url == "sqlite://":
        pytest.skip("what is in memory ends with it")
    first = open_database(url)
    first.run_script(
        lambda connection: connection.execute("CREATE TABLE things (id text primary key)")
    )
    id_only = sa.Table("things", sa.MetaData(), sa.Column("id", sa.Text, primary_key=True))
    await first.run(lambda tx: tx.insert(id_only, {"id": "a"}))
    await first.close()
    second = open_database(url)
    assert await second.read(lambda tx: tx.get(id_only, id="a")) == ("a",)
    await second.close()


async def test_a_commit_whose_answer_is_lost_is_a_doubt_and_nothing_else_is(
    fresh_postgres_url, create_tables, things
):
    hinted: list[str] = []
    db = open_database(fresh_postgres_url)
    create_tables(db)

    def end_at_commit(connection):
        cursor = connection.cursor()
        cursor.execute(
            "CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"
        )
        cursor.execute(
            f"CREATE CONSTRAINT TRIGGER leaves AFTER INSERT ON {things.name}"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.id = 'last')"
            " EXECUTE FUNCTION leave()"
        )

    def add(tx: Tx, name: str) -> None:
        tx.insert(things, {"id": name})
        tx.on_commit(lambda: hinted.append(name))

    db.run_script(end_at_commit)
    await db.run(add, "first")
    with pytest.raises(Conflict):
        await db.run(add, "first")
    with pytest.raises(Unavailable):
        await db.run(lambda tx: tx.first(sa.select(sa.func.pg_terminate_backend(_backend_of(tx)))))
    assert db.doubts == 0
    with pytest.raises(Unavailable, match="went away"):
        await db.run(add, "last")
    assert (hinted, db.doubts) == (["first"], 1)
    await db.run(add, "next")
    assert (hinted, db.doubts) == (["first", "next"], 1)
    await db.close()


def _backend_of(tx: Tx) -> int:
    row = tx.first(sa.select(sa.func.pg_backend_pid().label("pid")))
    assert row is not None
    return int(row.pid)
