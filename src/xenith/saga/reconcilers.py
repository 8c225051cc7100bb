"""What drifts in the saga log: sagas that ended pile up, and stuck ones may have become mendable.

Each has the shape of a reconciler: ``plan`` is pure, ``execute`` is a transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from xenith.core.ids import SagaId
from xenith.core.world import World
from xenith.db import Database, Row, Tx
from xenith.saga import records
from xenith.saga.definition import DONE, STUCK, UNWOUND
from xenith.saga.records import SAGAS

#: Hours that an ended saga is kept, for an operator who asks what happened.
KEPT_HOURS = 24.0
#: Ended sagas kept whatever their age: about 1 GiB of rows.
KEPT_MAX = 500_000
#: Rows deleted in one transaction: about 10 ms, in which nothing else is written.
PRUNED_AT_ONCE_MAX = 500
#: Seconds after which a stuck saga is tried again.
STUCK_RETRY_S = 300.0

# One state at a time, so that the index gives the order and nothing is sorted.
_OLDEST = (
    sa.select(SAGAS.c.id, SAGAS.c.updated_at)
    .where(SAGAS.c.state == sa.bindparam("state"))
    .order_by(SAGAS.c.updated_at)
    .limit(PRUNED_AT_ONCE_MAX)
)
_COUNT = sa.select(sa.func.count()).where(SAGAS.c.state == sa.bindparam("state"))
_STUCK = sa.select(SAGAS.c.id, SAGAS.c.updated_at).where(SAGAS.c.state == STUCK)


def plan_pruning(oldest: Sequence[Row], *, ended_count: int, now_s: float) -> list[SagaId]:
    """Choose which of the ``oldest`` ended sagas go: too old, or too many. Pure."""
    before_s = now_s - KEPT_HOURS * 3600
    surplus = ended_count - KEPT_MAX
    return [
        SagaId(row.id)
        for position, row in enumerate(oldest)
        if row.updated_at < before_s or position < surplus
    ]


def plan_retries(stuck: Sequence[Row], *, now_s: float) -> list[SagaId]:
    """Choose which stuck sagas have waited long enough. Pure."""
    return [SagaId(row.id) for row in stuck if row.updated_at <= now_s - STUCK_RETRY_S]


class SagaPruning:
    """Deletes ended sagas that are old or too many."""

    name = "sagas.prune"
    period_s = 600.0

    def __init__(self, db: Database, world: World) -> None:
        self._db = db
        self._world = world

    async def activate(self) -> Mapping[str, int]:
        """Prune, a bounded number in each transaction."""
        ended_count, pruned_count = await self._db.read(_count_ended), 0
        while True:
            chosen = plan_pruning(
                await self._db.read(_list_oldest),
                ended_count=ended_count - pruned_count,
                now_s=self._world.clock.now(),
            )
            if not chosen:
                return {"pruned": pruned_count}
            pruned_count += await self._db.run(_execute_pruning, chosen)
            await self._world.clock.sleep(0)


class StuckSagas:
    """Lets stuck sagas try their undo again; what was away may be back."""

    name = "sagas.stuck"
    period_s = 60.0

    def __init__(self, db: Database, world: World) -> None:
        self._db = db
        self._world = world

    async def activate(self) -> Mapping[str, int]:
        """Retry those that are due."""
        stuck = await self._db.read(lambda tx: tx.all(_STUCK))
        chosen = plan_retries(stuck, now_s=self._world.clock.now())
        retried = [await self._db.run(records.retry, saga_id) for saga_id in chosen]
        return {"retried": sum(retried)}


def _count_ended(tx: Tx) -> int:
    return sum(int(tx.scalar(_COUNT, state=state)) for state in (DONE, UNWOUND))


def _list_oldest(tx: Tx) -> list[Row]:
    rows = tx.all(_OLDEST, state=DONE) + tx.all(_OLDEST, state=UNWOUND)
    return sorted(rows, key=lambda row: float(row.updated_at))[:PRUNED_AT_ONCE_MAX]


def _execute_pruning(tx: Tx, saga_ids: Sequence[SagaId]) -> int:
    return sum(tx.delete(SAGAS, id=saga_id) for saga_id in saga_ids)
