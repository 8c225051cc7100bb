"""Rows go up by their numbers: in order, without gaps, as they are now, the same everywhere."""

from __future__ import annotations

import random

import msgspec
import pytest
import sqlalchemy as sa

from xenith.cells import changes as module
from xenith.cells.changes import (
    BATCH_BYTES_MAX,
    BATCH_ROWS_MAX,
    BUCKETS,
    Batch,
    ChangedTable,
    Changes,
    Place,
    begin_epoch,
    bucket_of,
    carried_columns,
    cell_self,
    cursors,
    ensure_self,
    mark_change,
    root_of,
)
from xenith.core.ids import CellId, Ids
from xenith.core.world import World

LEAF = "leaf"


class Side:
    """One cell's database and what it does with changes."""

    def __init__(self, nodes, name, tables=None, seed=1):
        self.nodes = nodes
        self.db = nodes.new_database(World(ids=Ids(seed=seed)))
        self.changes = Changes((nodes.THINGS, nodes.OTHERS) if tables is None else tables)
        self.name = name

    async def prepare(self):
        await self.db.run(ensure_self, CellId(self.name))
        return self

    async def write(self, subject, **values):
        await self.db.run(self.nodes.write_thing, subject, **values)

    async def write_other(self, subject, value="x"):
        await self.db.run(self.nodes.write_other, subject, value)

    async def batch(self, origin=LEAF, *, after=0):
        found = await self.db.read(self.changes.read_batch, origin, after=after)
        # As it comes over a link.
        return msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=Batch)

    async def apply(self, batch):
        return await self.db.run(self.changes.apply, batch)

    async def place(self, origin=LEAF):
        return await self.db.read(self.changes.place, origin)

    async def things(self, **keys):
        return await self.db.read(lambda tx: tx.list(self.nodes.things, **keys))

    async def hashes(self, origin=LEAF):
        return await self.db.read(self.changes.hashes, origin)


@pytest.fixture
async def leaf(nodes):
    return await Side(nodes, LEAF).prepare()


@pytest.fixture
async def root(nodes):
    return await Side(nodes, "root", seed=2).prepare()


async def carry(leaf, root, origin=LEAF):
    """Carry all that a cell knows of an origin to another; tell how many batches that took."""
    count = 0
    while True:
        place = await root.place(origin)
        batch = await leaf.batch(origin, after=place.number)
        if batch.to <= place.number and batch.epoch == place.epoch:
            return count
        await root.apply(batch)
        count += 1


# -- numbers


async def test_numbers_follow_the_order_of_commits_and_count_each_change(leaf):
    for subject in ("a", "b", "a"):
        await leaf.write(subject)
    numbers = {row.id: row.change_number for row in await leaf.things()}
    assert numbers == {"a": 3, "b": 2}
    assert await leaf.place() == Place(1, 3)


async def test_a_change_that_is_rolled_back_takes_no_number(leaf):
    def fail(tx):
        leaf.nodes.write_thing(tx, "a")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await leaf.db.run(fail)
    await leaf.write("b")
    assert await leaf.place() == Place(1, 1)


async def test_a_database_is_of_one_cell_for_good(leaf):
    again = await leaf.db.run(ensure_self, CellId(LEAF))
    assert (again.cell_id, again.epoch) == (LEAF, 1)
    with pytest.raises(AssertionError, match="is of cell leaf"):
        await leaf.db.run(ensure_self, CellId("other"))


async def test_who_listens_hears_which_origin_has_news(leaf, root):
    heard = []
    leaf.db.listen(module.TOPIC, heard.append)
    root.db.listen(module.TOPIC, heard.append)
    await leaf.write("a")
    await root.apply(await leaf.batch())
    assert heard == [LEAF, LEAF]


# -- batches


async def test_a_row_that_changed_a_thousand_times_goes_up_once(leaf):
    for number in range(1000):
        await leaf.write("a", value=str(number))
    batch = await leaf.batch()
    assert [row["value"] for _, row in batch.rows] == ["999"]
    assert (batch.after, batch.to, batch.head) == (0, 1000, 1000)


