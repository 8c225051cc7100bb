"""Rescues and their ends on simulated hosts: twice, failing and dying at each step."""

from __future__ import annotations

import pytest

from xenith.compute.records.actions import list_events
from xenith.core.errors import Conflict, Invalid
from xenith.driver.names import rescue_config_name, rescue_name, root_name
from xenith.saga import list_of_subject

pytestmark = pytest.mark.slow


def devices(cloud, server_id):
    """Give the names of a server's disks by device."""
    names = {ref: vdi["name_label"] for ref, vdi in cloud.by_ref("VDI").items()}
    return {
        vbd["userdevice"]: names[vbd["VDI"]]
        for _, vbd in cloud.objects("VBD")
        if names[vbd["VDI"]].endswith(server_id)
    }


async def begun(cloud, server_id):
    await cloud.carry()
    return (await cloud.db.read(list_of_subject, server_id))[-1].id


@pytest.fixture(params=["active", "stopped"])
def make_rescue(request, saga_harness, small_cloud, invariants):
    was = request.param

    async def make():
        cloud = await small_cloud.SmallCloud.start(host_count=1)
        (server_id,) = await cloud.build()
        if was == "stopped":
            await cloud.power(server_id, "os-stop")
            await cloud.work()
        before = devices(cloud, server_id)
        await cloud.rescue(server_id)

        async def check_done() -> None:
            assert await cloud.problems(invariants) == []
            row = await cloud.instance(server_id)
            assert (row.vm_state, row.task_state, row.fault) == ("rescued", None, None)
            found = devices(cloud, server_id)
            assert found["0"] == rescue_name(server_id)
            assert found["1"] == root_name(server_id)

        async def check_unwound() -> None:
            assert await cloud.problems(invariants) == []
            row = await cloud.instance(server_id)
            assert (row.vm_state, row.task_state) == (was, None)
            assert row.fault["message"] == "The server could not be rescued."
            assert devices(cloud, server_id) == before
            await cloud.rescue(server_id)
            await cloud.work()
            assert (await cloud.instance(server_id)).vm_state == "rescued"
            assert await cloud.problems(invariants) == []

        return saga_harness.Trial(
            **cloud.of_trial(),
            kind="rescue",
            begin=lambda: begun(cloud, server_id),
            check_done=check_done,
            check_unwound=check_unwound,
        )

    return make


@pytest.fixture
def make_unrescue(saga_harness, small_cloud, invariants):
    async def make():
        cloud = await small_cloud.SmallCloud.start(host_count=1)
        (server_id,) = await cloud.build()
        before = devices(cloud, server_id)
        await cloud.rescue(server_id)
        await cloud.work()
        rescued = devices(cloud, server_id)
        await cloud.unrescue(server_id)

        async def check_done() -> None:
            assert await cloud.problems(invariants) == []
            row = await cloud.instance(server_id)
            assert (row.vm_state, row.task_state, row.fault) == ("active", None, None)
            assert devices(cloud, server_id) == before

        async def check_unwound() -> None:
            row = await cloud.instance(server_id)
            if row.vm_state == "active":
                # It failed when it ran from its own disk already: there is no way back from there.
                await check_done()
                return
            assert await cloud.problems(invariants) == []
            assert (row.vm_state, row.task_state) == ("rescued", None)
            assert row.fault["message"] == "The server could not be brought back from its rescue."
            assert devices(cloud, server_id) == rescued
            await cloud.unrescue(server_id)
            await cloud.work()
            await check_done()

        return saga_harness.Trial(
            **cloud.of_trial(),
            kind="unrescue",
            begin=lambda: begun(cloud, server_id),
            check_done=check_done,
            check_unwound=check_unwound,
        )

    return make


@pytest.fixture
async def cloud(small_cloud):
    found = await small_cloud.SmallCloud.start(host_count=1)
    yield found
    await found.close()


async def test_a_rescue_may_run_twice(saga_harness, make_rescue):
    await saga_harness.do_each_step_twice(make_rescue)


async def test_a_rescue_that_fails_leaves_the_server_as_it_was(saga_harness, make_rescue):
    await saga_harness.fail_at_each_step(make_rescue)


