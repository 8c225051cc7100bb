"""Instance actions: what was asked of a server by whom, and the events that came of it.

Actions are the API cell's. Events are written by whoever did something, which is mostly the
server's cell, and travel up.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from xenith.cells.changes import ChangedTable, carried_columns, mark_change
from xenith.db import CELL, GLOBAL, Row, Tx

#: Characters of what an action says of itself. Source: nova, instance_actions.message.
MESSAGE_MAX = 255

actions = sa.Table(
    "instance_actions",
    GLOBAL,
    sa.Column("instance_id", sa.Text, primary_key=True),
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("project_id", sa.Text, nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Column("message", sa.Text),
)
sa.Index("instance_actions_by_start", actions.c.instance_id, actions.c.started_at)

events = sa.Table(
    "instance_action_events",
    CELL,
    sa.Column("instance_id", sa.Text, primary_key=True),
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("event", sa.Text, primary_key=True),
    # A build tried on several hosts has an event for each.
    sa.Column("attempt", sa.BigInteger, primary_key=True),
    *carried_columns(),
    sa.Column("host", sa.Text),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("finished_at", sa.Float),
    sa.Column("result", sa.Text),
    sa.Column("details", sa.Text),
    sa.Column("traceback", sa.Text),
)
sa.Index("instance_action_events_by_change", events.c.cell_id, events.c.change_number)

EVENTS = ChangedTable("event", events, ("instance_id", "request_id", "event", "attempt"))


def start_action(
    tx: Tx,
    *,
    instance_id: str,
    request_id: str,
    action: str,
    user_id: str,
    project_id: str,
    now_s: float,
) -> None:
    """Note that an action was accepted."""
    tx.upsert(
        actions,
        {
            "instance_id": instance_id,
            "request_id": request_id,
            "action": action,
            "user_id": user_id,
            "project_id": project_id,
            "started_at": now_s,
            "updated_at": now_s,
            "message": None,
        },
    )


def fail_action(tx: Tx, *, message: str, **action: Any) -> None:
    """Note an action that came to nothing before any cell heard of it, and why."""
    start_action(tx, **action)
    keys = {"instance_id": action["instance_id"], "request_id": action["request_id"]}
    tx.update(actions, keys, message=message[:MESSAGE_MAX])


def finish_event(
    tx: Tx,
    *,
    instance_id: str,
    request_id: str,
    event: str,
    attempt: int,
    host: str | None,
    started_s: float,
    now_s: float,
    error: str | None = None,
    details: str | None = None,
) -> None:
    """Note how an event of an action ended; ``error`` is the admins' wording."""
    mark = mark_change(tx)
    tx.upsert(
        events,
        {
            "instance_id": instance_id,
            "request_id": request_id,
            "event": event,
            "attempt": attempt,
            "host": host,
            "started_at": started_s,
            "finished_at": now_s,
            "result": "Success" if error is None else "Error",
            "details": details,
            "traceback": error,
            "extra": None,
            **mark,
        },
    )
    if tx.is_followed(EVENTS.kind):
        keys = {"instance_id": instance_id, "request_id": request_id, "event": event}
        tx.follow(EVENTS.kind, tx.get(events, **keys, attempt=attempt, cell_id=mark["cell_id"]))


def follow_event(tx: Tx, event: Row) -> None:
    """Have an action tell how its last event ended. Transaction function of an API cell."""
    if event.finished_at is None:
        return
    tx.update(
        actions,
        {"instance_id": event.instance_id, "request_id": event.request_id},
        updated_at=event.finished_at,
        **({} if event.result == "Success" else {"message": "Error"}),
    )


def list_actions(tx: Tx, instance_id: str) -> list[Row]:
    """List a server's actions, newest first."""
    return tx.all(
        sa.select(actions)
        .where(actions.c.instance_id == instance_id)
        .order_by(actions.c.started_at.desc(), actions.c.request_id.desc())
    )


def list_events(tx: Tx, instance_id: str, request_id: str) -> list[Row]:
    """List the events of one action, newest first."""
    return tx.all(
        sa.select(events)
        .where(events.c.instance_id == instance_id, events.c.request_id == request_id)
        .order_by(events.c.started_at.desc(), events.c.attempt.desc())
    )
