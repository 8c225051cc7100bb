"""Rebuilds on simulated hosts: twice, failing and dying at each step; stopped servers too."""

from __future__ import annotations

import pytest

from xenith.compute.records.actions import list_events
from xenith.core.errors import Conflict, Invalid
from xenith.saga import list_of_subject

pytestmark = pytest.mark.slow


def trial_maker(*, is_stopped, saga_harness, small_cloud, invariants):
    async def make():
        cloud = await small_cloud.SmallCloud.start(host_count=1)
        (server_id,) = await cloud.build()
        if is_stopped:
            await cloud.power(server_id, "os-stop")
            await cloud.work()
        await cloud.rebuild(server_id)

        async def begin():
            await cloud.carry()
            return (await cloud.db.read(list_of_subject, server_id))[-1].id

        async def check_done() -> None:
            assert await cloud.problems(invariants) == []
            row = await cloud.instance(server_id)
            was = "stopped" if is_stopped else "active"
            assert (row.vm_state, row.task_state, row.fault) == (was, None, None)
            assert row.request is None

        async def check_unwound() -> None:
            row = await cloud.instance(server_id)
            assert (row.vm_state, row.task_state) == ("error", None)
            assert row.fault["message"] == "The server could not be made anew of the image."
            # It is where it was, and can be made anew again.
            assert await cloud.problems(invariants) == []
            await cloud.rebuild(server_id)
            await cloud.work()
            assert (await cloud.instance(server_id)).vm_state == "active"
            assert await cloud.problems(invariants) == []

        return saga_harness.Trial(
            **cloud.of_trial(),
            kind="rebuild",
            begin=begin,
            check_done=check_done,
            check_unwound=check_unwound,
        )

    return make


@pytest.fixture(params=[False, True], ids=["running", "stopped"])
def make_trial(request, saga_harness, small_cloud, invariants):
    return trial_maker(
        is_stopped=request.param,
        saga_harness=saga_harness,
        small_cloud=small_cloud,
        invariants=invariants,
    )


async def test_a_rebuild_may_run_twice(saga_harness, make_trial):
    await saga_harness.do_each_step_twice(make_trial)


async def test_a_rebuild_that_fails_leaves_an_error_that_another_mends(saga_harness, make_trial):
    await saga_harness.fail_at_each_step(make_trial)


async def test_a_rebuild_goes_on_after_a_death_at_any_moment(saga_harness, make_trial):
    await saga_harness.die_at_each_moment(make_trial)


@pytest.fixture
async def cloud(small_cloud):
    found = await small_cloud.SmallCloud.start(host_count=1)
    yield found
    await found.close()
    await found.db.close()


def root_disks(cloud, server_id):
    return [
        vdi["uuid"]
        for _, vdi in cloud.objects("VDI")
        if vdi["name_label"] == f"xenith-root-{server_id}"
    ]


async def test_a_rebuilt_server_has_another_disk_and_all_else_that_it_had(cloud, invariants):
    (server_id,) = await cloud.build()
    before, disk = await cloud.server(server_id), root_disks(cloud, server_id)
    request_id = await cloud.rebuild(server_id, name=" other ", metadata={"a": "b"})
    assert (await cloud.server(server_id)).pending_task_state == "rebuilding"
    with pytest.raises(Conflict):
        await cloud.rebuild(server_id)
    await cloud.work()
    after = await cloud.server(server_id)
    assert (after.name, after.metadata) == ("other", {"a": "b"})
    assert (after.ports, after.flavor, after.cell_id) == (
        before.ports,
        before.flavor,
        before.cell_id,
    )
    assert root_disks(cloud, server_id) != disk
    assert len(root_disks(cloud, server_id)) == 1
    (event,) = [
        each
        for each in await cloud.db.read(list_events, server_id, request_id)
        if each.event == "compute_rebuild_instance"
    ]
    assert event.result == "Success"
    assert await cloud.problems(invariants) == []


async def test_an_image_that_does_not_come_leaves_the_old_disk(small_cloud, monkeypatch):
    cloud = await small_cloud.SmallCloud.start(host_count=1, clock=small_cloud.QuickClock())
    (server_id,) = await cloud.build()
    disk = root_disks(cloud, server_id)
    cloud.images.info.id = other = "11111111-0000-4000-8000-000000000009"
    monkeypatch.setattr(cloud.images, "find_image", lambda *_: cloud.images.info)
    cloud.images.trouble = Invalid("this is no disk")
    await cloud.rebuild(server_id, image_ref=other)
    await cloud.work()
    row = await cloud.instance(server_id)
    assert row.vm_state == "error"
    assert root_disks(cloud, server_id) == disk
    await cloud.close()


async def test_a_server_that_is_deleted_as_it_is_rebuilt_is_gone(cloud, invariants):
    (server_id,) = await cloud.build()
    await cloud.rebuild(server_id)
    await cloud.carry()
    await cloud.delete(server_id)
    await cloud.work()
    assert (await cloud.instance(server_id)).vm_state == "deleted"
    assert await cloud.problems(invariants) == []


async def test_a_server_that_was_never_on_a_host_is_not_rebuilt(cloud):
    (server_id,) = await cloud.build(zone="nowhere")
    assert (await cloud.server(server_id)).fault is not None
    with pytest.raises(Conflict):
        await cloud.rebuild(server_id)