async def test_a_rescue_goes_on_after_a_death_at_any_moment(saga_harness, make_rescue):
    await saga_harness.die_at_each_moment(make_rescue)


async def test_an_unrescue_may_run_twice(saga_harness, make_unrescue):
    await saga_harness.do_each_step_twice(make_unrescue)


async def test_an_unrescue_that_fails_leaves_a_rescued_server_or_none(saga_harness, make_unrescue):
    await saga_harness.fail_at_each_step(make_unrescue)


async def test_an_unrescue_goes_on_after_a_death_at_any_moment(saga_harness, make_unrescue):
    await saga_harness.die_at_each_moment(make_unrescue)


async def test_a_rescued_server_is_told_of_and_keeps_its_own_disk(cloud, invariants):
    (server_id,) = await cloud.build()
    (root,) = [ref for ref, vdi in cloud.by_ref("VDI").items() if is_root(vdi, server_id)]
    request_id = await cloud.rescue(server_id)
    assert (await cloud.server(server_id)).pending_task_state == "rescuing"
    with pytest.raises(Conflict):
        await cloud.rescue(server_id)
    await cloud.work()
    assert devices(cloud, server_id) == {
        "0": rescue_name(server_id),
        "1": root_name(server_id),
        "3": rescue_config_name(server_id),
    }
    for refused in (cloud.rescue, cloud.rebuild, cloud.image):
        with pytest.raises(Conflict):
            await refused(server_id)
    for transition in ("os-start", "os-stop", "reboot_hard", "pause"):
        with pytest.raises(Conflict):
            await cloud.power(server_id, transition)
    (event,) = await cloud.db.read(list_events, server_id, request_id)
    assert (event.event, event.result) == ("compute_rescue_instance", "Success")
    request_id = await cloud.unrescue(server_id)
    await cloud.work()
    (event,) = await cloud.db.read(list_events, server_id, request_id)
    assert (event.event, event.result) == ("compute_unrescue_instance", "Success")
    assert is_root(cloud.by_ref("VDI")[root], server_id)
    assert await cloud.problems(invariants) == []


def is_root(vdi, server_id):
    return vdi["name_label"] == root_name(server_id)


async def test_a_rescued_server_that_is_deleted_leaves_nothing(cloud, invariants):
    (server_id,) = await cloud.build()
    await cloud.rescue(server_id)
    await cloud.work()
    await cloud.delete(server_id)
    await cloud.work()
    assert (await cloud.instance(server_id)).vm_state == "deleted"
    assert await cloud.problems(invariants) == []
    assert devices(cloud, server_id) == {}


@pytest.mark.parametrize("action", ["rescue", "unrescue"])
async def test_a_server_that_is_deleted_meanwhile_is_gone(cloud, invariants, action):
    (server_id,) = await cloud.build()
    await cloud.rescue(server_id)
    if action == "unrescue":
        await cloud.work()
        await cloud.unrescue(server_id)
    await cloud.carry()
    await cloud.delete(server_id)
    await cloud.work()
    assert (await cloud.instance(server_id)).vm_state == "deleted"
    assert await cloud.problems(invariants) == []


async def test_a_server_is_rescued_after_the_process_and_a_rescue_before(cloud, invariants):
    (server_id,) = await cloud.build()
    for _ in range(2):
        await cloud.rescue(server_id)
        await cloud.work()
        await cloud.reborn()
        assert await cloud.problems(invariants) == []
        await cloud.unrescue(server_id)
        await cloud.work()
        assert await cloud.problems(invariants) == []


async def test_an_image_that_does_not_come_leaves_the_server_running(
    small_cloud, invariants, monkeypatch
):
    cloud = await small_cloud.SmallCloud.start(host_count=1, clock=small_cloud.QuickClock())
    (server_id,) = await cloud.build()
    cloud.images.info.id = other = "11111111-0000-4000-8000-000000000009"
    monkeypatch.setattr(cloud.images, "find_image", lambda *_: cloud.images.info)
    cloud.images.trouble = Invalid("this is no disk")
    await cloud.rescue(server_id, rescue_image_ref=other)
    await cloud.work()
    row = await cloud.instance(server_id)
    assert (row.vm_state, row.task_state) == ("active", None)
    assert await cloud.problems(invariants) == []
    await cloud.close()
