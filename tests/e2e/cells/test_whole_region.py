"""A whole region of real processes, broken part by part while servers are built in it.

One API cell, two between and four with hosts, each with a PostgreSQL and all but the first with a
RabbitMQ of their own. The requests come from a seed, which is printed; XENITH_TEST_SEED repeats
one. XENITH_E2E_SERVERS says how many servers are asked for.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from checks import settle
from network import Network, own_network
from region import ROOT, Region, Shape
from tenants import Tenants, at_rest, prepare

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

SERVERS = int(os.environ.get("XENITH_E2E_SERVERS", "500"))
CLIENTS = 6
SHAPE = Shape(
    routers={"r1": (ROOT,), "r2": (ROOT,)},
    # One leaf can be reached by two ways.
    leaves={"c1": ("r1",), "c2": ("r1", "r2"), "c3": ("r2",), "c4": ("r2",)},
    hosts_per_leaf=3,
)
#: Seconds for which the link is cut: far above what any timeout of it waits.
CUT_S = 12.0


@pytest.fixture
def network() -> Iterator[Network]:
    with own_network() as network:
        yield network


@pytest.fixture
async def region(network: Network, keep_logs: Callable[[Region], None]) -> AsyncIterator[Region]:
    began = time.monotonic()
    async with Region.open(SHAPE) as region:
        network.has_given_ports()
        told("the region stands", began)
        yield region
        keep_logs(region)


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("XENITH_TEST_SEED") or random.SystemRandom().randrange(10**6))
    print(f"XENITH_TEST_SEED={seed}")  # noqa: T201 - it is shown when the test fails
    return random.Random(seed)


def told(what: str, began: float) -> None:
    print(f"{what} after {time.monotonic() - began:.1f} s")  # noqa: T201 - as above


async def test_nothing_is_lost_doubled_or_left_over_whatever_dies_while_500_servers_are_built(
    region: Region, network: Network, chance: random.Random
):
    body = await prepare(region)
    tenants = Tenants(region, body, chance, target=SERVERS)
    breaking = asyncio.create_task(break_all(region, network, tenants))
    began = time.monotonic()
    await tenants.work(clients=CLIENTS)
    told(f"{len(tenants.accepted)} servers were accepted, {dict(tenants.failed)} failed", began)
    await breaking
    told("all was broken and mended", began)
    await region.settled_links()
    servers = await at_rest(region)
    told(f"{len(servers)} servers are at rest", began)
    await settle(region)
    told("nothing is wrong anywhere", began)

    lost = set(tenants.accepted) - set(servers) - tenants.deleted
    assert not lost, f"accepted, and nowhere to be found: {lost}"
    for server in servers.values():
        assert server["status"] == "ACTIVE" or server["fault"]["message"], server
    failed = [each["fault"]["message"] for each in servers.values() if each["status"] == "ERROR"]
    # Deaths delay builds; hardly any comes to nothing by them.
    assert len(failed) <= len(servers) // 20, failed

    async with region.tenant() as api:
        for server_id in servers:
            await api.delete(f"/compute/v2.1/servers/{server_id}")
    await at_rest(region, count=0)
    await settle(region)
    told("everything is gone again", began)


async def break_all(region: Region, network: Network, tenants: Tenants) -> None:
    """Break one thing after the other, each at its share of the servers."""
    breaks = [*_breaks(region, network)]
    for number, (name, work) in enumerate(breaks):
        due = SERVERS * number // len(breaks)
        while len(tenants.accepted) < due:  # noqa: ASYNC110 - it is the others' count
            await asyncio.sleep(0.02)
        began = time.monotonic()
        await work()
        await region.settled_links()
        told(f"at {len(tenants.accepted)} servers {name}; all talk again", began)


def _breaks(
    region: Region, network: Network
) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
    """Give what is done to the region, by turns, with a name for each."""

    async def kill_cell(name: str) -> None:
        region[name].kill()
        await region[name].start()

    async def stop_broker(name: str) -> None:
        rabbit = region[name].rabbit
        assert rabbit is not None
        await rabbit.stop()
        await rabbit.start()

    async def stop_database(name: str) -> None:
        postgres = region[name].postgres
        assert postgres is not None
        await postgres.stop()
        await postgres.start()

    async def cut_link() -> None:
        rabbit = region["c1"].rabbit
        assert rabbit is not None
        network.cut(rabbit.address().port, process_id=region["r1"].process_id)
        await asyncio.sleep(CUT_S)
        network.heal()

    for name in (ROOT, "r1", "c1"):
        yield f"{name} is killed", lambda name=name: kill_cell(name)
    for name in SHAPE.parents:
        yield f"the broker of {name} is stopped", lambda name=name: stop_broker(name)
    for name in (ROOT, *SHAPE.parents):
        yield f"the database of {name} is stopped", lambda name=name: stop_database(name)
    if network.can_cut:
        yield "the link of r1 and c1 is cut", cut_link
    else:
        print(f"no link was cut: {network.reason}")  # noqa: T201 - as above
