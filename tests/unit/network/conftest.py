"""Networks without their API: a database of their own, and what compute's transactions do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from xenith.core.clock import ManualClock
from xenith.core.ids import Ids
from xenith.core.world import World
from xenith.db import Database, open_database
from xenith.db.migrate import prepare
from xenith.http import Principal
from xenith.network.attributes import NETWORK, PORT, SUBNET
from xenith.network.operations import Networks
from xenith.network.operations.networks import create_network
from xenith.network.operations.ports import create_port
from xenith.network.operations.subnets import create_subnet

MEMBER = Principal("u", "u", "default", frozenset({"member", "reader"}), project_id="p1")
STRANGER = Principal("v", "v", "default", frozenset({"member", "reader"}), project_id="p2")
ADMIN = Principal(
    "a", "a", "default", frozenset({"admin", "member", "reader"}), project_id="operators"
)


class Nic(msgspec.Struct, frozen=True):
    """What a server asks for, as compute words it."""

    network_id: str | None = None
    port_id: str | None = None
    address: str | None = None
    tag: str | None = None


class Rows:
    """Networks, subnets and ports made in one line; ``do`` runs a transaction."""

    def __init__(self, database: Database, world: World) -> None:
        self.db = database
        self.networks = Networks(database, world)

    async def do(self, function: Callable[..., Any], *args: Any, **values: Any) -> Any:
        return await self.db.run(function, *args, **values)

    async def network(self, who: Principal = MEMBER, **body: Any) -> Any:
        return await self.do(create_network, who, NETWORK.read_new(body))

    async def subnet(self, network_id: str, cidr: str, **body: Any) -> Any:
        body |= {"network_id": network_id, "cidr": cidr, "ip_version": 6 if ":" in cidr else 4}
        return await self.do(create_subnet, ADMIN, SUBNET.read_new(body))

    async def port(self, network_id: str, who: Principal = MEMBER, **body: Any) -> Any:
        return await self.do(create_port, who, PORT.read_new({"network_id": network_id, **body}))

    async def claim(self, instance_id: str, *nics: Nic, who: Principal = MEMBER) -> Any:
        """Claim ports for a server; without any nic, ask for ``auto``."""
        return await self.do(
            self.networks.claim_ports,
            who,
            instance_id=instance_id,
            zone="nova",
            requests=nics or None,
        )


@pytest.fixture
def nic():
    return Nic


@pytest.fixture
def admin():
    return ADMIN


@pytest.fixture
def stranger():
    return STRANGER


@pytest.fixture
async def rows():
    world = World(clock=ManualClock(), ids=Ids(seed=2))
    database = open_database("sqlite://", ids=world.ids, clock=world.clock)
    prepare(database)
    yield Rows(database, world)
    await database.close()
