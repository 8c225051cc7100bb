"""Power, events, the console, and hosts that come and go."""

import asyncio

import pytest

from xenith.core.errors import Conflict, NotFound, Unavailable
from xenith.driver import HostAddress
from xenith.toolstack.backends import BackendError
from xenith.xapi import XapiFault


async def test_a_server_is_walked_through_its_power_states(driver, build, make):
    spec = make()
    await build(driver, spec)
    for action, state in (
        ("pause", "paused"),
        ("unpause", "running"),
        ("suspend", "suspended"),
        ("resume", "running"),
        ("reboot", "running"),
        ("stop", "shutdown"),
        ("reboot_hard", "running"),
        ("stop_hard", "shutdown"),
        ("start", "running"),
    ):
        for _ in range(2):
            assert await driver.power(spec.instance_id, action, timeout_s=5) == state
        assert await driver.power_state(spec.instance_id) == state


@pytest.mark.parametrize("before", ["pause", "suspend", "stop"])
@pytest.mark.parametrize("action", ["reboot", "reboot_hard", "start"])
async def test_a_reboot_or_start_brings_any_state_to_running(driver, build, make, before, action):
    spec = make()
    await build(driver, spec)
    await driver.power(spec.instance_id, before, timeout_s=5)
    assert await driver.power(spec.instance_id, action, timeout_s=5) == "running"


async def test_what_the_host_says_of_the_state_wins_over_what_we_thought(
    bench, driver, build, make
):
    spec = make()
    await build(driver, spec)
    (vm,) = bench.records("VM")
    bench.backend.change(vm["uuid"], "halted")
    # No event has been read yet: the loop has not run since.
    assert await driver.power(spec.instance_id, "reboot", timeout_s=5) == "running"


async def test_a_state_without_a_way_is_a_conflict(driver, build, make):
    spec = make()
    await build(driver, spec)
    await driver.power(spec.instance_id, "stop", timeout_s=5)
    with pytest.raises(Conflict, match="cannot pause"):
        await driver.power(spec.instance_id, "pause", timeout_s=5)


async def test_a_guest_that_does_not_listen_has_its_power_cut(bench, driver, build, make):
    spec = make()
    await build(driver, spec)
    never = asyncio.Event()

    async def ignore(operation, _subject):
        if operation in ("domain_shutdown_clean", "domain_reboot_clean"):
            await never.wait()

    bench.backend.script = ignore
    assert await driver.power(spec.instance_id, "reboot", timeout_s=0.05) == "running"
    assert await driver.power(spec.instance_id, "stop", timeout_s=0.05) == "shutdown"


async def test_a_guest_that_shuts_itself_down_is_heard_of(bench, driver, build, make, until):
    spec = make()
    await build(driver, spec)
    (vm,) = bench.records("VM")
    bench.powers.clear()
    bench.backend.change(vm["uuid"], "halted")
    await until(lambda: bench.powers)
    assert bench.powers == [("host-1", spec.instance_id, "shutdown")]


async def test_what_we_did_ourselves_is_told_no_other_way_than_by_the_answer(
    bench, driver, build, make
):
    spec = make()
    await build(driver, spec)
    await driver.power(spec.instance_id, "pause", timeout_s=5)
    for _ in range(20):
        await asyncio.sleep(0)
    assert ("host-1", spec.instance_id, "shutdown") not in bench.powers


async def test_a_vm_that_an_operator_removed_is_heard_of(bench, driver, build, make, until):
    spec = make()
    await build(driver, spec)
    await driver.power(spec.instance_id, "stop", timeout_s=5)
    (ref,) = bench.host.objects.all("VM")
    await (await bench.operator()).call("VM.destroy", ref)
    await until(lambda: ("host-1", spec.instance_id, "nostate") in bench.powers)
    with pytest.raises(NotFound, match="has no VM of instance"):
        await driver.power(spec.instance_id, "start", timeout_s=5)
    assert await driver.owned_instances() == {spec.instance_id}


async def test_the_console_log_is_read_and_cut(driver, build, make):
    spec = make()
    await build(driver, spec)
    whole = await driver.console_log(spec.instance_id, 4096)
    assert "web login:" in whole
    assert await driver.console_log(spec.instance_id, 7) == whole[-7:]
    assert await driver.console_log(spec.instance_id, 0) == ""
    await driver.power(spec.instance_id, "stop", timeout_s=5)
    assert "web login:" in await driver.console_log(spec.instance_id, 4096)


