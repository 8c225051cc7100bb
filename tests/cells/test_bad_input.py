"""What a neighbour says and must not: refused with a reason and a counter, never followed.

The neighbour here has its key and a session. What has no key is held off by the tests of frames and
links.
"""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from xenith.cells import topology as documents
from xenith.cells.changes import Batch, Place
from xenith.cells.intents import BUILD, TAKEN, Intent, intents
from xenith.cells.messages import (
    Ask,
    Bucket,
    BucketsWanted,
    Capacity,
    ChangesAck,
    Heads,
    Intents,
    Ping,
    Roots,
    TopologyNews,
    Verdicts,
)
from xenith.cells.topology import Topology, with_state, without_key
from xenith.core.ids import CellId

#: Each takes a tree from its start to a build after it, up to half a second.
pytestmark = pytest.mark.slow

DEEP = {"api": (), "r1": ("api",), "c1": ("r1",), "c2": ("r1",), "c3": ("api",)}


def on_a_tree(nodes, work):
    async def scenario(simulation):
        async with nodes.Tree(simulation, DEEP) as tree:
            await tree.start()
            await tree.ready()
            await work(tree)
            # Whatever it was, links go on, builds are built and rows come up.
            await tree.wish("after")
            await tree.reaches("after", "owned")
            await tree.settle()

    nodes.play(scenario)


def link_of(tree, own, peer):
    node = tree.nodes[own]
    return (node.parents.get(CellId(peer)) or node.children[CellId(peer)]).link


async def hears(nodes, tree, own, peer, *body):
    """Have a cell hear a message of its neighbour; tell what it counted since."""
    link = link_of(tree, own, peer)
    node = tree.nodes[own]
    before = {**link.counts, **node.counts}
    await nodes.say(tree, peer, own, *body)
    await asyncio.sleep(0.5)
    after = {**link.counts, **node.counts}
    return {name: n - before.get(name, 0) for name, n in after.items() if n != before.get(name, 0)}


def batch(origin, **fields):
    row = {"id": "x", "change_number": 1, "value": "forged"}
    values = {"epoch": 1, "after": 0, "to": 1, "head": 1, "rows": [("thing", row)]}
    return Batch(origin=origin, **{**values, **fields})


# -- topologies


def of_key(tree, key, **fields):
    values = {name: getattr(tree.topology, name) for name in Topology.__struct_fields__}
    return sign_unchecked(Topology(**{**values, "version": 2, **fields}), tree.keys[key])


def sign_unchecked(topology, key):
    data = b"XNTP\x01" + msgspec.msgpack.encode(topology)
    return data + key.sign(data)


def looped(tree):
    cells = [
        msgspec.structs.replace(entry, parents=("c1",)) if entry.id == "r1" else entry
        for entry in tree.topology.cells
    ]
    return of_key(tree, "api", cells=tuple(cells))


WRONG_TOPOLOGIES = {
    "looped": looped,
    "of another's key": lambda tree: of_key(tree, "r1"),
    "unsigned": lambda tree: msgspec.msgpack.encode(tree.topology),
    "of another region": lambda tree: of_key(tree, "api", region="elsewhere"),
    "changed": lambda tree: of_key(tree, "api")[:-1] + b"\x00",
    "empty": lambda _tree: b"",
    "version none": lambda tree: of_key(tree, "api", version=0),
    "version huge": lambda tree: of_key(tree, "api", version=2**63),
}


@pytest.mark.parametrize("wrong", WRONG_TOPOLOGIES.values(), ids=WRONG_TOPOLOGIES)
@pytest.mark.parametrize("peer", ["api", "c1"])
def test_a_topology_that_is_not_the_roots_or_not_sound_is_refused(nodes, wrong, peer):
    async def work(tree):
        counted = await hears(nodes, tree, "r1", peer, TopologyNews(wrong(tree)))
        assert counted["refused_topology"] == 1
        assert tree.nodes["r1"].topology == tree.topology

    on_a_tree(nodes, work)