async def test_a_batch_holds_as_many_rows_as_it_may_and_names_how_far_it_goes(leaf, root):
    for number in range(2 * BATCH_ROWS_MAX + 50):
        await leaf.write(f"t{number}")
    first = await leaf.batch()
    assert (len(first.rows), first.to, first.head) == (BATCH_ROWS_MAX, BATCH_ROWS_MAX, 450)
    assert await carry(leaf, root) == 3
    assert len(await root.things()) == 2 * BATCH_ROWS_MAX + 50


@pytest.mark.parametrize("count", [BATCH_ROWS_MAX - 1, BATCH_ROWS_MAX, BATCH_ROWS_MAX + 1])
async def test_batches_of_just_below_at_and_above_the_limit_lose_nothing(leaf, root, count):
    for number in range(count):
        await leaf.write(f"t{number}")
    assert await carry(leaf, root) == (1 if count <= BATCH_ROWS_MAX else 2)
    assert await root.hashes() == await leaf.hashes()


async def test_kinds_share_one_order_and_one_limit(leaf, root):
    for number in range(BATCH_ROWS_MAX):
        await leaf.write(f"t{number}")
        await leaf.write_other(f"o{number}")
    batch = await leaf.batch()
    assert len(batch.rows) == BATCH_ROWS_MAX
    assert batch.to == BATCH_ROWS_MAX
    assert [row["change_number"] for _, row in batch.rows] == list(range(1, BATCH_ROWS_MAX + 1))
    assert await carry(leaf, root) == 2
    assert await root.hashes() == await leaf.hashes()


async def test_rows_of_one_change_in_two_kinds_are_never_parted(leaf, root):
    """One transaction may write several rows under one number; a batch has all of them or none."""

    def both(tx, number):
        mark = mark_change(tx)
        blank = {"applied": 0, "is_gone": False, "build": "", "begun": 0, "extra": None}
        tx.insert(leaf.nodes.things, {"id": f"t{number}", **blank, **mark})
        tx.insert(leaf.nodes.others, {"id": f"o{number}", "value": "", "extra": None, **mark})

    await leaf.write("first")
    for number in range(BATCH_ROWS_MAX):
        await leaf.db.run(both, number)
    batch = await leaf.batch()
    numbers = [row["change_number"] for _, row in batch.rows]
    assert numbers.count(batch.to) == 2
    await carry(leaf, root)
    assert await root.hashes() == await leaf.hashes()


async def test_long_rows_go_in_more_batches_that_each_fit_a_message(leaf, root):
    for number in range(12):
        await leaf.write(f"long-{number:02}", value="x" * 100_000)
    batches, after = [], 0
    while (batch := await leaf.batch(after=after)).to > after:
        batches.append(batch)
        assert (await root.apply(batch)).number == batch.to
        after = batch.to
    assert len(batches) > 1
    assert all(len(msgspec.msgpack.encode(each)) < BATCH_BYTES_MAX + 200_000 for each in batches)
    assert len(await root.things()) == 12


async def test_a_batch_after_all_is_empty_and_goes_no_further(leaf):
    await leaf.write("a")
    batch = await leaf.batch(after=1)
    assert (batch.after, batch.to, batch.rows) == (1, 1, [])
    batch = await leaf.batch(after=7)
    assert (batch.after, batch.to, batch.rows) == (7, 7, [])


# -- taking over


async def test_a_batch_that_would_leave_a_gap_is_refused(leaf, root):
    for subject in "abc":
        await leaf.write(subject)
    # It begins with the epoch, and then at nothing.
    assert await root.apply(await leaf.batch(after=1)) == Place(1, 0)
    assert await root.things() == []
    await leaf.write("d")
    late = await leaf.batch(after=3)
    await root.apply(await leaf.batch())
    await leaf.write("e")
    await leaf.write("f")
    assert await root.apply(await leaf.batch(after=5)) == Place(1, 4)
    assert {row.id for row in await root.things()} == set("abcd")
    # What was refused may come again, and what came too late says nothing new.
    assert await root.apply(late) == Place(1, 4)


