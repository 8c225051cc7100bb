"""The power-state machine of a VM, each operation from each state, and operations that meet."""

import asyncio
import contextlib

import pytest

from xenith.core.units import GIB, MIB
from xenith.toolstack.backends import BackendError
from xenith.xapi import XapiFault

STATES = ("Halted", "Running", "Paused", "Suspended")
#: Operation: its parameters after the VM, and from which state to which. Source: XenAPI class VM.
MACHINE = {
    "start": ((False, False), {"Halted": "Running"}),
    "clean_shutdown": ((), {"Running": "Halted"}),
    "hard_shutdown": ((), {"Running": "Halted", "Paused": "Halted", "Suspended": "Halted"}),
    "clean_reboot": ((), {"Running": "Running"}),
    "hard_reboot": ((), {"Running": "Running", "Paused": "Running"}),
    "pause": ((), {"Running": "Paused"}),
    "unpause": ((), {"Paused": "Running"}),
    "suspend": ((), {"Running": "Suspended"}),
    "resume": ((False, False), {"Suspended": "Running"}),
}
SAID = {
    "start": "halted",
    "hard_shutdown": "running, paused, suspended",
    "hard_reboot": "running, paused",
    "unpause": "paused",
    "resume": "suspended",
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("operation", MACHINE)
async def test_each_operation_from_each_state(sim_host, operation, state):
    params, ends = MACHINE[operation]
    vm = await sim_host.in_state(state)
    allowed = await sim_host.call("VM.get_allowed_operations", vm)
    assert (operation in allowed) == (state in ends)
    if state in ends:
        await sim_host.call(f"VM.{operation}", vm, *params)
        assert await sim_host.call("VM.get_power_state", vm) == ends[state]
    else:
        said = SAID.get(operation, "running")
        expected = ["VM_BAD_POWER_STATE", vm, said, state.lower()]
        assert await sim_host.fault(f"VM.{operation}", vm, *params) == expected
        assert await sim_host.call("VM.get_power_state", vm) == state
    assert await sim_host.call("VM.get_current_operations", vm) == {}


@pytest.mark.parametrize("state", STATES)
async def test_a_vm_is_destroyed_only_when_it_does_not_run(sim_host, state):
    vm = await sim_host.in_state(state)
    if state in ("Halted", "Suspended"):
        await sim_host.call("VM.destroy", vm)
        assert await sim_host.fault("VM.get_record", vm) == ["HANDLE_INVALID", "VM", vm]
        assert await sim_host.backend.running() == {}
    else:
        found = await sim_host.fault("VM.destroy", vm)
        assert found == ["VM_BAD_POWER_STATE", vm, "halted, suspended", state.lower()]


async def test_a_running_vm_has_a_domid_a_console_metrics_and_a_home(sim_host):
    vm = await sim_host.in_state("Running")
    record = await sim_host.call("VM.get_record", vm)
    assert record["domid"] > 0
    assert record["resident_on"] == (await sim_host.call("host.get_all"))[0]
    assert await sim_host.call("console.get_VM", record["consoles"][0]) == vm
    assert await sim_host.call("VM_metrics.get_VCPUs_number", record["metrics"]) == 1
    await sim_host.call("VM.hard_shutdown", vm)
    record = await sim_host.call("VM.get_record", vm)
    assert (record["domid"], record["resident_on"]) == (-1, "OpaqueRef:NULL")


async def test_a_reboot_gives_a_new_domid(sim_host):
    vm = await sim_host.in_state("Running")
    before = await sim_host.call("VM.get_domid", vm)
    await sim_host.call("VM.hard_reboot", vm)
    assert await sim_host.call("VM.get_domid", vm) != before


async def test_a_template_does_not_start(sim_host):
    vm = await sim_host.make_vm(is_a_template=True)
    assert await sim_host.fault("VM.start", vm, False, False) == ["VM_IS_TEMPLATE", vm]


async def test_a_blocked_operation_answers_its_code(sim_host):
    vm = await sim_host.make_vm(blocked_operations={"start": "BEING_RESCUED"})
    found = await sim_host.fault("VM.start", vm, False, False)
    assert found == ["OPERATION_BLOCKED", vm, "BEING_RESCUED"]
    await sim_host.call("VM.remove_from_blocked_operations", vm, "start")
    await sim_host.call("VM.start", vm, False, False)


async def test_memory_is_taken_given_back_and_never_more_than_there_is(sim_host):
    host = (await sim_host.call("host.get_all"))[0]
    first = await sim_host.make_vm("first", memory_static_max=GIB + 1)
    second = await sim_host.make_vm("second", memory_static_max=GIB)
    await sim_host.call("VM.start", first, False, False)
    found = await sim_host.fault("VM.start", second, False, False)
    assert found == ["HOST_NOT_ENOUGH_FREE_MEMORY", str(GIB), str(GIB - 1)]
    for end in ("suspend", "hard_shutdown"):
        await sim_host.call(f"VM.{end}", first)
        assert await sim_host.call("host.compute_free_memory", host) == 2 * GIB
    await sim_host.call("VM.start", second, False, False)
    metrics = await sim_host.call("host.get_metrics", host)
    assert await sim_host.call("host_metrics.get_memory_free", metrics) == GIB


async def test_a_start_that_fails_gives_its_memory_back(sim_host):
    def refuse(operation, _subject):
        if operation == "domain_start":
            raise BackendError("VM_CRASHED", "no kernel")

    vm = await sim_host.make_vm()
    sim_host.backend.script = refuse
    assert await sim_host.fault("VM.start", vm, False, False) == ["VM_CRASHED", "no kernel"]
    host = (await sim_host.call("host.get_all"))[0]
    assert await sim_host.call("host.compute_free_memory", host) == 2 * GIB
    sim_host.backend.script = None
    await sim_host.call("VM.start", vm, False, False)


class Gate:
    """A script that holds one operation up until it is opened."""

    def __init__(self, held):
        self.held = held
        self.reached, self.opened = asyncio.Event(), asyncio.Event()

    def __call__(self, operation, _subject):
        return self._hold() if operation == self.held else None

    async def _hold(self):
        self.reached.set()
        await self.opened.wait()


async def test_a_second_operation_is_refused_while_one_runs(sim_host):
    vm = await sim_host.make_vm()
    gate = sim_host.backend.script = Gate("domain_start")
    starting = asyncio.ensure_future(sim_host.call("VM.start", vm, False, False))
    await gate.reached.wait()
    assert list((await sim_host.call("VM.get_current_operations", vm)).values()) == ["start"]
    for method in ("VM.start", "VM.destroy"):
        params = (False, False) if method == "VM.start" else ()
        found = await sim_host.fault(method, vm, *params)
        assert found[:4] == ["OTHER_OPERATION_IN_PROGRESS", "VM", vm, "start"]
    gate.opened.set()
    await starting


async def test_a_hard_shutdown_goes_over_a_clean_one_that_hangs(sim_host):
    vm = await sim_host.in_state("Running")
    gate = sim_host.backend.script = Gate("domain_shutdown_clean")
    asking = asyncio.ensure_future(sim_host.call("VM.clean_shutdown", vm))
    await gate.reached.wait()
    await sim_host.call("VM.hard_shutdown", vm)
    assert await sim_host.call("VM.get_power_state", vm) == "Halted"
    gate.opened.set()
    with contextlib.suppress(XapiFault):  # it may say that it was overtaken
        await asking
    assert await sim_host.call("VM.get_power_state", vm) == "Halted"
    host = (await sim_host.call("host.get_all"))[0]
    assert await sim_host.call("host.compute_free_memory", host) == 2 * GIB


async def test_a_guest_that_ends_by_itself_is_halted_and_its_memory_free(sim_host):
    vm = await sim_host.in_state("Running")
    uuid = await sim_host.call("VM.get_uuid", vm)
    for state in ("halted", "crashed"):
        sim_host.backend.change(uuid, state)
        assert await sim_host.call("VM.get_power_state", vm) == "Halted"
        await sim_host.call("VM.start", vm, False, False)


async def test_a_guest_that_ends_while_it_is_being_started_is_not_held_to_run(sim_host):
    vm = await sim_host.make_vm()
    uuid = await sim_host.call("VM.get_uuid", vm)
    start = sim_host.backend.domain_start

    async def start_and_die(spec, *, is_paused=False):
        domid = await start(spec, is_paused=is_paused)
        sim_host.backend.change(uuid, "crashed")
        return domid

    sim_host.backend.domain_start = start_and_die
    await sim_host.call("VM.start", vm, False, False)
    assert await sim_host.call("VM.get_power_state", vm) == "Halted"
    host = (await sim_host.call("host.get_all"))[0]
    assert await sim_host.call("host.compute_free_memory", host) == 2 * GIB


async def test_a_call_whose_client_gives_up_is_finished_all_the_same(sim_host):
    vm = await sim_host.make_vm()
    gate = sim_host.backend.script = Gate("domain_start")
    starting = asyncio.ensure_future(sim_host.call("VM.start", vm, False, False))
    await gate.reached.wait()
    starting.cancel()
    gate.opened.set()
    for _ in range(100):
        if await sim_host.call("VM.get_power_state", vm) == "Running":
            break
    assert await sim_host.call("VM.get_power_state", vm) == "Running"
    assert await sim_host.call("VM.get_current_operations", vm) == {}


async def test_only_xenstore_data_under_its_prefixes_reaches_the_domain(sim_host):
    data = {"vm-data/hostname": "web-1", "vm-data/x/y": "1", "FIST/a": "b", "other": "dropped"}
    vm = await sim_host.make_vm(xenstore_data=data, memory_static_max=64 * MIB)
    seen = []
    start = sim_host.backend.domain_start

    async def watch(spec, *, is_paused=False):
        seen.append(dict(spec.xenstore))
        return await start(spec, is_paused=is_paused)

    sim_host.backend.domain_start = watch
    await sim_host.call("VM.start", vm, False, False)
    assert seen == [{key: value for key, value in data.items() if key != "other"}]
