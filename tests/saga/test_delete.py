"""The delete saga on simulated hosts: twice, failing and dying at every step of it."""

from __future__ import annotations

import pytest

from xenith.saga import list_of_subject

pytestmark = pytest.mark.slow


@pytest.fixture
def make_trial(saga_harness, small_cloud, invariants):
    async def make():
        cloud = await small_cloud.SmallCloud.start(host_count=2)
        server_id, other_id = await cloud.build(count=2)
        await cloud.delete(server_id)

        async def begin():
            await cloud.carry()
            return (await cloud.db.read(list_of_subject, server_id))[-1].id

        async def check_done() -> None:
            assert await cloud.problems(invariants) == []
            assert (await cloud.instance(server_id)).vm_state == "deleted"
            assert (await cloud.instance(other_id)).vm_state == "active"
            names = [vm["name_label"] for _, vm in cloud.objects("VM")]
            assert names == [f"xenith-vm-{other_id}"]

        async def check_unwound() -> None:
            assert await cloud.problems(invariants) == []
            assert (await cloud.instance(server_id)).vm_state == "error"
            # What could not be deleted can be deleted.
            await cloud.delete(server_id)
            await cloud.work()
            await check_done()

        return saga_harness.Trial(
            **cloud.of_trial(),
            kind="delete",
            begin=begin,
            check_done=check_done,
            check_unwound=check_unwound,
        )

    return make


async def test_each_step_of_a_delete_may_run_twice(saga_harness, make_trial):
    await saga_harness.do_each_step_twice(make_trial)


async def test_a_delete_that_fails_at_any_step_leaves_a_server_that_can_be_deleted(
    saga_harness, make_trial
):
    await saga_harness.fail_at_each_step(make_trial)


async def test_a_delete_goes_on_after_a_death_at_any_moment(saga_harness, make_trial):
    await saga_harness.die_at_each_moment(make_trial)
