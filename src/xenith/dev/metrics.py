"""The page of metrics: all cells of one process, in the text format that Prometheus reads.

Nothing is counted for it: a scrape reads what there is. What takes a query over many rows is read
at most every ten seconds, however many ask, and a cell at a time, so that requests have their turn.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from xenith import __version__
from xenith.bus import port
from xenith.cells import child, frames, intents, link, parent, questions, routing, topology
from xenith.cells import metrics as of_cells
from xenith.cells.metrics import Metric, Sample, name_of
from xenith.compute.records.instances import instances
from xenith.core import limits
from xenith.core.errors import Unavailable
from xenith.core.tasks import TaskOwner
from xenith.core.world import World
from xenith.db import Row, Tx
from xenith.http import Answer
from xenith.saga.records import SAGAS

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family

    from xenith.dev.cells import Cell

#: Seconds for which counts over many rows are held to be new enough.
COUNTS_KEPT_S = 10.0
#: Seconds between two looks at how late the loop is, and how many of them are remembered.
LOOK_PERIOD_S = 0.1
LOOKS_KEPT = 600

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("xenith_build_info", "gauge", "1; gives the versions.", ("version", "python")),
        Metric("xenith_loop_lag_seconds", "gauge", "The latest that the loop was in a minute."),
        Metric("xenith_limit", "gauge", "A limit, by the module that names it.", ("name",)),
        Metric(
            "xenith_servers",
            "gauge",
            "Servers by state, of the cell and as far as it knows of all below it.",
            ("cell", "vm_state"),
        ),
        Metric("xenith_sagas", "gauge", "Long operations by state.", ("cell", "state")),
        Metric(
            "xenith_cached_images",
            "gauge",
            "Images that storage repositories of hosts have ready, each counted once.",
            ("cell",),
        ),
        Metric("xenith_cached_image_bytes", "gauge", "The sizes of their disks.", ("cell",)),
        Metric("xenith_image_cache_hits_total", "counter", "Builds that found theirs.", ("cell",)),
        Metric("xenith_image_cache_misses_total", "counter", "Those whose was brought.", ("cell",)),
        Metric(
            "xenith_image_cache_shared_total",
            "counter",
            "Images found on a repository, or waited for, that another driver of it brought.",
            ("cell",),
        ),
        Metric("xenith_image_cache_removed_total", "counter", "Images that left hosts.", ("cell",)),
        Metric("xenith_image_cache_freed_bytes_total", "counter", "What that freed.", ("cell",)),
        *of_cells.METRICS.values(),
    )
}
#: What the client library tells of the process.
PROCESS_METRICS = (
    "process_virtual_memory_bytes",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
)

#: Limits that stand beside the one thing that they bound; those of `core/limits.py` are all told.
_LIMITS_BESIDE = (
    (child, ("WINDOW_INTENTS", "BUCKETS_WANTED_MAX")),
    (frames, ("FRAME_BYTES_MAX", "HEADER_BYTES_MAX", "BODY_BYTES_MAX")),
    (intents, ("BATCH_INTENTS_MAX",)),
    (link, ("SEND_TIMEOUT_S", "MESSAGES_BYTES_MAX")),
    (parent, ("WINDOW_BATCHES",)),
    (port, ("MESSAGE_BYTES_MAX",)),
    (routing, ("GIVE_UP_S", "CLOCK_SKEW_MAX_S")),
    (questions, ("QUESTIONS_MAX",)),
    (topology, ("CELLS_MAX", "DEPTH_MAX", "SIGNED_BYTES_MAX")),
)

_SERVERS_OF = (
    sa.select(instances.c.vm_state.label("state"), sa.func.count().label("count"))
    .where(instances.c.cell_id == sa.bindparam("origin"), instances.c.vm_state != "deleted")
    .group_by(instances.c.vm_state)
)
_SAGAS = sa.select(SAGAS.c.state, sa.func.count().label("count")).group_by(SAGAS.c.state)


class LoopWatch:
    """Looks ten times a second how late the loop comes back."""

    def __init__(self, world: World) -> None:
        self._clock = world.clock
        self._late_s = [0.0] * LOOKS_KEPT
        self._tasks = TaskOwner("loop watch", world.clock)

    @property
    def most_s(self) -> float:
        """The latest that it was of late."""
        return max(self._late_s)

    def start(self) -> None:
        """Begin to look."""
        self._tasks.keep("look", self._look)

    async def stop(self) -> None:
        """Look no more."""
        await self._tasks.stop()

    async def _look(self) -> None:
        at = 0
        while True:
            began = self._clock.monotonic()
            await self._clock.sleep(LOOK_PERIOD_S)
            late_s = self._clock.monotonic() - began - LOOK_PERIOD_S
            self._late_s[at] = max(late_s, 0.0)
            at = (at + 1) % LOOKS_KEPT


class MetricsPage:
    """The page of a process; ``cells`` gives those that it runs now."""

    def __init__(
        self, world: World, *, cells: Callable[[], Sequence[Cell]], watch: LoopWatch
    ) -> None:
        self._clock = world.clock
        self._cells = cells
        self._watch = watch
        self._counts: list[Sample] = []
        self._counted_at = float("-inf")

    async def __call__(self) -> Answer:
        """Give the page."""
        text, media_type = _written(await self.samples())
        return Answer(text, media_type=media_type)

    async def samples(self) -> list[Sample]:
        """Read everything."""
        found = list(_of_process(self._watch))
        for cell in self._cells():
            found += await of_cells.measure(cell.node)
            found += _of_caches(cell)
            await self._clock.sleep(0)
        return found + await self._count()

    async def _count(self) -> list[Sample]:
        now = self._clock.monotonic()
        if now - self._counted_at >= COUNTS_KEPT_S:
            # Before the queries: who asks meanwhile gets what there was.
            self._counted_at = now
            counts: list[Sample] = []
            for cell in self._cells():
                with contextlib.suppress(Unavailable):
                    counts += await self._count_rows(cell)
            self._counts = counts
        return self._counts

    async def _count_rows(self, cell: Cell) -> list[Sample]:
        name = name_of(cell.node, cell.id)
        places = await cell.db.read(cell.node.changes.places)
        servers: dict[str, int] = {}
        for origin in places:
            rows = await cell.db.read(_read_servers, origin)
            for row in rows:
                servers[row.state] = servers.get(row.state, 0) + row.count
            await self._clock.sleep(0)
        sagas = await cell.db.read(lambda tx: tx.all(_SAGAS))
        return [
            *(Sample("xenith_servers", (name, state), n) for state, n in sorted(servers.items())),
            *(Sample("xenith_sagas", (name, row.state), row.count) for row in sagas),
        ]


def _of_caches(cell: Cell) -> Iterator[Sample]:
    """Tell of the images on the hosts of a cell; one without hosts has nothing to tell."""
    if cell.compute is None:
        return
    drivers = list(cell.compute.hosts.drivers.values())
    labels = (name_of(cell.node, cell.id),)
    # Of a repository that several drivers have, each knows the same disk.
    images = {image.vdi: image for driver in drivers for image in driver.images}.values()
    yield Sample("xenith_cached_images", labels, len(images))
    yield Sample("xenith_cached_image_bytes", labels, sum(image.size_bytes for image in images))
    for name in ("hits", "misses", "shared", "removed", "freed_bytes"):
        total = sum(getattr(driver.image_counts, name) for driver in drivers)
        yield Sample(f"xenith_image_cache_{name}_total", labels, total)


def _read_servers(tx: Tx, origin: str) -> list[Row]:
    return tx.all(_SERVERS_OF, origin=origin)


def _of_process(watch: LoopWatch) -> Iterator[Sample]:
    yield Sample("xenith_build_info", (__version__, platform.python_version()), 1)
    yield Sample("xenith_loop_lag_seconds", (), round(watch.most_s, 6))
    for name, value in named_limits().items():
        yield Sample("xenith_limit", (name,), value)


def named_limits() -> dict[str, float]:
    """Give every limit that has a name, as ``module.NAME``."""
    found: dict[str, float] = {
        f"limits.{name}": value
        for name, value in vars(limits).items()
        if name.isupper() and name not in ("MIB", "GIB")
    }
    for module, names in _LIMITS_BESIDE:
        short = module.__name__.rpartition(".")[2]
        found |= {f"{short}.{name}": getattr(module, name) for name in names}
    return found


class _Collected:
    """Families as the client library wants them of a registry."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> list[Family]:
        """Give them."""
        return self._families


def _written(samples: Sequence[Sample]) -> tuple[bytes, str]:
    """Write samples as the text format has them, with what the library tells of the process."""
    # Half of its import is a server of its own; who is never scraped does not pay for it.
    from prometheus_client import ProcessCollector  # noqa: PLC0415
    from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest  # noqa: PLC0415
    from prometheus_client.metrics_core import (  # noqa: PLC0415
        CounterMetricFamily,
        GaugeMetricFamily,
    )

    made = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
    families: dict[str, Any] = {}
    for sample in samples:
        family = families.get(sample.metric)
        if family is None:
            metric = METRICS[sample.metric]
            family = families[sample.metric] = made[metric.kind](
                metric.name, metric.meaning, labels=metric.labels
            )
        family.add_metric(sample.labels, sample.value)
    process = ProcessCollector(registry=None)
    registry: Any = _Collected([*families.values(), *process.collect()])
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4
