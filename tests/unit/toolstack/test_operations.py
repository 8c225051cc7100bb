"""What may be done to an object while something else is, with an operation that is held up."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from xenith.core.ids import Ids
from xenith.toolstack.backends import BackendError
from xenith.toolstack.operations import Operations
from xenith.xapi import XapiFault


@asynccontextmanager
async def held_up(sim_host, operation):
    """Hold up one operation of the backend; gives what is set when it has begun."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def script(name, _subject):
        if name == operation:
            begun.set()
            await go.wait()

    sim_host.backend.script = script
    try:
        yield begun
    finally:
        go.set()
        sim_host.backend.script = None


async def test_what_runs_is_shown_while_it_runs(sim_host):
    vm = await sim_host.in_state("Running")
    async with held_up(sim_host, "domain_shutdown_clean") as begun:
        ending = asyncio.ensure_future(sim_host.call("VM.clean_shutdown", vm))
        await begun.wait()
        record = await sim_host.call("VM.get_record", vm)
        assert list(record["current_operations"].values()) == ["clean_shutdown"]
        assert record["allowed_operations"] == ["hard_reboot", "hard_shutdown"]
    await ending
    record = await sim_host.call("VM.get_record", vm)
    assert record["current_operations"] == {}
    assert {"destroy", "start", "start_on", "clone"} <= set(record["allowed_operations"])
    assert not {"pause", "suspend", "hard_shutdown"} & set(record["allowed_operations"])


async def test_what_failed_is_shown_no_more(sim_host):
    async def refuse(_name, _subject):
        raise BackendError("INTERNAL_ERROR", "no")

    vm, vdi = await sim_host.in_state("Running"), await sim_host.make_vdi()
    sim_host.backend.script = refuse
    await sim_host.fault("VM.pause", vm)
    await sim_host.fault("VDI.snapshot", vdi)
    for record in (
        await sim_host.call("VM.get_record", vm),
        await sim_host.call("VDI.get_record", vdi),
    ):
        assert record["current_operations"] == {}
        assert {"pause", "snapshot"} & set(record["allowed_operations"])


async def test_another_operation_is_told_which_one_is_in_its_way(sim_host):
    vm = await sim_host.in_state("Running")
    async with held_up(sim_host, "domain_pause") as begun:
        pausing = asyncio.ensure_future(sim_host.call("VM.pause", vm))
        await begun.wait()
        (mark,) = await sim_host.call("VM.get_current_operations", vm)
        for name in ("pause", "suspend", "clean_shutdown"):
            fault = await sim_host.fault(f"VM.{name}", vm)
            assert fault == ["OTHER_OPERATION_IN_PROGRESS", "VM", vm, "pause", mark]
    await pausing


@pytest.mark.parametrize("hard", ["hard_shutdown", "hard_reboot"])
async def test_a_hard_operation_ends_a_clean_one_with_task_cancelled(sim_host, hard):
    vm = await sim_host.in_state("Running")
    async with held_up(sim_host, "domain_shutdown_clean") as begun:
        clean = asyncio.ensure_future(sim_host.call("VM.clean_shutdown", vm))
        await begun.wait()
        await sim_host.call(f"VM.{hard}", vm)
        with pytest.raises(XapiFault, match="TASK_CANCELLED"):
            await clean
    expected = "Halted" if hard == "hard_shutdown" else "Running"
    assert await sim_host.call("VM.get_power_state", vm) == expected
    assert await sim_host.call("VM.get_current_operations", vm) == {}


async def test_the_power_of_a_vm_that_is_being_started_can_be_cut(sim_host):
    vm = await sim_host.make_vm()
    host = (await sim_host.call("host.get_all"))[0]
    free = await sim_host.call("host.compute_free_memory", host)
    async with held_up(sim_host, "domain_start") as begun:
        starting = asyncio.ensure_future(sim_host.call("VM.start", vm, False, False))
        await begun.wait()
        assert await sim_host.call("host.compute_free_memory", host) < free
        await sim_host.call("VM.hard_shutdown", vm)
        with pytest.raises(XapiFault, match="TASK_CANCELLED"):
            await starting
    assert await sim_host.call("VM.get_power_state", vm) == "Halted"
    assert await sim_host.call("host.compute_free_memory", host) == free
    await sim_host.call("VM.start", vm, False, False)


