"""What operators are told of the disks on a host, and what they may do to those of nobody."""

from __future__ import annotations

import pytest

from xenith.compute.operations.storage import HostsStorage, OrphansBody
from xenith.compute.records.hosts import hosts
from xenith.compute.records.instances import instances
from xenith.core.errors import Conflict, NotFound
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


@pytest.mark.parametrize("way", ["VDI.clone", "VDI.snapshot"])
async def test_who_copies_a_marked_disk_keeps_the_copy(cloud, operator, way):
    uuid = await stranger(operator)
    await act(cloud, "quarantine", uuid)
    await cloud.world.clock.advance(2 * WEEK_S)
    ref = await operator.call("VDI.get_by_uuid", uuid)
    copy = await operator.call("VDI.get_uuid", await operator.call(way, ref, {}))
    assert (await disks(cloud))[copy]["quarantined_at"] is None
    assert await act(cloud, "remove", copy) == ["refused"]
    assert await act(cloud, "quarantine", copy) == ["in quarantine"]
    assert await act(cloud, "remove", copy) == ["refused"], "its own week has begun"
    assert await act(cloud, "remove", uuid) == ["removed"]
    assert copy in await disks(cloud)


@pytest.mark.parametrize("mark", ["1600000000", "x 1600000000", "{uuid} nan", "{uuid} -1", ""])
async def test_what_is_no_mark_of_ours_is_none(cloud, operator, mark):
    uuid = await stranger(operator)
    ref = await operator.call("VDI.get_by_uuid", uuid)
    config = ("xenith-quarantined", mark.format(uuid=uuid))
    await operator.call("VDI.add_to_other_config", ref, *config)
    assert (await disks(cloud))[uuid]["quarantined_at"] is None
    assert await act(cloud, "remove", uuid) == ["refused"]
    assert await act(cloud, "quarantine", uuid) == ["in quarantine"]
    assert (await disks(cloud))[uuid]["quarantined_at"] is not None


async def test_of_several_hosts_with_one_name_none_is_taken_unless_by_its_id(cloud, operator):
    uuid = await stranger(operator)
    row = await cloud.db.read(lambda tx: tx.get(hosts, name="host-1"))
    fields = {column.name: getattr(row, column.name) for column in hosts.columns}
    own = {"id": "another", "service_id": "another", "cell_id": "another-cell", "number": 9}
    await cloud.db.run(lambda tx: tx.insert(hosts, fields | own))
    with pytest.raises(Conflict, match=f"2 hosts are called host-1.*{row.id}"):
        await act(cloud, "quarantine", uuid)
    (done,) = await storage(cloud).act(OrphansBody(row.id, "quarantine", [uuid]))
    assert done["done"] == "in quarantine"


async def test_a_snapshot_is_of_nobody_once_nothing_is_done_to_its_server(cloud, operator):
    (server_id,) = await cloud.build()
    root = await operator.call("VDI.get_by_name_label", f"xenith-root-{server_id}")
    kept = await operator.call("VDI.snapshot", root[0], {})
    await operator.call("VDI.set_name_label", kept, f"xenith-snapshot-{server_id}")
    uuid = await operator.call("VDI.get_uuid", kept)
    assert "its next image, or its end, removes it" in (await disks(cloud))[uuid]["proof"]
    # As after a start from an older copy of the rows: the host is read then.
    await cloud.reborn()
    await cloud.image(server_id)
    await cloud.carry()
    assert (await disks(cloud))[uuid]["proof"] == [], "an image of it is on its way"
    await cloud.work()
    assert uuid not in await disks(cloud)


async def test_a_server_on_another_host_accounts_for_no_disk_here(cloud, operator):
    (server_id,) = await cloud.build()
    row = await cloud.db.read(lambda tx: tx.get(hosts, name="host-1"))
    await cloud.db.run(lambda tx: tx.update(instances, {"id": server_id}, host_id="elsewhere"))
    (root,) = [disk for disk in (await disks(cloud)).values() if disk["kind"] == "root"]
    assert root["proof"][0] == f"server {server_id} is not on this host"
    await cloud.db.run(lambda tx: tx.update(instances, {"id": server_id}, host_id=row.id))


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
