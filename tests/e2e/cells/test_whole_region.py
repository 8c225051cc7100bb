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
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import pytest
from checks import settle
from network import Network, own_network
from postgres import Postgres
from region import ROOT, Member, Region, Shape, until
from tenants import Tenants, at_rest, prepare

from xenith.dev.rabbitmq import Rabbit

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

SERVERS = int(os.environ.get("XENITH_E2E_SERVERS", "500"))
CLIENTS = 6
SHAPE = Shape(
    routers={"r1": (ROOT,), "r2": (ROOT,)},
    # One leaf can be reached by two ways.
    leaves={"c1": ("r1",), "c2": ("r1", "r2"), "c3": ("r2",), "c4": ("r2",)},
    hosts_per_leaf=3,
)
#: Seconds that a link stays cut after it was seen to be dead.
CUT_S = 3.0


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with own_network() as network:
        yield network


@pytest.fixture(scope="module")
def region(network: Network, keep_logs: Callable[[Region], None]) -> Iterator[Region]:
    began = time.monotonic()
    with Region.standing(SHAPE) as region:
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
    began = time.monotonic()
    async with asyncio.TaskGroup() as both:
        both.create_task(break_all(region, network, tenants))
        await tenants.work(clients=CLIENTS)
        told(f"{len(tenants.accepted)} servers were accepted", began)
        told(f"what was refused: {dict(tenants.said)}", began)
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
    """Break one thing after the other, and have servers asked for from before until after each."""
    breaks = [*_breaks(region, network)]
    share = SERVERS / len(breaks)
    for number, (name, work) in enumerate(breaks):
        tenants.allowed = round(share * (number + 1))
        # Some are on their way when it happens, and some are asked for while it is so.
        while len(tenants.accepted) < share * (number + 0.3):  # noqa: ASYNC110 - others' count
            await asyncio.sleep(0.02)
        began = time.monotonic()
        await work()
        await region.settled_links()
        told(f"at {len(tenants.accepted)} servers {name}; all talk again", began)
    tenants.allowed = SERVERS


def _breaks(
    region: Region, network: Network
) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
    """Give what is done to the region, by turns, with a name for each."""
    for name in (ROOT, "r1", "c1"):
        yield f"{name} was killed", partial(kill_cell, region[name])
    for name in ("r1", "c1"):
        yield f"the broker of {name} was stopped", partial(stop_broker, broker_of(region, name))
    for name in ("r2", "c2", "c3", "c4"):
        yield f"the broker of {name} was killed", partial(kill_broker, broker_of(region, name))
    for name in (ROOT, "r1", "c1"):
        work = partial(stop_database, database_of(region, name))
        yield f"the database of {name} was stopped", work
    for name in ("r2", "c2", "c3", "c4"):
        work = partial(kill_database, database_of(region, name))
        yield f"the database of {name} was killed", work
    if network.can_cut:
        yield "the link of r1 and c1 was cut", partial(cut_link, region, network)
    else:
        print(f"no link was cut: {network.reason}")  # noqa: T201 - as above


async def kill_cell(member: Member) -> None:
    member.kill()
    await member.start()


async def stop_broker(rabbit: Rabbit) -> None:
    await rabbit.stop()
    await rabbit.start()


async def kill_broker(rabbit: Rabbit) -> None:
    rabbit.kill()
    await rabbit.start()


async def stop_database(postgres: Postgres) -> None:
    await postgres.stop()
    await postgres.start()


async def kill_database(postgres: Postgres) -> None:
    await postgres.kill()
    await postgres.start()


async def cut_link(region: Region, network: Network) -> None:
    port = broker_of(region, "c1").address().port
    network.cut(port, process_id=region["r1"].process_id)
    await until(lambda: is_dark(region, "c1"), lambda: "the link is not cut")
    await asyncio.sleep(CUT_S)
    network.heal()


def broker_of(region: Region, name: str) -> Rabbit:
    found = region[name].rabbit
    assert found is not None
    return found


def database_of(region: Region, name: str) -> Postgres:
    found = region[name].postgres
    assert found is not None
    return found


async def is_dark(region: Region, name: str) -> bool:
    async with region.admin() as api:
        return bool((await api.get(f"/xenith/v1/cells/{name}"))["cell"]["is_dark"])


async def test_each_process_starts_with_everything_else_away_and_settles_when_it_comes(
    region: Region,
):
    body = await prepare(region)
    async with region.tenant() as api:
        made = await api.post("/compute/v2.1/servers", body)
        server_id = made["server"]["id"]
        await api.wait_server(server_id, status="ACTIVE", timeout_s=60)
    await region.end()

    # Nothing is there: each waits for its own database, says so, and can be told to stop.
    for member in region.members.values():
        member.begin()
    for member in region.members.values():
        await until(partial(says, member, "database away, waiting for it"), member.log)
        assert member.is_running
    for name in (ROOT, "c1"):
        assert await region[name].stop() == 0, region[name].log()
        region[name].begin()

    # With its database alone, a cell is ready; of broker and neighbours it says that they are away.
    for name in (*SHAPE.leaves, *SHAPE.routers, ROOT):
        await database_of(region, name).start()
        await region[name].ready()
    for name in SHAPE.parents:
        await until(partial(says, region[name], "broker away"), region[name].log)
    async with region.tenant() as api:
        assert (await api.get(f"/compute/v2.1/servers/{server_id}"))["server"]["status"] == "ACTIVE"
        waits = (await api.post("/compute/v2.1/servers", body))["server"]["id"]
    assert all(member.is_running for member in region.members.values())

    await asyncio.gather(*(broker_of(region, name).start() for name in SHAPE.parents))
    await region.settled_links()
    servers = await at_rest(region, count=2)
    assert {servers[each]["status"] for each in (server_id, waits)} == {"ACTIVE"}
    await settle(region)


async def says(member: Member, what: str) -> bool:
    return what in member.log()
