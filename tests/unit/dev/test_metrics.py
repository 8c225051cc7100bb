"""The page of metrics: of a cloud, of a tree in one process, and what a scrape costs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from xenith.cells import link
from xenith.core import limits
from xenith.core.clock import ManualClock
from xenith.core.errors import Unavailable
from xenith.core.settings import Settings
from xenith.core.world import World
from xenith.dev.cloud import Cloud
from xenith.dev.metrics import (
    COUNTS_KEPT_S,
    LOOKS_KEPT,
    METRICS,
    PROCESS_METRICS,
    LoopWatch,
    MetricsPage,
    named_limits,
)


def read(text: str) -> dict[tuple[str, ...], float]:
    """Read a page as Prometheus does: values by metric and labels."""
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.slow
async def test_a_tree_in_one_process_tells_every_metric_of_every_cell(tree_of_cells: ModuleType):
    async with tree_of_cells.small_tree("1x1x1") as tree:
        server_id = await tree.build()
        tree.root.node.children[tree.id_of("r1")].link.refuse("truncated")
        page = MetricsPage(
            tree.world, cells=lambda: list(tree.cells.values()), watch=LoopWatch(tree.world)
        )
        answer = await page()
        assert answer.media_type.startswith("text/plain; version=0.0.4")
        text = answer.body.decode()
        found = read(text)
    names = {key[0] for key in found}
    assert names == METRICS.keys() | set(PROCESS_METRICS)
    for cell in ("api", "r1", "r1-c1"):
        assert found["xenith_servers", f"cell={cell}", "vm_state=active"] == 1
        assert found["xenith_hosts_up", f"cell={cell}"] == 1
    assert found["xenith_sagas", "cell=r1-c1", "state=done"] == 1
    assert found["xenith_link_refused_total", "cell=api", "peer=r1", "reason=truncated"] == 1
    for private in (server_id, "p1", "u-admin", "web", "127.0.0.1"):
        assert f'"{private}"' not in text


@pytest.mark.slow
async def test_a_cloud_shows_the_page_without_a_token(tmp_path: Path):
    settings = Settings(data=str(tmp_path), hosts=1, backend="sim")
    cloud = Cloud(settings, site_url="http://cloud")
    await cloud.start()
    try:
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=cloud.site), base_url="http://cloud"
        ) as client:
            answer = await client.get("/metrics")
    finally:
        await cloud.stop()
    assert answer.status_code == 200
    found = read(answer.text)
    assert found["xenith_hosts_up", "cell=api"] == 1
    assert found["xenith_origins_unheard", "cell=api"] == 0
    assert found["xenith_loop_lag_seconds",] >= 0


class Countable:
    """A cell that counts how often it is read, and is nothing else."""

    def __init__(self, *, is_away: bool = False) -> None:
        self.id = "c"
        self.reads = 0
        self.is_away = is_away
        self.db = self
        self.node = SimpleNamespace(
            topology=SimpleNamespace(find=lambda _id: None),
            changes=SimpleNamespace(places=lambda _tx: {}),
        )

    async def read(self, function: Any, *_args: Any) -> Any:
        self.reads += 1
        if self.is_away:
            raise Unavailable("the database is away")
        return [] if self.reads % 2 == 0 else {}


async def test_counts_over_many_rows_are_kept_for_a_while():
    world = World(clock=ManualClock())
    cell: Any = Countable()
    page = MetricsPage(world, cells=lambda: [cell], watch=LoopWatch(world))
    for _ in range(3):
        await page._count()
    assert cell.reads == 2
    await world.clock.advance(COUNTS_KEPT_S)
    await page._count()
    assert cell.reads == 4


async def test_a_cell_whose_database_is_away_takes_no_others_counts_along():
    world = World(clock=ManualClock())
    cells: Any = [Countable(is_away=True), Countable()]
    page = MetricsPage(world, cells=lambda: cells, watch=LoopWatch(world))
    await page._count()
    assert [cell.reads for cell in cells] == [1, 2]


class LateClock(ManualClock):
    """A clock whose every wait takes longer than it was asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.late_s = 0.0

    async def sleep(self, delay_s: float) -> None:
        self._now += delay_s + self.late_s
        self.late_s = 0.0
        await asyncio.sleep(0)


async def test_the_latest_that_the_loop_was_is_told_for_a_minute():
    clock = LateClock()
    watch = LoopWatch(World(clock=clock))
    watch.start()
    began = clock.now()
    await asyncio.sleep(0)
    clock.late_s = 0.3
    for _ in range(5):
        await asyncio.sleep(0)
    assert watch.most_s == pytest.approx(0.3)
    for _ in range(LOOKS_KEPT + 10):
        await asyncio.sleep(0)
    assert clock.now() - began > 60.0
    assert watch.most_s == pytest.approx(0.0)
    await watch.stop()


def test_every_limit_of_the_cloud_is_told_by_its_name():
    told = named_limits()
    assert told["limits.JSON_BODY_BYTES_MAX"] == limits.JSON_BODY_BYTES_MAX
    assert told["link.SEND_TIMEOUT_S"] == link.SEND_TIMEOUT_S
    assert all(isinstance(value, int | float) for value in told.values())


@pytest.mark.slow
def test_who_is_not_scraped_does_not_load_the_client_library():
    code = "import sys, xenith.dev.cloud; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
