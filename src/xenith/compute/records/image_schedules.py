"""Schedules of images: of which servers one is made each day or week, and when the next is due.

Owned by the API cell. A schedule is gone with its server.
"""

from __future__ import annotations

import hashlib

import sqlalchemy as sa

from xenith.compute.records.instances import instances
from xenith.compute.records.servers import servers
from xenith.db import GLOBAL, Flag, Json, Row, Tx

image_schedules = sa.Table(
    "image_schedules",
    GLOBAL,
    sa.Column("server_id", sa.Text, primary_key=True),
    sa.Column("project_id", sa.Text, nullable=False),
    # How many images are kept.
    sa.Column("retention", sa.BigInteger, nullable=False),
    # MONDAY to SUNDAY; null for one a day.
    sa.Column("day_of_week", sa.Text),
    # Who asked for it, as far as an image says whose it is.
    sa.Column("principal", Json, nullable=False),
    sa.Column("next_at", sa.Float, nullable=False),
    # Whether an action of the server says that the image which is due could not be made yet.
    sa.Column("is_told", Flag),
)
sa.Index("image_schedules_by_time", image_schedules.c.next_at)
sa.Index("image_schedules_by_project", image_schedules.c.project_id)

#: When a project's last scheduled image was begun, so that the next turn is that of another.
image_schedule_turns = sa.Table(
    "image_schedule_turns",
    GLOBAL,
    sa.Column("project_id", sa.Text, primary_key=True),
    sa.Column("begun_at", sa.Float, nullable=False),
)

DAYS = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")
DAY_S = 86400
#: The weekday of 1970-01-01, a Thursday.
_EPOCH_DAY = 3

#: Task states of a server that an image is being made of.
_IMAGING = ("image_backup", "image_snapshot_pending", "image_uploading", "image_snapshot")


def next_time(server_id: str, day_of_week: str | None, after_s: float) -> float:
    """Give when the next image of a server is due, in seconds since the epoch, UTC.

    The time of day follows from the server's id, so that not all servers of a region have the same.

    >>> next_time("a", None, 0.0) == next_time("a", None, 1.0)
    True
    >>> next_time("a", "THURSDAY", 0.0) - next_time("a", None, 0.0)
    0.0
    """
    spread = int.from_bytes(hashlib.sha256(server_id.encode()).digest()[:8]) % DAY_S
    day = int(after_s // DAY_S)
    while True:
        is_day = day_of_week is None or DAYS[(day + _EPOCH_DAY) % 7] == day_of_week
        moment = float(day * DAY_S + spread)
        if is_day and moment > after_s:
            return moment
        day += 1


def count_running(tx: Tx) -> dict[tuple[str, str | None], int]:
    """Count the servers with a schedule that an image is being made of, by project and cell."""
    statement = (
        sa.select(
            image_schedules.c.project_id.label("project"),
            servers.c.cell_id.label("cell"),
            sa.func.count().label("count"),
        )
        .join(servers, servers.c.id == image_schedules.c.server_id)
        .outerjoin(
            instances,
            sa.and_(instances.c.id == servers.c.id, instances.c.cell_id == servers.c.cell_id),
        )
        .where(
            sa.or_(servers.c.pending_task_state.in_(_IMAGING), instances.c.task_state.in_(_IMAGING))
        )
        .group_by(image_schedules.c.project_id, servers.c.cell_id)
    )
    return {(row.project, row.cell): row.count for row in tx.all(statement)}


def note_turn(tx: Tx, project_id: str, *, now_s: float) -> None:
    """Note that an image of a project was begun."""
    tx.upsert(image_schedule_turns, {"project_id": project_id, "begun_at": now_s})


def remove_schedule(tx: Tx, server_id: str) -> None:
    """Forget a server's schedule, if it has one, and its project's turns with the last."""
    row = tx.peek(image_schedules, ("project_id",), server_id=server_id)
    if row is None:
        return
    tx.delete(image_schedules, server_id=server_id)
    if tx.peek(image_schedules, ("server_id",), project_id=row.project_id) is None:
        tx.delete(image_schedule_turns, project_id=row.project_id)


def list_due(tx: Tx, *, now_s: float, count: int) -> list[Row]:
    """List schedules that are due: each project's first before any project's second, and so on.

    Of several firsts, that of the project whose last turn is the longest ago.
    """
    rank = (
        sa.func.row_number()
        .over(
            partition_by=image_schedules.c.project_id,
            order_by=(image_schedules.c.next_at, image_schedules.c.server_id),
        )
        .label("rank")
    )
    due = sa.select(image_schedules, rank).where(image_schedules.c.next_at <= now_s).subquery()
    turn = sa.func.coalesce(image_schedule_turns.c.begun_at, 0.0).label("turn")
    statement = (
        sa.select(due.c.server_id, due.c.project_id, due.c.rank, turn)
        .outerjoin(image_schedule_turns, image_schedule_turns.c.project_id == due.c.project_id)
        .order_by(due.c.rank, turn, due.c.next_at, due.c.server_id)
        .limit(count)
    )
    return tx.all(statement)
