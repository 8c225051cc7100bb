"""A cloud of network alone, and clients for callers by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest

from xenith.core.world import World
from xenith.db import Database
from xenith.http import Site
from xenith.network.endpoints import service
from xenith.network.operations import Networks


class Cloud:
    """Network behind its API."""

    def __init__(self, networks: Networks, site: Site, stack: AsyncExitStack) -> None:
        self.networks = networks
        self.db = networks.db
        self.site = site
        self._clients: dict[str, httpx2.AsyncClient] = {}
        self._stack = stack

    def as_(self, token: str = "member") -> httpx2.AsyncClient:
        if token not in self._clients:
            self._clients[token] = httpx2.AsyncClient(
                transport=httpx2.ASGITransport(app=self.site),
                base_url="http://cloud/network/v2.0",
                headers={"X-Auth-Token": token} if token else {},
            )
        return self._clients[token]

    async def make(
        self, noun: str, *, caller: str = "member", expect: int = 201, **fields: Any
    ) -> dict[str, Any]:
        """Make a thing, or say what refused it."""
        body = {name.replace("__", ":"): value for name, value in fields.items()}
        answer = await self.as_(caller).post(f"/{noun}s", json={noun: body})
        assert answer.status_code == expect, answer.text
        return dict(answer.json()[noun if expect == 201 else "NeutronError"])

    async def list(self, noun: str, *, caller: str = "member", **query: Any) -> list[Any]:
        """List the names of things, in the order of the answer."""
        answer = await self.as_(caller).get(f"/{noun}s", params=query)
        assert answer.status_code == 200, answer.text
        return [one["name"] for one in answer.json()[f"{noun}s"]]

    async def subnet(self, cidr: str = "10.0.0.0/24", **fields: Any) -> dict[str, Any]:
        """Make a subnet on a new network, unless one is named."""
        network_id = fields.pop("network_id", None) or (await self.make("network"))["id"]
        version = 6 if ":" in cidr else 4
        return await self.make(
            "subnet", network_id=network_id, ip_version=version, cidr=cidr, **fields
        )


@pytest.fixture
async def cloud(db: Database, world: World, site_of: Any) -> AsyncIterator[Cloud]:
    async with AsyncExitStack() as stack:
        networks = Networks(db, world)
        yield Cloud(networks, site_of([service(networks)]), stack)