async def test_a_batch_that_overlaps_is_taken_and_old_rows_in_it_are_not(leaf, root):
    await leaf.write("a", value="old")
    await leaf.write("b")
    overlapping = await leaf.batch()
    await leaf.write("a", value="new")
    await root.apply(await leaf.batch())
    assert await root.apply(overlapping) == Place(1, 3)
    assert [row.value for row in await root.things(id="a")] == ["new"]
    await leaf.write("c")
    assert await root.apply(await leaf.batch(after=1)) == Place(1, 4)
    assert {row.id for row in await root.things()} == {"a", "b", "c"}


async def test_a_batch_that_comes_twice_does_no_harm(leaf, root):
    await leaf.write("a")
    batch = await leaf.batch()
    assert await root.apply(batch) == await root.apply(batch) == Place(1, 1)
    assert len(await root.things()) == 1


async def test_batches_in_any_order_with_any_loss_end_as_the_origin_is(leaf, root, monkeypatch):
    monkeypatch.setattr(module, "BATCH_ROWS_MAX", 3)
    chance = random.Random(7)
    on_the_way = []
    for step in range(300):
        await leaf.write(f"t{chance.randrange(12)}", value=str(step))
        place = await root.place()
        on_the_way.append(await leaf.batch(after=chance.randint(0, place.number)))
        if chance.random() < 0.6:
            await root.apply(on_the_way.pop(chance.randrange(len(on_the_way))))
    await carry(leaf, root)
    assert await root.hashes() == await leaf.hashes()


async def test_private_columns_never_travel(leaf, root):
    await leaf.write("a", secret="for the leaf alone")
    batch = await leaf.batch()
    assert b"for the leaf alone" not in msgspec.msgpack.encode(batch)
    await root.apply(batch)
    assert [row.secret for row in await root.things()] == [None]
    # Nor when a newer or wicked cell sends one all the same.
    wicked = {**batch.rows[0][1], "secret": "x", "change_number": 2}
    await root.apply(msgspec.structs.replace(batch, after=1, to=2, rows=[("thing", wicked)]))
    again = await root.batch()
    assert "secret" not in again.rows[0][1]


async def test_whose_rows_these_are_is_not_for_the_sender_to_say(leaf, root):
    await leaf.write("a")
    batch = await leaf.batch()
    forged = {**batch.rows[0][1], "cell_id": "victim", "extra": {"x": 1}}
    await root.apply(msgspec.structs.replace(batch, rows=[("thing", forged)]))
    assert [row.cell_id for row in await root.things()] == [LEAF]


async def test_a_follower_sees_each_row_once_in_the_same_transaction(leaf, root):
    seen = []
    root.db.on_row("thing", lambda _tx, row: seen.append((row.id, row.cell_id, row.value)))
    await leaf.write("a", value="1")
    batch = await leaf.batch()
    await root.apply(batch)
    await root.apply(batch)
    assert seen == [("a", LEAF, "1")]


async def test_a_follower_that_fails_leaves_rows_and_cursor_as_they_were(leaf, root):
    def fail(_tx, _row):
        raise RuntimeError

    await leaf.write("a")
    root.db.on_row("thing", fail)
    with pytest.raises(RuntimeError):
        await root.apply(await leaf.batch())
    assert (await root.place(), await root.things()) == (Place(), [])


# -- epochs


async def test_a_cell_that_lost_commits_begins_an_epoch_and_what_was_lost_is_swept(
    nodes, leaf, root
):
    await leaf.write("kept", value="1")
    backup = leaf.db._connection.serialize()
    await leaf.write("lost")
    await leaf.write("kept", value="2")
    await carry(leaf, root)
    assert {row.id for row in await root.things()} == {"kept", "lost"}

    leaf.db._connection.deserialize(backup)
    await leaf.db.run(begin_epoch, beyond=1)
    await leaf.write("fresh")
    await root.apply(await leaf.batch())
    assert {(row.id, row.value) for row in await root.things()} == {("kept", "1"), ("fresh", None)}
    assert await root.place() == Place(2, 2)
    assert await root.hashes() == await leaf.hashes()


