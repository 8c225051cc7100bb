"""The lag of changes: from a leaf's commit to the commit at the root that has it.

Rows are changed at a steady rate, some in a commit, each as the steps of a build change it. All
cells are in this process and share its core with the generator.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from xenith.cells.changes import TOPIC
from xenith.compute.records.instances import change_instance, insert_instance
from xenith.compute.records.servers import servers
from xenith.core.ids import CellId
from xenith.db import Tx
from xenith.dev.bench.cells_here import lab_here, run
from xenith.dev.bench.cells_rows import BenchServer, instance_row, server_row
from xenith.dev.bench.process import percentiles_ms
from xenith.dev.cells import Cell
from xenith.dev.lab import Lab

#: What a build writes of its instance, in turn; the last has the ports bound at the root.
STEPS: tuple[dict[str, Any], ...] = (
    {"vm_state": "building", "task_state": "scheduling"},
    {"vm_state": "building", "task_state": "spawning"},
    {"vm_state": "building", "task_state": "spawning", "host_name": "bench"},
    {"vm_state": "building", "task_state": "spawning", "power_state": 1},
    {"vm_state": "active", "task_state": None, "host_name": "bench"},
)
#: Commits that one leaf makes before the others have their turn.
BURST = 8
#: Seconds for all that was changed to reach the root at the end.
DRAIN_S = 60.0


def measure(
    tree: str, *, changes_per_s: int, seconds: float, rows_per_cell: int, rows_per_commit: int
) -> dict[str, Any]:
    """Change rows for a while and give how old each change was when the root had it."""
    work = partial(
        _measure,
        tree,
        changes_per_s=changes_per_s,
        seconds=seconds,
        rows_per_cell=rows_per_cell,
        rows_per_commit=rows_per_commit,
    )
    return run(work)


async def _measure(
    tree: str, *, changes_per_s: int, seconds: float, rows_per_cell: int, rows_per_commit: int
) -> dict[str, Any]:
    async with lab_here(tree, hosts_per_cell=0) as lab:
        leaves = [lab.cells[entry.id] for entry in lab.plan.leaves]
        rows = {leaf.id: await _fill(lab, leaf, rows_per_cell) for leaf in leaves}
        watch = _Watch(lab)
        watching = asyncio.create_task(watch.run())
        applied = lab.cloud.cell.node.counts["changes_applied"]
        cpu_s, began = time.process_time(), time.monotonic()
        every_s = len(leaves) * rows_per_commit / changes_per_s
        counts = await asyncio.gather(
            *(
                _change(
                    watch,
                    leaf,
                    _turns(rows[leaf.id], rows_per_commit),
                    every_s=every_s,
                    until_s=began + seconds,
                )
                for leaf in leaves
            )
        )
        took_s = time.monotonic() - began
        async with asyncio.timeout(DRAIN_S):
            while watch.open_count:  # noqa: ASYNC110 - the watch has no event for it
                await asyncio.sleep(0.01)
        watching.cancel()
        return {
            "tree": tree,
            "rows": rows_per_cell * len(leaves),
            "rows_per_commit": rows_per_commit,
            "asked_changes_per_s": changes_per_s,
            "changes_per_s": round(sum(counts) / took_s),
            "changes": sum(counts),
            "rows_applied_at_root": lab.cloud.cell.node.counts["changes_applied"] - applied,
            "lag": percentiles_ms(watch.lags_s),
            "cpu_share": round((time.process_time() - cpu_s) / (time.monotonic() - began), 2),
        }


async def _fill(lab: Lab, leaf: Cell, count: int) -> list[str]:
    """Give a leaf its instances and the root their servers; wait until the root has both."""
    now = lab.world.clock.now()
    made = [
        BenchServer(
            id=lab.world.ids.uuid(), project_id="bench", cell_id=leaf.id, number=at, created_s=now
        )
        for at in range(count)
    ]

    def fill(tx: Tx) -> None:
        for server in made:
            insert_instance(tx, instance_row(server))

    await lab.cloud.db.run(lambda tx: tx.insert_many(servers, [server_row(one) for one in made]))
    await leaf.db.run(fill)
    place = await leaf.db.read(leaf.node.changes.place, leaf.id)
    await lab.cloud.cell.node.wait_for(leaf.id, place.number, timeout_s=DRAIN_S)
    return [server.id for server in made]


#: Rows that one commit changes, and what it writes of each.
_Turn = tuple[Sequence[str], dict[str, Any]]


def _turns(ids: list[str], count: int) -> Iterator[_Turn]:
    """Take all rows through all steps, some at a time, for ever."""
    groups = [ids[start : start + count] for start in range(0, len(ids), count)]
    for values in itertools.cycle(STEPS):
        for group in groups:
            yield group, values


async def _change(
    watch: _Watch, leaf: Cell, turns: Iterator[_Turn], *, every_s: float, until_s: float
) -> int:
    """Change rows whenever some are due; tell how many were changed."""
    count, due_s = 0, time.monotonic()
    while due_s < until_s and time.monotonic() < until_s:
        for _ in range(BURST):
            if due_s > time.monotonic():
                break
            numbers = await leaf.db.run(_write, *next(turns))
            watch.committed(leaf.id, numbers)
            count += len(numbers)
            due_s += every_s
        await asyncio.sleep(max(due_s - time.monotonic(), 0))
    return count


def _write(tx: Tx, ids: Sequence[str], values: dict[str, Any]) -> list[int]:
    changed = [change_instance(tx, one, now_s=tx.world.clock.now(), **values) for one in ids]
    return [int(row.change_number) for row in changed if row is not None]


class _Watch:
    """Notes each leaf's commits, and when the root has them."""

    def __init__(self, lab: Lab) -> None:
        self.lags_s: list[float] = []
        self._node = lab.cloud.cell.node
        self._open: dict[CellId, deque[tuple[int, float]]] = {}
        self._news: set[CellId] = set()
        self._wake = asyncio.Event()
        lab.cloud.db.listen(TOPIC, self._on_commit)

    @property
    def open_count(self) -> int:
        return sum(len(waiting) for waiting in self._open.values())

    def committed(self, origin: CellId, numbers: Sequence[int]) -> None:
        now = time.monotonic()
        self._open.setdefault(origin, deque()).extend((number, now) for number in numbers)

    def _on_commit(self, origin: str) -> None:
        self._news.add(CellId(origin))
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            news, self._news = self._news, set()
            for origin in news:
                place = await self._node.db.read(self._node.changes.place, origin)
                now, waiting = time.monotonic(), self._open.get(origin, deque())
                while waiting and waiting[0][0] <= place.number:
                    self.lags_s.append(now - waiting.popleft()[1])
