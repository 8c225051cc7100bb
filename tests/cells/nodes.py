"""Trees of bare nodes for tests of the protocol: all real but what a leaf does and a root wants.

A ``Things`` leaf holds things in so many slots, a ``Wishes`` root asks for them. Nodes talk over an
``Air``, which a test may listen to, cut, or have lose what it picks. Everything runs on virtual
time, the same for the same seed: ``play(scenario)`` runs ``scenario(simulation)``.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple, Self

import msgspec
import sqlalchemy as sa

import xenith.cells.joining  # noqa: F401 - its tables are part of a cell's
from xenith.bus import MemoryBus, Priority
from xenith.cells import intents as kinds
from xenith.cells import messages
from xenith.cells import topology as documents
from xenith.cells.capacity import CapacityClass, ClassKey, Digest
from xenith.cells.changes import ChangedTable, carried_columns, mark_change
from xenith.cells.choosing import Wanted
from xenith.cells.frames import Header
from xenith.cells.intents import Intent, Verdict
from xenith.cells.keys import CellKey
from xenith.cells.node import Node
from xenith.cells.topology import CellEntry, Topology
from xenith.core.errors import Invalid, NotFound
from xenith.core.ids import CellId
from xenith.core.world import World
from xenith.db import Database, Flag, Json, Row, Tx, open_database
from xenith.db.migrate import prepare
from xenith.dev.simulation import Simulation, run_simulation

RAM_MIB = 512
REGION = "test"

TABLES = sa.MetaData()
things = sa.Table(
    "things",
    TABLES,
    sa.Column("id", sa.Text, primary_key=True),
    *carried_columns(),
    sa.Column("value", sa.Text),
    sa.Column("applied", sa.BigInteger, nullable=False),
    sa.Column("is_gone", Flag, nullable=False),
    sa.Column("build", sa.Text, nullable=False),
    # How often the build has begun: what must never be above one, and never at all when fenced.
    sa.Column("begun", sa.BigInteger, nullable=False),
    sa.Column("secret", sa.Text),
)
sa.Index("things_by_change", things.c.cell_id, things.c.change_number)
THINGS = ChangedTable("thing", things, ("id",), private=frozenset({"secret"}))

others = sa.Table(
    "others",
    TABLES,
    sa.Column("id", sa.Text, primary_key=True),
    *carried_columns(),
    sa.Column("value", sa.Text),
)
sa.Index("others_by_change", others.c.cell_id, others.c.change_number)
OTHERS = ChangedTable("other", others, ("id",))

wishes = sa.Table(
    "wishes",
    TABLES,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("cell_id", sa.Text),
    # wanted, owned, failed, deleting, gone
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("detail", sa.Text),
    sa.Column("number", sa.BigInteger, nullable=False),
    # Every last word that was heard, as [kind, number, answer].
    sa.Column("heard", Json, nullable=False),
)


def new_database(world: World) -> Database:
    """Open an empty database in memory with all tables of a node."""
    db = open_database("sqlite://", ids=world.ids, clock=world.clock)
    prepare(db, trees=("cell",))

    def create(connection: Any) -> None:
        from sqlalchemy.dialects import sqlite
        from sqlalchemy.schema import CreateIndex, CreateTable

        for table in TABLES.sorted_tables:
            connection.execute(str(CreateTable(table).compile(dialect=sqlite.dialect())))
            for index in table.indexes:
                connection.execute(str(CreateIndex(index).compile(dialect=sqlite.dialect())))

    db.run_script(create)
    return db


# -- what a leaf does


class Things:
    """An executor: holds things in slots; takes set, fail and slow besides what nodes know."""

    def __init__(self, db: Database, world: World, cell_id: str, *, slots: int) -> None:
        self.db = db
        self.world = world
        self.cell_id = cell_id
        self.slots = slots
        self.held: set[str] = set()
        self.hint = ""
        self.zone = "nova"
        #: Ids of intents in the order in which they were applied.
        self.applied: list[str] = []
        self.done: list[tuple[str, int]] = []

    async def load(self) -> None:
        rows = await self.db.read(lambda tx: tx.list(things, cell_id=self.cell_id, is_gone=False))
        self.held = {row.id for row in rows}

    def prepare(self, intent: Intent) -> Any:
        if intent.kind != kinds.BUILD:
            return None
        params = intent.params
        if intent.subject in self.held:
            return SimpleNamespace(params=params, is_new=False, has_room=True)
        has_room = len(self.held) < self.slots
        if has_room:
            self.held.add(intent.subject)
        return SimpleNamespace(params=params, is_new=has_room, has_room=has_room)

    def apply(self, tx: Tx, intent: Intent, prepared: Any) -> Verdict:
        tx.on_commit(lambda: self.applied.append(intent.id))
        tx.on_commit(lambda: self.done.append((intent.kind, intent.number)))
        row = tx.find(things, id=intent.subject, cell_id=self.cell_id)
        if intent.kind == kinds.BUILD:
            return self._build(tx, intent, prepared, row)
        if row is None:
            return Verdict(id=intent.id, answer=kinds.ABSENT)
        if intent.number and intent.number <= row.applied:
            return Verdict(id=intent.id, answer=kinds.DONE, detail="overtaken")
        match intent.kind:
            case kinds.CONFIRM:
                if row.is_gone or row.build != intent.params["build"]:
                    return Verdict(id=intent.id, answer=kinds.ABSENT)
                if not row.begun:
                    self._change(tx, intent, begun=row.begun + 1)
            case kinds.DELETE:
                self._change(tx, intent, is_gone=True)
                tx.on_commit(lambda: self.held.discard(intent.subject))
            case "set":
                self._change(tx, intent, value=intent.params["value"])
            case "fail":
                raise Invalid("as it was told to")
            case _:
                return Verdict(id=intent.id, answer=kinds.NO, reason=f"what is {intent.kind}?")
        return Verdict(id=intent.id, answer=kinds.DONE)

    def _build(self, tx: Tx, intent: Intent, prepared: Any, row: Row | None) -> Verdict:
        yes = Verdict(id=intent.id, answer=kinds.YES, cell=self.cell_id, build=intent.id)
        if row is not None and not row.is_gone:
            if row.begun:
                return Verdict(id=intent.id, answer=kinds.NO, reason="It is here already.")
            self._change(tx, intent, build=intent.id)
            return yes
        if not prepared.has_room:
            return Verdict(id=intent.id, answer=kinds.NO, reason="It is full.", hint=self.hint)
        values = {
            "id": intent.subject,
            "value": None,
            "applied": intent.number,
            "is_gone": False,
            "build": intent.id,
            "begun": 0,
            "secret": "only here",
            **mark_change(tx),
        }
        tx.upsert(things, values)
        return yes

    def _change(self, tx: Tx, intent: Intent, **values: Any) -> None:
        if intent.number:
            values["applied"] = intent.number
        tx.update(
            things, {"id": intent.subject, "cell_id": self.cell_id}, **values, **mark_change(tx)
        )

    def abandon(self, intent: Intent, prepared: Any) -> None:
        if prepared.is_new:
            self.held.discard(intent.subject)

    def fence(self, tx: Tx, subject: str, build: str) -> None:
        row = tx.find(things, id=subject, cell_id=self.cell_id)
        if row is not None and row.build == build and not row.begun and not row.is_gone:
            tx.update(
                things, {"id": subject, "cell_id": self.cell_id}, is_gone=True, **mark_change(tx)
            )
            tx.on_commit(lambda: self.held.discard(subject))

    def capacity(self) -> Digest:
        free = max(self.slots - len(self.held), 0)
        bins = ((RAM_MIB, 1, 1, free),) if free else ()
        return Digest(
            cell_id=self.cell_id,
            host_count=1,
            hosts_up_count=1,
            server_count=len(self.held),
            classes=(CapacityClass(ClassKey(zone=self.zone), bins),),
        )

    async def answer(self, method: str, params: dict[str, Any]) -> Any:
        match method:
            case "echo":
                return {"cell": self.cell_id, **params}
            case "missing":
                raise NotFound("there is no such thing", thing=params)
            case "break":
                raise RuntimeError("a mistake of ours")
            case "never":
                await asyncio.get_running_loop().create_future()
            case "long":
                return "x" * params["bytes"]
        raise NotFound(f"what is {method}?")


# -- what a root wants


class Wishes:
    """An origin: owns what was accepted and has it begin, as an API cell does."""

    def __init__(self) -> None:
        self.node: Node

    def answered(self, tx: Tx, intent: Intent, verdict: Verdict) -> None:
        wish = tx.find(wishes, id=intent.subject)
        if wish is None:
            return
        heard = [*wish.heard, [intent.kind, intent.number, verdict.answer]]
        values: dict[str, Any] = {"heard": heard}
        match intent.kind, verdict.answer:
            case kinds.BUILD, kinds.YES:
                values |= {"cell_id": verdict.cell, "state": "owned"}
                self.node.send(
                    tx,
                    subject=wish.id,
                    number=0,
                    kind=kinds.CONFIRM,
                    target=verdict.cell,
                    params={"build": verdict.build},
                    request_id="",
                )
            case (kinds.BUILD, _) | (kinds.CONFIRM, kinds.ABSENT | kinds.NO):
                values |= {"state": "failed", "reason": verdict.reason, "detail": verdict.detail}
            case kinds.DELETE, _:
                values |= {"state": "gone"}
        tx.update(wishes, {"id": wish.id}, **values)


def wish(node: Node, tx: Tx, subject: str, **options: Any) -> str:
    """Ask for a thing, in a transaction of the root."""
    tx.insert(
        wishes,
        {
            "id": subject,
            "cell_id": None,
            "state": "wanted",
            "reason": None,
            "detail": None,
            "number": 1,
            "heard": [],
        },
    )
    return node.send(tx, **{**_build(subject), **options})


def _build(subject: str) -> dict[str, Any]:
    return {
        "subject": subject,
        "number": 1,
        "kind": kinds.BUILD,
        "params": {"what": subject},
        "wanted": Wanted(ram_mib=RAM_MIB, vcpus=1, disk_gib=1, project_id="p"),
        "request_id": "req-1",
    }


def order(node: Node, tx: Tx, subject: str, kind: str, **params: Any) -> str:
    """Ask for something of a thing, where its wish says that it is."""
    row = tx.get(wishes, id=subject)
    tx.update(wishes, {"id": subject}, number=row.number + 1)
    if kind == kinds.DELETE:
        tx.update(wishes, {"id": subject}, state="deleting" if row.cell_id else "gone")
    return node.send(
        tx,
        subject=subject,
        number=row.number + 1,
        kind=kind,
        target=row.cell_id or "",
        params=params,
        request_id="req-2",
    )


# -- what is between them


class Spoken(NamedTuple):
    """A frame on the air, opened without its key."""

    sender: str
    receiver: str
    header: Header
    #: The messages as msgpack has them, with their tags under ``type``.
    messages: list[dict[str, Any]]
    data: bytes

    @property
    def kinds(self) -> list[str]:
        return [message["type"] for message in self.messages]


def opened(data: bytes) -> tuple[Header, list[dict[str, Any]]]:
    """Read a frame without checking who signed it."""
    _, _, header_length, body_length = struct.unpack_from(">4sBHI", data)
    header = msgspec.msgpack.decode(data[11 : 11 + header_length], type=Header)
    body = data[11 + header_length : 11 + header_length + body_length]
    return header, msgspec.msgpack.decode(body)


class Air(MemoryBus):
    """A bus whose frames are heard by ``listeners``, and lost where ``loses`` says so or cut."""

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        self.cut: set[tuple[str, str]] = set()
        self.loses: Callable[[Spoken], bool] = lambda _: False
        self.listeners: list[Callable[[Spoken], None]] = []
        self.count = 0

    async def publish(
        self, topic: str, message: bytes, *, priority: Priority, timeout_s: float = 5.0
    ) -> None:
        self.count += 1
        sender, receiver = topic.split(">")
        if self.listeners or self.loses is not None:
            header, body = opened(message)
            spoken = Spoken(sender, receiver, header, body, message)
            for listener in self.listeners:
                listener(spoken)
            if (sender, receiver) in self.cut or self.loses(spoken):
                return
        await super().publish(topic, message, priority=priority, timeout_s=timeout_s)

    def part(self, one: str, other: str) -> None:
        self.cut |= {(one, other), (other, one)}

    def join(self, one: str, other: str) -> None:
        self.cut -= {(one, other), (other, one)}


# -- trees


class Tree:
    """Nodes by name, which are their ids too. A cell that is nobody's parent is a leaf."""

    def __init__(
        self,
        simulation: Simulation,
        parents: Mapping[str, Iterable[str]],
        *,
        slots: Mapping[str, int] | int = 10,
        tables: Mapping[str, Iterable[ChangedTable]] | None = None,
        has_skew: bool = False,
    ) -> None:
        self.simulation = simulation
        self.parents = {name: tuple(of) for name, of in parents.items()}
        self.root = next(name for name, of in self.parents.items() if not of)
        self._slots = slots
        self._tables = dict(tables or {})
        self._has_skew = has_skew
        self.keys = {name: CellKey.derive(name.encode()) for name in self.parents}
        self.air = Air(self.world("air").clock)
        self.databases: dict[str, Database] = {}
        self.nodes: dict[str, Node] = {}
        self.topology = Topology(
            region=REGION, version=1, cells=tuple(self.entry(name) for name in self.parents)
        )
        self.signed = documents.sign(self.topology, self.keys[self.root])
        self._ends: list[Callable[[], Awaitable[None]]] = []

    def world(self, name: str) -> World:
        if self._has_skew:
            return self.simulation.world(name)
        return self.simulation.world(name, skew_s=0.0, drift=0.0)

    def entry(self, name: str) -> CellEntry:
        return CellEntry(
            id=CellId(name),
            name=name,
            parents=tuple(CellId(one) for one in self.parents[name]),
            key=self.keys[name].public,
            state="open",
        )

    @property
    def leaves(self) -> list[str]:
        above = {one for of in self.parents.values() for one in of}
        return [name for name in self.parents if name not in above]

    def make(self, name: str) -> Node:
        """Make a node on its rows, as a new process would."""
        world = self.world(name)
        db = self.databases.get(name)
        if db is None:
            db = self.databases[name] = new_database(world)
        executor = None
        if name in self.leaves:
            slots = self._slots if isinstance(self._slots, int) else self._slots[name]
            executor = Things(db, world, name, slots=slots)
        origin = Wishes() if name == self.root else None
        node = Node(
            db,
            world,
            cell_id=CellId(name),
            key=self.keys[name],
            root=self.keys[self.root].public,
            signed=self.signed,
            buses=lambda _parent, _child: self.air,
            tables=tuple(self._tables.get(name, (THINGS, OTHERS))),
            executor=executor,
            origin=origin,
        )
        if origin is not None:
            origin.node = node
        self.nodes[name] = node
        return node

    async def start(self, *names: str) -> None:
        for name in names or self.parents:
            node = self.make(name)
            await node.prepare()
            if node.executor is not None:
                await node.executor.load()
            await node.start()

    async def stop(self, *names: str) -> None:
        for name in names or tuple(self.nodes):
            if name in self.nodes:
                await self.nodes.pop(name).stop()

    async def restart(self, name: str) -> None:
        await self.stop(name)
        await self.start(name)

    async def lose_owner(self, subject: str) -> str:
        """Start all, have a subject owned, and stop the cell that owns it; give that cell."""
        await self.start()
        await self.ready()
        await self.wish(subject)
        owner = (await self.reaches(subject, "owned")).cell_id
        await self.settle()
        await self.stop(owner)
        return owner

    async def ready(self) -> None:
        """Wait until the root would choose each of its children."""

        def is_ready() -> bool:
            return (
                all(
                    not node.chooser.is_dead(child) and link.link.is_open
                    for node in self.nodes.values()
                    for child, link in node.children.items()
                )
                and self._sees_room()
            )

        await self.until(is_ready)

    def _sees_room(self) -> bool:
        root = self.nodes[self.root]
        return bool(root.is_leaf or root.chooser.classes())

    async def until(
        self, condition: Callable[[], Any], *, timeout_s: float = 120.0, step_s: float = 0.05
    ) -> float:
        """Wait on virtual time until a condition holds; tell how long that took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            found = condition()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return loop.time() - began
            assert loop.time() - began < timeout_s, f"not within {timeout_s} s"
            await asyncio.sleep(step_s)

    # -- what the root asks and sees

    async def wish(self, subject: str, **options: Any) -> str:
        node = self.nodes[self.root]
        return await node.db.run(lambda tx: wish(node, tx, subject, **options))

    async def order(self, subject: str, kind: str, **params: Any) -> str:
        node = self.nodes[self.root]
        return await node.db.run(lambda tx: order(node, tx, subject, kind, **params))

    async def wished(self, subject: str) -> Row:
        return await self.databases[self.root].read(lambda tx: tx.get(wishes, id=subject))

    async def reaches(self, subject: str, state: str, *, timeout_s: float = 120.0) -> Row:
        async def has_it() -> bool:
            return (await self.wished(subject)).state == state

        await self.until(has_it, timeout_s=timeout_s)
        return await self.wished(subject)

    async def rows(self, name: str, table: sa.Table = things, **keys: Any) -> list[Row]:
        return await self.databases[name].read(lambda tx: tx.list(table, **keys))

    async def thing(self, cell: str, subject: str, *, at: str | None = None) -> Row | None:
        """Give a leaf's thing, as that leaf has it or as another cell knows it."""
        found = await self.rows(at or cell, things, id=subject, cell_id=cell)
        return found[0] if found else None

    async def write(self, cell: str, subject: str, **values: Any) -> None:
        """Change or make a thing in its leaf, as its work would."""
        await self.databases[cell].run(write_thing, subject, **values)

    async def open_intents(self, name: str) -> list[Row]:
        found = await self.rows(name, kinds.intents)
        return [row for row in found if row.closed_at is None]

    async def is_settled(self) -> bool:
        """Tell whether nothing is open anywhere, and every cell knows what its leaves know."""
        for name in self.nodes:
            if await self.open_intents(name):
                return False
        return await self.is_whole()

    async def is_whole(self) -> bool:
        for leaf in self.leaves:
            own = await self.seen(leaf, leaf)
            for name, node in self.nodes.items():
                is_above = leaf in node.topology.descendants(CellId(name))
                if is_above and await self.seen(name, leaf) != own:
                    return False
        return True

    async def seen(self, name: str, origin: str) -> Any:
        """Give an origin's place and rows as a cell has them, without what is private."""

        def read(tx: Tx) -> Any:
            changes = self.nodes[name].changes
            return changes.place(tx, origin), changes.hashes(tx, origin)

        return await self.databases[name].read(read)

    async def settle(self, *, timeout_s: float = 300.0) -> None:
        await self.until(self.is_settled, timeout_s=timeout_s, step_s=0.25)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def write_thing(tx: Tx, subject: str, **values: Any) -> None:
    """Change or make a thing of this cell. Transaction function."""
    mark = mark_change(tx)
    if tx.find(things, id=subject, cell_id=mark["cell_id"]) is None:
        blank = {
            "value": None,
            "applied": 0,
            "is_gone": False,
            "build": "",
            "begun": 0,
            "secret": "s",
        }
        tx.insert(things, {"id": subject, **blank, **values, **mark})
    else:
        tx.update(things, {"id": subject, "cell_id": mark["cell_id"]}, **values, **mark)


