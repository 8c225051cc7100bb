"""The build saga on simulated hosts: twice, failing and dying at every step of it."""

from __future__ import annotations

import pytest

from xenith.saga import list_of_subject

pytestmark = pytest.mark.slow


@pytest.fixture
def make_trial(saga_harness, small_cloud, invariants):
    async def make():
        cloud = await small_cloud.SmallCloud.start(host_count=2)
        (server_id,) = await cloud.create()

        async def begin():
            await cloud.carry()
            return (await cloud.db.read(list_of_subject, server_id))[-1].id

        async def check(*, wanted: str = "active") -> None:
            assert await cloud.problems(invariants) == []
            assert (await cloud.instance(server_id)).vm_state == wanted

        async def check_unwound() -> None:
            # A run that unwound is followed by one on the other host, if it came to have one.
            first, *_ = await cloud.db.read(list_of_subject, server_id)
            await check(wanted="error" if first.error["step"] == "claim" else "active")

        return saga_harness.Trial(
            **cloud.of_trial(),
            kind="build",
            begin=begin,
            check_done=check,
            check_unwound=check_unwound,
        )

    return make


async def test_each_step_of_a_build_may_run_twice(saga_harness, make_trial):
    await saga_harness.do_each_step_twice(make_trial)


async def test_a_build_that_fails_at_any_step_unwinds_and_is_made_on_the_next_host(
    saga_harness, make_trial
):
    await saga_harness.fail_at_each_step(make_trial)


async def test_a_build_goes_on_after_a_death_at_any_moment(saga_harness, make_trial):
    await saga_harness.die_at_each_moment(make_trial)
