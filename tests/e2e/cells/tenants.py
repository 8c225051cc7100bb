"""Tenants who build, reboot and delete servers while the region around them breaks.

A request that fails is given up, as a tenant may; what was accepted is remembered and must come to
something. Which requests come is chance with a seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from region import Region, until

from xenith.core.errors import XenithError
from xenith.dev.client import ApiClient

#: Seconds until a tenant asks again when the API does not answer.
PATIENCE_S = 0.3
#: Seconds between looks whether more may be asked for.
PAUSE_S = 0.02
#: Of accepted servers, how many are deleted, and rebooted, by whoever made them.
DELETED_SHARE = 0.15
REBOOTED_SHARE = 0.15
IMAGE_BYTES = 2**20
_UUID = re.compile(r"[0-9a-f-]{32,36}")
#: States in which nothing is being done with a server.
AT_REST = ("ACTIVE", "ERROR", "SHUTOFF")


async def zeros() -> AsyncIterator[bytes]:
    """An image of nothing."""
    yield bytes(IMAGE_BYTES)


async def prepare(region: Region) -> dict[str, Any]:
    """Upload an image for everyone, lift the demo project's quotas, and give a create's body."""
    async with region.admin() as admin, region.tenant() as tenant:
        image = await admin.post(
            "/image/v2/images",
            {
                "name": "zeros",
                "disk_format": "raw",
                "container_format": "bare",
                "visibility": "public",
            },
        )
        await admin.upload(f"/image/v2/images/{image['id']}/file", zeros(), IMAGE_BYTES)
        project = (await tenant.get("/identity/v3/auth/projects"))["projects"][0]["id"]
        limits = {"instances": -1, "cores": -1, "ram": -1}
        await admin.put(f"/compute/v2.1/os-quota-sets/{project}", {"quota_set": limits})
        await admin.put(f"/network/v2.0/quotas/{project}", {"quota": {"port": -1}})
    return {
        "server": {
            "name": "web",
            "imageRef": image["id"],
            "flavorRef": "64",
            "networks": "auto",
            "config_drive": True,
        }
    }


async def list_servers(api: ApiClient) -> dict[str, dict[str, Any]]:
    """List all servers with their details."""
    found: dict[str, dict[str, Any]] = {}
    marker: dict[str, str] = {}
    while True:
        page = (await api.get("/compute/v2.1/servers/detail", limit=1000, **marker))["servers"]
        if not page:
            return found
        found |= {server["id"]: server for server in page}
        marker = {"marker": page[-1]["id"]}


async def at_rest(region: Region, *, count: int | None = None) -> dict[str, dict[str, Any]]:
    """Wait until nothing is being done with any server, and give them all."""
    async with region.tenant() as api:
        listed: dict[str, dict[str, Any]] = {}

        async def is_quiet() -> bool:
            nonlocal listed
            try:
                listed = await list_servers(api)
            except XenithError:
                await api.sign_in()
                raise
            return count in (None, len(listed)) and all(
                server["status"] in AT_REST and server["OS-EXT-STS:task_state"] is None
                for server in listed.values()
            )

        def busy() -> str:
            states = Counter(
                (server["status"], server["OS-EXT-STS:task_state"]) for server in listed.values()
            )
            return f"{len(listed)} servers: {dict(states)}"

        await until(is_quiet, busy)
    return listed


@dataclass
class Tenants:
    """Several clients at once, until so many servers were accepted."""

    region: Region
    body: dict[str, Any]
    chance: random.Random
    target: int
    #: How many of these may be asked for by now.
    allowed: int = 0
    #: Ids of servers that were accepted, and of those whose delete was.
    accepted: list[str] = field(default_factory=list)
    deleted: set[str] = field(default_factory=set)
    #: Requests that failed, by the class of the error and by what was said.
    failed: Counter[str] = field(default_factory=Counter)
    said: Counter[str] = field(default_factory=Counter)

    async def work(self, *, clients: int) -> None:
        """Ask until the target is reached."""
        await asyncio.gather(*(self._work() for _ in range(clients)))

    async def _work(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            api: ApiClient | None = None
            mine: list[str] = []
            while len(self.accepted) < self.target:
                if len(self.accepted) >= self.allowed:
                    await asyncio.sleep(PAUSE_S)
                    continue
                try:
                    if api is None:
                        api = await stack.enter_async_context(self.region.tenant())
                    await self._ask(api, mine)
                except XenithError as error:
                    self.failed[type(error).__name__] += 1
                    self.said[_UUID.sub("…", str(error))[:120]] += 1
                    await asyncio.sleep(PATIENCE_S)

    async def _ask(self, api: ApiClient, mine: list[str]) -> None:
        drawn = self.chance.random()
        if mine and drawn < DELETED_SHARE:
            server_id = mine.pop(self.chance.randrange(len(mine)))
            self.deleted.add(server_id)
            await api.delete(f"/compute/v2.1/servers/{server_id}")
        elif mine and drawn < DELETED_SHARE + REBOOTED_SHARE:
            path = f"/compute/v2.1/servers/{self.chance.choice(mine)}/action"
            await api.post(path, {"reboot": {"type": "HARD"}})
        else:
            made = await api.post("/compute/v2.1/servers", self.body)
            self.accepted.append(made["server"]["id"])
            mine.append(made["server"]["id"])
