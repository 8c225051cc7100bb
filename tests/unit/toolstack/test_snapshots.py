"""Snapshots and clones of simulated disks, which have the rules of real ones: chains, garbage."""

import asyncio

from xenith.core.units import MIB
from xenith.toolstack.storage import records
from xenith.vhd.chain import DEPTH_MAX


async def chunks(data: bytes):
    yield data


async def tidied(sim_host):
    storage = sim_host.server.own_storage
    if storage.tidying is not None:
        storage.tidying.cancel()
        await asyncio.wait([storage.tidying])
    storage.collect_delay_s = 0.0
    for sr in await sim_host.call("SR.get_all"):
        await sim_host.call("SR.scan", sr)
    await asyncio.wait([storage.tidying])


async def chain(sim_host, vdi):
    return [
        (await sim_host.call("VDI.get_record", link))["name_label"]
        for link in records.chain_of(sim_host.server, vdi)
    ]


async def test_a_snapshot_has_a_base_copy_with_its_disk_and_takes_nothing_itself(sim_host):
    vdi = await sim_host.make_vdi("disk")
    await sim_host.session.import_raw_vdi(vdi, chunks(b"x" * 5000), timeout_s=10)
    made = await sim_host.call("VDI.snapshot", vdi, {})
    assert await chain(sim_host, vdi) == ["disk", "base copy"]
    assert await chain(sim_host, made) == ["disk", "base copy"]
    used = [
        await sim_host.call("VDI.get_physical_utilisation", one)
        for one in records.chain_of(sim_host.server, made)
    ]
    assert used == [0, 5000]
    vm = await sim_host.make_vm()
    for number, disk in enumerate((vdi, made)):
        await sim_host.call("VBD.create", {"VM": vm, "VDI": disk, "userdevice": str(number)})
    assert records.vm_bytes(sim_host.server, vm) == 5000, "what both stand on counts once"


async def test_a_chain_is_refused_another_link_where_real_ones_are(sim_host):
    vdi = await sim_host.make_vdi()
    for _ in range(DEPTH_MAX - 1):
        await sim_host.call("VDI.snapshot", vdi)
    assert (await sim_host.fault("VDI.snapshot", vdi))[0] == "SR_BACKEND_FAILURE_109"
    assert len(await chain(sim_host, vdi)) == DEPTH_MAX
    assert len(await sim_host.call("VDI.get_snapshots", vdi)) == DEPTH_MAX - 1


async def test_what_snapshots_leave_is_merged_below_a_vm_and_whole_when_it_has_ended(sim_host):
    vdi, vm = await sim_host.make_vdi("disk"), await sim_host.make_vm()
    await sim_host.call("VBD.create", {"VM": vm, "VDI": vdi, "userdevice": "0"})
    await sim_host.call("VM.start", vm, False, False)
    for _ in range(3):
        await sim_host.call("VDI.destroy", await sim_host.call("VDI.snapshot", vdi))
    await tidied(sim_host)
    assert len(await chain(sim_host, vdi)) == 2, "a guest has the leaf open"
    await sim_host.call("VM.hard_shutdown", vm)
    await asyncio.wait([sim_host.server.own_storage.tidying])
    assert await chain(sim_host, vdi) == ["disk"]
    assert len(await sim_host.call("VDI.get_all")) == 1


async def test_an_sr_whose_operator_wants_no_collection_has_none(sim_host):
    (sr,) = await sim_host.call("SR.get_all")
    vdi = await sim_host.make_vdi()
    await sim_host.call("SR.add_to_other_config", sr, "gc", "false")
    await sim_host.call("VDI.destroy", await sim_host.call("VDI.snapshot", vdi))
    sim_host.server.own_storage.untidy.clear()
    await sim_host.call("SR.scan", sr)
    assert sim_host.server.own_storage.untidy == {}
    assert len(await chain(sim_host, vdi)) == 2


async def test_a_collection_that_fails_is_tried_again_with_the_next_change(sim_host):
    vdi = await sim_host.make_vdi()
    await sim_host.call("VDI.destroy", await sim_host.call("VDI.snapshot", vdi))
    storage = sim_host.server.own_storage
    (entry,) = storage.attached.values()
    collect, failures = entry.repository.collect, []

    async def fail():
        failures.append(1)
        raise OSError("the disk is away")

    entry.repository.collect = fail
    await tidied(sim_host)
    assert failures
    entry.repository.collect = collect
    await tidied(sim_host)
    assert len(await chain(sim_host, vdi)) == 1


async def test_scans_that_are_asked_for_at_once_are_one_and_see_all_that_was_before(sim_host):
    (sr,) = await sim_host.call("SR.get_all")
    (entry,) = sim_host.server.own_storage.attached.values()
    scan, begun, may_go_on = entry.repository.scan, [], asyncio.Event()

    async def slow_scan():
        begun.append(1)
        await may_go_on.wait()
        return await scan()

    entry.repository.scan = slow_scan
    first = asyncio.ensure_future(records.refresh(sim_host.server, sr))
    await asyncio.sleep(0)
    others = [asyncio.ensure_future(records.refresh(sim_host.server, sr)) for _ in range(5)]
    await asyncio.sleep(0)
    may_go_on.set()
    await asyncio.gather(first, *others)
    assert len(begun) == 2, "one for who was first, and one for those that came while it ran"


async def test_what_clients_cannot_change_is_refused(sim_host):
    vdi = await sim_host.make_vdi()
    assert (await sim_host.fault("VDI.set_on_boot", vdi, "reset"))[0] == "VALUE_NOT_SUPPORTED"
    assert (await sim_host.fault("VDI.enable_cbt", vdi))[0] == "SR_OPERATION_NOT_SUPPORTED"
    assert not await sim_host.call("VDI.get_cbt_enabled", vdi)
    await sim_host.call("VDI.snapshot", vdi)
    parent = (await sim_host.call("VDI.get_sm_config", vdi))["vhd-parent"]
    await sim_host.call("VDI.set_sm_config", vdi, {"vhd-parent": "mine", "k": "v"})
    assert await sim_host.call("VDI.get_sm_config", vdi) == {"vhd-parent": parent, "k": "v"}
    made = {"SR": await sim_host.call("VDI.get_SR", vdi), "virtual_size": MIB}
    other = await sim_host.call("VDI.create", {**made, "sm_config": {"vhd-parent": parent}})
    assert await sim_host.call("VDI.get_sm_config", other) == {}
