"""A build that was let go and came back to the same cell, told to the root out of its time."""

from __future__ import annotations

import pytest

from xenith.cells.intents import intent_of
from xenith.cells.intents import intents as outbox
from xenith.compute.projection import apply_change
from xenith.compute.records.instances import instances
from xenith.compute.records.servers import servers

pytestmark = pytest.mark.slow


@pytest.fixture
async def cloud(small_cloud):
    cloud = await small_cloud.SmallCloud.start(host_count=1)
    yield cloud
    await cloud.close()
    await cloud.db.close()


async def let_go(cloud) -> str:
    """Have a build accepted and let go, and the server given to that cell by a second build."""
    (server_id,) = await cloud.create()
    (row,) = await cloud.db.read(lambda tx: tx.list(outbox, subject=server_id))
    intent = intent_of(row)
    assert await cloud.db.run(cloud.cell.apply, intent, cloud.cell.prepare(intent)) is not None
    await cloud.db.run(cloud.cell.fence, server_id, intent.id)
    await cloud.db.run(lambda tx: tx.update(servers, {"id": server_id}, cell_id=cloud.cell.cell_id))
    return server_id


async def follow(cloud, server_id):
    """Have the root hear of the first build now, as by a slower way."""
    await cloud.db.run(lambda tx: apply_change(tx, cloud.networks, tx.get(instances, id=server_id)))
    return await cloud.server(server_id)


async def test_the_end_of_a_build_that_never_began_is_no_end_of_the_server(cloud):
    server_id = await let_go(cloud)
    assert (await cloud.instance(server_id)).vm_state == "deleted"
    assert (await follow(cloud, server_id)).deleted_at is None


async def test_the_end_of_a_build_that_never_began_ends_a_server_that_is_being_deleted(cloud):
    server_id = await let_go(cloud)
    await cloud.delete(server_id)
    assert (await follow(cloud, server_id)).deleted_at is not None