def test_an_older_document_changes_nothing(nodes):
    async def work(tree):
        newer = with_state(tree.topology, CellId("c3"), "draining")
        await tree.nodes["api"].publish(newer)
        await tree.until(lambda: tree.nodes["r1"].topology.version == 2)
        await hears(nodes, tree, "r1", "api", TopologyNews(tree.signed))
        assert tree.nodes["r1"].topology == newer

    on_a_tree(nodes, work)


def test_a_cell_whose_key_was_revoked_is_not_heard_any_more(nodes):
    async def work(tree):
        await tree.nodes["api"].publish(without_key(tree.topology, CellId("c3")))
        await tree.write("c3", "a")
        await asyncio.sleep(5)
        assert link_of(tree, "api", "c3").counts["refused_revoked_sender"] >= 1
        assert await tree.thing("c3", "a", at="api") is None

    async def scenario(simulation):
        async with nodes.Tree(simulation, DEEP) as tree:
            await tree.start()
            await tree.ready()
            await work(tree)

    nodes.play(scenario)


# -- rows


@pytest.mark.parametrize("origin", ["api", "c3", "nobody", ""])
def test_rows_of_a_cell_that_is_not_below_the_child_are_refused(nodes, origin):
    async def work(tree):
        counted = await hears(nodes, tree, "api", "r1", batch(origin))
        assert counted["refused_not_its_own"] == 1
        assert await tree.rows("api", id="x") == []
        bucket = Bucket(origin, Place(0, 0), 1, batch(origin).rows)
        counted = await hears(nodes, tree, "api", "r1", bucket)
        assert counted["refused_not_its_own"] == 1
        assert await tree.rows("api", id="x") == []

    on_a_tree(nodes, work)


def test_what_a_parent_says_of_rows_is_not_for_it_to_say(nodes):
    async def work(tree):
        counted = await hears(nodes, tree, "c1", "r1", batch("c1"))
        assert counted["refused_unexpected_message"] == 1
        assert await tree.rows("c1", id="x") == []

    on_a_tree(nodes, work)


WRONG_BATCHES = {
    "no number": {"rows": [("thing", {"id": "x"})]},
    "a number that is none": {"rows": [("thing", {"id": "x", "change_number": "1"})]},
    "a number beyond the batch": {"rows": [("thing", {"id": "x", "change_number": 9})]},
    "no key": {"rows": [("thing", {"change_number": 1})]},
    "a map for a text": {"rows": [("thing", {"id": "x", "change_number": 1, "value": {"a": 1}})]},
    "too large a number": {"rows": [("thing", {"id": "x", "change_number": 1, "begun": 2**63})]},
    "below nothing": {"after": -5, "rows": []},
    "an epoch below nothing": {"epoch": -1},
    "an epoch without end": {"epoch": 2**63},
    "a place without end": {"to": 2**63, "head": 2**63, "rows": []},
}


@pytest.mark.parametrize("fields", WRONG_BATCHES.values(), ids=WRONG_BATCHES)
def test_a_batch_that_cannot_be_is_not_taken_and_holds_up_no_other(nodes, fields):
    async def work(tree):
        wrong = {**nodes.builtins(batch("c3")), **fields}
        counted = await hears(nodes, tree, "api", "c3", wrong)
        assert any(name.startswith("refused_") or name == "failed" for name in counted)
        assert await tree.rows("api", id="x") == []
        await tree.write("c3", "good")
        await tree.settle()
        assert await tree.thing("c3", "good", at="api")

    on_a_tree(nodes, work)


# -- intents


def intent(**fields):
    values = {"id": "w", "subject": "w", "number": 1, "kind": BUILD, "body": b"\x80"}
    return Intent(**{**values, **fields})


def test_an_intent_is_for_parents_to_give(nodes):
    async def work(tree):
        counted = await hears(nodes, tree, "r1", "c1", Intents([intent()]))
        assert counted["refused_unexpected_message"] == 1
        assert await tree.rows("r1", intents) == []

    on_a_tree(nodes, work)


