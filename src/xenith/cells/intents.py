"""Intents: what a cell asks of its child, written with the rows that it follows from.

The sender's outbox takes an intent in the transaction that accepts the request; nothing after
that can lose it. The link carries it at least once; the receiver's inbox applies it once, by id,
in the transaction that does what it asks. Intents on one subject arrive in order of their numbers.
In a tree of one, both ends are one database and the link is a loop in this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from xenith.core.ids import CellId
from xenith.core.log import logger
from xenith.core.tasks import TaskOwner
from xenith.core.world import World
from xenith.db import CELL, GLOBAL, Database, Json, Tx

_log = logger("cells.intents")

#: Intents that one transaction of the link carries.
BATCH_INTENTS_MAX = 64
#: Seconds between looks at the outbox when no hint came; rows are the truth, hints only speed.
LOOK_PERIOD_S = 2.0

outbox = sa.Table(
    "intent_outbox",
    GLOBAL,
    sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("cell_id", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("params", Json, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)
sa.Index("intent_outbox_by_cell", outbox.c.cell_id, outbox.c.sequence)

inbox = sa.Table(
    "intent_inbox",
    CELL,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("applied_at", sa.Float, nullable=False),
)

_NEXT = (
    sa.select(outbox)
    .where(outbox.c.cell_id == sa.bindparam("cell_id"))
    .order_by(outbox.c.sequence)
    .limit(BATCH_INTENTS_MAX)
)


class Intent(msgspec.Struct, frozen=True):
    """One request on its way down."""

    id: str
    subject: str
    #: Counts the intents on one subject; a receiver applies them in this order.
    number: int
    kind: str
    params: dict[str, Any]
    request_id: str
    created_at: float


#: Applies an intent's effect in the receiver's transaction.
IntentHandler = Callable[[Tx, Intent], None]


class IntentLink:
    """Carries intents from an outbox to the inbox of one cell.

    ``handlers`` are registered by the higher rooms at start, by kind.
    """

    def __init__(self, sender: Database, receiver: Database, world: World, cell_id: CellId) -> None:
        self._sender = sender
        self._receiver = receiver
        self._world = world
        self._cell_id = cell_id
        self._wake = asyncio.Event()
        self._owner = TaskOwner("intents", world.clock)
        self.handlers: dict[str, IntentHandler] = {}

    async def start(self) -> None:
        """Begin carrying; what an earlier process left in the outbox goes first."""
        self._owner.keep("carry", self._carry)
        self._owner.keep("look", self._look)

    async def stop(self) -> None:
        """Stop carrying; what is in the outbox stays there."""
        await self._owner.stop()

    def send(
        self,
        tx: Tx,
        *,
        subject: str,
        number: int,
        kind: str,
        params: Mapping[str, Any],
        request_id: str,
    ) -> str:
        """Put an intent into the outbox. Transaction function."""
        intent_id = self._world.ids.uuid()
        tx.insert(
            outbox,
            {
                "id": intent_id,
                "cell_id": self._cell_id,
                "subject": subject,
                "number": number,
                "kind": kind,
                "params": dict(params),
                "request_id": request_id,
                "created_at": self._world.clock.now(),
            },
        )
        tx.on_commit(self._wake.set)
        return intent_id

    async def carry_now(self) -> int:
        """Carry one batch and tell how many intents it had."""
        rows = await self._sender.read(lambda tx: tx.all(_NEXT, cell_id=self._cell_id))
        if not rows:
            return 0
        intents = [
            Intent(
                row.id,
                row.subject,
                row.number,
                row.kind,
                row.params,
                row.request_id,
                row.created_at,
            )
            for row in rows
        ]
        await self._receiver.run(self._apply, intents)
        await self._sender.run(_acknowledge, [row.sequence for row in rows])
        return len(rows)

    def _apply(self, tx: Tx, intents: list[Intent]) -> None:
        now = self._world.clock.now()
        for intent in intents:
            if tx.find(inbox, id=intent.id) is not None:
                continue
            tx.insert(inbox, {"id": intent.id, "applied_at": now})
            self.handlers[intent.kind](tx, intent)

    async def _carry(self) -> None:
        while True:
            self._wake.clear()
            while await self.carry_now():
                # Requests that arrived meanwhile have their turn before the next batch.
                await self._world.clock.sleep(0)
            await self._wake.wait()

    async def _look(self) -> None:
        while True:
            await self._world.clock.sleep(LOOK_PERIOD_S)
            self._wake.set()


def _acknowledge(tx: Tx, sequences: list[int]) -> None:
    for sequence in sequences:
        tx.delete(outbox, sequence=sequence)


def prune_inbox(tx: Tx, *, before_s: float) -> int:
    """Forget ids of intents applied before a time; by then no link still holds one."""
    return tx.run(sa.delete(inbox).where(inbox.c.applied_at < before_s))
