"""Instance actions: what was asked of a server by whom, and the events that came of it."""

from __future__ import annotations

import sqlalchemy as sa

from xenith.db import GLOBAL, Row, Tx

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
    GLOBAL,
    sa.Column("instance_id", sa.Text, primary_key=True),
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("event", sa.Text, primary_key=True),
    # A build tried on several hosts has an event for each.
    sa.Column("attempt", sa.BigInteger, primary_key=True),
    sa.Column("host", sa.Text),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("finished_at", sa.Float),
    sa.Column("result", sa.Text),
    sa.Column("details", sa.Text),
    sa.Column("traceback", sa.Text),
)


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
        },
    )
    tx.update(
        actions,
        {"instance_id": instance_id, "request_id": request_id},
        updated_at=now_s,
        **({} if error is None else {"message": "Error"}),
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
