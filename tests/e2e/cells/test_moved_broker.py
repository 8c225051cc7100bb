"""A cell's broker moves to another place while servers are built, and nothing is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator

import pytest
from checks import settle
from network import connection_counts, own_network
from region import ROOT, Region, Shape, until
from tenants import Tenants, at_rest, prepare

from xenith.cli import run
from xenith.core.world import World
from xenith.dev.rabbitmq import Rabbit

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

SERVERS = 60
#: Accepted before the broker moves, before its cell is told of the new one to all, and after.
BEFORE, BETWEEN = 20, 35
SHAPE = Shape(
    routers={}, leaves={"c1": (ROOT,), "c2": (ROOT,)}, hosts_per_leaf=2, has_postgres=False
)


@pytest.fixture
def region(keep_logs: Callable[[Region], None]) -> Iterator[Region]:
    with own_network() as network, Region.standing(SHAPE) as region:
        network.has_given_ports()
        yield region
        keep_logs(region)


async def test_a_broker_moves_while_servers_are_built_and_nothing_is_lost(region: Region):
    body = await prepare(region)
    cell = region["c1"]
    old, new = cell.rabbit, Rabbit(region.home / "c1" / "rabbit-new", World())
    assert old is not None
    tenants = Tenants(region, body, random.Random(1), target=SERVERS, allowed=BEFORE)
    try:
        await new.start()
        working = asyncio.create_task(tenants.work(clients=4))
        await until(accepted(tenants, BEFORE), lambda: tenants.said)
        # In the middle of what it builds, and with messages in the queues that it leaves behind.
        tenants.allowed = BETWEEN
        cell.kill()
        cell.rabbit = new
        await cell.start()
        old.kill()
        await until(accepted(tenants, BETWEEN), lambda: tenants.said)
        address = new.address()
        said = await asyncio.to_thread(
            run,
            [
                *("cell", "broker", "c1", f"amqps://{address.host}:{address.port}"),
                *("--ca", str(new.ca_path), "--data", str(region.root.data)),
            ],
        )
        assert said == 0
        tenants.allowed = SERVERS
        await working
        await region.settled_links()
        # A server that is being built cannot be rebooted; nothing else was refused.
        assert set(tenants.failed) <= {"Conflict"}, tenants.said
        count = len(tenants.accepted) - len(tenants.deleted)
        servers = await at_rest(region, count=count)
        assert {server["status"] for server in servers.values()} == {"ACTIVE"}
        await settle(region)
        counts = connection_counts(region.root.process_id)
        assert counts.get(address.port) == 1
        assert old.address().port not in counts
        # It takes builds again, by way of the new one.
        async with region.admin() as admin:
            image = {"image": body["server"]["imageRef"], "flavor": ""}
            tested = await admin.post("/xenith/v1/cells/c1/test", image)
        assert tested["test"]["cell"] == "c1"
    finally:
        new.kill()


def accepted(tenants: Tenants, count: int):
    async def are() -> bool:
        return len(tenants.accepted) >= count

    return are
