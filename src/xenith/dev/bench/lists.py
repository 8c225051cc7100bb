"""Lists: a page of servers in detail, out of many, through the real API."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from xenith.compute.records.instances import instances
from xenith.compute.records.servers import servers as server_table
from xenith.core.world import World
from xenith.db import Tx, open_database
from xenith.dev.bench.cells_rows import BenchServer, instance_row, server_row
from xenith.dev.bench.process import MeasuredCloud, cloud, percentiles_ms
from xenith.dev.client import ApiClient
from xenith.dev.cloud import ONLY_CELL

#: Rows that one transaction inserts.
BATCH = 5000


def measure(*, servers: int, page: int, calls: int, database: str = "") -> dict[str, Any]:
    """Fill the rows, start a cloud on them, and time pages from all over the list."""
    with tempfile.TemporaryDirectory(prefix="xenith-bench-") as place:
        directory = Path(place)
        extra = ("--database", database) if database else ()
        with cloud(*extra, hosts=1, directory=directory) as running:
            project = asyncio.run(_project(running))
        asyncio.run(_fill(directory, database, project, servers))
        with cloud(*extra, hosts=1, directory=directory) as running:
            return asyncio.run(_measure(running, servers=servers, page=page, calls=calls))


async def _project(running: MeasuredCloud) -> str:
    async with ApiClient.of_directory(running.directory) as api:
        project: str = (await api.get("/identity/v3/auth/projects"))["projects"][0]["id"]
        return project


async def _fill(directory: Path, database: str, project: str, count: int) -> None:
    world = World()
    db = open_database(database or f"sqlite:///{directory / 'xenith.db'}")
    for start in range(0, count, BATCH):
        await db.run(_insert, world, project, start, min(BATCH, count - start))
    await db.close()


def _insert(tx: Tx, world: World, project: str, start: int, count: int) -> None:
    began = world.clock.now() - 1_000_000
    filled = [
        BenchServer(
            id=world.ids.uuid(),
            project_id=project,
            cell_id=ONLY_CELL,
            number=number,
            created_s=began + number,
        )
        for number in range(start, start + count)
    ]
    tx.insert_many(server_table, [server_row(server) for server in filled])
    # Of no change: no parent is there to hear of them.
    carried = {"cell_id": ONLY_CELL, "change_number": 0, "extra": None}
    tx.insert_many(instances, [{**instance_row(server), **carried} for server in filled])


async def _measure(
    running: MeasuredCloud, *, servers: int, page: int, calls: int
) -> dict[str, Any]:
    path = "/compute/v2.1/servers/detail"
    times: list[float] = []
    async with ApiClient.of_directory(running.directory) as api:
        query: dict[str, Any] = {"limit": page}
        await api.get(path, **query)
        cpu_s = running.cpu_s()
        for _ in range(calls):
            began = time.monotonic()
            found = (await api.get(path, **query))["servers"]
            times.append(time.monotonic() - began)
            assert len(found) == page, f"a page of {page} had {len(found)}"
            query["marker"] = found[-1]["id"]
        cpu_s = running.cpu_s() - cpu_s
    return {
        "bench": "lists",
        "servers": servers,
        "page": page,
        "calls": calls,
        "get": percentiles_ms(times),
        "cpu_ms_per_page": round(cpu_s / calls * 1000, 3),
    }
