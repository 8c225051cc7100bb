"""Two cells and a few messages: every order, loss and repetition, with what may come in between.

The nodes and both ends of their link are real; only the link's frames are not. What an end posts
hangs in the air until this test delivers it, once or twice, and all ways to do so are walked, a
state that was met before only once. What is lost is what is never delivered: in each state the way
may also end there, with all that is in the air lost. A restart of either side ends the session, and
the ends open again one after the other. Where a way ends the link is mended, and then everything
must become right. All scenarios together are some nine hundred million ways.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from xenith.cells import intents as rows
from xenith.cells import messages
from xenith.cells import topology as documents
from xenith.cells.child import ChildLink, _Sent
from xenith.cells.intents import DELETE, NO, Verdict
from xenith.cells.keys import CellKey
from xenith.cells.messages import Ping
from xenith.cells.node import Node
from xenith.cells.parent import ParentLink, _Origin
from xenith.cells.topology import Topology
from xenith.core.ids import CellId
from xenith.core.world import World
from xenith.dev.cells import entry

#: Messages that are sent before the link is mended, answers included.
MESSAGES_MAX = 6
ROOT, LEAF = CellId("root"), CellId("leaf")
KEYS = {name: CellKey.derive(name.encode()) for name in (ROOT, LEAF)}
TOPOLOGY = Topology(
    region="test",
    version=1,
    cells=(entry(ROOT, "root", KEYS[ROOT]), entry(LEAF, "leaf", KEYS[LEAF], [ROOT])),
)
SIGNED = documents.sign(TOPOLOGY, KEYS[ROOT])


def load_nodes():
    if "nodes" not in sys.modules:
        path = Path(__file__).parents[1] / "cells" / "nodes.py"
        spec = importlib.util.spec_from_file_location("nodes", path)
        sys.modules["nodes"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["nodes"])
    return sys.modules["nodes"]


nodes = load_nodes()


class Still:
    """A clock at which nothing takes time."""

    def now(self):
        return 1_700_000_000.0

    def monotonic(self):
        return 100.0

    async def sleep(self, _delay_s):
        return None


class Counted:
    """Ids by a count that is part of the state."""

    def __init__(self):
        self.count = 0

    def uuid(self):
        self.count += 1
        return f"n{self.count}"

    hex = uuid

    def uniform(self):
        return 0.5

    def __getattr__(self, name):
        raise AssertionError(f"{name}: the walk has no chance of its own")


class Waits(Exception):
    """A loop of a link has nothing more to do now."""


class Turn:
    """An event for which nobody waits: who would, is done for now."""

    def __init__(self):
        self.is_on = False

    def set(self):
        self.is_on = True

    def clear(self):
        self.is_on = False

    async def wait(self):
        if not self.is_on:
            raise Waits


def run(coroutine):
    """Run a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    except Waits:
        return None
    raise AssertionError("nothing here waits")


class End:
    """One end's link: what it posts goes into the air, if it is open."""

    def __init__(self, walk, way, handlers):
        self.walk = walk
        self.way = way
        self.handlers = handlers
        self.is_open = True
        self.counts = {}

    def post(self, message):
        if not self.is_open:
            return False
        if not isinstance(message, Ping):
            self.walk.put(self.way, messages.encode(message))
        return True

    def refuse(self, reason, **_fields):
        raise AssertionError(f"neither cell is wicked: {reason}")


class OnceThings(nodes.Things):
    """A leaf that does not bear being asked twice."""

    def apply(self, tx, intent, prepared):
        assert tx.find(rows.intents, id=intent.id) is None, f"{intent.id} is applied again"
        return super().apply(tx, intent, prepared)


@dataclass(frozen=True)
class State:
    """All that there is: rows, memory, the air, and what may still happen."""

    key: int
    root: bytes
    leaf: bytes
    memory: Any
    air: tuple[tuple[str, bytes, bool], ...]
    sent: int
    events: tuple[str, ...]
    #: Ends that are to be opened, with the hello that they will hear.
    opening: tuple[tuple[str, Any], ...]