def write_other(tx: Tx, subject: str, value: str) -> None:
    """Write a row of the second kind. Transaction function."""
    tx.upsert(others, {"id": subject, "value": value, "extra": None, **mark_change(tx)})


def frame(
    key: CellKey,
    *,
    sender: str,
    receiver: str,
    session: str,
    to_session: str,
    body: list[Any],
    sequence: int = 1,
) -> bytes:
    """Write a frame of any messages, truly signed."""
    from xenith.cells.frames import encode

    header = Header(
        sender=CellId(sender),
        receiver=CellId(receiver),
        session=session,
        to_session=to_session,
        sequence=sequence,
        kind="messages",
        sent_at=1_700_000_000.0,
    )
    return encode(key, header, msgspec.msgpack.encode(body))


def builtins(message: messages.Message) -> dict[str, Any]:
    """Give a message as msgpack has it, for a test to change."""
    found: dict[str, Any] = msgspec.msgpack.decode(messages.encode(message))
    return found


def play(scenario: Callable[[Simulation], Any], *, seed: int = 1) -> Any:
    """Run a scenario on virtual time."""
    return run_simulation(scenario, seed=seed)


def say(tree: Tree, sender: str, receiver: str, *body: Any) -> Awaitable[None]:
    """Say anything to a cell in the name of its neighbour, within their session."""
    node = tree.nodes[receiver]
    link = (node.parents.get(CellId(sender)) or node.children[CellId(sender)]).link
    data = frame(
        tree.keys[sender],
        sender=sender,
        receiver=receiver,
        session=link._peer_session,
        to_session=link._session,
        body=[one if isinstance(one, dict) else builtins(one) for one in body],
    )
    return tree.air.publish(f"{sender}>{receiver}", data, priority=Priority.INTENT)
