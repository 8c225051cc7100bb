"""How old an answer's parts are, told in a header where a cell was not heard of late."""

from __future__ import annotations

from typing import Any

import pytest

from xenith.cells.keys import CellKey
from xenith.cells.topology import Topology
from xenith.compute.endpoints.ages import HEADER
from xenith.compute.records.hosts import hosts
from xenith.compute.records.instances import instances
from xenith.compute.records.servers import servers
from xenith.core.ids import CellId
from xenith.dev.cells import entry

CELL = CellId("cell")
NAMES = {f"id-{number}": f"r1-c{number}" for number in range(1, 30)}


@pytest.fixture
async def region(cloud: Any, clock: Any) -> Any:
    """A cloud whose node is the root of a region; it has heard of all below it just now."""
    key = CellKey.derive(b"cell")
    cells = [entry(CELL, "api", key)]
    cells += [entry(CellId(cell), name, key, [CELL]) for cell, name in NAMES.items()]
    cloud.node.topology = Topology(region="r", version=2, cells=tuple(cells))
    await clock.advance(100.0)
    for cell in NAMES:
        cloud.node.note_whole(cell, 0.0)
    return cloud


async def server_of(cloud: Any, cell: str, **fields: Any) -> str:
    """Put a server of a cell below into the rows that have come up."""
    server_id: str = await cloud.add_server(f"on-{cell}", **fields)

    def change(tx: Any) -> None:
        tx.update(servers, {"id": server_id}, cell_id=cell)
        tx.update(instances, {"id": server_id}, cell_id=cell)

    await cloud.db.run(change)
    return server_id


async def age_told(cloud: Any, path: str, **kwargs: Any) -> str | None:
    answer = await cloud.ask("GET", path, **kwargs)
    assert answer.status_code == 200, answer.text
    told: str | None = answer.headers.get(HEADER)
    return told


async def test_a_fresh_answer_has_no_such_header(region: Any, clock: Any):
    server_id = await server_of(region, "id-1")
    await clock.advance(4.9)
    for path in ("/servers", "/servers/detail", f"/servers/{server_id}", "/os-hypervisors"):
        assert await age_told(region, path) is None


async def test_a_cloud_of_one_cell_is_never_old(cloud: Any, clock: Any):
    server_id = await cloud.add_server("a")
    await cloud.add_host("h1")
    await clock.advance(1000.0)
    for path in ("/servers", f"/servers/{server_id}", "/os-hypervisors/detail"):
        assert await age_told(cloud, path) is None


@pytest.mark.parametrize("path", ["/servers", "/servers/detail", "/servers/{id}"])
async def test_a_server_of_a_silent_cell_says_how_old_it_is(region: Any, clock: Any, path: str):
    server_id = await server_of(region, "id-1")
    fresh = await region.ask("GET", path.format(id=server_id))
    await clock.advance(7.5)
    old = await region.ask("GET", path.format(id=server_id))
    assert old.headers[HEADER] == "r1-c1;7"
    assert old.json() == fresh.json()


@pytest.mark.parametrize(
    ("path", "version"),
    [
        ("/os-hypervisors", "2.1"),
        ("/os-hypervisors/detail", "2.88"),
        ("/os-hypervisors/{id}", "2.53"),
        ("/os-hypervisors/statistics", "2.1"),
        ("/os-hypervisors/h1/search", "2.1"),
        ("/os-hypervisors/h1/servers", "2.1"),
    ],
)
async def test_hosts_of_a_silent_cell_say_how_old_they_are(
    region: Any, clock: Any, path: str, version: str
):
    host_id = await region.add_host("h1")
    await region.db.run(lambda tx: tx.update(hosts, {"id": host_id}, cell_id="id-2"))
    await clock.advance(61.0)
    assert await age_told(region, path.format(id=host_id), at=version) == "r1-c2;61"


async def test_only_cells_that_are_in_the_answer_count_and_the_oldest_is_first(
    region: Any, clock: Any
):
    for cell in ("id-1", "id-2", "id-3"):
        await server_of(region, cell)
        await clock.advance(1.0)
    await clock.advance(10.0)
    region.node.note_whole("id-2", 6.0)
    region.node.note_whole("id-3", 0.0)
    assert await age_told(region, "/servers") == "r1-c1;13, r1-c2;6"
    assert await age_told(region, "/servers?limit=1&sort_key=created_at&sort_dir=desc") is None


async def test_a_server_that_no_cell_has_taken_is_the_root_cells_own(region: Any, clock: Any):
    server_id = await region.add_server("new")
    await region.db.run(lambda tx: tx.update(servers, {"id": server_id}, cell_id=None))
    await clock.advance(60.0)
    assert await age_told(region, "/servers") is None


async def test_a_cell_that_was_never_heard_is_as_old_as_the_process(region: Any, clock: Any):
    await server_of(region, "id-1")
    region.node.as_of.clear()
    await clock.advance(50.0)
    assert await age_told(region, "/servers") == "r1-c1;150"


async def test_the_header_is_bounded(region: Any, clock: Any):
    for number, cell in enumerate(NAMES):
        await server_of(region, cell)
        region.node.as_of[cell] = float(number)
    told = await age_told(region, "/servers")
    assert told is not None
    parts = told.split(", ")
    assert parts[0] == "r1-c1;100"
    assert parts[19:] == ["r1-c20;81", "..."]


async def test_tenants_are_told_ages_and_no_names_of_cells(region: Any, clock: Any):
    await server_of(region, "id-1")
    await server_of(region, "id-1", project_id="p2")
    await clock.advance(9.0)
    mine = await age_told(region, "/servers", by="member")
    others = await age_told(region, "/servers", by="member-2")
    assert mine is not None
    assert others is not None
    assert mine.endswith(";9")
    assert "r1-c1" not in mine
    assert mine != others
    assert await age_told(region, "/servers", by="member") == mine