def test_replayed_intents_are_answered_and_not_followed(nodes):
    async def work(tree):
        wanted = {"ram_mib": 1, "vcpus": 1, "disk_gib": 1, "project_id": "p"}
        message = {**nodes.builtins(Intents([])), "items": []}
        one = msgspec.msgpack.decode(msgspec.msgpack.encode(intent(id="w.1")))
        message["items"] = [{**one, "wanted": wanted}]
        for _ in range(5):
            counted = await hears(nodes, tree, "c1", "r1", message)
        assert counted["replayed"] == 1
        leaf = tree.nodes["c1"].executor
        assert leaf.applied.count("w.1") == 1
        leaf.held.clear()

    on_a_tree(nodes, work)


WRONG_INTENTS = {
    "past its deadline": {"deadline_at": 1.0},
    "no msgpack": {"body": b"\xc1"},
    "without what it wants": {"wanted": None},
    "a number without end": {"number": 2**63, "kind": "set"},
}


@pytest.mark.parametrize("fields", WRONG_INTENTS.values(), ids=WRONG_INTENTS)
@pytest.mark.parametrize(("own", "peer"), [("r1", "api"), ("c1", "r1")])
def test_a_wrong_intent_is_counted_and_answered(nodes, own, peer, fields):
    async def work(tree):
        said: list[str] = []
        tree.air.listeners.append(
            lambda spoken: said.extend(
                item["answer"]
                for message in spoken.messages
                if message["type"] == "verdicts" and spoken.sender == own
                for item in message["items"]
            )
        )
        await hears(nodes, tree, own, peer, Intents([intent(**fields)]))
        assert [answer for answer in said if answer != TAKEN] or own == "c1"
        assert "w" not in tree.nodes["c2"].executor.held
        tree.nodes["c1"].executor.held.discard("w")

    on_a_tree(nodes, work)


# -- anything else


ODD = {
    "verdicts of nothing": ("api", "r1", Verdicts([])),
    "heads of strangers": ("api", "r1", Heads({"nobody": (Place(9, 9), -1.0)})),
    "ages that are none": ("api", "r1", Heads({"c1": (Place(1, 0), float("nan"))})),
    "roots of strangers": ("api", "r1", Roots("nobody", Place(), [])),
    "too few hashes": ("api", "r1", Roots("c1", Place(), [b"x"])),
    "buckets of strangers": ("c1", "r1", BucketsWanted("nobody", [0, 999, -1])),
    "an ack of strangers": ("c1", "r1", ChangesAck("nobody", Place(5, 5))),
    "an ack beyond the end": ("c1", "r1", ChangesAck("c1", Place(1, 10**9))),
    "an ack below nothing": ("c1", "r1", ChangesAck("c1", Place(1, -10))),
    "a ping without end": ("c1", "r1", Ping(2**62, 2**62)),
    "a question for nobody": (
        "c1",
        "r1",
        Ask(id="", target="nobody", method="", body=b"", timeout_s=float("nan")),
    ),
}


@pytest.mark.parametrize(("own", "peer", "message"), ODD.values(), ids=ODD)
def test_odd_words_change_nothing_and_the_link_goes_on(nodes, own, peer, message):
    async def work(tree):
        await hears(nodes, tree, own, peer, message)
        assert link_of(tree, own, peer).is_open
        await tree.write("c1", "later")

    on_a_tree(nodes, work)


def test_a_digest_of_another_cell_is_refused(nodes):
    async def work(tree):
        digest = msgspec.structs.replace(tree.nodes["c1"].digest(99), cell_id="c3")
        counted = await hears(nodes, tree, "api", "r1", Capacity(digest))
        assert counted["refused_not_its_own"] == 1

    on_a_tree(nodes, work)


def test_a_document_is_signed_over_all_of_it(nodes):
    async def work(tree):
        assert documents.open_signed(tree.signed, tree.keys["api"].public) == tree.topology

    on_a_tree(nodes, work)
