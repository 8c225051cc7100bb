"""Hosts that refuse, hang and die at each call of a build, and what is done meanwhile."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from xenith.compute.records.actions import list_events
from xenith.compute.sagas import build as build_saga
from xenith.core.errors import Unavailable
from xenith.driver import image_cache
from xenith.driver import power as driver_power
from xenith.driver.connection import HostConnection
from xenith.scheduler.choose import Placement
from xenith.scheduler.request import PlacementRequest
from xenith.xapi import XapiFault

pytestmark = pytest.mark.slow

#: What a build asks of a host that has nothing yet, in order; bytes are the backend's.
CALLS = (
    "VDI.create",
    "disk_import",
    "VDI.add_to_other_config",
    "VDI.clone",
    "VDI.resize",
    "VDI.set_name_label",
    "VM.create",
    "VBD.create",
    "VIF.create",
    "VM.start",
    "domain_start",
)
SECRETS = ("host-1", "host-2", "host-3", "127.0.0.1", "Traceback")


class Trouble:
    """What the first host that is asked for ``call`` does instead of answering, once."""

    def __init__(self, cloud, call: str, kind: str, *, times: int = 1) -> None:
        self.cloud, self.call, self.kind, self.times = cloud, call, kind, times
        self.struck: list[str] = []
        self.gate = asyncio.Event()
        for name, host in cloud.fleet.hosts.items():
            self._wrap(name, host)

    def _wrap(self, name, host) -> None:
        inner = host.call

        def call(method, params):
            if method == self.call and self._is_due(name):
                return self._strike(name, lambda: inner(method, params))
            return inner(method, params)

        async def script(operation, _subject):
            if operation == self.call and self._is_due(name):
                await self._strike(name, lambda: None)

        host.call = call
        self.cloud.backends[name].script = script

    def _is_due(self, name) -> bool:
        if len(self.struck) >= self.times or name in self.struck:
            return False
        self.struck.append(name)
        return True

    async def _strike(self, name, go_on):
        if self.kind == "refuse":
            raise XapiFault("INTERNAL_ERROR", f"{name} at {self.cloud.addresses[name]} is full")
        if self.kind == "die":
            self.cloud.fleet.hosts[name].die()
        await self.gate.wait()
        result = go_on()
        return await result if asyncio.iscoroutine(result) else result


@pytest.fixture
async def cloud(small_cloud, monkeypatch):
    cloud = await small_cloud.SmallCloud.start(host_count=3, clock=small_cloud.QuickClock())
    await cloud.house.start()
    # Deadlines that a test can wait for; a host on loopback answers in a thousandth of this, but
    # not to its first calls, on a machine that has much to do.
    monkeypatch.setattr(HostConnection.call, "__kwdefaults__", {"timeout_s": 0.5})
    monkeypatch.setattr(driver_power, "HARD_TIMEOUT_S", 0.5)
    monkeypatch.setattr(image_cache, "IMPORT_TIMEOUT_S", 0.5)
    yield cloud
    await cloud.close()


async def words_for_tenants(cloud, server_id: str) -> str:
    row = await cloud.instance(server_id)
    events = await cloud.db.read(list_events, server_id, "req-1")
    return " ".join([(row.fault or {}).get("message", ""), *(str(e.details) for e in events)])


async def settle(cloud) -> None:
    async with asyncio.timeout(20):
        await cloud.settle()


@pytest.mark.parametrize("kind", ["refuse", "hang", "die"])
@pytest.mark.parametrize("call", CALLS)
async def test_a_host_that_fails_at_any_call_of_a_build_is_cleaned_and_the_next_one_builds(
    cloud, invariants, call, kind
):
    trouble = Trouble(cloud, call, kind)
    (server_id,) = await cloud.create()
    await settle(cloud)
    row = await cloud.instance(server_id)
    assert row.vm_state == "active", row.fault
    (struck,) = trouble.struck
    assert row.host_name != struck
    told = await words_for_tenants(cloud, server_id)
    assert "attempt" not in told
    assert not any(secret in told for secret in SECRETS), told
    # What the host was doing when it hung, it does now.
    trouble.gate.set()
    if kind == "die":
        assert await cloud.problems(invariants, without=[struck]) == []
        await cloud.revive_host(struck)
    await cloud.until_sound(invariants)
    await cloud.delete(server_id)
    await settle(cloud)
    await cloud.until_sound(invariants)
    assert cloud.objects("VM") == []


@pytest.mark.parametrize("kind", ["refuse", "hang", "die"])
async def test_when_no_host_is_left_the_server_is_in_error_with_the_reasons(
    cloud, invariants, kind
):
    trouble = Trouble(cloud, "VM.start", kind, times=3)
    (server_id,) = await cloud.create()
    await settle(cloud)
    row = await cloud.instance(server_id)
    assert (row.vm_state, row.host_id, row.fault["code"]) == ("error", None, 500)
    told = await words_for_tenants(cloud, server_id)
    assert "attempt 1: The host was away or failed." in told
    assert "attempt 3: The host was away or failed." in told
    assert not any(secret in told for secret in SECRETS), told
    # An admin sees each host and its own words.
    details = row.fault["details"]
    assert all(f"host {name}: start: " in details for name in trouble.struck), details
    assert len(details.splitlines()) == 4
    trouble.gate.set()
    if kind == "die":
        for name in trouble.struck:
            await cloud.revive_host(name)
    await cloud.until_sound(invariants)
    await cloud.delete(server_id)
    await settle(cloud)
    await cloud.until_sound(invariants)
    assert [
        vdi
        for _, vdi in cloud.objects("VDI")
        if vdi["managed"] and "image" not in vdi["name_label"]
    ] == []


async def test_an_image_that_is_no_disk_is_not_tried_elsewhere_and_the_tenant_is_told(
    cloud, invariants
):
    cloud.images.info.disk_format = "vhd"
    cloud.images.info.size_bytes = 100
    (server_id,) = await cloud.create()
    await settle(cloud)
    row = await cloud.instance(server_id)
    assert row.vm_state == "error"
    assert len(row.placement) == 1
    assert "disk" in row.fault["message"]
    await cloud.until_sound(invariants)


@pytest.mark.parametrize("call", CALLS)
async def test_a_delete_at_any_call_of_a_build_leaves_nothing(cloud, invariants, call):
    trouble = Trouble(cloud, call, "hang")
    (server_id,) = await cloud.create()

    async def is_struck() -> bool:
        return bool(trouble.struck)

    await cloud.until(is_struck)
    await cloud.delete(server_id)
    await cloud.world.clock.sleep(0)
    trouble.gate.set()
    await settle(cloud)
    assert (await cloud.instance(server_id)).vm_state == "deleted"
    await cloud.until_sound(invariants)
    assert cloud.objects("VM") == []


async def test_a_delete_does_not_wait_for_a_guest_that_shuts_down(cloud, invariants):
    (server_id,) = await cloud.create()
    await settle(cloud)
    trouble = Trouble(cloud, "domain_shutdown_clean", "hang")
    await cloud.power(server_id, "os-stop")

    async def is_struck() -> bool:
        return bool(trouble.struck)

    await cloud.until(is_struck)
    await cloud.delete(server_id)
    await settle(cloud)
    assert (await cloud.instance(server_id)).vm_state == "deleted"
    trouble.gate.set()
    await cloud.until_sound(invariants)
    assert cloud.objects("VM") == []


async def test_a_guest_that_stops_by_itself_is_stopped_in_the_rows(cloud, invariants):
    (server_id,) = await cloud.create()
    await settle(cloud)
    name, vm = cloud.objects("VM")[0]
    cloud.backends[name].change(vm["uuid"], "halted")

    async def is_stopped() -> bool:
        return (await cloud.instance(server_id)).vm_state == "stopped"

    await cloud.until(is_stopped)
    await cloud.until_sound(invariants)


async def test_a_power_action_on_a_host_that_is_down_fails_and_the_server_keeps_its_state(
    cloud, invariants
):
    (server_id,) = await cloud.create()
    await settle(cloud)
    name = (await cloud.instance(server_id)).host_name
    cloud.fleet.hosts[name].die()
    request_id = await cloud.power(server_id, "os-stop")
    await settle(cloud)
    row = await cloud.instance(server_id)
    assert (row.vm_state, row.task_state) == ("active", None)
    (event,) = await cloud.db.read(list_events, server_id, request_id)
    assert event.result == "Error"
    assert not any(secret in event.details for secret in SECRETS)
    with pytest.raises(Unavailable) as caught:
        await cloud.cell.console_log(server_id, 100)
    assert not any(secret in caught.value.message for secret in SECRETS)
    await cloud.revive_host(name)
    await cloud.until_sound(invariants)
    assert (await cloud.instance(server_id)).vm_state == "active"


async def test_a_delete_on_a_host_that_is_down_is_done_and_the_rest_when_it_is_back(
    cloud, invariants
):
    (server_id,) = await cloud.create()
    await settle(cloud)
    name = (await cloud.instance(server_id)).host_name
    cloud.fleet.hosts[name].die()
    await cloud.delete(server_id)
    await settle(cloud)
    assert (await cloud.instance(server_id)).vm_state == "deleted"
    assert len(cloud.objects("VM")) == 1
    await cloud.revive_host(name)
    await cloud.until_sound(invariants)
    assert cloud.objects("VM") == []


async def test_eight_builds_at_a_time_are_on_a_host_and_the_others_wait_their_turn(
    cloud, invariants
):
    busiest = 0

    async def script(_operation: str, _subject: str) -> None:
        nonlocal busiest
        busiest = max(busiest, int(cloud.cell.hosts.table.io_ops.max()))
        await asyncio.sleep(0)

    for backend in cloud.backends.values():
        backend.script = script
    await cloud.allow_many()
    await cloud.create(count=100, nics=())
    async with asyncio.timeout(60):
        await cloud.settle()
    assert busiest == 8
    assert await cloud.problems(invariants) == []


async def test_no_host_at_all_is_told_shortly_to_the_tenant_and_in_full_to_the_admin(
    cloud, invariants
):
    for host in cloud.fleet.hosts.values():
        host.die()
    for driver in cloud.cell.hosts.drivers.values():

        async def is_down(driver=driver) -> bool:
            return not driver.is_up

        await cloud.until(is_down)
    (server_id,) = await cloud.create()
    await settle(cloud)
    row = await cloud.server(server_id)
    assert row.fault["message"] == "No valid host was found: no host is in service."
    assert "3 hosts; ComputeFilter 3 to 0" in row.fault["details"]
    for name in cloud.addresses:
        await cloud.revive_host(name)
    await cloud.until_sound(invariants)
    await cloud.delete(server_id)
    await settle(cloud)
    await cloud.until_sound(invariants)


async def test_a_choice_that_is_cancelled_as_it_is_woken_gives_its_turn_to_the_next(cloud):
    def make_request(instance_id: str) -> PlacementRequest:
        return PlacementRequest(
            instance_id=instance_id, project_id="p", ram_mib=64, vcpus=1, disk_gib=1
        )

    hosts = cloud.cell.hosts
    for number in range(24):
        await hosts.claim(make_request(f"i{number}"))
    first, second = (asyncio.create_task(hosts.claim(make_request(name))) for name in "ab")
    await asyncio.sleep(0)
    hosts.finish_build("i0")
    first.cancel()
    async with asyncio.timeout(5):
        assert isinstance(await second, Placement)
    assert first.cancelled()


async def test_a_place_that_one_waiting_build_cannot_use_goes_to_the_next(cloud):
    hosts = cloud.cell.hosts
    named, other, *_ = hosts.rows

    def make_request(instance_id: str, target: str | None = None) -> PlacementRequest:
        return PlacementRequest(
            instance_id=instance_id,
            project_id="p",
            ram_mib=64,
            vcpus=1,
            disk_gib=1,
            target_host=target,
        )

    for number in range(24):
        await hosts.claim(make_request(f"i{number}"))
    picky = asyncio.create_task(hosts.claim(make_request("picky", named)))
    easy = asyncio.create_task(hosts.claim(make_request("easy")))
    await asyncio.sleep(0)
    hosts.finish_build(next(iter(hosts.table.list_instances(other))))
    async with asyncio.timeout(5):
        assert (await easy).hosts[0] == other
    hosts.release(next(iter(hosts.table.list_instances(named))))
    async with asyncio.timeout(5):
        assert (await picky).hosts[0] == named


async def test_a_host_that_goes_away_as_a_server_begins_to_run_keeps_it_and_no_other_builds_it(
    cloud, invariants
):
    trouble = Trouble(cloud, "VM.unpause", "die")
    (server_id,) = await cloud.create()
    await settle(cloud)
    row = await cloud.instance(server_id)
    (struck,) = set(trouble.struck)
    assert (row.vm_state, row.task_state, row.host_name) == ("error", None, struck)
    assert row.launched_at is None
    told = await words_for_tenants(cloud, server_id)
    assert not any(secret in told for secret in SECRETS), told
    assert {name for name, _ in cloud.objects("VM")} == {struck}
    # It is back, and so is the server, as what it is there.
    trouble.gate.set()
    await cloud.revive_host(struck)

    async def is_active() -> bool:
        cloud.cell._loop.wake("compute.power")
        return (await cloud.instance(server_id)).vm_state == "active"

    await cloud.until(is_active)
    row = await cloud.instance(server_id)
    assert (row.host_name, row.fault) == (struck, None)
    await cloud.until_sound(invariants)


@pytest.mark.parametrize("kind", ["hang", "refuse"])
async def test_a_host_that_fails_once_as_a_server_begins_to_run_is_told_again_and_no_other(
    cloud, invariants, kind
):
    trouble = Trouble(cloud, "VM.unpause", kind)
    (server_id,) = await cloud.create()
    await settle(cloud)
    row = await cloud.instance(server_id)
    assert (row.vm_state, [row.host_name]) == ("active", trouble.struck)
    trouble.gate.set()
    await cloud.until_sound(invariants)
    assert {name for name, _ in cloud.objects("VM")} == {row.host_name}


async def test_a_host_that_is_down_before_it_was_told_to_run_a_server_holds_nobody_up(
    cloud, invariants
):
    told = []
    inner = build_saga.run_vm

    async def die_first(cell, run):
        if not told:
            told.append(run.data["host_name"])
            cloud.fleet.hosts[told[0]].die()
            driver = cell.hosts.drivers[run.data["host_id"]]
            while driver.is_up:
                await cell.world.clock.sleep(0.1)
        return await inner(cell, run)

    saga = cloud.cell.engine._sagas["build"]
    steps = tuple(
        dataclasses.replace(step, do=die_first) if step.name == "run" else step
        for step in saga.steps
    )
    cloud.cell.engine._sagas["build"] = dataclasses.replace(saga, steps=steps)
    (server_id,) = await cloud.create()
    await settle(cloud)
    row = await cloud.instance(server_id)
    assert row.vm_state == "active", row.fault
    assert row.host_name != told[0]
    await cloud.revive_host(told[0])
    await cloud.until_sound(invariants)


async def test_a_server_whose_host_went_away_as_it_began_to_run_can_be_deleted(cloud, invariants):
    trouble = Trouble(cloud, "VM.unpause", "die")
    (server_id,) = await cloud.create()
    await settle(cloud)
    (struck,) = set(trouble.struck)
    await cloud.delete(server_id)
    await settle(cloud)
    assert (await cloud.instance(server_id)).vm_state == "deleted"
    trouble.gate.set()
    await cloud.revive_host(struck)
    await cloud.until_sound(invariants)
    assert cloud.objects("VM") == []


@pytest.mark.parametrize("kind", ["refuse", "hang", "die"])
@pytest.mark.parametrize(
    "call", ["VM.set_memory_limits", "VM.set_VCPUs_max", "VDI.resize", "VM.start"]
)
async def test_a_host_that_fails_at_any_call_of_a_resize_leaves_one_size_or_the_other(
    cloud, invariants, call, kind
):
    (server_id,) = await cloud.create()
    await settle(cloud)
    old = (await cloud.server(server_id)).flavor_id
    trouble = Trouble(cloud, call, kind)
    await cloud.resize(server_id, "2")

    async def is_struck() -> bool:
        return bool(trouble.struck)

    await cloud.until(is_struck)
    if kind == "die":
        await cloud.revive_host(*trouble.struck)
    trouble.gate.set()
    await cloud.until_sound(invariants)
    row, server = await cloud.instance(server_id), await cloud.server(server_id)
    assert [row.host_name] == trouble.struck
    if row.vm_state == "resized":
        assert server.flavor_id == "2"
        await cloud.confirm_resize(server_id)
        await cloud.until_sound(invariants)
    else:
        assert (row.vm_state, server.flavor_id, server.resize) == ("active", old, None)
        assert "could not be given its size" in row.fault["message"]
    assert (await cloud.instance(server_id)).vm_state == "active"
