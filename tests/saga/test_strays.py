"""What a root and its cells disagree on for good is ended, in favour of what runs."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from xenith.cells.intents import intents
from xenith.compute.records.hosts import hosts
from xenith.compute.records.instances import instances
from xenith.compute.records.servers import servers
from xenith.compute.strays import SETTLED_S, UNCONFIRMED_S, Strays

pytestmark = pytest.mark.slow


@pytest.fixture
async def cloud(small_cloud):
    cloud = await small_cloud.SmallCloud.start(host_count=1)
    yield cloud
    await cloud.close()
    await cloud.db.close()


async def later(cloud) -> dict[str, int]:
    await cloud.world.clock.advance(3 * SETTLED_S)
    found = dict(await Strays(cloud.house.context).activate())
    await cloud.work()
    return found


async def test_a_cloud_that_agrees_has_no_strays(cloud):
    await cloud.build(count=2)
    assert await later(cloud) == {"strays": 0, "forgotten": 0}


async def test_a_machine_of_a_server_that_the_root_has_deleted_is_deleted(cloud):
    (server_id,) = await cloud.build()
    # The root's rows were put back to, or on from, a time when it was gone.
    await cloud.db.run(
        lambda tx: tx.update(servers, {"id": server_id}, deleted_at=cloud.world.clock.now())
    )
    assert await later(cloud) == {"strays": 1, "forgotten": 0}
    assert (await cloud.instance(server_id)).vm_state == "deleted"
    assert cloud.objects("VM") == []


async def test_a_server_that_runs_in_another_cell_than_its_name_is_found_and_kept(cloud):
    (server_id,) = await cloud.build()
    await cloud.db.run(lambda tx: tx.update(servers, {"id": server_id}, cell_id="elsewhere"))
    assert await later(cloud) == {"strays": 1, "forgotten": 0}
    assert (await cloud.server(server_id)).cell_id == "cell"
    assert (await cloud.instance(server_id)).vm_state == "active"


async def test_a_build_that_nobody_has_ends_in_an_error_with_its_reason(cloud):
    (server_id,) = await cloud.create()
    await cloud.db.run(lambda tx: tx.run(sa.delete(intents)))
    assert await later(cloud) == {"strays": 0, "forgotten": 1}
    row = await cloud.server(server_id)
    assert row.fault["message"].startswith("The request to build the server was lost")
    assert await cloud.db.read(lambda tx: tx.list(instances)) == []


async def test_room_of_a_build_that_was_never_confirmed_is_given_back_soon(cloud):
    (server_id,) = await cloud.build()
    fault = {"code": 500, "created": 0.0, "message": "No cell took it.", "details": ""}

    def leave(tx):
        # It went elsewhere, and failed there; this cell was never told.
        tx.update(servers, {"id": server_id}, cell_id=None, fault=fault)
        tx.update(instances, {"id": server_id}, is_confirmed=False)

    await cloud.db.run(leave)
    await cloud.world.clock.advance(UNCONFIRMED_S / 2)
    assert (await Strays(cloud.house.context).activate())["strays"] == 0
    await cloud.world.clock.advance(UNCONFIRMED_S)
    assert (await Strays(cloud.house.context).activate())["strays"] == 1
    await cloud.work()
    assert (await cloud.instance(server_id)).vm_state == "deleted"


async def test_what_a_removal_left_undone_when_the_root_died_is_done(cloud):
    (server_id,) = await cloud.build()

    def leave(tx):
        # Of a cell that is in no document: a host, and a build that it was never told to begin.
        host = tx.list(hosts)[0]._asdict()
        other = dict.fromkeys(("id", "service_id", "name", "url"), "h") | {"cell_id": "gone"}
        tx.insert(hosts, {**host, **other})
        row = tx.get(instances, id=server_id)._asdict()
        tx.insert(instances, {**row, "cell_id": "gone", "is_confirmed": False})

    await cloud.db.run(leave)
    assert await later(cloud) == {"strays": 0, "forgotten": 0}
    assert await cloud.db.read(lambda tx: tx.list(instances, cell_id="gone")) == []
    assert (await cloud.db.read(lambda tx: tx.get(hosts, id="h"))).is_removed
    assert (await cloud.instance(server_id)).vm_state == "active"
    (kept,) = await cloud.db.read(lambda tx: tx.list(hosts, cell_id="cell"))
    assert not kept.is_removed
