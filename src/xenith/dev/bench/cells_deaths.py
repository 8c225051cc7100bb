"""The death of a cell: until it is left out of choices, and until its builds are elsewhere.

A leaf stops without a word, as a killed process does; builds go on being asked for, and some are
given to it before its silence tells.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import sqlalchemy as sa

from xenith.compute.operations.requests import ServerRequest
from xenith.compute.records import quotas
from xenith.compute.records.instances import instances
from xenith.core.errors import Unavailable
from xenith.db import Tx
from xenith.dev.bench.cells_here import lab_here, run
from xenith.dev.lab import Lab
from xenith.http import Principal
from xenith.image.operations import NewImage

LOOK_S = 0.01
#: Seconds for the builds of a dead cell to be ACTIVE elsewhere.
MOVE_TIMEOUT_S = 60.0
FLAVOR = "64"
_WHO = Principal(
    user_id="bench",
    user_name="bench",
    user_domain_id="default",
    roles=frozenset({"admin", "member", "reader"}),
    project_id="bench",
)


def measure(*, deaths: int, builds: int, hosts_per_cell: int) -> dict[str, Any]:
    """Have leaves die one after another, each with builds on their way."""
    return run(partial(_measure, deaths=deaths, builds=builds, hosts_per_cell=hosts_per_cell))


async def _measure(*, deaths: int, builds: int, hosts_per_cell: int) -> dict[str, Any]:
    tree = f"1x1x{deaths + 1}"
    excluded: list[float] = []
    moved: list[float] = []
    count = 0
    async with lab_here(tree, hosts_per_cell=hosts_per_cell) as lab:
        image_id = await _prepare(lab)
        router = lab.cells[lab.plan.routers[0].id].node
        for entry in lab.plan.leaves[:deaths]:
            before = router.counts["moved"]
            leaf = lab.cells.pop(entry.id)
            await leaf.stop()
            await leaf.db.close()
            began = time.monotonic()
            asked = [await _create(lab, image_id) for _ in range(builds)]
            while not router.chooser.is_dead(entry.id):  # noqa: ASYNC110 - silence has no event
                await asyncio.sleep(LOOK_S)
            excluded.append(time.monotonic() - began)
            await _until_active(lab, asked)
            moved.append(time.monotonic() - began)
            count += router.counts["moved"] - before
    if not count:
        raise Unavailable("no build was given to a dead cell: ask for more")
    return {
        "tree": tree,
        "deaths": deaths,
        "builds": builds * deaths,
        "moved": count,
        "excluded_s": _told(excluded),
        "all_active_s": _told(moved),
    }


def _told(seconds: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(seconds), 2), "worst": round(max(seconds), 2)}


async def _prepare(lab: Lab) -> str:
    images, compute = lab.cloud.images, lab.cloud.compute
    limits = {"instances": -1, "cores": -1, "ram": -1}
    await lab.cloud.db.run(
        lambda tx: quotas.set_limits(tx, scope="project", owner="bench", limits=limits)
    )
    new = NewImage(name="bench", disk_format="raw", container_format="bare")
    image = await images.create(_WHO, new)
    await images.upload(_WHO, image.id, _blank(), size_bytes=2**20)
    flavors = compute.flavors
    await flavors.ensure_defaults()
    return str(image.id)


async def _blank() -> AsyncIterator[bytes]:
    yield bytes(2**20)


async def _create(lab: Lab, image_id: str) -> str:
    request = ServerRequest(name="bench", image_ref=image_id, flavor_ref=FLAVOR, nics=())
    made = await lab.cloud.compute.servers.create(_WHO, request, request_id="req-bench")
    return str(made.ids[0])


async def _until_active(lab: Lab, ids: list[str]) -> None:
    statement = sa.select(instances.c.id).where(instances.c.vm_state == "active")

    def list_active(tx: Tx) -> set[str]:
        return {row.id for row in tx.all(statement)}

    async with asyncio.timeout(MOVE_TIMEOUT_S):
        while not set(ids) <= await lab.cloud.db.read(list_active):  # noqa: ASYNC110 - as above
            await asyncio.sleep(LOOK_S)
