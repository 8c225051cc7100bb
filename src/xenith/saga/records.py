"""The saga log: one row a saga, and the transaction functions that begin, move and end one.

A row's ``step`` is the step to be done next while running, and the one to be undone next while
unwinding (-1 when nothing is left). ``turn`` counts the sagas of a subject in order of creation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from xenith.core.errors import NotFound
from xenith.core.ids import RequestId, SagaId
from xenith.db import CELL, Flag, Json, Prepared, Row, Tx
from xenith.saga.definition import (
    DONE,
    OPEN_STATES,
    RUNNING,
    STUCK,
    UNWINDING,
    UNWOUND,
    Ending,
    Outcome,
    Run,
)

#: Topics of the hints that an engine listens to; the payload is a subject, or a saga's id.
STARTED, CANCELLED = "saga.started", "saga.cancelled"

SAGAS = sa.Table(
    "sagas",
    CELL,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("turn", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("params", Json, nullable=False),
    sa.Column("data", Json, nullable=False),
    sa.Column("is_cancelled", Flag, nullable=False),
    sa.Column("error", Json),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
    sa.Column("request_id", sa.Text),
    sa.Index("sagas_subject_turn", "subject", "turn", unique=True),
    sa.Index("sagas_state_updated_at", "state", "updated_at"),
)

_NEWEST_TURN = Prepared(
    sa.select(sa.func.max(SAGAS.c.turn)).where(SAGAS.c.subject == sa.bindparam("subject"))
)
_IS_OPEN = sa.or_(*(SAGAS.c.state == state for state in OPEN_STATES))
_IS_RUNNABLE = sa.or_(SAGAS.c.state == RUNNING, SAGAS.c.state == UNWINDING)
_HEAD = Prepared(
    sa.select(SAGAS)
    .where(SAGAS.c.subject == sa.bindparam("subject"), _IS_OPEN)
    .order_by(SAGAS.c.turn)
    .limit(1)
)
_WAITING_SUBJECTS = Prepared(
    sa.select(SAGAS.c.subject)
    .where(_IS_RUNNABLE)
    .group_by(SAGAS.c.subject)
    .order_by(sa.func.min(SAGAS.c.created_at), SAGAS.c.subject)
    .limit(sa.bindparam("count"))
)


class MovedOn(Exception):
    """The row is not where this run left it, and the row is right: read it again.

    The last commit of an engine that was stopped may land after the next engine read the row: on
    PostgreSQL a thread goes on when the task that waits for it is cancelled.
    """


def start(
    tx: Tx,
    saga_kind: str,
    *,
    subject: str,
    params: Mapping[str, Any] | None = None,
    request_id: RequestId | None = None,
) -> SagaId:
    """Begin a saga with the rows that ask for it. It runs after the subject's earlier ones.

    Transaction function.
    """
    saga_id = SagaId(tx.world.ids.uuid())
    now = tx.world.clock.now()
    tx.insert(
        SAGAS,
        {
            "id": saga_id,
            "kind": saga_kind,
            "subject": subject,
            "turn": (tx.scalar(_NEWEST_TURN, subject=subject) or 0) + 1,
            "state": RUNNING,
            "step": 0,
            "params": dict(params or {}),
            "data": {},
            "is_cancelled": False,
            "attempts": 0,
            "created_at": now,
            "updated_at": now,
            "request_id": request_id,
        },
    )
    tx.notify(STARTED, subject)
    return saga_id


def cancel(
    tx: Tx, *, subject: str | None = None, saga_id: SagaId | None = None, kind: str | None = None
) -> list[SagaId]:
    """Ask running sagas to stop after their current step and unwind; tell which were asked.

    Name a saga, or a subject and perhaps a kind. One that has already ended, or unwinds, is left.
    Transaction function.
    """
    assert subject or saga_id, "a cancel without a subject or an id cancels everything"
    given = {"subject": subject, "id": saga_id, "kind": kind}
    keys = {name: value for name, value in given.items() if value is not None}
    rows = tx.list(SAGAS, **keys, state=RUNNING, is_cancelled=False)
    for row in rows:
        tx.update(SAGAS, {"id": row.id}, is_cancelled=True)
        tx.notify(CANCELLED, row.id)
    return [SagaId(row.id) for row in rows]


def get(tx: Tx, saga_id: SagaId) -> Run:
    """Get a saga as it stands. Transaction function.

    Raises:
        NotFound: there is none, or no longer.
    """
    row = tx.find(SAGAS, id=saga_id)
    if row is None:
        raise NotFound(f"saga {saga_id} is not known: it may have been pruned")
    return _run(row)


def list_of_subject(tx: Tx, subject: str) -> list[Run]:
    """List a subject's sagas, the oldest first. Transaction function."""
    rows = sorted(tx.list(SAGAS, subject=subject), key=lambda row: int(row.turn))
    return [_run(row) for row in rows]