async def test_rows_of_an_old_epoch_stay_until_the_new_one_was_read_to_its_end(
    leaf, root, monkeypatch
):
    monkeypatch.setattr(module, "BATCH_ROWS_MAX", 2)
    for subject in "abcd":
        await leaf.write(subject)
    await carry(leaf, root)
    await leaf.db.run(begin_epoch, beyond=1)
    await root.apply(await leaf.batch())
    # A list in the meantime shows all that is known.
    assert {row.id for row in await root.things()} == set("abcd")
    monkeypatch.undo()
    await carry(leaf, root)
    assert {row.change_number for row in await root.things()} == {1, 2, 3, 4}


async def test_a_new_epoch_is_taken_from_its_beginning_only_and_an_old_one_not_at_all(leaf, root):
    await leaf.write("a")
    await leaf.write("b")
    old = await leaf.batch(after=1)
    await root.apply(await leaf.batch())
    await leaf.db.run(begin_epoch, beyond=4)
    assert await leaf.place() == Place(5, 2)
    assert await root.apply(await leaf.batch(after=1)) == Place(5, 0)
    assert await root.apply(await leaf.batch()) == Place(5, 2)
    assert await root.apply(old) == Place(5, 2)


# -- more than one hop, and more than one version


async def test_origins_keep_their_numbers_on_every_hop(nodes, leaf, root):
    router = await Side(nodes, "router", seed=3).prepare()
    await router.write("own thing")
    for number in range(3):
        await leaf.write("a", value=str(number))
    await carry(leaf, router)
    await carry(router, root)
    assert await root.place() == Place(1, 3)
    assert [(row.cell_id, row.change_number) for row in await root.things()] == [(LEAF, 3)]
    assert await root.hashes() == await router.hashes() == await leaf.hashes()
    places = await router.db.read(router.changes.places)
    assert places == {"router": Place(1, 1), LEAF: Place(1, 3)}


def newer_table(*columns):
    """Make the table of things as a newer version has it."""
    table = sa.Table(
        "things",
        sa.MetaData(),
        sa.Column("id", sa.Text, primary_key=True),
        *carried_columns(),
        sa.Column("value", sa.Text),
        *columns,
    )
    return ChangedTable("thing", table, ("id",))


async def test_columns_that_a_router_does_not_know_pass_through_two_hops(nodes, leaf, root):
    """The leaf and the root are newer than the two routers between them."""
    routers = [await Side(nodes, f"router{n}", seed=10 + n).prepare() for n in (1, 2)]
    await leaf.write("a", value="v")
    batch = await leaf.batch()
    row = {**batch.rows[0][1], "colour": "red", "sizes": [1, {"deep": None}], "share": 0.1}
    batch = msgspec.structs.replace(batch, rows=[("thing", row)])
    await routers[0].apply(batch)
    await carry(routers[0], routers[1])
    arrived = await routers[1].batch()
    assert dict(arrived.rows[0][1]) == row
    assert await routers[0].hashes() == await routers[1].hashes()

    newer = newer_table(sa.Column("colour", sa.Text), sa.Column("begun", sa.BigInteger))
    changes = Changes((newer,))
    known = changes._unpacked("thing", LEAF, arrived.rows[0][1])
    assert known["colour"] == "red"
    assert set(known["extra"]) >= {"sizes", "share"}


def test_a_column_of_bytes_cannot_travel_as_older_cells_keep_it_as_json():
    with pytest.raises(AssertionError, match=r"thing\.key"):
        Changes((newer_table(sa.Column("key", sa.LargeBinary)),))


