"""Cells of two versions side by side: the older one as it was recorded, the newer as it may be."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from xenith.cells import link as link_module
from xenith.cells import messages
from xenith.cells import topology as documents
from xenith.cells.changes import ChangedTable, carried_columns
from xenith.cells.frames import decode
from xenith.cells.keys import CellKey
from xenith.cells.messages import Hello

RECORDED = json.loads((Path(__file__).parent / "recorded" / "first.json").read_text())
KEYS = {name: CellKey.derive(seed.encode()) for name, seed in RECORDED["key_seeds"].items()}
DEEP = {"api": (), "r1": ("api",), "c1": ("r1",), "c2": ("r1",)}
CHAIN = {"api": (), "r1": ("api",), "c1": ("r1",)}


def recorded_messages(sender=None, receiver=None):
    topology = documents.open_signed(bytes.fromhex(RECORDED["topology"]), KEYS["api"].public)
    for each in RECORDED["frames"]:
        if sender in (None, each["sender"]) and receiver in (None, each["receiver"]):
            frame = decode(
                bytes.fromhex(each["frame"]),
                receiver=each["receiver"],
                public_key_of=topology.public_key_of,
            )
            for body in msgspec.msgpack.decode(frame.body, type=list[msgspec.Raw]):
                yield messages.decode(body)


# -- what the first version said


def test_frames_and_the_document_of_the_first_version_are_read(nodes):
    kinds = {type(message) for message in recorded_messages()}
    named = {one.__struct_config__.tag for one in kinds}
    assert named >= {
        "hello",
        "intents",
        "verdicts",
        "changes",
        "changes_ack",
        "capacity",
        "heads",
        "ping",
        "pong",
        "ask",
        "reply",
        "roots",
    }


@pytest.mark.parametrize(
    ("own", "peer"), [("r1", "c1"), ("r1", "api"), ("c1", "r1"), ("api", "r1")]
)
def test_what_the_first_version_said_is_followed_today(nodes, own, peer):
    """The older neighbour's words, in its order, to a cell of today that it has a session with."""

    async def scenario(simulation):
        async with nodes.Tree(simulation, CHAIN) as tree:
            await tree.start(own)
            node = tree.nodes[own]
            link = (node.parents.get(peer) or node.children[peer]).link
            await asyncio.sleep(0.1)
            hello = nodes.builtins(Hello(heard=link._session))
            data = nodes.frame(
                KEYS[peer], sender=peer, receiver=own, session="old", to_session="", body=[hello]
            )
            await tree.air.publish(f"{peer}>{own}", data, priority=0)
            await asyncio.sleep(0.1)
            assert link.is_open
            for message in recorded_messages(peer, own):
                if not isinstance(message, Hello):
                    await nodes.say(tree, peer, own, message)
                    await asyncio.sleep(0.05)
            refused = {name for name in link.counts if name.startswith("refused_")}
            assert not refused
            assert link.counts["failed"] == 0
            if own == "c1":
                thing = await tree.thing("c1", "a")
                assert (thing.begun, thing.value, thing.is_gone) == (1, "new", True)
            if peer == "c1":
                seen = await tree.thing("c1", "a", at="r1")
                assert (seen.begun, seen.is_gone) == (1, True)

    nodes.play(scenario)


# -- a newer peer


#: Maps of texts, which are no structs.
OF_TEXTS = {"principal"}


def newer(value):
    """Give every map in a message a field that today's version does not know."""
    if isinstance(value, dict):
        known = {n: each if n in OF_TEXTS else newer(each) for n, each in value.items()}
        return {**known, "since_9_0": {"x": [1]}}
    if isinstance(value, list):
        return [newer(each) for each in value]
    return value


def speak_newer(nodes, monkeypatch, tree, name):
    """Have a cell speak as a later version: unknown fields everywhere, and unknown messages."""
    real = messages.encode
    speaking = {tree.keys[name].public.signing}

    def encode(message):
        return real(message)

    publish = link_module.Link._publish

    async def say(self, body, priority, to_session):
        if self._key.public.signing in speaking and to_session:
            said = [one_newer(one) for one in msgspec.msgpack.decode(body)]
            body = msgspec.msgpack.encode([*said, {"type": "gossip", "rumour": [1, {"a": None}]}])
        await publish(self, body, priority, to_session)

    monkeypatch.setattr(link_module.Link, "_publish", say)
    return encode


#: What has maps by cell, which a field more would make another cell of.
BY_CELL = {"heads", "hello"}