class Walk:
    """Two cells, and every way that a few messages between them can take."""

    def __init__(
        self, events, *, limit=MESSAGES_MAX, has_build=True, has_changes=True, retries=True
    ):
        self.limit = limit
        #: Whether rows go up before the link is mended; they and intents do not meet.
        self.has_changes = has_changes
        self.events = events
        self.has_build = has_build
        self.has_retries = retries
        self.air: list[tuple[str, bytes, bool]] = []
        self.sent = 0
        self.opening: list[tuple[str, Any]] = []
        self.is_mended = False
        self.ids = {name: Counted() for name in (ROOT, LEAF)}
        self.worlds = {name: World(clock=Still(), ids=self.ids[name]) for name in (ROOT, LEAF)}
        self.dbs = {name: nodes.new_database(self.worlds[name]) for name in (ROOT, LEAF)}
        self.unlisten = lambda: None
        self.begin_root()
        self.begin_leaf()
        self.backup = b""
        #: By state: the ways that begin there.
        self.ways: dict[int, int] = {}
        self.transitions = 0
        self.checked = 0

    # -- the cells

    def node(self, name, **parts):
        node = Node(
            self.dbs[name],
            self.worlds[name],
            cell_id=name,
            key=KEYS[name],
            root=KEYS[ROOT].public,
            signed=SIGNED,
            buses=lambda _parent, _child: None,
            tables=(nodes.THINGS,),
            **parts,
        )
        run(node.prepare())
        return node

    def begin_root(self):
        origin = nodes.Wishes()
        self.root = origin.node = self.node(ROOT, origin=origin)
        self.root._set_rules(LEAF)
        self.down = ChildLink(self.root, LEAF, None)
        self.down.link = End(self, "down", self.down.link._handlers)
        self.down._wake = Turn()
        self.root.children = {LEAF: self.down}
        things = OnceThings(None, None, LEAF, slots=100)
        self.root.chooser.hear(things.capacity())

    def begin_leaf(self):
        executor = OnceThings(self.dbs[LEAF], self.worlds[LEAF], LEAF, slots=100)
        self.leaf = self.node(LEAF, executor=executor)
        run(executor.load())
        self.up = ParentLink(self.leaf, ROOT, None)
        self.up.link = End(self, "up", self.up.link._handlers)
        self.up._wake = Turn()
        self.unlisten()
        self.unlisten = self.leaf.db.listen("cells.changes", self.up._on_change)
        self.leaf.parents = {ROOT: self.up}

    def put(self, way, data):
        self.sent += 1
        if self.sent <= self.limit or self.is_mended:
            self.air.append((way, data, False))

    # -- a state, taken and put back

    def take(self):
        origins = {
            name: ((o.acked.epoch, o.acked.number), o.sent, o.in_flight, o.is_news, o.known_epoch)
            for name, o in self.up._origins.items()
        }
        memory = (
            tuple(self.down._ready.items()),
            tuple(self.down._fresh.items()),
            tuple((hop, sent.subject) for hop, sent in self.down._sent.items()),
            frozenset(self.down._busy),
            tuple(self.down._awaited),
            tuple(sorted(origins.items())),
            frozenset(self.up._dirty),
            frozenset(self.leaf.executor.held),
            (self.ids[ROOT].count, self.ids[LEAF].count),
            (self.down.link.is_open, self.up.link.is_open),
        )
        air = tuple(sorted(self.air))
        sent = min(self.sent, self.limit)
        known = (air, sent, self.events, tuple(self.opening))
        key = hash((self.rows_of(ROOT), self.rows_of(LEAF), memory_key(memory), repr(known)))
        if key in self.ways:
            return key, None
        root, leaf = (self.dbs[name]._connection.serialize() for name in (ROOT, LEAF))
        return key, State(key, root, leaf, memory, *known)

    def rows_of(self, name):
        connection = self.dbs[name]._connection
        tables = ("intents", "things", "wishes", "cell_self", "change_cursors")
        return repr([connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables])

    def put_back(self, state):
        self.dbs[ROOT]._connection.deserialize(state.root)
        self.dbs[LEAF]._connection.deserialize(state.leaf)
        ready, fresh, sent, busy, awaited, origins, dirty, held, ids, is_open = state.memory
        for old, new in (
            (self.down._ready, dict(ready)),
            (self.down._fresh, dict(fresh)),
            (self.down._sent, {hop: _Sent(subject, 0.0) for hop, subject in sent}),
            (self.down._awaited, dict.fromkeys(awaited, 0.0)),
            (
                self.up._origins,
                {
                    name: _Origin(
                        messages.Place(*acked), at, flying, is_news=is_news, known_epoch=known
                    )
                    for name, (acked, at, flying, is_news, known) in origins
                },
            ),
        ):
            old.clear()
            old.update(new)
        self.down._busy = set(busy)
        self.up._dirty = set(dirty)
        self.leaf.executor.held = set(held)
        self.ids[ROOT].count, self.ids[LEAF].count = ids
        self.down.link.is_open, self.up.link.is_open = is_open
        self.air = list(state.air)
        self.sent = state.sent
        self.events = state.events
        self.opening = list(state.opening)
        self.is_mended = False
        # Each of these makes a choice of its own, on room that is always there.
        self.root.routing._reservations.clear()
        for reservation in list(self.root.chooser._reservations):
            self.root.chooser.refused(reservation)

    # -- what may happen

    def actions(self, state):
        found = []
        for at, (_, _, is_repeated) in enumerate(state.air):
            if at and state.air[at] == state.air[at - 1]:
                continue
            found.append(("deliver", at))
            if not is_repeated:
                found.append(("repeat", at))
        found += [("open", at) for at in range(len(state.opening))]
        found += [("event", at) for at in range(len(state.events))]
        if state.sent < self.limit and self.has_retries:
            found.append(("retry down", 0))
            if self.has_changes:
                found.append(("retry up", 0))
        return found

    def do(self, action, at):
        match action:
            case "deliver":
                way, data, _ = self.air.pop(at)
                self.hear(way, data)
            case "repeat":
                way, data, _ = self.air[at]
                self.air[at] = (way, data, True)
                self.hear(way, data)
            case "open":
                self.open(*self.opening.pop(at))
            case "event":
                event = self.events[at]
                self.events = self.events[:at] + self.events[at + 1 :]
                getattr(self, event)()
            case "retry down":
                self.retry_down()
            case "retry up":
                self.retry_up()
        self.work()

    def hear(self, way, data):
        message = messages.decode(data)
        end = self.up if way == "down" else self.down
        if end.link.is_open:
            run(end.link.handlers[type(message)]([message]))

    def work(self):
        """Do all that follows by itself."""
        while run(self.root.routing.pump_once()):
            pass
        run(self.down._send())
        if self.has_changes or self.is_mended:
            run(self.up._send_changes())

    def retry_down(self):
        for sent in self.down._sent.values():
            sent.due_s = 0.0
        for hop in self.down._awaited:
            self.down._awaited[hop] = 0.0
        run(self.down._send_again())

    def retry_up(self):
        for origin in self.up._origins.values():
            origin.due_s = 0.0
        self.up._send_again()

    def open(self, end, hello):
        link = self.down if end == "root" else self.up
        link.link.is_open = True
        run(link._on_open(hello))

    # -- events

    def restart_root(self):
        self.begin_root()
        self.end_session()

    def restart_leaf(self):
        self.begin_leaf()
        self.end_session()

    def end_session(self):
        self.air.clear()
        self.down.link.is_open = self.up.link.is_open = False
        hello = run(self.up._hello())
        told = run(self.down._hello())
        self.opening = [("root", hello), ("leaf", told)]

    def lose_commits(self):
        """Have the leaf's database come back from an older copy."""
        self.dbs[LEAF]._connection.deserialize(self.backup)
        self.restart_leaf()

    def change(self):
        run(self.dbs[LEAF].run(nodes.write_thing, "other", value=f"v{len(self.events)}"))

    change_again = change_more = change

    def move(self):
        """Give up on what the leaf was asked to build, and ask it again as if it were another."""
        for row in run(self.dbs[ROOT].read(rows.list_builds_at, LEAF)):
            reason = Verdict(id="", answer=NO)
            run(self.dbs[ROOT].run(self.root.routing._move, row.id, row.hop_id, reason))
            run(self.dbs[ROOT].run(lambda tx, row=row: forget_tried(tx, row.id)))

    def delete(self):
        run(self.dbs[ROOT].run(lambda tx: nodes.order(self.root, tx, "a", DELETE)))

    def set(self):
        wished = run(self.dbs[ROOT].read(lambda tx: tx.get(nodes.wishes, id="a")))
        if wished.cell_id is not None:
            run(self.dbs[ROOT].run(lambda tx: nodes.order(self.root, tx, "a", "set", value="new")))

    # -- what must be so

    def things(self, name):
        return run(self.dbs[name].read(lambda tx: tx.list(nodes.things, cell_id=LEAF)))

    def mend(self):
        """Have the link carry everything, and wait until nothing more comes of it."""
        self.is_mended = True
        while self.opening:
            self.open(*self.opening.pop())
        for _ in range(20):
            self.work()
            while self.air:
                way, data, _ = self.air.pop(0)
                self.hear(way, data)
                self.work()
            if self.is_quiet():
                return
            self.retry_down()
            self.retry_up()
            # Numbers that were lost and given anew before the root could tell are found so.
            run(self.up._tell_roots(LEAF))
        raise AssertionError("it never comes to rest")

    def is_quiet(self):
        left = run(self.dbs[ROOT].read(lambda tx: tx.list(rows.intents)))
        return not left and self.seen(ROOT) == self.seen(LEAF)

    def seen(self, name):
        node = self.root if name == ROOT else self.leaf

        def read(tx):
            return node.changes.place(tx, LEAF), node.changes.hashes(tx, LEAF)

        return run(self.dbs[name].read(read))

    def check_end(self):
        """Hold what has become of it all against what was asked."""
        self.checked += 1
        assert {row.id: row.value for row in self.things(ROOT)} == {
            row.id: row.value for row in self.things(LEAF)
        }
        assert {row.cell_id for row in self.things(ROOT)} <= {LEAF}
        if not self.has_build:
            return
        wished = run(self.dbs[ROOT].read(lambda tx: tx.get(nodes.wishes, id="a")))
        found = [row for row in self.things(LEAF) if row.id == "a"]
        begun = [row for row in found if row.begun]
        match wished.state:
            case "owned":
                assert [row.begun for row in begun] == [1]
                assert not begun[0].is_gone
            case "gone" | "failed":
                assert all(row.is_gone for row in found)
            case state:
                raise AssertionError(f"the wish is still {state}")
        closed = run(self.dbs[LEAF].read(lambda tx: tx.list(rows.intents)))
        fenced = {row.id for row in closed if row.kind == "build" and _answer(row) == NO}
        assert not [row for row in begun if row.build in fenced], "what was fenced has begun"
        held = self.leaf.executor.held - {"other"}
        assert held == {row.id for row in found if not row.is_gone}, "room is let go"

    # -- the walk

    def start(self):
        self.open("root", run(self.up._hello()))
        self.open("leaf", run(self.down._hello()))
        self.work()
        self.is_mended = True
        self.mend()
        self.is_mended = False
        self.sent = 0
        self.backup = self.dbs[LEAF]._connection.serialize()
        if self.has_build:
            run(self.dbs[ROOT].run(lambda tx: nodes.wish(self.root, tx, "a")))
        self.work()
        return self.take()

    def go(self):
        """Walk all ways; tell how many there are and how many states were met."""
        _, start = self.start()
        stack: list[tuple[State, list[int] | None]] = [(start, None)]
        while stack:
            state, children = stack.pop()
            if children is not None:
                # It may end here, or go on by each of its steps.
                self.ways[state.key] = 1 + sum(self.ways[child] for child in children)
                continue
            if state.key in self.ways:
                continue
            # Met, and counted when all that follows is.
            self.ways[state.key] = 0
            self.put_back(state)
            self.air.clear()
            self.mend()
            self.check_end()
            following, nexts = [], []
            for action, at in self.actions(state):
                self.put_back(state)
                self.do(action, at)
                self.transitions += 1
                key, new = self.take()
                if key == state.key:
                    continue
                following.append(key)
                if new is not None:
                    nexts.append((new, None))
            stack.append((state, following))
            stack += nexts
        return self.ways[start.key], len(self.ways)


