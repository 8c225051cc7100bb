"""Builds per second: servers through the real API onto simulated hosts over real XenAPI."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

from xenith.core.errors import Conflict
from xenith.dev.bench.process import MeasuredCloud, cloud, percentiles_ms
from xenith.dev.client import ApiClient

#: Seconds between looks whether any server is still being built.
POLL_S = 0.05


def measure(*, servers: int, hosts: int, clients: int, database: str = "") -> dict[str, Any]:
    """Build servers and give the figures: rate, processor time, times of the POST."""
    extra = ("--database", database) if database else ()
    with cloud(*extra, hosts=hosts) as running:
        return asyncio.run(_measure(running, servers=servers, hosts=hosts, clients=clients))


async def _measure(
    running: MeasuredCloud, *, servers: int, hosts: int, clients: int
) -> dict[str, Any]:
    async with ApiClient.of_directory(running.directory) as api:
        body = await _prepare(api)
        # One build first: what is compiled, connected and cached once is not what is measured.
        await _build_all(api, body, servers=min(hosts, 20), clients=clients)
        before_s, began = running.cpu_s(), time.monotonic()
        posts = await _build_all(api, body, servers=servers, clients=clients)
        seconds, cpu_s = time.monotonic() - began, running.cpu_s() - before_s
        await _check(api, servers + min(hosts, 20))
    return {
        "bench": "builds",
        "servers": servers,
        "hosts": hosts,
        "clients": clients,
        "builds_per_s": round(servers / seconds, 1),
        "cpu_ms_per_build": round(cpu_s / servers * 1000, 3),
        "seconds": round(seconds, 3),
        "post": percentiles_ms(posts),
        "memory_mib": round(running.memory_mib(), 1),
    }


async def _prepare(api: ApiClient) -> dict[str, Any]:
    image = await api.post(
        "/image/v2/images",
        {"name": "bench", "disk_format": "raw", "container_format": "bare"},
    )
    await api.upload(f"/image/v2/images/{image['id']}/file", _zeros(), 1024 * 1024)
    flavor = await api.post(
        "/compute/v2.1/flavors", {"flavor": {"name": "bench", "ram": 64, "vcpus": 1, "disk": 1}}
    )
    project = (await api.get("/identity/v3/auth/projects"))["projects"][0]["id"]
    await api.put(
        f"/compute/v2.1/os-quota-sets/{project}",
        {"quota_set": {"instances": -1, "cores": -1, "ram": -1}},
    )
    await api.put(f"/network/v2.0/quotas/{project}", {"quota": {"port": -1}})
    return {
        "server": {
            "name": "bench",
            "imageRef": image["id"],
            "flavorRef": flavor["flavor"]["id"],
            "networks": "auto",
        }
    }


async def _zeros() -> Any:
    yield bytes(1024 * 1024)


async def _build_all(
    api: ApiClient, body: dict[str, Any], *, servers: int, clients: int
) -> list[float]:
    numbers = iter(range(servers))
    times: list[float] = []

    async def client() -> None:
        for _ in numbers:
            began = time.monotonic()
            await api.post("/compute/v2.1/servers", body)
            times.append(time.monotonic() - began)

    await asyncio.gather(*itertools.starmap(client, [()] * clients))
    # The API is what is asked, as any client would.
    while (await api.get("/compute/v2.1/servers", status="BUILD", limit=1))["servers"]:  # noqa: ASYNC110
        await asyncio.sleep(POLL_S)
    return times


async def _check(api: ApiClient, servers: int) -> None:
    """Hold the figures to what they claim: every server is ACTIVE."""
    count, query = 0, {"status": "ACTIVE", "limit": 1000}
    while page := (await api.get("/compute/v2.1/servers", **query))["servers"]:
        count += len(page)
        query["marker"] = page[-1]["id"]
    if count != servers:
        raise Conflict(f"{servers} servers were asked for and {count} are ACTIVE")