async def test_the_host_says_what_it_is(bench, driver):
    facts = driver.facts
    assert (facts.memory_mib, facts.cpus, facts.disk_gib) == (8192, 8, 200)
    assert facts.hypervisor_type == "XenServer"
    assert facts.hostname == "h1"
    assert facts.booted_at == pytest.approx(bench.world.clock.now(), abs=120)
    assert bench.states == [("host-1", True)]


async def test_a_wrong_password_is_told_as_the_reason_without_the_password(bench):
    driver = await bench.connect(password="wrong-secret")
    assert not driver.is_up
    assert "SESSION_AUTHENTICATION_FAILED" in driver.down_reason
    assert "wrong-secret" not in driver.down_reason
    assert bench.states == []


def test_the_password_is_in_no_text_of_an_address():
    address = HostAddress("i", "n", "http://127.0.0.1:1", "root", "s3cret")
    assert "s3cret" not in f"{address} {address!r}"


async def test_a_host_that_is_not_there_is_down_and_says_so(bench):
    driver = await bench.connect(url="http://127.0.0.1:9")
    assert not driver.is_up
    with pytest.raises(Unavailable, match="host h1 is down"):
        await driver.destroy_instance("x")
    with pytest.raises(Unavailable, match="host h1 is down"):
        await driver.list_instances()


async def test_a_host_that_dies_goes_down_and_comes_back_with_its_vms(
    bench, driver, build, make, until
):
    spec = make()
    await build(driver, spec)
    port = int(bench.endpoint.url.rpartition(":")[2])
    bench.host.die()
    await until(lambda: not driver.is_up)
    assert "host cannot be reached" in driver.down_reason or "hung up" in driver.down_reason
    with pytest.raises(Unavailable, match="host h1"):
        await driver.power(spec.instance_id, "stop", timeout_s=1)
    await bench.host.listen("127.0.0.1", port)
    await until(lambda: driver.is_up)
    assert bench.states == [("host-1", True), ("host-1", False), ("host-1", True)]
    assert await driver.power(spec.instance_id, "stop", timeout_s=5) == "shutdown"
    await driver.destroy_instance(spec.instance_id)
    assert bench.records("VM") == []


async def test_lost_events_are_made_up_for_by_fetching_all(bench, driver, build, make, until):
    gone, changed = make(), make("22222222-0000-4000-8000-000000000002")
    await build(driver, gone)
    await build(driver, changed)
    await driver.power(gone.instance_id, "stop", timeout_s=5)
    session = driver._line.session
    inner = session.events
    lost = asyncio.Event()

    async def lose(classes, token, timeout_s):
        batch = await inner(classes, token, timeout_s)
        if token and not lost.is_set():
            # What the batch had is lost with it.
            await lost.wait()
            raise XapiFault("EVENTS_LOST")
        return batch

    session.events = lose
    operator = await bench.operator()
    for ref, vm in (await operator.call("VM.get_all_records")).items():
        if vm["power_state"] == "Halted":
            await operator.call("VM.destroy", ref)
        else:
            await operator.call("VM.hard_shutdown", ref)
    lost.set()
    await until(lambda: len(bench.powers) >= 2)
    await until(lambda: ("host-1", gone.instance_id, "nostate") in bench.powers)
    await until(lambda: ("host-1", changed.instance_id, "shutdown") in bench.powers)


async def test_a_session_that_the_host_forgot_is_begun_anew(bench, driver, build, make):
    await build(driver, make())
    for ref in list(bench.host.objects.all("session")):
        bench.host.objects.delete("session", ref)
    assert await build(driver, make("22222222-0000-4000-8000-000000000002")) == "running"


async def test_a_host_that_refuses_is_named_with_its_reason(bench, driver, build, make):
    def refuse(operation, _subject):
        if operation == "domain_start":
            raise BackendError("INTERNAL_ERROR", "xenopsd said no")

    bench.backend.script = refuse
    with pytest.raises(Unavailable, match=r"host h1 could not start the VM.*xenopsd said no"):
        await build(driver, make())


async def test_stopping_the_driver_ends_its_session_and_leaves_the_vm(bench, driver, build, make):
    await build(driver, make())
    await driver.stop()
    assert len(bench.host.objects.all("session")) == 0
    assert bench.records("VM")[0]["power_state"] == "Running"
