"""Intents: what a cell asks of those below it, and what became of them.

A row of ``intents`` is outbox and inbox in one. The cell that asks writes it with the rows that it
follows from; nothing after that can lose it. On its way down each cell has a row of its own under
the id that its parent gave it, open until there is a verdict and kept for a while after, so that an
intent that comes again is answered and not done again.

A build that is sent a second time, to another cell, goes under another id; the first id is fenced
where it went, which means answered with *no* before or after it arrives. What was fenced can never
come to life, since a cell begins a build only when the root has confirmed that id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from xenith.cells.choosing import Wanted
from xenith.db import CELL, Json, Prepared, Row, Tx

#: Intents that one transaction plans, and one message carries.
BATCH_INTENTS_MAX = 64

#: Kinds that the nodes themselves know; all others are for who owns the subject.
BUILD, CONFIRM, FENCE, DELETE = "build", "confirm", "fence", "delete"

#: It is written down; the final word comes later.
TAKEN = "taken"
#: It was done, or will be; what comes of it travels up as changes.
DONE = "done"
#: A build: a cell holds the room for it, and waits for the word to begin.
YES = "yes"
#: A build: no room, or not allowed. Others may be tried.
NO = "no"
#: The cell does not have the subject.
ABSENT = "absent"


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """One request on its way down, as one cell gives it to the next."""

    id: str
    #: The server that it is about.
    subject: str
    #: Counts the intents on a subject, from 1; 0 for those between nodes, which have no order.
    number: int
    kind: str
    #: What only the owner opens, as msgpack; routers pass it on as it is.
    body: bytes
    #: The cell that has the subject; empty for a build, and until one has accepted it.
    target: str = ""
    #: What a build needs of a cell.
    wanted: Wanted | None = None
    #: Who asked: user and project.
    principal: dict[str, str] = {}
    request_id: str = ""
    #: The generation of the subject's row that the asker saw; 0 when it saw none.
    generation: int = 0
    created_at: float = 0.0
    #: After this it is not begun any more. Epoch seconds of the asker's clock.
    deadline_at: float | None = None

    @property
    def params(self) -> dict[str, Any]:
        """What the owner needs to know."""
        found: dict[str, Any] = msgspec.msgpack.decode(self.body)
        return found


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a cell says of an intent that it was given."""

    id: str
    answer: str
    #: For a tenant.
    reason: str = ""
    #: For an admin; may name cells and hosts.
    detail: str = ""
    #: The cell that accepted, and the id under which it did.
    cell: str = ""
    build: str = ""
    #: The answering cell's count of builds accepted. Its digest has this one in it from there on.
    decision: int = 0
    #: A cell to try instead.
    hint: str = ""
    #: Said of a target that is not below the cell that was asked: it may have moved on the way.
    is_unrouted: bool = False
    #: How cells were chosen on the way, the answering cell's own choice last.
    trail: list[dict[str, Any]] = []

    @property
    def is_final(self) -> bool:
        """Whether nothing more will be said."""
        return self.answer != TAKEN


_encode = msgspec.msgpack.Encoder().encode
_decode_intent = msgspec.msgpack.Decoder(Intent).decode
_decode_verdict = msgspec.msgpack.Decoder(Verdict).decode

intents = sa.Table(
    "intents",
    CELL,
    sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    # The neighbour that gave it; empty for this cell's own.
    sa.Column("parent", sa.Text, nullable=False),
    # The neighbour that it was given to, under which id; null until that is decided.
    sa.Column("next_hop", sa.Text),
    sa.Column("hop_id", sa.Text, unique=True),
    sa.Column("attempt", sa.BigInteger, nullable=False),
    # Cells that said no, with what they said, and how each choice was made.
    sa.Column("tried", Json, nullable=False),
    sa.Column("trail", Json, nullable=False),
    # The intent as msgpack; emptied when it is closed.
    sa.Column("intent", sa.LargeBinary, nullable=False),
    sa.Column("verdict", sa.LargeBinary),
    sa.Column("deadline_at", sa.Float),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("closed_at", sa.Float),
)
sa.Index("intents_open", intents.c.closed_at, intents.c.next_hop, intents.c.sequence)
sa.Index("intents_by_subject", intents.c.subject)

_UNDECIDED = Prepared(
    sa.select(intents)
    .where(
        intents.c.closed_at.is_(None),
        intents.c.next_hop.is_(None),
        intents.c.sequence > sa.bindparam("after"),
    )
    .order_by(intents.c.sequence)
    .limit(BATCH_INTENTS_MAX)
)
_OPEN_AT = Prepared(
    sa.select(intents.c.hop_id, intents.c.subject, intents.c.sequence)
    .where(
        intents.c.closed_at.is_(None),
        intents.c.next_hop == sa.bindparam("next_hop"),
        intents.c.sequence > sa.bindparam("after"),
    )
    .order_by(intents.c.sequence)
    .limit(1000)
)
_BUILDS_AT = Prepared(
    sa.select(intents)
    .where(
        intents.c.closed_at.is_(None),
        intents.c.next_hop == sa.bindparam("next_hop"),
        intents.c.sequence > sa.bindparam("after"),
        intents.c.kind == BUILD,
    )
    .order_by(intents.c.sequence)
    .limit(BATCH_INTENTS_MAX)
)
_OPEN_OF = Prepared(
    sa.select(intents)
    .where(
        intents.c.subject == sa.bindparam("subject"),
        intents.c.kind == BUILD,
        intents.c.closed_at.is_(None),
    )
    .order_by(intents.c.sequence)
)
_OVERDUE = Prepared(
    sa.select(intents)
    .where(
        intents.c.closed_at.is_(None),
        intents.c.parent == "",
        intents.c.kind == BUILD,
        intents.c.deadline_at < sa.bindparam("now"),
    )
    .limit(BATCH_INTENTS_MAX)
)
_COUNTS = Prepared(
    sa.select(intents.c.next_hop, sa.func.count().label("count"))
    .where(intents.c.closed_at.is_(None))
    .group_by(intents.c.next_hop)
)