def _answer(row):
    verdict = rows.verdict_of(row)
    return None if verdict is None else verdict.answer


def memory_key(memory):
    return repr(
        [sorted(part, key=repr) if isinstance(part, frozenset) else part for part in memory]
    )


def forget_tried(tx, intent_id):
    row = tx.find(rows.intents, id=intent_id)
    if row is not None:
        tx.update(rows.intents, {"id": intent_id}, tried=[])


#: What comes in between, how many messages, and what there is of builds, rows and time-outs.
SCENARIOS = {
    "a build": ((), 5, "build retries"),
    "a build that nothing comes between": ((), 6, "build"),
    "a build with its rows": ((), 5, "build changes retries"),
    "a build that is moved": (("move",), 5, "build"),
    "a build that is moved, in time": (("move",), 3, "build retries"),
    "a build that is deleted": (("delete",), 6, "build"),
    "a build that is deleted, in time": (("delete",), 3, "build retries"),
    "a build that is moved and deleted": (("move", "delete"), 3, "build"),
    "a build that is set and deleted": (("set", "delete"), 3, "build"),
    "a build while the root starts anew": (("restart_root",), 6, "build"),
    "a build while the leaf starts anew": (("restart_leaf",), 6, "build"),
    "a moved build while the leaf starts anew": (("move", "restart_leaf"), 3, "build"),
    "a moved build while the root starts anew": (("move", "restart_root"), 3, "build"),
    "changes": (("change", "change_again"), 6, "changes"),
    "changes, in time": (("change", "change_again"), 5, "changes retries"),
    "changes while the root starts anew": (("change", "restart_root"), 6, "changes retries"),
    "changes while the leaf starts anew": (("change", "restart_leaf"), 6, "changes retries"),
    "changes of which some are lost": (("change", "lose_commits", "change_again"), 5, "changes"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("events", "limit", "parts"), SCENARIOS.values(), ids=SCENARIOS)
def test_every_way_ends_well(events, limit, parts, record_property):
    walk = Walk(
        events,
        limit=limit,
        has_build="build" in parts,
        has_changes="changes" in parts,
        retries="retries" in parts,
    )
    ways, states = walk.go()
    report(record_property, walk, ways, states)


@pytest.fixture(autouse=True)
def quiet():
    """Say nothing of each of some hundred thousand steps."""
    old = structlog.get_config()["wrapper_class"]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(wrapper_class=old)


def report(record_property, walk, ways, states):
    """Tell how much was walked, in the report that ``--junit-xml`` writes."""
    found = {"ways": ways, "states": states, "steps": walk.transitions, "ends": walk.checked}
    for name, value in found.items():
        record_property(name, value)
    assert walk.checked == states
