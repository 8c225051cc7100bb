"""Rows of intents: outbox and inbox in one, in the order in which they were written."""

from __future__ import annotations

import msgspec
import pytest

from xenith.cells import intents as rows
from xenith.cells.intents import (
    BATCH_INTENTS_MAX,
    BUILD,
    NO,
    YES,
    Intent,
    Verdict,
    hop_id,
    intent_of,
    next_intent,
    verdict_of,
)
from xenith.core.clock import ManualClock
from xenith.core.ids import Ids
from xenith.core.world import World


@pytest.fixture
def db(nodes):
    return nodes.new_database(World(clock=ManualClock(1000.0), ids=Ids(seed=1)))


def intent(which=1, **fields):
    body = msgspec.msgpack.encode({"n": which})
    values = {"id": f"i{which}", "subject": f"s{which}", "number": 1, "kind": BUILD, "body": body}
    return Intent(**{**values, **fields})


async def write(db, *intents, **options):
    def work(tx):
        for each in intents:
            rows.insert(tx, each, **{"parent": "", **options})

    await db.run(work)


async def row_of(db, which):
    return await db.read(lambda tx: tx.get(rows.intents, id=f"i{which}"))


async def test_an_intent_comes_out_of_its_row_as_it_went_in(db):
    whole = intent(principal={"user": "u"}, deadline_at=5.5, target="c", generation=3)
    await write(db, whole, parent="p")
    row = await row_of(db, 1)
    assert intent_of(row) == whole
    assert (row.parent, row.next_hop, row.verdict, row.closed_at) == ("p", None, None, None)
    assert row.created_at == 1000.0, "by this cell's own clock, whatever the asker's was"


async def test_an_id_is_written_once(db):
    from xenith.core.errors import Conflict

    await write(db, intent())
    with pytest.raises(Conflict):
        await write(db, intent())


async def test_the_undecided_are_listed_in_their_order_a_batch_at_a_time(db):
    count = BATCH_INTENTS_MAX + 10
    await write(db, *(intent(n) for n in range(count)))
    first = await db.read(rows.list_undecided, after=-1)
    assert [row.id for row in first] == [f"i{n}" for n in range(BATCH_INTENTS_MAX)]
    rest = await db.read(rows.list_undecided, after=first[-1].sequence)
    assert [row.id for row in rest] == [f"i{n}" for n in range(BATCH_INTENTS_MAX, count)]


async def test_what_was_given_is_no_more_undecided_and_is_listed_at_its_neighbour(db):
    await write(db, intent(1), intent(2))
    step = {"cell_count": 1}
    given = await db.run(lambda tx: rows.give(tx, tx.get(rows.intents, id="i1"), "c", step=step))
    assert given
    assert [row.id for row in await db.read(rows.list_undecided, after=-1)] == ["i2"]
    opened = await db.read(rows.list_open_at, "c")
    assert [(row.hop_id, row.subject) for row in opened] == [("i1.1", "s1")]
    assert (await row_of(db, 1)).trail == [step]
    assert next_intent(await row_of(db, 1)) == intent(1, id="i1.1")


async def test_what_was_given_or_closed_since_it_was_read_is_not_given_again(db):
    await write(db, intent(1), intent(2, subject="s1"))
    one, other = await row_of(db, 1), await row_of(db, 2)
    assert await db.run(rows.give, one, "c", step=None)
    assert not await db.run(rows.give, one, "d", step=None)
    assert (await row_of(db, 1)).next_hop == "c"
    await db.run(lambda tx: rows.close(tx, other, Verdict(id="i2", answer=NO)))
    assert not await db.run(rows.give, other, "c", step=None)


async def test_a_build_that_is_taken_back_goes_on_under_another_id(db):
    await write(db, intent())
    await db.run(lambda tx: rows.give(tx, tx.get(rows.intents, id="i1"), "c", step={"at": 1}))
    no = Verdict(id="i1.1", answer=NO, reason="full", detail="d", hint="e", trail=[{"at": 2}])
    await db.run(lambda tx: rows.take_back(tx, tx.get(rows.intents, id="i1"), no))
    row = await row_of(db, 1)
    assert (row.next_hop, row.hop_id, row.attempt) == (None, None, 2)
    assert row.tried == [{"cell": "c", "reason": "full", "detail": "d", "hint": "e"}]
    assert row.trail == [{"at": 1}, {"at": 2}]
    await db.run(rows.give, row, "e", step=None)
    assert (await row_of(db, 1)).hop_id == "i1.2" == hop_id("i1", 2)


async def test_an_answered_intent_of_a_parent_is_kept_without_what_it_said(db):
    await write(db, intent(), parent="p")
    verdict = Verdict(id="i1", answer=YES, cell="c", build="i1")
    await db.run(lambda tx: rows.close(tx, tx.get(rows.intents, id="i1"), verdict))
    row = await row_of(db, 1)
    assert (verdict_of(row), row.intent, row.closed_at) == (verdict, b"", 1000.0)
    assert await db.read(rows.list_undecided, after=-1) == []


async def test_an_answered_intent_of_this_cells_own_is_gone(db):
    await write(db, intent())
    verdict = Verdict(id="i1", answer=YES)
    await db.run(lambda tx: rows.close(tx, tx.get(rows.intents, id="i1"), verdict))
    assert await db.read(lambda tx: tx.list(rows.intents)) == []


async def test_builds_of_a_subject_and_of_a_neighbour_are_told_from_other_intents(db):
    await write(db, intent(1), intent(2, kind="set"), intent(3, subject="s1"), next_hop="c")
    await write(db, intent(4, subject="s1"), parent="p", verdict=Verdict(id="i4", answer=NO))
    found = await db.read(rows.list_open_builds, "s1")
    assert [row.id for row in found] == ["i1", "i3"]
    found = await db.read(rows.list_builds_at, "c")
    assert [row.id for row in found] == ["i1", "i3"]
    assert await db.read(rows.list_builds_at, "c", after=found[-1].sequence) == []
    assert await db.read(rows.list_builds_at, "d") == []


async def test_only_this_cells_own_builds_are_overdue(db):
    await write(db, intent(1, deadline_at=10.0), intent(2, deadline_at=99.0), intent(3))
    await write(db, intent(4, deadline_at=10.0), parent="p")
    await write(db, intent(5, deadline_at=10.0, kind="set"))
    found = await db.read(rows.list_overdue_builds, now_s=50.0)
    assert [row.id for row in found] == ["i1"]


async def test_open_intents_are_counted_by_who_has_them(db):
    await write(db, intent(1), intent(2))
    await write(db, intent(3), next_hop="c")
    await write(db, intent(4), parent="p", verdict=Verdict(id="i4", answer=NO))
    assert await db.read(rows.count_open) == {"": 2, "c": 1}


async def test_unknown_fields_of_a_newer_neighbour_pass():
    newer = {**msgspec.to_builtins(intent()), "colour": "red"}
    newer["body"] = b"\x80"
    read = msgspec.msgpack.decode(msgspec.msgpack.encode(newer), type=Intent)
    assert (read.id, read.params) == ("i1", {})
