"""Orders that meet on one server: deletes, power actions and builds, however they come."""

from __future__ import annotations

import pytest

from xenith.compute.reconcilers import UsageRecount
from xenith.compute.records import quotas
from xenith.compute.records.actions import list_events
from xenith.compute.records.instances import instances
from xenith.compute.states import TRANSITIONS
from xenith.core.errors import Conflict, NotFound
from xenith.network.operations import Networks
from xenith.network.reconcilers import UsageRecount as PortRecount
from xenith.network.records.quotas import QUOTAS

pytestmark = pytest.mark.slow


@pytest.fixture
async def cloud(small_cloud):
    cloud = await small_cloud.SmallCloud.start(host_count=1)
    yield cloud
    await cloud.close()
    await cloud.db.close()


@pytest.fixture
async def full_cloud(small_cloud):
    """One whose hosts have no room."""
    cloud = await small_cloud.SmallCloud.start(host_count=1, memory_bytes=2**20)
    yield cloud
    await cloud.close()
    await cloud.db.close()


async def test_two_deletes_at_once_are_both_answered_and_delete_once(cloud, invariants):
    (server_id,) = await cloud.build()
    first = await cloud.delete(server_id)
    second = await cloud.delete(server_id)
    await cloud.work()
    assert (await cloud.instance(server_id)).vm_state == "deleted"
    for request_id in (first, second):
        (event,) = await cloud.db.read(list_events, server_id, request_id)
        assert event.result == "Success"
    assert await cloud.problems(invariants) == []
    with pytest.raises(NotFound):
        await cloud.delete(server_id)


async def test_a_delete_that_arrives_with_its_build_leaves_nothing(cloud, invariants):
    (server_id,) = await cloud.create()
    await cloud.delete(server_id)
    await cloud.work()
    assert (await cloud.server(server_id)).deleted_at is not None
    assert cloud.objects("VM") == []
    assert await cloud.problems(invariants) == []


async def test_a_server_that_its_cell_does_not_know_can_be_deleted(cloud, invariants):
    (server_id,) = await cloud.build()
    await cloud.db.run(lambda tx: tx.delete(instances, id=server_id))
    await cloud.delete(server_id)
    await cloud.work()
    assert (await cloud.server(server_id)).deleted_at is not None
    leftovers = cloud.cell._loop._runs["compute.leftovers"]
    assert await leftovers.activate() == {"removed": 1}
    assert await cloud.problems(invariants) == []


@pytest.mark.parametrize(
    "transition", sorted(name for name, t in TRANSITIONS.items() if "active" in t.vm_states)
)
async def test_an_action_that_meets_a_delete_does_not_bring_the_server_back(
    cloud, invariants, transition
):
    (server_id,) = await cloud.build()
    await cloud.power(server_id, transition)
    await cloud.delete(server_id)
    with pytest.raises(Conflict):
        await cloud.power(server_id, transition)
    await cloud.work()
    row = await cloud.instance(server_id)
    assert (row.vm_state, row.task_state) == ("deleted", None)
    assert await cloud.problems(invariants) == []


async def test_a_server_in_error_holds_quota_and_ports_until_it_is_deleted(full_cloud, invariants):
    cloud = full_cloud
    (server_id,) = await cloud.build()
    row = await cloud.server(server_id)
    assert row.cell_id is None
    assert row.fault["message"].startswith("No valid host was found: ")
    assert await cloud.problems(invariants) == []
    usage = await cloud.db.read(quotas.usage_of, "p")
    assert usage == {"instances": 1, "cores": 1, "ram": 64}
    await cloud.delete(server_id)
    await cloud.work()
    assert await cloud.problems(invariants) == []
    assert await cloud.db.read(quotas.usage_of, "p") == {"instances": 0, "cores": 0, "ram": 0}


async def test_usage_that_drifted_is_counted_anew(cloud, invariants):
    await cloud.build(count=2)
    assert isinstance(cloud.networks, Networks)
    assert await UsageRecount(cloud.db).activate() == {"corrected": 0}
    assert await PortRecount(cloud.db).activate() == {"corrected": 0}

    def spoil(tx):
        tx.update(quotas.quota_usages, {"project_id": "p"}, instances=7)
        tx.update(QUOTAS, {"project_id": "p", "resource": "port"}, used_count=9)

    await cloud.db.run(spoil)
    assert len(await cloud.problems(invariants)) == 2
    assert await UsageRecount(cloud.db).activate() == {"corrected": 1}
    assert await PortRecount(cloud.db).activate() == {"corrected": 1}
    assert await cloud.problems(invariants) == []