def insert(
    tx: Tx,
    intent: Intent,
    *,
    parent: str,
    next_hop: str | None = None,
    trail: list[dict[str, Any]] | None = None,
    verdict: Verdict | None = None,
) -> None:
    """Write an intent down: undecided, given to a neighbour, or answered at once."""
    now = tx.world.clock.now()
    tx.insert(
        intents,
        {
            "id": intent.id,
            "subject": intent.subject,
            "kind": intent.kind,
            "parent": parent,
            "next_hop": next_hop,
            "hop_id": None if next_hop is None else hop_id(intent.id, 1),
            "attempt": 1,
            "tried": [],
            "trail": trail or [],
            "intent": b"" if verdict is not None else _encode(intent),
            "verdict": None if verdict is None else _encode(verdict),
            "deadline_at": intent.deadline_at,
            "created_at": now,
            "closed_at": None if verdict is None else now,
        },
    )


def hop_id(intent_id: str, attempt: int) -> str:
    """Give the id under which an intent goes on to the next cell.

    >>> hop_id("a", 2)
    'a.2'
    """
    return f"{intent_id}.{attempt}"


def intent_of(row: Row) -> Intent:
    """Read the intent of a row that is open."""
    return _decode_intent(row.intent)


def verdict_of(row: Row) -> Verdict | None:
    """Read the verdict of a row, if there is one."""
    return None if row.verdict is None else _decode_verdict(row.verdict)


def next_intent(row: Row) -> Intent:
    """Give the intent of a row as the next cell gets it."""
    return msgspec.structs.replace(intent_of(row), id=row.hop_id)


def list_undecided(tx: Tx, *, after: int) -> list[Row]:
    """List open intents that no neighbour has been chosen for, in the order of their arrival."""
    return tx.all(_UNDECIDED, after=after)


def list_open_at(tx: Tx, next_hop: str, *, after: int = 0) -> list[Row]:
    """List what was given to a neighbour and has no verdict: ids, subjects, sequences."""
    return tx.all(_OPEN_AT, next_hop=next_hop, after=after)


def list_builds_at(tx: Tx, next_hop: str, *, after: int = 0) -> list[Row]:
    """List a batch of the builds that a neighbour was given and has not answered for good."""
    return tx.all(_BUILDS_AT, next_hop=next_hop, after=after)


def find_given(tx: Tx, intent_ids: Sequence[str]) -> set[str]:
    """Find which of these intents a neighbour has and has not answered for good."""
    found = (tx.find(intents, id=intent_id) for intent_id in intent_ids)
    return {row.id for row in found if row and row.closed_at is None and row.next_hop is not None}


def list_open_builds(tx: Tx, subject: str) -> list[Row]:
    """List the builds of a subject that have no verdict here."""
    return tx.all(_OPEN_OF, subject=subject)


def list_overdue_builds(tx: Tx, *, now_s: float) -> list[Row]:
    """List this cell's own builds whose deadline has passed without a verdict."""
    return tx.all(_OVERDUE, now=now_s)


def count_open(tx: Tx) -> dict[str, int]:
    """Count open intents by the neighbour that has them; the undecided under an empty name."""
    return {row.next_hop or "": int(row.count) for row in tx.all(_COUNTS)}


def give(tx: Tx, row: Row, next_hop: str, *, step: dict[str, Any] | None) -> bool:
    """Decide that an open intent goes to a neighbour, and by what choice.

    False when it was decided or closed since the row was read.
    """
    values: dict[str, Any] = {} if step is None else {"trail": [*row.trail, step]}
    keys = {"id": row.id, "attempt": row.attempt, "next_hop": None, "closed_at": None}
    hop = hop_id(row.id, row.attempt)
    return bool(tx.update(intents, keys, next_hop=next_hop, hop_id=hop, **values))


def take_back(tx: Tx, row: Row, verdict: Verdict) -> None:
    """Have another neighbour chosen for what this one will not do."""
    tried = {"cell": row.next_hop, "reason": verdict.reason, "detail": verdict.detail}
    tx.update(
        intents,
        {"id": row.id},
        next_hop=None,
        hop_id=None,
        attempt=row.attempt + 1,
        tried=[*row.tried, {**tried, "hint": verdict.hint}],
        trail=[*row.trail, *verdict.trail],
    )


def close(tx: Tx, row: Row, verdict: Verdict) -> None:
    """Write the last word on an intent; this cell's own is then done with."""
    if not row.parent:
        tx.delete(intents, id=row.id)
        return
    tx.update(
        intents,
        {"id": row.id},
        verdict=_encode(verdict),
        intent=b"",
        closed_at=tx.world.clock.now(),
    )


def prune(tx: Tx, *, before_s: float) -> int:
    """Forget intents closed before a time; by then nobody asks for them again."""
    return tx.run(sa.delete(intents).where(intents.c.closed_at < before_s))
