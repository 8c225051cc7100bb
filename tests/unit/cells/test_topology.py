"""Every topology that passes is a graph without loops, and only what the root key signed counts."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenith.cells import topology as topologies
from xenith.cells.frames import BODY_BYTES_MAX
from xenith.cells.keys import CellKey, PublicKey
from xenith.cells.topology import (
    CELLS_MAX,
    DEPTH_MAX,
    SIGNED_BYTES_MAX,
    CellEntry,
    Topology,
    check,
    open_signed,
)
from xenith.core.errors import Conflict, Forbidden, Invalid, NotFound, TooLarge, XenithError
from xenith.core.ids import CellId
from xenith.db import open_database
from xenith.db.migrate import prepare

ROOT_KEY = CellKey.derive(b"root")


def public(seed: str) -> PublicKey:
    """Give a public key of a name; no test here asks for its private half."""
    return PublicKey(
        signing=seed.encode().ljust(32, b"s")[-32:], sealing=seed.encode().ljust(32, b"e")[-32:]
    )


def entry(name: str, *parents: str, **fields: Any) -> CellEntry:
    return CellEntry(
        id=CellId("id-" + name),
        name=name,
        parents=tuple(CellId("id-" + parent) for parent in parents),
        **{"key": public(name), **fields},
    )


def of(*cells: CellEntry, **fields: Any) -> Topology:
    return Topology(region="RegionOne", cells=cells, **{"version": 1, **fields})


#: api above dfw and ord; c1 under dfw, c2 under both, c3 right under api.
TREE = of(
    entry("api"),
    entry("dfw", "api"),
    entry("ord", "api"),
    entry("c1", "dfw"),
    entry("c2", "ord", "dfw"),
    entry("c3", "api"),
)
API, DFW, ORD, C1, C2, C3 = (cell.id for cell in TREE.cells)
NOWHERE = CellId("nowhere")


def ids(cells: tuple[CellEntry, ...]) -> list[CellId]:
    return [cell.id for cell in cells]


def changed(index: int, **fields: Any) -> Topology:
    cells = list(TREE.cells)
    cells[index] = msgspec.structs.replace(cells[index], **fields)
    return of(*cells)


# -- asking


def test_a_cell_is_found_by_id_and_by_name():
    assert TREE.find("id-dfw") is TREE.find("dfw") is TREE.get("dfw") is TREE.cells[1]
    assert TREE.find("nowhere") is None
    with pytest.raises(NotFound, match="nowhere"):
        TREE.get("nowhere")


def test_neighbours_are_listed_in_the_order_of_the_document():
    assert ids(TREE.children(API)) == [DFW, ORD, C3]
    assert ids(TREE.children(DFW)) == [C1, C2]
    assert ids(TREE.parents(C2)) == [ORD, DFW]
    assert ids(TREE.roots()) == [API]
    assert TREE.children(C1) == TREE.parents(API) == ()


def test_descendants_are_all_cells_below_however_many_ways_lead_there():
    assert TREE.descendants(API) == {DFW, ORD, C1, C2, C3}
    assert TREE.descendants(ORD) == {C2}
    assert TREE.descendants(C2) == frozenset()
    assert TREE.descendants(API) is TREE.descendants(API)


def test_next_hops_are_the_children_that_lead_there():
    assert TREE.next_hops(API, C2) == (DFW, ORD)
    assert TREE.next_hops(API, C1) == (DFW,)
    assert TREE.next_hops(API, ORD) == (ORD,)
    assert TREE.next_hops(ORD, C1) == ()
    assert TREE.next_hops(API, API) == ()


def test_a_path_is_written_by_first_parents():
    assert TREE.path(C1) == "api!dfw!c1"
    assert TREE.path(C2) == "api!ord!c2"
    assert TREE.path(API) == "api"


def test_an_unknown_cell_has_no_neighbours_and_is_not_remembered():
    assert TREE.children(NOWHERE) == TREE.parents(NOWHERE) == TREE.next_hops(API, NOWHERE) == ()
    assert TREE.next_hops(NOWHERE, C1) == ()
    assert TREE.path(NOWHERE) == NOWHERE
    assert TREE.public_key_of(NOWHERE) is None
    assert not TREE.is_revoked(NOWHERE)
    assert TREE.descendants(NOWHERE) == frozenset()
    assert NOWHERE not in TREE._descendants


def test_asking_an_unchecked_document_with_a_loop_ends():
    looped = of(entry("a", "b"), entry("b", "a", "missing"))
    assert looped.descendants(CellId("id-a")) == {"id-a", "id-b"}
    assert looped.path(CellId("id-a")).count("!") < DEPTH_MAX
    assert ids(looped.parents(CellId("id-b"))) == ["id-a"]


# -- the rules


def test_the_example_passes():
    check(TREE)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (of(), "no root"),
        (of(entry("a", "b"), entry("b", "a")), "loop: (a!b!a|b!a!b)"),
        (changed(0, parents=(C1,)), "loop: "),
        (changed(3, parents=(C1,)), "c1 is its own parent"),
        (changed(3, parents=(NOWHERE,)), "c1: its parent 'nowhere'"),
        (changed(3, parents=(DFW, DFW)), "c1 has the parent id-dfw twice"),
        (changed(3, id=C2), "two cells have the id id-c2"),
        (changed(3, name="c2"), "two cells have the name c2"),
        (changed(3, id=CellId("c2")), "has the id of another cell, c2, as its name"),
        (changed(3, key=public("c2")), "cells c1 and c2 have one key"),
        (changed(3, id=CellId("")), "no id"),
        (changed(3, id=CellId("a b")), "'a b' is no id"),
        (changed(3, name=""), "id-c1: the name ''"),
        (changed(3, name="C1"), "id-c1: the name 'C1'"),
        (changed(3, name="-c1"), "id-c1: the name '-c1'"),
        (changed(3, name="c1\n"), r"id-c1: the name 'c1\\n'"),
        (changed(3, name="c" * 64), "at most 63"),
        (changed(3, weight=-0.5), "c1: the weight -0.5"),
        (changed(3, weight=float("nan")), "c1: the weight nan"),
        (changed(3, weight=float("inf")), "c1: the weight inf"),
        (changed(3, weight_offset=float("-inf")), "c1: the weight offset -inf"),
        (changed(3, state="asleep"), "c1: 'asleep' is no state"),
        (changed(3, successor=C2), "only a draining cell"),
        (changed(3, state="draining", successor=C1), "c1 is its own successor"),
        (changed(3, state="draining", successor=NOWHERE), "c1: its successor 'nowhere'"),
        (changed(3, projects=("",)), "c1: a project"),
        (changed(3, flavor_classes=("x" * 256,)), "c1: a project or flavor class"),
        (changed(3, key=PublicKey(signing=b"x", sealing=b"x" * 32)), "c1: its keys"),
        (of(entry("a"), revoked=(b"short",)), "revoked key has 5 bytes"),
        (of(entry("a"), version=0), "0 is no version"),
        (of(entry("a"), version=2**63), "no version"),
        (msgspec.structs.replace(TREE, region=""), "name of its region"),
    ],
)
def test_a_document_that_breaks_a_rule_is_refused_by_name(document: Topology, message: str):
    with pytest.raises(Invalid, match=message):
        check(document)


@pytest.mark.parametrize(
    ("broker", "is_good"),
    [
        ("", True),
        ("amqps://broker.dfw.example:5671/cells", True),
        ("amqp://[::1]:5672/", True),
        ("amqp://guest:hunter2@broker/", False),
        ("amqp://guest@broker/", False),
        ("guest:hunter2@broker", False),
        ("amqp://broker/?password=hunter2", False),
        ("amqp://broker/#hunter2", False),
        ("amqp://bro ker/", False),
        ("amqp://broker/\n", False),
        ("amqp://" + "b" * 255, False),
    ],
)
def test_a_brokers_address_carries_no_account_and_is_not_repeated(broker: str, is_good: bool):
    document = changed(3, broker=broker)
    if is_good:
        check(document)
        return
    with pytest.raises(Invalid, match="c1: the broker's address") as refused:
        check(document)
    assert "hunter2" not in refused.value.message


def test_the_deepest_tree_passes_and_a_deeper_one_does_not():
    chain = [entry("n0"), *(entry(f"n{n}", f"n{n - 1}") for n in range(1, DEPTH_MAX + 1))]
    check(of(*chain[:-1]))
    with pytest.raises(Invalid, match=f"{DEPTH_MAX + 1} levels"):
        check(of(*chain))


def test_depth_is_the_longest_way_not_the_shortest():
    chain = [entry("n0"), *(entry(f"n{n}", f"n{n - 1}", "n0") for n in range(2, DEPTH_MAX + 1))]
    chain.insert(1, entry("n1", "n0"))
    with pytest.raises(Invalid, match="levels"):
        check(of(*chain))


def wide(count: int) -> Topology:
    return of(entry("api"), *(entry(f"c{n:04}", "api") for n in range(count - 1)))


@pytest.mark.slow
def test_the_largest_tree_passes_and_fits_a_frame_and_one_more_is_refused():
    projects = ("0" * 32, "1" * 32)
    cells = [
        entry(
            f"region-compute-c{n:04}",
            *(("api",) if n else ()),
            broker=f"amqps://broker-{n}.internal.example:5671/cells",
            projects=projects,
        )
        for n in range(1, CELLS_MAX)
    ]
    document = of(entry("api"), *cells)
    assert len(topologies.sign(document, ROOT_KEY)) <= SIGNED_BYTES_MAX < BODY_BYTES_MAX
    with pytest.raises(Invalid, match=str(CELLS_MAX)):
        check(wide(CELLS_MAX + 1))


def test_a_document_too_large_for_a_frame_is_not_signed():
    projects = tuple(f"{n:0255}" for n in range(SIGNED_BYTES_MAX // 255 + 1))
    with pytest.raises(TooLarge, match="shorten"):
        topologies.sign(changed(3, projects=projects), ROOT_KEY)


# -- edits


def test_each_edit_is_the_next_version_and_leaves_the_old_document_as_it_was():
    before = msgspec.msgpack.encode(TREE)
    assert TREE.descendants(API)
    edits = [
        topologies.with_cell(TREE, entry("c4", "dfw")),
        topologies.without_cell(TREE, C1),
        topologies.with_state(TREE, C1, "open"),
        topologies.with_weight(TREE, C1, 2, -1),
        topologies.with_rules(TREE, C1, projects=["p", "p"], flavor_classes=["gp"]),
        topologies.with_parents(TREE, C1, [ORD, C3]),
        topologies.with_broker(TREE, C1, "amqps://broker", b"ca"),
        topologies.with_key(TREE, C1, public("new")),
        topologies.without_key(TREE, C1),
    ]
    assert [edit.version for edit in edits] == [2] * len(edits)
    assert msgspec.msgpack.encode(TREE) == before
    assert edits[0].descendants(API) - TREE.descendants(API) == {CellId("id-c4")}
    assert edits[1].descendants(API) == TREE.descendants(API) - {C1}
    assert edits[2].get("c1").state == "open"
    assert (edits[3].get("c1").weight, edits[3].get("c1").weight_offset) == (2.0, -1.0)
    assert edits[4].get("c1").projects == ("p",)
    assert ids(edits[5].parents(C1)) == [ORD, C3]
    assert edits[6].get("c1").broker == "amqps://broker"


def test_a_new_cell_is_closed():
    assert topologies.with_cell(TREE, entry("c4", "dfw")).get("c4").state == "closed"


@pytest.mark.parametrize("taken", [{"id": C1}, {"name": "c1"}, {"name": C1}])
def test_a_cell_whose_id_or_name_is_taken_is_not_added(taken: dict[str, Any]):
    with pytest.raises(Conflict, match="c1 in RegionOne"):
        topologies.with_cell(TREE, msgspec.structs.replace(entry("c4", "dfw"), **taken))


def test_a_cell_with_children_is_not_removed():
    with pytest.raises(Conflict, match="ord has 1 children, c2 among them"):
        topologies.without_cell(TREE, ORD)


def test_the_only_root_is_not_removed():
    with pytest.raises(Invalid, match="no root"):
        topologies.without_cell(of(entry("api")), API)


def test_a_removed_cells_key_never_counts_again():
    document = topologies.without_cell(TREE, C1)
    assert document.revoked == (public("c1").signing,)
    assert document.public_key_of(C1) is None
    with pytest.raises(Forbidden, match="revoked"):
        topologies.with_cell(document, entry("c1", "dfw"))
    back = topologies.with_cell(document, entry("c1", "dfw", key=public("new")))
    assert back.public_key_of(C1) == public("new")
    with pytest.raises(Forbidden, match="revoked"):
        topologies.with_key(back, C1, public("c1"))


def test_removing_a_successor_leaves_no_hint_to_it():
    document = topologies.with_state(TREE, C1, "draining", successor=C2)
    assert document.get("c1").successor == C2
    assert topologies.without_cell(document, C2).get("c1").successor is None
    assert topologies.with_state(document, C1, "open").get("c1").successor is None


def test_rules_that_are_not_named_stay():
    document = topologies.with_rules(TREE, C1, projects=["p"])
    document = topologies.with_rules(document, C1, flavor_classes=["gp"])
    assert document.get("c1").projects == ("p",)
    assert topologies.with_rules(document, C1, projects=()).get("c1").projects == ()
    assert topologies.with_rules(document, C1, projects=()).get("c1").flavor_classes == ("gp",)


def test_an_edit_that_would_loop_is_refused():
    with pytest.raises(Invalid, match="loop"):
        topologies.with_parents(TREE, DFW, [API, C2])


def test_an_edit_of_an_unknown_cell_is_refused():
    with pytest.raises(NotFound, match="nowhere"):
        topologies.with_state(TREE, NOWHERE, "open")


def test_a_new_key_counts_and_the_old_one_does_not():
    document = topologies.with_key(TREE, C1, public("new"))
    assert document.public_key_of(C1) == public("new")
    assert document.revoked == (public("c1").signing,)
    again = topologies.with_key(document, C1, public("new"))
    assert again.revoked == document.revoked


def test_a_revoked_cell_stands_without_a_voice_until_it_has_a_new_key():
    document = topologies.without_key(TREE, C1)
    assert document.public_key_of(C1) is None
    assert document.is_revoked(C1)
    assert not document.is_revoked(C2)
    assert C1 in document.descendants(API)
    healed = topologies.with_key(document, C1, public("new"))
    assert healed.public_key_of(C1) == public("new")
    assert not healed.is_revoked(C1)


def reaches_itself(parents: dict[int, set[int]]) -> bool:
    """Tell whether there is a loop, by another method than the one that is tested: closure."""
    closed = {cell: set(above) for cell, above in parents.items()}
    for middle, cell in itertools.product(closed, closed):
        if middle in closed[cell]:
            closed[cell] |= closed[middle]
    return any(cell in above for cell, above in closed.items())


@given(
    data=st.dictionaries(
        st.integers(0, 8), st.sets(st.integers(0, 8), max_size=3), min_size=1, max_size=9
    )
)
def test_a_document_of_random_parents_is_refused_if_and_only_if_it_has_a_loop(data):
    parents = {cell: {above for above in data[cell] if above in data} for cell in data}
    document = of(
        *(entry(f"n{cell}", *(f"n{p}" for p in above)) for cell, above in parents.items())
    )
    if reaches_itself(parents):
        with pytest.raises(Invalid, match=r"loop|own parent"):
            check(document)
        return
    check(document)
    for cell in document.cells:
        below = document.descendants(cell.id)
        assert cell.id not in below
        assert {child.id for child in document.children(cell.id)} <= below
        for other in document.cells:
            hops = document.next_hops(cell.id, other.id)
            assert bool(hops) == (other.id in below)
            assert all(hop == other.id or other.id in document.descendants(hop) for hop in hops)


_NAMES = st.integers(0, 7).map("n{}".format)
_CELLS = _NAMES.map("id-{}".format).map(CellId)
_EDITS = st.one_of(
    st.tuples(
        st.just("with_cell"),
        st.builds(entry, _NAMES, _NAMES, key=st.integers().map(str).map(public)),
    ),
    st.tuples(st.just("without_cell"), _CELLS),
    st.tuples(st.just("with_state"), _CELLS, st.sampled_from(["closed", "open", "draining", "?"])),
    st.tuples(st.just("with_weight"), _CELLS, st.floats(), st.floats()),
    st.tuples(st.just("with_parents"), _CELLS, st.lists(_CELLS, max_size=3)),
    st.tuples(st.just("with_key"), _CELLS, st.integers(0, 9).map(str).map(public)),
    st.tuples(st.just("without_key"), _CELLS),
    st.tuples(st.just("with_broker"), _CELLS, st.text(max_size=20), st.binary(max_size=9)),
)


@settings(max_examples=40)
@given(edits=st.lists(_EDITS, max_size=30))
def test_random_edits_give_the_next_good_document_or_a_refusal(edits):
    document = of(entry("n0"))
    for name, *arguments in edits:
        try:
            edited = getattr(topologies, name)(document, *arguments)
        except XenithError:
            continue
        check(edited)
        assert edited.version == document.version + 1
        assert set(edited.revoked) >= set(document.revoked)
        document = edited
    assert open_signed(topologies.sign(document, ROOT_KEY), ROOT_KEY.public) == document


# -- signed


SIGNED = topologies.sign(TREE, ROOT_KEY)


def signed_as(document: Any, *, key: CellKey = ROOT_KEY, mark: bytes = b"XNTP\x01") -> bytes:
    data = mark + msgspec.msgpack.encode(document)
    return data + key.sign(data)


def test_a_signed_document_comes_out_as_it_went_in():
    assert open_signed(SIGNED, ROOT_KEY.public) == TREE
    assert signed_as(TREE) == SIGNED


def test_a_document_that_breaks_a_rule_is_not_signed():
    with pytest.raises(Invalid, match="loop"):
        topologies.sign(of(entry("a", "b"), entry("b", "a")), ROOT_KEY)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", Invalid, "unsigned"),
        (msgspec.msgpack.encode(TREE), Invalid, "unsigned"),
        (SIGNED[:-64], Forbidden, "not signed with the root key"),
        (SIGNED[:20], Invalid, "cut short"),
        (signed_as(TREE, key=CellKey.derive(b"evil")), Forbidden, "not signed with the root key"),
        (signed_as(of(entry("a", "b"), entry("b", "a"))), Invalid, "loop"),
        (signed_as(TREE, mark=b"XNTP\x02"), Invalid, "format 2"),
        (signed_as(TREE, mark=b"XNFR\x01"), Invalid, "no signed topology"),
        (signed_as({"region": "r"}), Invalid, "cannot be read"),
        (signed_as(None), Invalid, "cannot be read"),
        (bytes(SIGNED_BYTES_MAX + 1), Invalid, "above"),
    ],
)
def test_what_is_not_a_good_document_of_this_root_is_refused_with_the_reason(data, error, message):
    with pytest.raises(error, match=message):
        open_signed(data, ROOT_KEY.public)


def test_every_truncation_and_every_flip_of_a_byte_is_refused():
    signed = topologies.sign(of(entry("api"), entry("c1", "api")), ROOT_KEY)
    for at in range(len(signed)):
        flipped = bytearray(signed)
        flipped[at] ^= 1
        for wrong in (bytes(flipped), signed[:at]):
            with pytest.raises((Invalid, Forbidden)):
                open_signed(wrong, ROOT_KEY.public)


@given(data=st.binary(max_size=300))
def test_bytes_of_any_kind_are_refused_signed_or_not(data):
    for wrong in (data, b"XNTP\x01" + data, b"XNTP\x01" + data + ROOT_KEY.sign(b"XNTP\x01" + data)):
        with pytest.raises((Invalid, Forbidden)):
            open_signed(wrong, ROOT_KEY.public)


def test_deep_nesting_is_refused_or_passed_over():
    data = b"XNTP\x01" + b"\x81\xa3new" + b"\x91" * 100_000 + b"\xc0"
    with pytest.raises(Invalid, match="cannot be read"):
        open_signed(data + ROOT_KEY.sign(data), ROOT_KEY.public)


def test_fields_of_a_later_version_pass():
    later = msgspec.msgpack.decode(msgspec.msgpack.encode(TREE))
    later["added_later"] = {"deep": [1]}
    later["cells"][0]["added_later"] = 1
    assert open_signed(signed_as(later), ROOT_KEY.public) == TREE


# -- kept


@pytest.fixture
def db() -> Any:
    database = open_database("sqlite://")
    prepare(database)
    return database


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=[pytest.mark.slow, pytest.mark.e2e])]
)
async def any_db(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """Give a database of each kind: what is decided in one statement is decided on both."""
    is_sqlite = request.param == "sqlite"
    url = "sqlite://" if is_sqlite else request.getfixturevalue("fresh_postgres_url")
    database = open_database(url)
    prepare(database)
    yield database
    await database.close()


async def test_only_a_newer_document_is_kept(any_db: Any):
    newer = topologies.with_state(TREE, C1, "open")
    signed_newer = topologies.sign(newer, ROOT_KEY)
    assert await any_db.read(topologies.find_signed) is None
    assert await any_db.run(topologies.save, SIGNED, TREE)
    assert not await any_db.run(topologies.save, SIGNED, TREE)
    assert await any_db.run(topologies.save, signed_newer, newer)
    assert not await any_db.run(topologies.save, SIGNED, TREE)
    assert await any_db.read(topologies.find_signed) == signed_newer


async def test_a_document_is_kept_as_it_was_signed_with_what_this_program_does_not_know(
    any_db: Any,
):
    later = {**msgspec.msgpack.decode(msgspec.msgpack.encode(TREE)), "added_later": 1}
    signed = signed_as(later)
    await any_db.run(topologies.save, signed, open_signed(signed, ROOT_KEY.public))
    assert await any_db.read(topologies.find_signed) == signed
