"""Resize and revert on simulated hosts: twice, failing and dying at each step; claims and quota."""

from __future__ import annotations

import pytest

from xenith.compute.records import quotas
from xenith.compute.records.actions import list_events
from xenith.compute.records.flavors import flavors
from xenith.core.errors import Conflict, Exhausted, Invalid
from xenith.core.units import GIB
from xenith.saga import list_of_subject

pytestmark = pytest.mark.slow

SMALL, LARGE = "64", "1"


def trial_maker(kind, *, is_stopped, saga_harness, small_cloud, invariants):
    async def make():
        cloud = await small_cloud.SmallCloud.start(host_count=1)
        (server_id,) = await cloud.build()
        if is_stopped:
            await cloud.power(server_id, "os-stop")
            await cloud.work()
        old = await cloud.server(server_id)
        await cloud.resize(server_id, LARGE)
        if kind == "revert-resize":
            await cloud.work()
            await cloud.revert_resize(server_id)

        async def begin():
            await cloud.carry()
            return (await cloud.db.read(list_of_subject, server_id))[-1].id

        async def check(vm_state, flavor_id, *, has_failed):
            assert await cloud.problems(invariants) == []
            row, server = await cloud.instance(server_id), await cloud.server(server_id)
            assert (row.vm_state, row.task_state) == (vm_state, None)
            assert server.flavor_id == flavor_id
            assert bool(row.fault) is has_failed
            assert (server.resize is None) is (vm_state != "resized")

        was = "stopped" if is_stopped else "active"

        async def check_done() -> None:
            if kind == "resize":
                await check("resized", LARGE, has_failed=False)
            else:
                await check(was, old.flavor_id, has_failed=False)

        async def check_unwound() -> None:
            if kind == "resize":
                await check(was, old.flavor_id, has_failed=True)
            else:
                await check("resized", LARGE, has_failed=True)

        return saga_harness.Trial(
            **cloud.of_trial(),
            kind=kind,
            begin=begin,
            check_done=check_done,
            check_unwound=check_unwound,
        )

    return make


@pytest.fixture(params=[("resize", False), ("resize", True), ("revert-resize", False)])
def make_trial(request, saga_harness, small_cloud, invariants):
    kind, is_stopped = request.param
    return trial_maker(
        kind,
        is_stopped=is_stopped,
        saga_harness=saga_harness,
        small_cloud=small_cloud,
        invariants=invariants,
    )


async def test_a_resize_may_run_twice(saga_harness, make_trial):
    await saga_harness.do_each_step_twice(make_trial)


async def test_a_resize_that_fails_leaves_the_size_that_there_was(saga_harness, make_trial):
    await saga_harness.fail_at_each_step(make_trial)


async def test_a_resize_goes_on_after_a_death_at_any_moment(saga_harness, make_trial):
    await saga_harness.die_at_each_moment(make_trial)


@pytest.fixture
async def cloud(small_cloud):
    found = await small_cloud.SmallCloud.start(host_count=1)
    yield found
    await found.close()
    await found.db.close()


async def test_a_confirmed_resize_holds_the_new_size_and_its_quota(cloud, invariants):
    (server_id,) = await cloud.build()
    await cloud.resize(server_id, LARGE)
    await cloud.work()
    assert await cloud.problems(invariants) == []
    await cloud.confirm_resize(server_id)
    await cloud.work()
    assert await cloud.problems(invariants) == []
    row, server = await cloud.instance(server_id), await cloud.server(server_id)
    assert (row.vm_state, server.flavor_id, server.resize) == ("active", LARGE, None)
    with pytest.raises(Conflict):
        await cloud.revert_resize(server_id)


async def test_a_smaller_size_gives_back_on_confirm_only(cloud, invariants):
    await cloud.db.run(_make_flavors)
    (server_id,) = await cloud.build(flavor_ref="big")
    await cloud.resize(server_id, "little")
    await cloud.work()
    assert (await cloud.db.read(quotas.usage_of, "p"))["ram"] == 512
    assert await cloud.problems(invariants) == []
    await cloud.confirm_resize(server_id)
    await cloud.work()
    assert (await cloud.db.read(quotas.usage_of, "p"))["ram"] == 64
    assert await cloud.problems(invariants) == []


def _make_flavors(tx):
    base = tx.get(flavors, id=SMALL)._asdict()
    tx.insert(flavors, {**base, "id": "big", "name": "big", "ram_mib": 512, "vcpus": 2})
    tx.insert(flavors, {**base, "id": "little", "name": "little", "ram_mib": 64, "vcpus": 1})


async def test_without_room_the_server_goes_on_as_it_was(small_cloud, invariants):
    cloud = await small_cloud.SmallCloud.start(host_count=1, memory_bytes=GIB)
    try:
        (server_id,) = await cloud.build()
        request_id = await cloud.resize(server_id, "3")
        await cloud.work()
        assert await cloud.problems(invariants) == []
        row, server = await cloud.instance(server_id), await cloud.server(server_id)
        assert (row.vm_state, row.task_state, row.fault) == ("active", None, None)
        assert (server.flavor_id, server.resize) == (SMALL, None)
        (event,) = await cloud.db.read(list_events, server_id, request_id)
        assert event.result == "Error"
        assert "No valid host" in event.details
    finally:
        await cloud.close()
        await cloud.db.close()


async def test_a_server_is_deleted_in_the_middle_of_a_resize(cloud, invariants):
    (server_id,) = await cloud.build()
    await cloud.resize(server_id, LARGE)
    await cloud.carry()
    await cloud.delete(server_id)
    await cloud.work()
    assert await cloud.problems(invariants) == []
    assert (await cloud.instance(server_id)).vm_state == "deleted"
    assert await cloud.db.read(quotas.usage_of, "p") == {"instances": 0, "cores": 0, "ram": 0}


async def test_what_cannot_be_is_refused_with_nothing_taken(cloud):
    (server_id,) = await cloud.build()
    before = await cloud.db.read(quotas.usage_of, "p")
    for flavor in (SMALL, "none"):
        with pytest.raises(Invalid):
            await cloud.resize(server_id, flavor)
    await cloud.db.run(
        lambda tx: quotas.set_limits(tx, scope="project", owner="p", limits={"ram": 64})
    )
    with pytest.raises(Exhausted):
        await cloud.resize(server_id, LARGE)
    assert await cloud.db.read(quotas.usage_of, "p") == before
