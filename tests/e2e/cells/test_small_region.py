"""A small region of real processes, from the first token to the last server."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from checks import settle
from network import connection_counts, own_network
from region import ROOT, Region, Shape
from tenants import Tenants, at_rest, prepare

from xenith.cli import run

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

SERVERS = 40
SHAPE = Shape(
    routers={"r1": (ROOT,)},
    leaves={"c1": ("r1",), "c2": ("r1",)},
    hosts_per_leaf=2,
    has_postgres=False,
)


@pytest.fixture
def region(keep_logs: Callable[[Region], None]) -> Iterator[Region]:
    with own_network() as network, Region.standing(SHAPE) as region:
        network.has_given_ports()
        yield region
        keep_logs(region)


async def test_cells_join_build_and_go_on_after_each_of_them_was_started_anew(region: Region):
    body = await prepare(region)
    async with region.admin() as admin:
        cells = {each["name"]: each for each in (await admin.get("/xenith/v1/cells"))["cells"]}
        assert cells["c1"]["path"] == "api!r1!c1"
        # Closed again, a leaf proves itself as a new one does.
        await admin.patch("/xenith/v1/cells/c1", {"state": "closed"})
        image = {"image": body["server"]["imageRef"], "flavor": ""}
        tested = await admin.post("/xenith/v1/cells/c1/test", image)
        assert tested["test"]["cell"] == "c1"
        await admin.patch("/xenith/v1/cells/c1", {"state": "open"})

    tenants = Tenants(region, body, random.Random(1), target=SERVERS, allowed=SERVERS)
    await tenants.work(clients=4)
    # A server that is being built cannot be rebooted; nothing else was refused.
    assert set(tenants.failed) <= {"Conflict"}
    servers = await at_rest(region, count=len(tenants.accepted) - len(tenants.deleted))
    assert {server["status"] for server in servers.values()} == {"ACTIVE"}
    await settle(region)

    # A question goes down to the cell that has the server, and its answer comes up.
    async with region.tenant() as api:
        path = f"/compute/v2.1/servers/{next(iter(servers))}"
        said = await api.post(path + "/action", {"os-getConsoleOutput": {}})
        assert isinstance(said["output"], str)
        assert (await api.get(path))["server"]["status"] == "ACTIVE"

    # One connection for each side of each pair of neighbours, however much was built.
    ports = {name: broker_port(region, name) for name in ("r1", "c1", "c2")}
    counts = {name: connection_counts(member.process_id) for name, member in region.members.items()}
    assert {(name, to): counts[name].get(ports[to], 0) for name in counts for to in ports} == {
        **{(name, to): 0 for name in counts for to in ports},
        (ROOT, "r1"): 1,
        ("r1", "r1"): 1,
        ("r1", "c1"): 1,
        ("r1", "c2"): 1,
        ("c1", "c1"): 1,
        ("c2", "c2"): 1,
    }

    # Stopped in order; one by the command for that, and begun with a token that is not looked at.
    for name in (ROOT, "r1", "c1"):
        assert await region[name].stop() == 0, region[name].log()[-2000:]
        await region[name].start()
    assert run(["down", "--data", str(region["c2"].data)]) == 0
    await region["c2"].ended()
    await region["c2"].start("--join", "no token")
    await region.settled_links()
    async with region.tenant() as api:
        for server_id in servers:
            await api.post(
                f"/compute/v2.1/servers/{server_id}/action", {"reboot": {"type": "HARD"}}
            )
        await at_rest(region, count=len(servers))
        await settle(region)
        for server_id in servers:
            await api.delete(f"/compute/v2.1/servers/{server_id}")
    await at_rest(region, count=0)
    await settle(region)


def broker_port(region: Region, name: str) -> int:
    rabbit = region[name].rabbit
    assert rabbit is not None
    return rabbit.address().port