async def test_memory_that_is_being_taken_is_not_there_for_another(sim_host):
    host = (await sim_host.call("host.get_all"))[0]
    free = await sim_host.call("host.compute_free_memory", host)
    first, second = [await sim_host.make_vm(memory_static_max=free) for _ in "ab"]
    async with held_up(sim_host, "domain_start") as begun:
        starting = asyncio.ensure_future(sim_host.call("VM.start", first, False, False))
        await begun.wait()
        fault = await sim_host.fault("VM.start", second, False, False)
        assert fault == ["HOST_NOT_ENOUGH_FREE_MEMORY", str(free), "0"]
        limits = await sim_host.fault("VM.set_memory_limits", first, 0, 1, 1, 1)
        assert limits[0] == "OTHER_OPERATION_IN_PROGRESS"
    await starting


@pytest.mark.parametrize(
    ("slow", "method", "params"),
    [
        ("disk_clone", "VDI.clone", []),
        ("disk_resize", "VDI.resize", [64 * 1024 * 1024]),
        ("disk_destroy", "VDI.destroy", []),
    ],
)
async def test_a_disk_is_cloned_by_many_at_once_and_changed_by_one(sim_host, slow, method, params):
    vdi = await sim_host.make_vdi()
    async with held_up(sim_host, slow) as begun:
        running = asyncio.ensure_future(sim_host.call(method, vdi, *params))
        await begun.wait()
        name = method.removeprefix("VDI.")
        for other in ("VDI.destroy", "VDI.resize"):
            asked = [128 * 1024 * 1024] if other == "VDI.resize" else []
            fault = await sim_host.fault(other, vdi, *asked)
            assert fault[:4] == ["OTHER_OPERATION_IN_PROGRESS", "VDI", vdi, name]
        second = None
        if name == "clone":
            second = asyncio.ensure_future(sim_host.call("VDI.clone", vdi))
    await running
    if second is not None:
        assert await second != running.result()


async def test_a_disk_of_a_vm_that_is_being_started_stays(sim_host):
    vm, vdi = await sim_host.make_vm(), await sim_host.make_vdi()
    await sim_host.call("VBD.create", {"VM": vm, "VDI": vdi})
    async with held_up(sim_host, "domain_start") as begun:
        starting = asyncio.ensure_future(sim_host.call("VM.start", vm, False, False))
        await begun.wait()
        assert await sim_host.fault("VDI.destroy", vdi) == ["VDI_IN_USE", vdi, "destroy"]
    await starting


async def test_who_is_cancelled_from_outside_is_not_held_to_be_overridden():
    operations = Operations(Ids(1))
    begun = asyncio.Event()

    async def work():
        with operations.hold("VM", "ref", "start"):
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert operations.of("ref") == []


async def test_templates_refuse_power(sim_host):
    vm = await sim_host.make_vm(is_a_template=True)
    allowed = set(await sim_host.call("VM.get_allowed_operations", vm))
    assert {"destroy", "clone", "copy", "provision"} <= allowed
    assert not {"start", "start_on", "snapshot", "migrate_send"} & allowed
    for name, params in (("start", [False, False]), ("hard_shutdown", []), ("resume", [])):
        assert await sim_host.fault(f"VM.{name}", vm, *params) == ["VM_IS_TEMPLATE", vm]
    await sim_host.call("VM.set_is_a_template", vm, False)
    await sim_host.call("VM.start", vm, False, False)


async def test_processors_and_memory_change_only_while_halted(sim_host):
    vm = await sim_host.make_vm()
    await sim_host.call("VM.set_VCPUs_max", vm, "4")
    await sim_host.call("VM.set_VCPUs_at_startup", vm, 2)
    assert await sim_host.fault("VM.set_VCPUs_max", vm, 1) == ["INVALID_VALUE", "VCPUs_max", "1"]
    wrong = await sim_host.fault("VM.set_memory_limits", vm, 0, 1, 2, 2)
    assert wrong[0] == "MEMORY_CONSTRAINT_VIOLATION"
    await sim_host.call("VM.start", vm, False, False)
    for name, params in (("set_VCPUs_max", [8]), ("set_memory_limits", [0, 9, 9, 9])):
        fault = await sim_host.fault(f"VM.{name}", vm, *params)
        assert fault == ["VM_BAD_POWER_STATE", vm, "halted", "running"]
