"""Swap and ephemeral disks on simulated hosts: in builds, resizes and reverts that fail or die."""

from __future__ import annotations

import pytest

from xenith.compute.operations.flavors import FlavorSpec
from xenith.core.errors import Invalid
from xenith.core.units import GIB
from xenith.driver.names import ephemeral_name, instance_of, swap_name
from xenith.saga import list_of_subject

pytestmark = pytest.mark.slow

NONE, SOME, MORE = "64", "some", "more"
SIZES = {SOME: (64, 2), MORE: (32, 1024)}


async def make_cloud(small_cloud, **options):
    cloud = await small_cloud.SmallCloud.start(host_count=1, **options)
    for name, (swap_mib, ephemeral_gib) in SIZES.items():
        spec = FlavorSpec(
            id=name,
            name=name,
            vcpus=1,
            ram_mib=64,
            root_gib=1,
            swap_mib=swap_mib,
            ephemeral_gib=ephemeral_gib,
        )
        await cloud.compute.flavors.create(spec)
    return cloud


def further(cloud, server_id):
    """Give the sizes of a server's further disks, in MiB, by device."""
    vdis = cloud.by_ref("VDI")
    return {
        vbd["userdevice"]: int(vdis[vbd["VDI"]]["virtual_size"]) // 2**20
        for _, vbd in cloud.objects("VBD")
        if instance_of(vdis[vbd["VDI"]]["name_label"]) == server_id
        and vbd["userdevice"] not in ("0", "3")
    }


#: What is tried, the flavors before and after, and the devices before and after.
TRIALS = [
    ("build", SOME, SOME, {}, {"2": 64, "4": 2048}),
    ("rebuild", SOME, SOME, {"2": 64, "4": 2048}, {"2": 64, "4": 2048}),
    ("resize", NONE, SOME, {}, {"2": 64, "4": 2048}),
    ("revert-resize", NONE, SOME, {"2": 64, "4": 2048}, {}),
]


@pytest.fixture(params=TRIALS, ids=lambda trial: trial[0])
def make_trial(request, saga_harness, small_cloud, invariants):
    kind, old, new, before, after = request.param

    async def make():
        cloud = await make_cloud(small_cloud)
        (server_id,) = await cloud.create(flavor_ref=old)
        if kind != "build":
            await cloud.work()
        if kind == "rebuild":
            await cloud.rebuild(server_id)
        elif kind != "build":
            await cloud.resize(server_id, new)
        if kind == "revert-resize":
            await cloud.work()
            await cloud.revert_resize(server_id)

        async def begin():
            await cloud.carry()
            return (await cloud.db.read(list_of_subject, server_id))[-1].id

        async def check_done() -> None:
            assert await cloud.problems(invariants) == []
            assert further(cloud, server_id) == after

        async def check_unwound() -> None:
            assert await cloud.problems(invariants) == []
            if kind != "rebuild":
                assert further(cloud, server_id) == before

        return saga_harness.Trial(
            **cloud.of_trial(),
            kind=kind,
            begin=begin,
            check_done=check_done,
            check_unwound=check_unwound,
        )

    return make


async def test_further_disks_are_made_once_by_a_step_done_twice(saga_harness, make_trial):
    await saga_harness.do_each_step_twice(make_trial)


async def test_what_fails_leaves_the_disks_that_were_there(saga_harness, make_trial):
    await saga_harness.fail_at_each_step(make_trial)


async def test_further_disks_survive_a_death_at_any_moment(saga_harness, make_trial):
    await saga_harness.die_at_each_moment(make_trial)


async def test_ephemeral_disks_grow_and_are_claimed_and_never_shrink(small_cloud, invariants):
    cloud = await make_cloud(small_cloud, disk_bytes=4096 * GIB)
    (server_id,) = await cloud.build(flavor_ref=SOME)
    held = cloud.cell.hosts.table.find_claim(server_id)
    assert held.disk_gib == 1 + 2 + 1
    (first,) = [
        ref
        for ref, vdi in cloud.by_ref("VDI").items()
        if vdi["name_label"] == ephemeral_name(server_id, 0)
    ]
    await cloud.resize(server_id, MORE)
    await cloud.work()
    await cloud.confirm_resize(server_id)
    await cloud.work()
    assert further(cloud, server_id) == {"2": 32, "4": 1024 * 1024}
    assert int(cloud.by_ref("VDI")[first]["virtual_size"]) == 1024 * GIB
    with pytest.raises(Invalid, match="smaller ephemeral"):
        await cloud.resize(server_id, SOME)
    assert await cloud.problems(invariants) == []
    await cloud.delete(server_id)
    await cloud.work()
    assert await cloud.problems(invariants) == []
    assert further(cloud, server_id) == {}
    await cloud.close()


async def test_a_rescued_server_has_its_further_disks(small_cloud, invariants):
    cloud = await make_cloud(small_cloud)
    (server_id,) = await cloud.build(flavor_ref=SOME)
    names = {swap_name(server_id), ephemeral_name(server_id, 0)}
    await cloud.rescue(server_id)
    await cloud.work()
    assert await cloud.problems(invariants) == []
    vdis = cloud.by_ref("VDI")
    attached = {vdis[vbd["VDI"]]["name_label"] for _, vbd in cloud.objects("VBD")}
    assert names <= attached
    await cloud.close()
