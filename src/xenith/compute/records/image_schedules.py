"""Schedules of images: of which servers one is made each day or week, and when the next is due.

Owned by the API cell. A schedule is gone with its server.
"""

from __future__ import annotations

import hashlib

import sqlalchemy as sa

from xenith.compute.records.instances import instances
from xenith.compute.records.servers import servers
from xenith.db import GLOBAL, Json, Row, Tx

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
)
sa.Index("image_schedules_by_time", image_schedules.c.next_at)

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


def count_running(tx: Tx) -> dict[str, int]:
    """Count the servers with a schedule that an image is being made of now, by project."""
    statement = (
        sa.select(image_schedules.c.project_id.label("project"), sa.func.count().label("count"))
        .join(servers, servers.c.id == image_schedules.c.server_id)
        .outerjoin(
            instances,
            sa.and_(instances.c.id == servers.c.id, instances.c.cell_id == servers.c.cell_id),
        )
        .where(
            sa.or_(servers.c.pending_task_state.in_(_IMAGING), instances.c.task_state.in_(_IMAGING))
        )
        .group_by(image_schedules.c.project_id)
    )
    return {row.project: row.count for row in tx.all(statement)}


def list_due(tx: Tx, *, now_s: float, count: int) -> list[Row]:
    """List schedules that are due: each project's first before any project's second, and so on."""
    rank = (
        sa.func.row_number()
        .over(
            partition_by=image_schedules.c.project_id,
            order_by=(image_schedules.c.next_at, image_schedules.c.server_id),
        )
        .label("rank")
    )
    due = sa.select(image_schedules, rank).where(image_schedules.c.next_at <= now_s).subquery()
    statement = (
        sa.select(due.c.server_id, due.c.project_id, due.c.rank)
        .order_by(due.c.rank, due.c.next_at, due.c.server_id)
        .limit(count)
    )
    return tx.all(statement)