async def test_columns_that_an_older_cell_does_not_send_have_their_defaults(leaf, root):
    await leaf.write("a")
    batch = await leaf.batch()
    row = {"id": "a", "change_number": 1}
    assert await root.apply(msgspec.structs.replace(batch, rows=[("thing", row)])) == Place(1, 1)
    (found,) = await root.things()
    assert (found.value, found.applied, found.is_gone, found.build) == (None, 0, False, "")


async def test_a_kind_that_a_cell_does_not_know_is_let_pass(leaf, root):
    await leaf.write("a")
    batch = await leaf.batch()
    rows = [("volume", {"id": "v", "change_number": 1}), *batch.rows]
    assert await root.apply(msgspec.structs.replace(batch, rows=rows)) == Place(1, 1)
    assert [row.id for row in await root.things()] == ["a"]


# -- comparing


async def test_hashes_are_equal_where_rows_are_and_tell_the_bucket_where_not(leaf, root):
    for number in range(100):
        await leaf.write(f"t{number}")
    await carry(leaf, root)
    ours, theirs = await root.hashes(), await leaf.hashes()
    assert (len(ours), ours) == (BUCKETS, theirs)
    assert root_of(ours) == root_of(theirs)
    await root.db.run(lambda tx: tx.update(root.nodes.things, {"id": "t7"}, value="wrong"))
    differing = [
        n for n, (a, b) in enumerate(zip(await root.hashes(), theirs, strict=True)) if a != b
    ]
    assert differing == [bucket_of("t7")]


async def test_a_bucket_is_repaired_whatever_was_wrong_with_it(leaf, root):
    for number in range(200):
        await leaf.write(f"t{number}")
    await carry(leaf, root)
    bucket = bucket_of("t7")
    mates = [f"t{n}" for n in range(200) if bucket_of(f"t{n}") == bucket]
    assert len(mates) >= 3
    table = root.nodes.things
    stray = next(f"s{n}" for n in range(1000) if bucket_of(f"s{n}") == bucket)

    def spoil(tx):
        tx.update(table, {"id": mates[0]}, value="wrong")
        tx.delete(table, id=mates[1])
        row = tx.get(table, id=mates[2])
        values = {**row._asdict(), "id": stray}
        tx.insert(table, values)

    await root.db.run(spoil)
    found = await leaf.db.read(leaf.changes.read_bucket, LEAF, bucket)
    wrong = await root.db.run(root.changes.replace_bucket, LEAF, bucket, found)
    assert wrong == 3
    assert await root.hashes() == await leaf.hashes()
    assert await root.db.run(root.changes.replace_bucket, LEAF, bucket, found) == 0


async def test_repairing_a_bucket_leaves_other_origins_alone(nodes, leaf, root):
    other = await Side(nodes, "leaf2", seed=5).prepare()
    await leaf.write("a", value="1")
    await other.write("a", value="2")
    await carry(leaf, root)
    await carry(other, root, "leaf2")
    wrong = await root.db.run(root.changes.replace_bucket, LEAF, bucket_of("a"), [])
    assert wrong == 1
    assert [(row.cell_id, row.value) for row in await root.things()] == [("leaf2", "2")]


async def test_what_was_forgotten_is_sent_anew_and_is_the_same_byte_for_byte(leaf, root):
    for number in range(300):
        await leaf.write(f"t{number}", value="v" * (number % 7))
    await carry(leaf, root)
    before = await root.things()
    await root.db.run(root.changes.forget, LEAF)
    assert (await root.things(), await root.place()) == ([], Place())
    await carry(leaf, root)
    assert await root.things() == before


async def test_the_table_of_places_has_one_row_for_each_origin(leaf, root):
    await leaf.write("a")
    await carry(leaf, root)
    await leaf.write("a")
    await carry(leaf, root)
    rows = await root.db.read(lambda tx: tx.list(cursors))
    assert [(row.origin, row.number) for row in rows] == [(LEAF, 2)]
    selves = await root.db.read(lambda tx: tx.list(cell_self))
    assert [row.cell_id for row in selves] == ["root"]
