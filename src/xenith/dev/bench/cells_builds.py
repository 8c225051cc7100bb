"""Builds through a tree of cells: ``POST /servers`` at the root, to ACTIVE in the root's lists.

The measured process is the whole region: the root with its API, every other cell, and the
simulated hosts. It has one core; the clients are another process, over loopback.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from xenith.dev.bench.builds import _build_all, _check, _prepare
from xenith.dev.bench.process import MeasuredCloud, percentiles_ms
from xenith.dev.bench.region import region
from xenith.dev.client import ApiClient


def measure(
    tree: str, *, hosts_per_cell: int, servers: int, rounds: int, clients: int
) -> dict[str, Any]:
    """Start a region, build in rounds and give the figures of each.

    In the first round most builds bring the image to their host; later ones find it there.
    """
    with region(tree, hosts_per_cell=hosts_per_cell) as running:
        return {
            "tree": tree,
            "hosts_per_cell": hosts_per_cell,
            "servers": servers,
            "clients": clients,
            "start_s": round(running.ready_s, 2),
            "start_cpu_s": round(running.cpu_s(), 2),
            "start_memory_mib": round(running.memory_mib(), 1),
            **asyncio.run(_measure(running, servers=servers, rounds=rounds, clients=clients)),
        }


async def _measure(
    running: MeasuredCloud, *, servers: int, rounds: int, clients: int
) -> dict[str, Any]:
    async with ApiClient.of_directory(running.directory) as api:
        body = await _prepare(api)
        # What is compiled, connected and cached once is not what is measured.
        await _build_all(api, body, servers=20, clients=clients)
        idle_ms_per_s = await _idle(running)
        before_mib = running.memory_mib()
        found = []
        for _ in range(rounds):
            before_s, began = running.cpu_s(), time.monotonic()
            posts = await _build_all(api, body, servers=servers, clients=clients)
            seconds, cpu_s = time.monotonic() - began, running.cpu_s() - before_s
            found.append(
                {
                    "builds_per_s": round(servers / seconds, 1),
                    "cpu_ms_per_build": round(cpu_s / servers * 1000, 3),
                    # Without what the region costs when nothing is asked of it.
                    "cpu_ms_per_build_less_idle": round(
                        (cpu_s * 1000 - idle_ms_per_s * seconds) / servers, 3
                    ),
                    "seconds": round(seconds, 3),
                    "post": percentiles_ms(posts),
                }
            )
        await _check(api, rounds * servers + 20)
        after_mib = running.memory_mib()
    return {
        "idle_cpu_ms_per_s": idle_ms_per_s,
        "rounds": found,
        "memory_mib": round(after_mib, 1),
        "mib_per_thousand_servers": round((after_mib - before_mib) / (rounds * servers) * 1000, 1),
    }


#: Seconds in which the region is left alone, to see what it costs by itself.
IDLE_S = 2.0


async def _idle(running: MeasuredCloud) -> float:
    before_s, began = running.cpu_s(), time.monotonic()
    await asyncio.sleep(IDLE_S)
    return round((running.cpu_s() - before_s) / (time.monotonic() - began) * 1000, 1)
