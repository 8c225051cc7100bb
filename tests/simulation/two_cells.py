"""Two cells as automata: what the real code makes of each input in each of its states.

The nodes, their databases and both ends of the link are real, and so are the signed frames. A cell
does nothing by chance or by the clock, so what it does with an input in a state is found once, by
having the real code do it: its rows and its memory are put back, it is given the input, and what
it has become and what it has sent are kept.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from xenith.cells import intents as rows
from xenith.cells import messages
from xenith.cells import topology as documents
from xenith.cells.child import ChildLink, _Sent
from xenith.cells.intents import DELETE, NO, Verdict
from xenith.cells.keys import CellKey
from xenith.cells.link import Link
from xenith.cells.messages import Capacity, CapacityDelta, Ping
from xenith.cells.node import Node
from xenith.cells.parent import ParentLink, _Origin
from xenith.cells.topology import CellEntry, Topology
from xenith.core.ids import CellId
from xenith.core.world import World

ROOT, LEAF = CellId("root"), CellId("leaf")
KEYS = {name: CellKey.derive(name.encode()) for name in (ROOT, LEAF)}
SIGNED = documents.sign(
    Topology(
        region="test",
        version=1,
        cells=tuple(
            CellEntry(id=one, name=one, parents=parents, key=KEYS[one].public, state="open")
            for one, parents in ((ROOT, ()), (LEAF, (ROOT,)))
        ),
    ),
    KEYS[ROOT],
)
#: What tells of life and of room is not of the protocol: there is one child to choose.
UNSPOKEN = (Ping, Capacity, CapacityDelta)


def _load_nodes() -> ModuleType:
    if "nodes" not in sys.modules:
        path = Path(__file__).parents[1] / "cells" / "nodes.py"
        spec = importlib.util.spec_from_file_location("nodes", path)
        sys.modules["nodes"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["nodes"])
    return sys.modules["nodes"]


nodes = _load_nodes()


class Broken(BaseException):
    """What must never be, is."""


class Dies(BaseException):
    """The process ends here."""


class Waits(Exception):
    """A loop of a link has nothing more to do now."""


class Still:
    """A clock at which nothing takes time; when it is over, who sleeps does so for good."""

    is_over = False

    def now(self):
        return 1_700_000_000.0

    def monotonic(self):
        return 100.0

    async def sleep(self, _delay_s):
        if self.is_over:
            raise Waits


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


class Mouth:
    """A bus that keeps what is published, each frame as if it were the first."""

    def __init__(self):
        self.said = []
        self.link: Link

    async def publish(self, _topic, message, **_options):
        self.said.append(message)
        self.link._sequence = 0


@dataclass(frozen=True)
class Step:
    """What became of a cell, and what it sent."""

    state: int
    frames: tuple[bytes, ...]


class Cell:
    """One cell as an automaton: its states by number, and what each input makes of them.

    ``retry`` has all time pass that it waits for; ``restart`` is a new process on
    the same rows; ``die`` is one too, of which the old one dies with its first transaction undone;
    the others are methods of the cell's own.
    """

    name: CellId

    def __init__(self):
        self.ids = Counted()
        self.world = World(clock=Still(), ids=self.ids)
        self.db = nodes.new_database(self.world)
        self._run = self.db.run
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        self._tables = [name for (name,) in self.db._connection.execute(tables)]
        self._numbers: dict[Any, int] = {}
        self._states: list[tuple[bytes, Any]] = []
        self._facts: list[Any] = []
        self._steps: dict[Any, Step] = {}
        #: How often the real code was run.
        self.runs = 0
        self.begin()

    def begin(self):
        """Begin as a new process does."""
        raise NotImplementedError

    def link_up(self, end):
        """Have an end of the link say what it says into the open."""
        self.mouth, self.link = Mouth(), end.link
        self.mouth.link = self.link
        self.link._bus = self.mouth
        end._wake = self.link._has_outgoing = Turn()
        end._wake = Turn()
        self.link._has_incoming = {priority: Turn() for priority in self.link._has_incoming}
        post = self.link.post_all = self.link.post
        self.link.post = lambda message: isinstance(message, UNSPOKEN) or post(message)

    def node(self, **parts):
        node = Node(
            self.db,
            self.world,
            cell_id=self.name,
            key=KEYS[self.name],
            root=KEYS[ROOT].public,
            signed=SIGNED,
            buses=lambda _parent, _child: None,
            tables=(nodes.THINGS,),
            **parts,
        )
        run(node.prepare())
        return node

    # -- states

    def remember(self):
        """Give what the process holds in memory."""
        raise NotImplementedError

    def recall(self, memory):
        """Put back what the process held in memory."""
        raise NotImplementedError

    def take(self):
        """Number the state that the cell is in, the same for the same."""
        memory = (
            self.remember(),
            self.ids.count,
            (self.link._session, self.link._peer_session),
            (self.link._is_open, self.link._is_astray, self.link.version),
        )
        kept = [
            sorted(map(repr, self.db._connection.execute(f"SELECT * FROM {table}")))
            for table in self._tables
        ]
        key = (repr(kept), repr(memory))
        found = self._numbers.setdefault(key, len(self._states))
        if found == len(self._states):
            self._states.append((self.db._connection.serialize(), memory))
            self._facts.append(self.look())
        return found

    def put_back(self, state):
        data, memory = self._states[state]
        self.db._connection.deserialize(data)
        own, self.ids.count, sessions, opened = memory
        self.recall(own)
        self.link._session, self.link._peer_session = sessions
        self.link._is_open, self.link._is_astray, self.link.version = opened
        self.link._sequence = 0
        self.link.counts.clear()
        self.mouth.said.clear()

    def look(self):
        """Give what is known of this state to who mends, and refuse what must never be."""
        raise NotImplementedError

    def facts(self, state):
        return self._facts[state]

    # -- steps

    def step(self, state, name, *given, quietly=False) -> Step:
        """Have the real code take an input in a state, unless it did before."""
        key = (state, name, given, quietly)
        found = self._steps.get(key)
        if found is None:
            self.put_back(state)
            self.runs += 1
            getattr(self, name)(*given)
            self.work(quietly=quietly)
            self.flush()
            if self.link.counts["failed"]:
                raise Broken(f"{self.name} fails at {name}")
            found = Step(self.take(), tuple(dict.fromkeys(self.mouth.said)))
            self._steps[key] = found
        return found

    def flush(self):
        run(self.link._send())

    def work(self, *, quietly):
        """Do all that follows by itself."""
        raise NotImplementedError

    def hear(self, *frames):
        """Hear frames that come so close together that they are handled together."""
        for frame in frames:
            self.link._take(frame)
        for priority in self.link._incoming:
            run(self.link._handle(priority))

    def retry(self):
        """Have the time pass after which hellos and what is unanswered go again."""
        self.world.clock.is_over = True
        run(self.link._greet_until_answered())
        self.world.clock.is_over = False
        if self.link.is_open:
            self.send_again()

    def send_again(self):
        """Send what is unanswered."""
        raise NotImplementedError

    def restart(self):
        self.begin()

    def die(self, frame):
        """Hear a frame, and die before what comes of it is committed."""

        async def undo(_function, *_given, **_named):
            raise Dies

        self.db.run = undo
        try:
            self.hear(frame)
        except Dies:
            self.flush()
        finally:
            self.db.run = self._run
        said = self.mouth.said
        self.begin()
        self.mouth.said[:0] = said


class Root(Cell):
    """The cell that asks."""

    name = ROOT

    def begin(self):
        origin = nodes.Wishes()
        self.own = origin.node = self.node(origin=origin)
        self.own._set_rules(LEAF)
        self.end = ChildLink(self.own, LEAF, None)
        self.link_up(self.end)
        self.own.children = {LEAF: self.end}
        self.own.chooser.hear(nodes.Things(None, None, LEAF, slots=100).capacity())

    def remember(self):
        end = self.end
        return (
            tuple(end._ready.items()),
            tuple(end._fresh.items()),
            tuple((hop, sent.subject) for hop, sent in end._sent.items()),
            tuple(sorted(end._busy)),
            tuple(end._awaited),
        )

    def recall(self, memory):
        ready, fresh, sent, busy, awaited = memory
        for old, new in (
            (self.end._ready, ready),
            (self.end._fresh, fresh),
            (self.end._sent, [(hop, _Sent(subject, 0.0)) for hop, subject in sent]),
            (self.end._awaited, [(hop, 0.0) for hop in awaited]),
        ):
            old.clear()
            old.update(new)
        self.end._busy = set(busy)
        # Each state makes a choice of its own, on room that is always there.
        self.own.routing._reservations.clear()
        self.own.routing.decisions = self.end._heard_digest = 0
        for reservation in list(self.own.chooser._reservations):
            self.own.chooser.refused(reservation)

    def look(self):
        def read(tx):
            left = [row.id for row in tx.list(rows.intents)]
            return left, self.own.changes.place(tx, LEAF), self.own.changes.hashes(tx, LEAF)

        left, *seen = run(self.db.read(read))
        return self.link.is_open, not left, seen

    def work(self, *, quietly):
        while run(self.own.routing.pump_once()):
            pass
        self.end._wake.set()
        run(self.end._send())

    def send_again(self):
        for sent in self.end._sent.values():
            sent.due_s = 0.0
        for hop in self.end._awaited:
            self.end._awaited[hop] = 0.0
        run(self.end._send_again())

    def ping(self):
        self.link.post_all(Ping(1, 1))

    # -- what is asked

    def wish(self):
        run(self.db.run(lambda tx: nodes.wish(self.own, tx, "a")))

    def move(self):
        """Give up on what the leaf was asked to build, and ask it again as if it were another."""
        for row in run(self.db.read(rows.list_builds_at, LEAF)):
            reason = Verdict(id="", answer=NO)
            run(self.db.run(self.own.routing._move, row.id, row.hop_id, reason))
            run(self.db.run(lambda tx, row=row: _forget_tried(tx, row.id)))

    def delete(self):
        run(self.db.run(lambda tx: nodes.order(self.own, tx, "a", DELETE)))

    def set(self):
        if run(self.db.read(lambda tx: tx.get(nodes.wishes, id="a"))).cell_id is not None:
            run(self.db.run(lambda tx: nodes.order(self.own, tx, "a", "set", value="new")))


def _forget_tried(tx, intent_id):
    row = tx.find(rows.intents, id=intent_id)
    if row is not None:
        tx.update(rows.intents, {"id": intent_id}, tried=[])


class Leaf(Cell):
    """The cell that does."""

    name = LEAF

    def __init__(self):
        self._unlisten: Callable[[], None] = lambda: None
        #: Intents whose effects are committed, as the walk has seen and no process forgets.
        self.applied: set[str] = set()
        self._backup: tuple[bytes, set[str]] | None = None
        super().__init__()

    def begin(self):
        self.executor = OnceThings(self.db, self.world, LEAF, slots=100)
        self.executor.cell = self
        self.own = self.node(executor=self.executor)
        run(self.executor.load())
        self.end = ParentLink(self.own, ROOT, None)
        self.link_up(self.end)
        self._unlisten()
        self._unlisten = self.own.db.listen("cells.changes", self.end._on_change)
        self.own.parents = {ROOT: self.end}

    def remember(self):
        origins = tuple(
            (name, (o.acked.epoch, o.acked.number), o.sent, o.in_flight, o.is_news, o.known_epoch)
            for name, o in sorted(self.end._origins.items())
        )
        return (
            origins,
            tuple(sorted(self.end._dirty)),
            tuple(sorted(self.executor.held)),
            tuple(sorted(self.applied)),
        )

    def recall(self, memory):
        origins, dirty, held, applied = memory
        self.end._origins.clear()
        for name, acked, sent, in_flight, is_news, known in origins:
            self.end._origins[name] = _Origin(
                messages.Place(*acked), sent, in_flight, is_news=is_news, known_epoch=known
            )
        self.end._dirty = set(dirty)
        self.executor.held = set(held)
        self.applied = set(applied)
        # These are of the news of what is free, which is not told here.
        self.own.routing.decisions = self.end._sequence = 0
        self.end._told = None

    def look(self):
        def read(tx):
            changes = self.own.changes
            return (
                tx.list(nodes.things),
                tx.list(rows.intents),
                (changes.place(tx, LEAF), changes.hashes(tx, LEAF)),
            )

        things, intents, seen = run(self.db.read(read))
        fenced = {row.id for row in intents if row.kind == "build" and _answer(row) == NO}
        for thing in things:
            if thing.begun > 1:
                raise Broken(f"{thing.id} has begun {thing.begun} times")
            if thing.begun and thing.build in fenced:
                raise Broken(f"{thing.id} has begun, and its build was fenced")
        return self.link.is_open, True, list(seen)

    def work(self, *, quietly):
        if not quietly:
            self.end._wake.set()
            run(self.end._send_changes())

    def send_again(self):
        for origin in self.end._origins.values():
            origin.due_s = 0.0
        self.end._send_again()

    def compare(self):
        run(self.end._tell_roots(LEAF))

    # -- what happens there

    def keep_copy(self):
        self._backup = self.db._connection.serialize(), set(self.applied)

    def lose_commits(self):
        """Have the database come back from an older copy."""
        data, self.applied = self._backup[0], set(self._backup[1])
        self.db._connection.deserialize(data)
        self.begin()

    def change(self):
        run(self.db.run(_change_thing))

    change_again = change_more = change

    def change_another(self):
        run(self.db.run(nodes.write_thing, "another", value="v"))


def _change_thing(tx):
    row = tx.find(nodes.things, id="other", cell_id=LEAF)
    nodes.write_thing(tx, "other", value="v" if row is None else row.value + "v")


def _answer(row):
    verdict = rows.verdict_of(row)
    return None if verdict is None else verdict.answer


class OnceThings(nodes.Things):
    """A leaf that does not bear being asked twice."""

    cell: Leaf

    def apply(self, tx, intent, prepared):
        if intent.id in self.cell.applied:
            raise Broken(f"{intent.kind} {intent.id} is applied again")
        tx.on_commit(lambda: self.cell.applied.add(intent.id))
        return super().apply(tx, intent, prepared)
