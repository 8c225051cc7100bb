"""Images: pages and filters of a list, out of many, through the real API.

A third of the images are one tenant's, which calls; fifty are public, and the others are of a
thousand more tenants. All are backups of servers, as in a cloud that makes one each night.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xenith.core.world import World
from xenith.db import Tx, open_database
from xenith.dev.bench.process import MeasuredCloud, cloud, percentiles_ms
from xenith.dev.client import ApiClient
from xenith.image import records

#: Rows that one transaction inserts.
BATCH = 5000
PUBLIC_COUNT = 50
#: Servers of which each has so many backups.
BACKUPS = 30
PATH = "/image/v2/images"
_SEED = 7


def measure(*, images: int, calls: int, database: str = "") -> dict[str, Any]:
    """Fill the rows, start a cloud on them, and time every kind of list."""
    with tempfile.TemporaryDirectory(prefix="xenith-bench-") as place:
        directory = Path(place)
        extra = ("--database", database) if database else ()
        with cloud(*extra, hosts=1, directory=directory) as running:
            project = asyncio.run(_project(running))
        for large in (False, True):
            asyncio.run(_fill(directory, database, project, images, large=large))
        with cloud(*extra, hosts=1, directory=directory) as running:
            lists = asyncio.run(_measure(running, images=images, calls=calls))
    return {"bench": "images", "images": images, "calls": calls, "lists": lists}


async def _project(running: MeasuredCloud) -> str:
    async with ApiClient.of_directory(running.directory, cloud="xenith-demo") as api:
        project: str = (await api.get("/identity/v3/auth/projects"))["projects"][0]["id"]
        return project


async def _fill(directory: Path, database: str, project: str, count: int, *, large: bool) -> None:
    """Insert half of the images; the caller's own are of the second half alone."""
    world = World()
    chance = random.Random(_SEED + large)  # noqa: S311 - what is measured is to be the same
    db = open_database(database or f"sqlite:///{directory / 'xenith.db'}")
    for start in range(0, count // 2, BATCH):
        rows = [
            _row(world, chance, project, number, large=large)
            for number in range(start, min(start + BATCH, count // 2))
        ]
        await db.run(_insert, rows)
    await db.close()


def _row(
    world: World, chance: random.Random, project: str, number: int, *, large: bool
) -> dict[str, Any]:
    owner = f"{chance.randrange(1000):032x}"
    visibility = "public" if not large and number < PUBLIC_COUNT else "private"
    if large and number % 3 != 0:
        owner = project
    server = f"{number // BACKUPS:08d}-{int(large)}"
    created = 1_700_000_000.0 + number * 10 + large
    return {
        "id": world.ids.uuid(),
        "owner": owner,
        "name": f"image {number}",
        "status": "active" if number % 1000 else "queued",
        "visibility": visibility,
        "disk_format": "vhd" if number % 5 else "raw",
        "container_format": "bare",
        "size": chance.randrange(2**30),
        "virtual_size": 2**30,
        "checksum": f"{number:032x}",
        "os_hash_value": f"{number:0128x}",
        "min_disk": number % 3,
        "min_ram": 0,
        "protected": False,
        "os_hidden": False,
        "properties": {
            "image_type": "backup",
            "instance_uuid": server,
            "backup_type": "daily" if number % 7 else "weekly",
        },
        "tags": ["golden"] if number % 50_000 == 0 else [],
        "created_at": created,
        "updated_at": created + 60,
    }


def _insert(tx: Tx, rows: Sequence[dict[str, Any]]) -> None:
    tx.insert_many(records.images, rows)
    tx.insert_many(
        records.properties,
        [
            {"image_id": row["id"], "name": name, "value": value}
            for row in rows
            for name, value in row["properties"].items()
        ],
    )
    tx.insert_many(
        records.tags, [{"image_id": row["id"], "tag": tag} for row in rows for tag in row["tags"]]
    )


async def _measure(running: MeasuredCloud, *, images: int, calls: int) -> list[dict[str, Any]]:
    middle = 1_700_000_000 + images // 4 * 10
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(middle))
    asked: dict[str, dict[str, Any]] = {
        "first page": {},
        "page of 1000": {"limit": 1000},
        "one name": {"name": f"image {images // 4}"},
        "one server's": {"instance_uuid": f"{images // 4 // BACKUPS:08d}-1"},
        "all backups": {"image_type": "backup"},
        "weekly backups": {"backup_type": "weekly"},
        "a tag": {"tag": "golden"},
        "queued": {"status": "queued"},
        "active vhd": {"status": "active", "disk_format": "vhd"},
        "public": {"visibility": "public"},
        "shared": {"visibility": "shared"},
        "large ones": {"size_min": 2**30 - 1000},
        "not small": {"size_min": 2**20},
        "newer": {"created_at": f"gt:{at}"},
        "older": {"created_at": f"lt:{at}"},
        "oldest first": {"sort": "created_at:asc"},
    }
    found = []
    for who, name in (("tenant", "xenith-demo"), ("admin", "xenith")):
        async with ApiClient.of_directory(running.directory, cloud=name) as api:
            for what, query in asked.items():
                found.append(await _time(api, f"{who}: {what}", query, calls))
            found.append(await _time(api, f"{who}: deep page", await _deep(api, images), calls))
    return found


async def _deep(api: ApiClient, images: int) -> dict[str, Any]:
    """Give the query for a page from the middle of the list."""
    named = await api.get(PATH, name=f"image {images // 4}")
    return {"marker": named["images"][0]["id"]}


async def _time(api: ApiClient, what: str, query: dict[str, Any], calls: int) -> dict[str, Any]:
    times: list[float] = []
    count = 0
    await api.get(PATH, **query)
    for _ in range(calls):
        began = time.monotonic()
        count = len((await api.get(PATH, **query))["images"])
        times.append(time.monotonic() - began)
    return {"list": what, "found": count, **percentiles_ms(times)}