def one_newer(message):
    if message["type"] in BY_CELL:
        return {**message, "since_9_0": 1}
    return newer(message)


@pytest.mark.parametrize("name", ["api", "r1", "c1"])
def test_a_newer_cell_says_more_and_is_understood(nodes, monkeypatch, name):
    async def scenario(simulation):
        async with nodes.Tree(simulation, CHAIN) as tree:
            speak_newer(nodes, monkeypatch, tree, name)
            await tree.start()
            await tree.ready()
            await tree.wish("a")
            owned = await tree.reaches("a", "owned")
            await tree.order("a", "set", value="v")
            await tree.until(lambda: value_is(tree, "v"))
            thing = await tree.thing(owned.cell_id, "a", at="api")
            assert (thing.begun, thing.value) == (1, "v")
            links = [
                link.link.counts
                for node in tree.nodes.values()
                for link in (*node.children.values(), *node.parents.values())
            ]
            assert sum(counts["refused_unknown_message"] for counts in links) > 0
            assert all(counts["failed"] == 0 for counts in links)

    async def value_is(tree, value):
        row = await tree.thing("c1", "a", at="api")
        return row is not None and row.value == value

    nodes.play(scenario)


def newer_things():
    table = sa.Table(
        "things_9",
        sa.MetaData(),
        sa.Column("id", sa.Text, primary_key=True),
        *carried_columns(),
        sa.Column("value", sa.Text),
        sa.Column("colour", sa.Text),
    )
    return ChangedTable("thing", table, ("id",))


def test_columns_unknown_to_an_older_router_reach_a_newer_root(nodes):
    """The leaf and the root know a column that the router between them does not."""

    async def scenario(simulation):
        new = newer_things()
        tables = {"api": (new,), "c1": (new,)}
        async with nodes.Tree(simulation, CHAIN, tables=tables) as tree:
            for name in tree.parents:
                tree.make(name)
            for name in ("api", "c1"):
                create(tree.databases[name], new.table)
            await tree.start()

            def write(tx):
                from xenith.cells.changes import mark_change

                row = {"id": "x", "value": "v", "colour": "red", "extra": None}
                tx.insert(new.table, {**row, **mark_change(tx)})

            await tree.until(lambda: tree.nodes["c1"].parents["r1"].link.is_open)
            await tree.databases["c1"].run(write)
            await tree.until(lambda: has_come(tree, new.table))
            (between,) = await tree.rows("r1", id="x")
            assert between.extra == {"colour": "red"}
            (above,) = await tree.rows("api", new.table, id="x")
            assert above.colour == "red"
            # The router put in what it holds to be a thing's other columns.
            assert "colour" not in above.extra
            # And they are held to be the same by all three.
            seen = [(await tree.seen(name, "c1"))[0] for name in ("api", "r1", "c1")]
            assert len(set(map(str, seen))) == 1

    async def has_come(tree, table):
        return await tree.rows("api", table, id="x")

    nodes.play(scenario)


def create(db, table):
    from sqlalchemy.dialects import sqlite
    from sqlalchemy.schema import CreateTable

    statement = str(CreateTable(table).compile(dialect=sqlite.dialect()))
    db.run_script(lambda connection: connection.execute(statement))


# -- versions


@pytest.mark.parametrize(("theirs", "spoken"), [((1, 2), 1), ((1, 1), 1), ((2, 3), 0)])
def test_a_child_of_another_version_is_spoken_with_or_refused(nodes, monkeypatch, theirs, spoken):
    """The child says by its hello which versions it speaks; all else of it is today's."""
    real = link_module.Link._say_hello

    async def scenario(simulation):
        async with nodes.Tree(simulation, CHAIN) as tree:
            other = tree.keys["c1"].public.signing

            async def say_hello(self):
                hello = self._hello
                if self._key.public.signing == other:

                    async def told():
                        return msgspec.structs.replace(
                            await hello(), least=theirs[0], most=theirs[1]
                        )

                    self._hello = told
                try:
                    await real(self)
                finally:
                    self._hello = hello

            monkeypatch.setattr(link_module.Link, "_say_hello", say_hello)
            await tree.start()
            await asyncio.sleep(5)
            link = tree.nodes["r1"].children["c1"].link
            assert link.version == spoken
            assert link.is_open is bool(spoken)
            if not spoken:
                assert link.counts["refused_version"] >= 4
            # The others of the tree do not mind.
            assert tree.nodes["api"].children["r1"].link.is_open

    nodes.play(scenario)
