"""Images of servers on simulated hosts: failing and dying at each step, deleted meanwhile."""

from __future__ import annotations

import pytest

from xenith.compute.records.actions import list_events
from xenith.core.errors import Conflict, Invalid
from xenith.driver.names import snapshot_name
from xenith.saga import list_of_subject

pytestmark = pytest.mark.slow


def snapshots(cloud, server_id):
    name = snapshot_name(server_id)
    return [vdi for _, vdi in cloud.objects("VDI") if vdi["name_label"] == name]


def trial_maker(*, is_stopped, saga_harness, small_cloud, invariants):
    async def make():
        cloud = await small_cloud.SmallCloud.start(host_count=1)
        (server_id,) = await cloud.build()
        if is_stopped:
            await cloud.power(server_id, "os-stop")
            await cloud.work()
        image_id = await cloud.image(server_id)

        async def begin():
            await cloud.carry()
            return (await cloud.db.read(list_of_subject, server_id))[-1].id

        async def check(*, has_image):
            assert await cloud.problems(invariants) == []
            assert snapshots(cloud, server_id) == []
            assert (image_id in cloud.images.stored) is has_image
            assert cloud.images.queued == {}
            row = await cloud.instance(server_id)
            was = "stopped" if is_stopped else "active"
            assert (row.vm_state, row.task_state) == (was, None)

        async def check_done() -> None:
            await check(has_image=True)
            assert cloud.images.stored[image_id].endswith(b"\0" * 400)
            assert cloud.images.stored[image_id][-512:].startswith(b"conectix")

        async def check_unwound() -> None:
            # What was stored before a later step failed is the tenant's image.
            await check(has_image=image_id in cloud.images.stored)

        return saga_harness.Trial(
            **cloud.of_trial(),
            kind="image",
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


async def test_an_image_may_be_made_twice_over(saga_harness, make_trial):
    await saga_harness.do_each_step_twice(make_trial)


async def test_an_image_that_fails_leaves_nothing(saga_harness, make_trial):
    await saga_harness.fail_at_each_step(make_trial)


async def test_an_image_goes_on_after_a_death_at_any_moment(saga_harness, make_trial):
    await saga_harness.die_at_each_moment(make_trial)


async def make_one(small_cloud):
    cloud = await small_cloud.SmallCloud.start(host_count=1)
    (server_id,) = await cloud.build()
    return cloud, server_id


async def test_the_server_says_what_is_done_to_it_and_runs_on(small_cloud, invariants):
    cloud, server_id = await make_one(small_cloud)
    try:
        image_id = await cloud.image(server_id)
        described = cloud.images.queued[image_id]
        assert (described["name"], described["owner"]) == ("mine", "p")
        assert described["disk_format"] == "vhd"
        properties = described["properties"]
        assert properties["image_type"] == "snapshot"
        assert properties["instance_uuid"] == server_id
        assert properties["base_image_ref"] == small_cloud.IMAGE_ID
        await cloud.carry()
        assert (await cloud.instance(server_id)).task_state == "image_snapshot_pending"
        with pytest.raises(Conflict):
            await cloud.image(server_id)
        with pytest.raises(Conflict):
            await cloud.power(server_id, "os-stop")
        await cloud.work()
        row = await cloud.instance(server_id)
        assert (row.vm_state, row.task_state) == ("active", None)
        (event,) = [
            each
            for each in await cloud.db.read(list_events, server_id, "req-2")
            if each.event == "compute_snapshot_instance"
        ]
        assert event.result == "Success"
        assert await cloud.problems(invariants) == []
    finally:
        await cloud.close()


async def test_what_the_image_service_refuses_leaves_nothing(small_cloud, invariants):
    cloud, server_id = await make_one(small_cloud)
    try:
        image_id = await cloud.image(server_id)
        cloud.images.trouble = Invalid("these bytes are none")
        await cloud.work()
        assert image_id not in cloud.images.stored
        assert cloud.images.queued == {}
        assert snapshots(cloud, server_id) == []
        row = await cloud.instance(server_id)
        assert (row.vm_state, row.task_state, row.fault) == ("active", None, None)
        assert await cloud.problems(invariants) == []
    finally:
        await cloud.close()


async def test_a_server_that_is_deleted_as_its_image_is_made_leaves_nothing(
    small_cloud, invariants
):
    cloud, server_id = await make_one(small_cloud)
    try:
        await cloud.image(server_id)
        await cloud.carry()
        await cloud.delete(server_id)
        await cloud.work()
        assert (await cloud.instance(server_id)).vm_state == "deleted"
        assert cloud.images.queued == {}
        assert snapshots(cloud, server_id) == []
        assert await cloud.problems(invariants) == []
    finally:
        await cloud.close()


async def test_an_image_that_comes_too_late_for_its_cell_is_taken_back(small_cloud, invariants):
    cloud, server_id = await make_one(small_cloud)
    try:
        await cloud.image(server_id)
        # The server stops by itself before the cell hears of it.
        await cloud.db.run(
            lambda tx: tx.update(
                small_cloud.instances, {"id": server_id}, task_state="powering-off"
            )
        )
        await cloud.carry()
        assert cloud.images.queued == {}
        assert (await cloud.server(server_id)).pending_task_state is None
    finally:
        await cloud.close()