def retry(tx: Tx, saga_id: SagaId) -> bool:
    """Let a stuck saga unwind further; tell whether it was stuck. Transaction function."""
    row = tx.find(SAGAS, id=saga_id, state=STUCK)
    if row is not None:
        tx.update(SAGAS, {"id": saga_id}, state=UNWINDING, attempts=0, updated_at=_now(tx))
        tx.notify(STARTED, row.subject)
    return row is not None


def list_waiting_subjects(tx: Tx, count: int) -> list[str]:
    """List subjects with sagas to run, the longest waiting first."""
    return [row.subject for row in tx.all(_WAITING_SUBJECTS, count=count)]


def find_head(tx: Tx, subject: str) -> Run | None:
    """Find the saga whose turn it is among its subject's; None if there is none or it is stuck."""
    row = tx.first(_HEAD, subject=subject)
    return None if row is None or row.state == STUCK else _run(row)


def resume_head(tx: Tx, subject: str) -> Run | None:
    """Find the saga whose turn it is, and count that its step may have been begun before."""
    run = find_head(tx, subject)
    if run is not None:
        tx.update(SAGAS, {"id": run.id}, attempts=run.attempt)
        run.attempt += 1
    return run


def advance(
    tx: Tx, run: Run, *, outcome: Outcome | None, ending: Ending | None, is_last: bool
) -> bool:
    """Record a step as done, with its rows; False if a cancel came first and it now unwinds."""
    is_kept = tx.update(
        SAGAS,
        {"id": run.id, "step": run.recorded, "state": RUNNING, "is_cancelled": False},
        state=DONE if is_last else RUNNING,
        step=run.step + 1,
        data=run.data,
        attempts=0,
        updated_at=_now(tx),
    )
    if not is_kept:
        if tx.find(SAGAS, id=run.id, step=run.recorded, state=RUNNING) is None:
            raise MovedOn(run.id)
        unwind(tx, run, step=max(run.step, run.reached), error=CANCELLED_ERROR)
    if outcome is not None and outcome.record is not None:
        outcome.record(tx)
    if is_kept and is_last and ending is not None:
        ending(tx, run)
    return bool(is_kept)


def unwind(tx: Tx, run: Run, *, step: int, error: dict[str, str]) -> None:
    """Record that the steps from ``step`` down are to be undone, and why."""
    is_kept = tx.update(
        SAGAS,
        {"id": run.id, "state": RUNNING},
        state=UNWINDING,
        step=step,
        data=run.data,
        error=error,
        attempts=0,
        updated_at=_now(tx),
    )
    if not is_kept:
        raise MovedOn(run.id)


def retreat(tx: Tx, run: Run, *, step: int, outcome: Outcome | None, ending: Ending | None) -> None:
    """Record an undo, with its rows; at the last the saga is unwound."""
    is_kept = tx.update(
        SAGAS,
        {"id": run.id, "state": UNWINDING},
        state=UNWINDING if step >= 0 else UNWOUND,
        step=step,
        data=run.data,
        attempts=0,
        updated_at=_now(tx),
    )
    if not is_kept:
        raise MovedOn(run.id)
    if outcome is not None and outcome.record is not None:
        outcome.record(tx)
    if step < 0 and ending is not None:
        ending(tx, run)


def fail_undo(tx: Tx, run: Run, *, is_stuck: bool) -> None:
    """Record that an undo failed once more, and whether it is given up for now."""
    state = STUCK if is_stuck else UNWINDING
    keys = {"id": run.id, "state": UNWINDING}
    tx.update(SAGAS, keys, state=state, attempts=run.attempt, updated_at=_now(tx))


#: The error of a saga that was cancelled.
CANCELLED_ERROR = {
    "class": "Cancelled",
    "kind": "",
    "step": "",
    "message": "it was cancelled",
    "detail": "",
}


def _now(tx: Tx) -> float:
    return tx.world.clock.now()


def _run(row: Row) -> Run:
    return Run(
        id=SagaId(row.id),
        kind=row.kind,
        subject=row.subject,
        params=row.params,
        data=row.data,
        attempt=row.attempts + 1,
        state=row.state,
        step=row.step,
        is_cancelled=row.is_cancelled,
        error=row.error,
        request_id=row.request_id,
        recorded=row.step,
    )
