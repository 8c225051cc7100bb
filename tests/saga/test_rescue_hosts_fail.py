"""Hosts that refuse, lose answers and die at each call of a rescue, and of its end."""

from __future__ import annotations

import asyncio

import pytest

from xenith.driver import power as driver_power
from xenith.driver.connection import HostConnection
from xenith.driver.names import rescue_name, root_name
from xenith.xapi import XapiFault

pytestmark = pytest.mark.slow

#: What a host that has the image is asked for, in order.
RESCUE_CALLS = (
    "VM.clean_shutdown",
    "VM.get_VBDs",
    "VBD.get_record",
    "VDI.clone",
    "VDI.set_name_label",
    "VDI.create",
    "disk_import",
    "VBD.destroy",
    "VBD.create",
    "VM.start",
    "domain_start",
)
UNRESCUE_CALLS = (
    "VM.clean_shutdown",
    "VM.get_VBDs",
    "VBD.get_record",
    "VBD.destroy",
    "VBD.create",
    "VM.start",
    "domain_start",
    "VDI.destroy",
)
TRIALS = [
    *(("rescue", call) for call in RESCUE_CALLS),
    *(("unrescue", call) for call in UNRESCUE_CALLS),
]


class Trouble:
    """What the host does instead of answering when it is asked for ``call``, once."""

    def __init__(self, cloud, call: str, kind: str) -> None:
        self.call, self.kind = call, kind
        self.is_struck = False
        self.gate = asyncio.Event()
        (self.host,) = cloud.fleet.hosts.values()
        inner = self.host.call

        def wrapped(method, params):
            if method == call and not self.is_struck:
                return self._strike(lambda: inner(method, params))
            return inner(method, params)

        async def script(operation, _subject):
            if operation == call and not self.is_struck:
                await self._strike(lambda: None)

        self.host.call = wrapped
        (backend,) = cloud.backends.values()
        backend.script = script

    async def _strike(self, go_on):
        self.is_struck = True
        if self.kind == "refuse":
            raise XapiFault("INTERNAL_ERROR", "the host is full")
        if self.kind == "lose":
            result = await _awaited(go_on())
            await self.gate.wait()
            return result
        if self.kind == "die":
            self.host.die()
        await self.gate.wait()
        return await _awaited(go_on())


async def _awaited(result):
    return await result if asyncio.iscoroutine(result) else result


@pytest.fixture
async def cloud(small_cloud, monkeypatch):
    # Deadlines that a test can wait for; a host on loopback answers in a thousandth of this.
    monkeypatch.setattr(HostConnection.call, "__kwdefaults__", {"timeout_s": 0.5})
    monkeypatch.setattr(driver_power, "HARD_TIMEOUT_S", 0.5)
    cloud = await small_cloud.SmallCloud.start(host_count=1, clock=small_cloud.QuickClock())
    await cloud.house.start()
    yield cloud
    await cloud.close()


async def settle(cloud) -> None:
    async with asyncio.timeout(30):
        await cloud.settle()


def first_disks(cloud, server_id):
    vdis = cloud.by_ref("VDI")
    return {
        vbd["userdevice"]: vdis[vbd["VDI"]]["name_label"]
        for _, vbd in cloud.objects("VBD")
        if vbd["userdevice"] in ("0", "1")
    }


@pytest.mark.parametrize("kind", ["refuse", "lose", "hang", "die"])
@pytest.mark.parametrize(("action", "call"), TRIALS)
async def test_a_host_that_fails_at_any_call_leaves_a_server_that_is_one_or_the_other(
    cloud, invariants, action, call, kind
):
    (server_id,) = await cloud.create()
    await settle(cloud)
    if action == "unrescue":
        await cloud.rescue(server_id)
        await settle(cloud)
    trouble = Trouble(cloud, call, kind)
    await (cloud.rescue if action == "rescue" else cloud.unrescue)(server_id)

    async def is_struck() -> bool:
        return trouble.is_struck

    await cloud.until(is_struck)
    if kind != "refuse":
        # Longer than any deadline: what was waited for is given up, and taken back as far as it
        # goes.
        await cloud.world.clock.sleep(150)
    if kind == "die":
        await cloud.revive_host("host-1")
    trouble.gate.set()
    await settle(cloud)
    await cloud.until_sound(invariants)
    row = await cloud.instance(server_id)
    assert row.vm_state in ("active", "rescued")
    disks = first_disks(cloud, server_id)
    if row.vm_state == "active":
        assert disks == {"0": root_name(server_id)}
        await cloud.rescue(server_id)
        await settle(cloud)
    else:
        assert disks == {"0": rescue_name(server_id), "1": root_name(server_id)}
    await cloud.unrescue(server_id)
    await settle(cloud)
    await cloud.until_sound(invariants)
    assert (await cloud.instance(server_id)).vm_state == "active"
    await cloud.delete(server_id)
    await settle(cloud)
    await cloud.until_sound(invariants)
    assert cloud.objects("VM") == []
