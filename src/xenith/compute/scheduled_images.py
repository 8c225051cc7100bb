"""What begins scheduled images: so many at a time, and every project in its turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from xenith.compute.operations.context import Context
from xenith.compute.operations.image_schedules import ImageSchedules
from xenith.compute.records.image_schedules import count_running, list_due
from xenith.core.errors import Unavailable, XenithError
from xenith.core.log import logger
from xenith.db import Tx

_log = logger("compute.scheduled_images")

#: Scheduled images of a region that are being made at a time: hosts and the store have other work.
RUNNING_MAX = 50
#: Seconds that a cell may be silent and what runs there still counts.
SILENCE_MAX_S = 60.0


class ScheduledImages:
    """Begins what is due. One project's many servers do not hold up another's one."""

    name = "compute.scheduled_images"
    period_s = 60.0

    def __init__(self, context: Context) -> None:
        self._context = context
        self._schedules = ImageSchedules(context)

    async def activate(self) -> Mapping[str, int]:
        """Begin as many as there is room for."""
        chosen = await self._context.db.read(self._choose, self._context.world.clock.now())
        begun = 0
        for server_id in chosen:
            # Each by itself: one that cannot be made holds no other up.
            try:
                begun += await self._context.db.run(self._begin, server_id)
            except Unavailable:
                raise
            except XenithError as error:
                _log.warning("scheduled image not begun", server=server_id, error=error.message)
                await self._context.db.run(self._schedules.put_off, server_id, reason=error.message)
        return {"begun": begun}

    def _choose(self, tx: Tx, now_s: float) -> list[str]:
        running: Counter[str] = Counter()
        for (project_id, cell_id), count in count_running(tx).items():
            # What a dark cell does is not known, and it may stay dark.
            if cell_id is None or self._context.node.age_of(cell_id) <= SILENCE_MAX_S:
                running[project_id] += count
        room = RUNNING_MAX - running.total()
        if room <= 0:
            return []
        due = list_due(tx, now_s=now_s, count=RUNNING_MAX + room)
        # What a project has running already counts as turns that it had.
        turns = sorted(due, key=lambda row: (row.rank + running[row.project_id], row.turn))
        return [row.server_id for row in turns[:room]]

    def _begin(self, tx: Tx, server_id: str) -> bool:
        return self._schedules.begin(tx, server_id)
