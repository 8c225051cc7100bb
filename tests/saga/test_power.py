"""The power saga on simulated hosts, for every action: twice, failing and dying at its step."""

from __future__ import annotations

import pytest

from xenith.compute.states import TRANSITIONS
from xenith.saga import list_of_subject

pytestmark = pytest.mark.slow

#: What brings a server where each action may start.
BEFORE = {"os-start": "os-stop", "unpause": "pause", "resume": "suspend"}


@pytest.fixture(params=sorted(TRANSITIONS))
def make_trial(request, saga_harness, small_cloud, invariants):
    transition = request.param

    async def make():
        cloud = await small_cloud.SmallCloud.start(host_count=1)
        (server_id,) = await cloud.build()
        if transition in BEFORE:
            await cloud.power(server_id, BEFORE[transition])
            await cloud.work()
        before = (await cloud.instance(server_id)).vm_state
        await cloud.power(server_id, transition)

        async def begin():
            await cloud.carry()
            return (await cloud.db.read(list_of_subject, server_id))[-1].id

        async def check_done() -> None:
            assert await cloud.problems(invariants) == []
            row = await cloud.instance(server_id)
            assert row.vm_state == TRANSITIONS[transition].vm_state
            assert row.fault is None

        async def check_unwound() -> None:
            # Also where the host had done it before the failure, state and VM agree.
            assert await cloud.problems(invariants) == []
            row = await cloud.instance(server_id)
            assert row.vm_state in (before, TRANSITIONS[transition].vm_state)
            assert row.fault["message"]

        return saga_harness.Trial(
            **cloud.of_trial(),
            kind="power",
            begin=begin,
            check_done=check_done,
            check_unwound=check_unwound,
        )

    return make


async def test_an_action_may_run_twice(saga_harness, make_trial):
    await saga_harness.do_each_step_twice(make_trial)


async def test_an_action_that_fails_leaves_the_state_that_the_host_tells(saga_harness, make_trial):
    await saga_harness.fail_at_each_step(make_trial)


async def test_an_action_goes_on_after_a_death_at_any_moment(saga_harness, make_trial):
    await saga_harness.die_at_each_moment(make_trial)
