"""The start: from the process's first instruction to a first token, cold, and the memory then."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from xenith.dev.bench.process import cloud
from xenith.dev.client import ApiClient


def measure(*, runs: int, hosts: int) -> dict[str, Any]:
    """Start new clouds and give the medians."""
    ready: list[float] = []
    token: list[float] = []
    memory: list[float] = []
    for _ in range(runs):
        with cloud(hosts=hosts) as running:
            began = time.monotonic()
            asyncio.run(_sign_in(running.directory))
            token.append(running.ready_s + time.monotonic() - began)
            ready.append(running.ready_s)
            memory.append(running.memory_mib())
    return {
        "bench": "startup",
        "runs": runs,
        "hosts": hosts,
        "ready_s": round(statistics.median(ready), 3),
        "first_token_s": round(statistics.median(token), 3),
        "memory_mib": round(statistics.median(memory), 1),
    }


async def _sign_in(directory: Any) -> None:
    async with ApiClient.of_directory(directory):
        pass
