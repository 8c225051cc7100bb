"""What operators are told of the disks on a host, and what they may do to those of nobody."""

from __future__ import annotations

import pytest

from xenith.compute.operations.storage import HostsStorage, OrphansBody
from xenith.core.errors import NotFound
from xenith.xapi import XapiSession

pytestmark = pytest.mark.slow
WEEK_S = 7 * 86400.0


@pytest.fixture
async def cloud(small_cloud):
    cloud = await small_cloud.SmallCloud.start(host_count=1)
    yield cloud
    await cloud.close()
    await cloud.db.close()


@pytest.fixture
async def operator(cloud, small_cloud):
    session = await XapiSession.login(
        cloud.addresses["host-1"], user="root", password=small_cloud.PASSWORD
    )
    yield session
    await session.logout()


def storage(cloud) -> HostsStorage:
    return HostsStorage(cloud.house.context)


async def disks(cloud) -> dict[str, dict]:
    (host,) = await storage(cloud).list(host=None, server=None)
    assert host["error"] == ""
    return {disk["uuid"]: disk for one in host["repositories"] for disk in one["disks"]}


async def stranger(operator, *, name="of my own", **fields) -> str:
    """Make a disk of no name that Xenith gives; its uuid."""
    (sr,) = await operator.call("SR.get_all")
    record = {"name_label": name, "SR": sr, "virtual_size": 2**21, "type": "user", **fields}
    ref = await operator.call("VDI.create", record | {"sharable": False, "read_only": False})
    return await operator.call("VDI.get_uuid", ref)


async def act(cloud, do, *uuids, older_than_s=WEEK_S):
    body = OrphansBody("host-1", do, list(uuids), older_than_s)
    return [one["done"] for one in await storage(cloud).act(body)]


async def test_every_disk_is_told_by_what_it_is_and_none_of_them_is_an_orphan(cloud):
    (server_id,) = await cloud.build()
    found = await disks(cloud)
    kinds = sorted((disk["kind"], disk["of"] == server_id) for disk in found.values())
    assert kinds == [("base", False), ("config", True), ("image", False), ("root", True)]
    assert [disk["proof"] for disk in found.values() if disk["proof"]] == []
    root = next(disk for disk in found.values() if disk["kind"] == "root")
    assert root["depth"] == 2
    assert found[root["parent"]]["is_hidden"]
    assert root["is_attached"]


async def test_an_orphan_is_marked_kept_a_week_and_removed(cloud, operator):
    uuid = await stranger(operator)
    found = (await disks(cloud))[uuid]
    assert found["proof"][0] == "no VM has it"
    assert await act(cloud, "remove", uuid) == ["refused"], "it is not marked"
    assert await act(cloud, "quarantine", uuid) == ["in quarantine"]
    assert (await disks(cloud))[uuid]["quarantined_at"] is not None
    await cloud.world.clock.advance(WEEK_S / 2)
    assert await act(cloud, "quarantine", uuid) == ["in quarantine"]
    assert await act(cloud, "remove", uuid) == ["refused"], "not for long enough"
    await cloud.world.clock.advance(WEEK_S / 2 + 1)
    assert await act(cloud, "remove", uuid) == ["removed"]
    assert uuid not in await disks(cloud)
    assert await act(cloud, "remove", uuid) == ["refused"]


async def test_what_is_released_is_not_removed(cloud, operator):
    uuid = await stranger(operator)
    await act(cloud, "quarantine", uuid)
    assert await act(cloud, "release", uuid) == ["released"]
    await cloud.world.clock.advance(2 * WEEK_S)
    assert await act(cloud, "remove", uuid) == ["refused"]
    assert uuid in await disks(cloud)


async def test_a_disk_that_a_vm_was_given_meanwhile_is_left_alone(cloud, operator):
    uuid = await stranger(operator)
    await act(cloud, "quarantine", uuid)
    await cloud.world.clock.advance(2 * WEEK_S)
    (server_id,) = await cloud.build()
    vm = await operator.call("VM.get_by_name_label", f"xenith-vm-{server_id}")
    vdi = await operator.call("VDI.get_by_uuid", uuid)
    vbd = {"VM": vm[0], "VDI": vdi, "userdevice": "5", "mode": "RW", "type": "Disk"}
    await operator.call("VBD.create", vbd | {"bootable": False, "empty": False})
    assert await act(cloud, "remove", uuid) == ["refused"]
    assert (await disks(cloud))[uuid]["proof"] == []


async def test_what_is_somebodys_cannot_be_marked(cloud, operator):
    await cloud.build()
    mine = [uuid for uuid, disk in (await disks(cloud)).items() if disk["kind"] != "other"]
    assert await act(cloud, "quarantine", *mine) == ["refused"] * len(mine)
    memory = await stranger(operator, type="suspend")
    assert await act(cloud, "quarantine", memory) == ["refused"]


async def test_a_host_that_is_away_is_told_as_that_and_an_unknown_one_is_not_found(cloud):
    cloud.fleet.hosts["host-1"].die()
    while (await storage(cloud).list(host="host-1", server=None))[0]["error"] == "":
        await cloud.world.clock.advance(1.0)
    with pytest.raises(NotFound):
        await storage(cloud).list(host="nobody", server=None)
    with pytest.raises(NotFound):
        await storage(cloud).list(host=None, server="nothing")
