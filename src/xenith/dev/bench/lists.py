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
from xenith.dev.bench.process import MeasuredCloud, cloud, percentiles_ms
from xenith.dev.client import ApiClient

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
    ids = [world.ids.uuid() for _ in range(count)]
    began = world.clock.now() - 1_000_000
    tx.insert_many(
        server_table,
        [_server(ids[at], project, start + at, began + start + at) for at in range(count)],
    )
    tx.insert_many(
        instances, [_instance(ids[at], project, began + start + at) for at in range(count)]
    )


def _server(server_id: str, project: str, number: int, at_s: float) -> dict[str, Any]:
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return {
        "id": server_id,
        "project_id": project,
        "user_id": "bench",
        "name": f"bench-{number}",
        "hostname": f"bench-{number}",
        "description": None,
        "image_id": "00000000-0000-0000-0000-000000000000",
        "image_properties": {},
        "flavor_id": "1",
        "flavor": {
            "original_name": "m1.tiny",
            "vcpus": 1,
            "ram": 512,
            "disk": 1,
            "ephemeral": 0,
            "swap": 0,
            "extra_specs": {},
        },
        "key_name": None,
        "metadata": {"number": str(number)},
        "tags": [],
        "user_data": None,
        "config_drive": False,
        "disk_config": "MANUAL",
        "zone": None,
        "access_ipv4": "",
        "access_ipv6": "",
        "is_locked": False,
        "locked_reason": None,
        "locked_by_admin": False,
        "ports": [
            {
                "id": server_id,
                "network_id": server_id,
                "network_name": "shared",
                "mac": "fa:16:3e:00:00:00",
                "mtu": 1500,
                "addresses": [{"address": address, "version": 4}],
            }
        ],
        "hints": {},
        "security_groups": ["default"],
        "reservation_id": "r-bench",
        "launch_index": 0,
        "created_at": at_s,
        "updated_at": at_s,
        "deleted_at": None,
        "intent_number": 1,
        "pending_task_state": None,
    }


def _instance(server_id: str, project: str, at_s: float) -> dict[str, Any]:
    # On no host: what is measured is the list, and no reconciler should look for a VM.
    return {
        "id": server_id,
        "cell_id": "bench",
        "project_id": project,
        "host_id": None,
        "host_name": None,
        "zone": "nova",
        "vm_state": "active",
        "task_state": None,
        "power_state": 1,
        "launched_at": at_s,
        "terminated_at": None,
        "fault": None,
        "applied_intent": 1,
        "generation": 1,
        "created_at": at_s,
        "updated_at": at_s,
        "request": None,
        "placement": None,
    }


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
