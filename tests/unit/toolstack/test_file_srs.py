"""SRs that are directories, over XenAPI: bytes in and out, restarts, strangers, what is told."""

import asyncio
import base64
import contextlib
import json
import shutil
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode

import pytest

from xenith.core.clock import SystemClock
from xenith.core.ids import Ids
from xenith.core.units import GIB, MIB
from xenith.core.world import World
from xenith.toolstack.backends.sim import SimBackend
from xenith.toolstack.fleet import Fleet
from xenith.toolstack.storage.records import vm_bytes
from xenith.xapi import NULL, XapiFault, XapiSession

PASSWORD = "pass-the-salt"
BASIC = {"authorization": "Basic " + base64.b64encode(f"root:{PASSWORD}".encode()).decode()}


@dataclass
class Host:
    """A host with a journal and a directory of disks, that can be stopped and started again."""

    directory: Path
    seeds: list[int] = field(default_factory=lambda: list(range(1, 20)))
    sr: str = ""

    @property
    def path(self) -> Path:
        return self.directory / "sr"

    async def start(self):
        world = World(SystemClock(), Ids(self.seeds.pop(0)))
        self.backend = SimBackend(world, memory_bytes=2 * GIB, cpu_count=4, disk_bytes=100 * GIB)
        self.fleet = Fleet(world, self.directory, event_batch_s=0)
        self.end = await self.fleet.add_host("h", self.backend, password=PASSWORD)
        await self.fleet.start()
        self.server = self.fleet.hosts["h"]
        storage = self.server.own_storage
        storage.collect_delay_s = 0.0
        if storage.tidying is not None:  # it waits as long as a server does
            storage.tidying.cancel()
            storage.tidying = None
        self.session = await XapiSession.login(self.end.url, user="root", password=PASSWORD)
        return self

    async def stop(self):
        await self.session.close()
        await self.fleet.stop()

    async def restart(self):
        await self.stop()
        return await self.start()

    async def call(self, name, *params):
        return await self.session.call(name, *params, timeout_s=20)

    async def fault(self, name, *params):
        with pytest.raises(XapiFault) as caught:
            await self.call(name, *params)
        return caught.value.description

    async def make_sr(self, path=None, kind="file"):
        own = (await self.call("host.get_all"))[0]
        config = {"location": str(path or self.path)}
        made = await self.call("SR.create", own, config, 0, "disks", "", kind, "user", False, {})
        self.sr = self.sr or made
        return made

    async def make_vdi(self, name="disk", size=4 * MIB, sr=None):
        record = {"SR": sr or self.sr, "virtual_size": size, "name_label": name}
        return await self.call("VDI.create", record)

    async def record(self, vdi):
        return await self.call("VDI.get_record", vdi)

    async def fill(self, vdi, data, **query):
        query = {"vdi": vdi, "format": "raw", **query}
        return await asyncio.to_thread(self._request, "PUT", "/import_raw_vdi", query, data)

    async def read(self, vdi, **query):
        query = {"vdi": vdi, "format": "raw", **query}
        return await asyncio.to_thread(self._request, "GET", "/export_raw_vdi/", query)

    def _request(self, verb, path, query, data=None):
        connection = HTTPConnection(self.end.url.removeprefix("http://"), timeout=20)
        with contextlib.closing(connection):
            connection.request(verb, f"{path}?{urlencode(query)}", body=data, headers=BASIC)
            reply = connection.getresponse()
            body = reply.read()
        if reply.status != 200:
            raise XapiFault(*json.loads(body))
        return body

    async def tidied(self):
        """Wait until nothing is left to collect."""
        storage = self.server.own_storage
        if storage.tidying is not None:
            await asyncio.wait([storage.tidying])

    def files(self):
        return sorted(path.name for path in self.path.glob("*.vhd"))


@pytest.fixture
async def host(tmp_path):
    host = await Host(tmp_path).start()
    await host.make_sr()
    yield host
    await host.stop()


def block(letter, count=1):
    return letter * (2 * MIB * count)


async def test_bytes_that_are_imported_are_exported_again(host):
    vdi = await host.make_vdi(size=6 * MIB)
    data = block(b"a") + b"odd"
    await host.fill(vdi, data)
    assert await host.read(vdi) == data + bytes(6 * MIB - len(data))
    record = await host.record(vdi)
    assert record["virtual_size"] == 6 * MIB
    assert 2 * MIB <= record["physical_utilisation"] < 5 * MIB
    assert record["location"] == record["uuid"]
    assert host.files() == [f"{record['uuid']}.vhd"]


async def test_a_snapshot_keeps_its_bytes_and_both_stand_on_a_base_copy(host):
    vdi = await host.make_vdi("disk")
    await host.fill(vdi, block(b"a", 2))
    made = await host.call("VDI.snapshot", vdi, {"why": "test"})
    await host.fill(vdi, block(b"b"))
    assert await host.read(made) == block(b"a", 2)
    assert await host.read(vdi) == block(b"b") + block(b"a")

    of, at = await host.record(made), await host.record(vdi)
    assert (of["is_a_snapshot"], of["snapshot_of"], of["name_label"]) == (True, vdi, "disk")
    assert of["snapshot_time"] != "19700101T00:00:00Z"
    assert (at["is_a_snapshot"], at["snapshots"]) == (False, [made])
    assert not at["cbt_enabled"]
    parent = of["sm_config"]["vhd-parent"]
    assert of["sm_config"]["why"] == "test"
    assert at["sm_config"] == {"vhd-parent": parent}
    base = await host.record(await host.call("VDI.get_by_uuid", parent))
    assert (base["name_label"], base["managed"], base["read_only"]) == ("base copy", False, True)
    assert base["allowed_operations"] == []
    assert base["physical_utilisation"] >= 4 * MIB > of["physical_utilisation"]


async def test_a_base_copy_is_nobody_s_to_change(host):
    vdi = await host.make_vdi()
    await host.call("VDI.snapshot", vdi)
    parent = (await host.record(vdi))["sm_config"]["vhd-parent"]
    base = await host.call("VDI.get_by_uuid", parent)
    for name, rest in (("destroy", ()), ("snapshot", ()), ("resize", (8 * MIB,)), ("forget", ())):
        assert await host.fault(f"VDI.{name}", base, *rest) == ["VDI_NOT_MANAGED", base]


async def test_clones_of_one_disk_share_one_parent_and_keep_their_own_writes(host):
    image = await host.make_vdi("image")
    await host.fill(image, block(b"i"))
    first, second = [await host.call("VDI.clone", image, {}) for _ in range(2)]
    await host.fill(first, block(b"1"))
    assert await host.read(second) == await host.read(image) == block(b"i") + block(b"\0")
    assert (await host.read(first))[:8] == b"1" * 8
    parents = {(await host.record(one))["sm_config"]["vhd-parent"] for one in (first, second)}
    assert len(parents) == 1
    assert not (await host.record(first))["is_a_snapshot"]


async def test_what_a_destroyed_snapshot_leaves_is_collected_and_forgotten(host):
    vdi = await host.make_vdi()
    await host.fill(vdi, block(b"a", 2))
    for letter in (b"b", b"c"):
        made = await host.call("VDI.snapshot", vdi)
        await host.fill(vdi, block(letter))
        await host.call("VDI.destroy", made)
    await host.tidied()
    assert await host.read(vdi) == block(b"c") + block(b"a")
    assert host.files() == [f"{(await host.record(vdi))['uuid']}.vhd"]
    assert await host.call("SR.get_VDIs", host.sr) == [vdi]
    assert (await host.record(vdi))["sm_config"] == {}
    assert (await host.record(vdi))["snapshots"] == []


async def test_a_copy_shares_nothing_and_may_be_on_another_sr(host, tmp_path):
    other = await host.make_sr(tmp_path / "other")
    vdi = await host.make_vdi()
    await host.fill(vdi, block(b"a"))
    await host.call("VDI.snapshot", vdi)
    made = await host.call("VDI.copy", vdi, other, NULL, NULL)
    assert await host.read(made) == await host.read(vdi)
    record = await host.record(made)
    assert (record["SR"], record["sm_config"], record["snapshot_of"]) == (other, {}, NULL)
    local = (await host.call("SR.get_by_name_label", "Local storage"))[0]
    simulated = await host.call("VDI.copy", vdi, local)
    assert await host.read(simulated) == bytes(4 * MIB), "a simulated SR has no bytes"


async def test_a_copy_into_a_disk_replaces_it_or_brings_it_from_base_to_source(host, tmp_path):
    other = await host.make_sr(tmp_path / "other")
    vdi, into = await host.make_vdi(), await host.make_vdi(sr=other)
    await host.fill(vdi, block(b"a"))
    base = await host.call("VDI.snapshot", vdi)
    await host.fill(into, block(b"x", 2))
    assert await host.call("VDI.copy", base, NULL, NULL, into) == into
    assert await host.read(into) == block(b"a") + block(b"\0")
    await host.fill(vdi, block(b"b"))
    await host.call("VDI.copy", vdi, NULL, base, into)
    assert await host.read(into) == await host.read(vdi)
    found = await host.fault("VDI.copy", vdi, other, base, NULL)
    assert found[0] == "VALUE_NOT_SUPPORTED"


async def test_all_is_there_after_a_restart_and_strangers_too(host):
    vdi = await host.make_vdi("kept")
    await host.fill(vdi, block(b"k"))
    made = await host.call("VDI.snapshot", vdi)
    gone = await host.make_vdi("gone")
    names = {one: (await host.record(one))["uuid"] for one in (vdi, made, gone)}
    before = {one: await host.record(one) for one in (vdi, made)}
    await host.stop()
    (host.path / f"{names[gone]}.vhd").unlink()
    stranger = "00000000-0000-4000-8000-00000000000a"
    base = before[vdi]["sm_config"]["vhd-parent"]
    shutil.copy(host.path / f"{names[made]}.vhd", host.path / f"{stranger}.vhd")
    await host.start()
    assert {one: await host.record(one) for one in (vdi, made)} == before
    assert await host.read(made) == block(b"k") + block(b"\0")
    found = await host.record(await host.call("VDI.get_by_uuid", stranger))
    assert (found["name_label"], found["sm_config"]) == ("", {"vhd-parent": base})
    assert await host.fault("VDI.get_record", gone) == ["HANDLE_INVALID", "VDI", gone]


async def test_a_disk_that_was_being_made_when_the_host_died_is_gone(host):
    vdi = await host.make_vdi()
    # As the journal has it between the record and the disk.
    host.server.objects.update("VDI", vdi, location="")
    await host.restart()
    assert await host.call("SR.get_VDIs", host.sr) == []
    assert host.files() == []


async def test_an_sr_whose_directory_is_away_keeps_its_records_until_it_is_back(host):
    vdi = await host.make_vdi()
    await host.stop()
    host.path.rename(host.path.with_name("away"))
    await host.start()
    (pbd,) = await host.call("SR.get_PBDs", host.sr)
    assert not await host.call("PBD.get_currently_attached", pbd)
    assert await host.fault("VDI.snapshot", vdi) == ["SR_NOT_ATTACHED", host.sr]
    assert await host.fault("SR.scan", host.sr) == ["SR_NOT_ATTACHED", host.sr]
    assert (await host.fault("PBD.plug", pbd))[0] == "SR_BACKEND_FAILURE_47"
    host.path.with_name("away").rename(host.path)
    await host.call("PBD.plug", pbd)
    assert await host.read(vdi) == bytes(4 * MIB)


async def test_an_sr_is_unplugged_forgotten_and_introduced_elsewhere_with_its_disks(host):
    vdi = await host.make_vdi()
    await host.fill(vdi, block(b"x"))
    uuid = (await host.record(vdi))["uuid"]
    assert (await host.fault("SR.forget", host.sr)) == ["SR_HAS_PBD", host.sr]
    (pbd,) = await host.call("SR.get_PBDs", host.sr)
    await host.call("PBD.unplug", pbd)
    assert (await host.fault("SR.destroy", host.sr)) == ["SR_NOT_EMPTY", host.sr]
    await host.call("SR.forget", host.sr)
    assert await host.fault("VDI.get_record", vdi) == ["HANDLE_INVALID", "VDI", vdi]

    own = (await host.call("host.get_all"))[0]
    sr_uuid = "00000000-0000-4000-8000-0000000000ff"
    sr = await host.call("SR.introduce", sr_uuid, "again", "", "nfs", "user", True, {})
    assert (await host.fault("SR.introduce", sr_uuid, "", "", "nfs", "", False, {})) == [
        "SR_UUID_EXISTS",
        sr_uuid,
    ]
    config = {"location": str(host.path)}
    made = await host.call("PBD.create", {"host": own, "SR": sr, "device_config": config})
    assert (await host.fault("PBD.create", {"host": own, "SR": sr}))[0] == "PBD_EXISTS"
    await host.call("PBD.plug", made)
    again = await host.call("VDI.get_by_uuid", uuid)
    assert await host.read(again) == block(b"x") + block(b"\0")


async def test_a_disk_that_is_forgotten_is_introduced_with_what_is_said_of_it(host):
    vdi = await host.make_vdi("lost")
    await host.fill(vdi, block(b"l"))
    uuid = (await host.record(vdi))["uuid"]
    await host.call("VDI.forget", vdi)
    assert host.files() == [f"{uuid}.vhd"]
    given = (uuid, "found", "by name", host.sr, "user", False, False, {"k": "v"}, uuid, {}, {})
    made = await host.call("VDI.introduce", *given)
    record = await host.record(made)
    assert (record["name_label"], record["other_config"]) == ("found", {"k": "v"})
    assert record["virtual_size"] == 4 * MIB, "read from the disk"
    assert await host.read(made) == block(b"l") + block(b"\0")
    assert (await host.fault("VDI.introduce", *given))[0] == "LOCATION_NOT_UNIQUE"
    missing = "00000000-0000-4000-8000-00000000000b"
    found = await host.fault("VDI.introduce", missing, *given[1:8], missing, {}, {})
    assert found == ["VDI_MISSING", "", missing]


async def test_a_scan_with_a_damaged_disk_fails_and_says_which(host):
    vdi = await host.make_vdi()
    uuid = (await host.record(vdi))["uuid"]
    (host.path / f"{uuid}.vhd").write_bytes(b"\0" * 5000)
    found = await host.fault("SR.scan", host.sr)
    assert found[0] == "SR_BACKEND_FAILURE_40"
    assert uuid in found[3]
    assert (await host.record(vdi))["virtual_size"] == 4 * MIB, "the record stays"


@pytest.mark.parametrize(
    "config", [{"location": "relative"}, {"location": "/tmp/../etc"}, {"location": "/proc/nothing"}]
)
async def test_a_directory_that_cannot_be_an_sr_is_refused_and_leaves_nothing(host, config):
    own = (await host.call("host.get_all"))[0]
    before = await host.call("SR.get_all")
    found = await host.fault("SR.create", own, config, 0, "", "", "file", "", False, {})
    assert found[0] == "SR_BACKEND_FAILURE_47"
    assert await host.call("SR.get_all") == before
    found = await host.fault("SR.create", own, {}, 0, "", "", "lvm", "", False, {})
    assert found == ["SR_UNKNOWN_DRIVER", "lvm"]


async def test_a_directory_of_disks_or_one_that_is_taken_is_not_made_an_sr(host):
    own = (await host.call("host.get_all"))[0]
    config = {"location": str(host.path)}
    found = await host.fault("SR.create", own, config, 0, "", "", "file", "", False, {})
    assert found[0] == "SR_BACKEND_FAILURE_16"
    await host.make_vdi()
    found = await host.fault("SR.create", own, config, 0, "", "", "file", "", False, {})
    assert found[0] == "SR_BACKEND_FAILURE_16"


async def test_srs_below_a_directory_are_probed(host, tmp_path):
    uuid = "00000000-0000-4000-8000-0000000000ee"
    (tmp_path / "share" / uuid).mkdir(parents=True)
    own = (await host.call("host.get_all"))[0]
    config = {"location": str(tmp_path / "share")}
    found = await host.call("SR.probe", own, config, "nfs", {})
    assert f"<UUID>{uuid}</UUID>" in found


async def test_a_running_vm_s_disk_is_snapshot_but_not_destroyed_resized_or_unplugged(host):
    vdi = await host.make_vdi()
    vm = await host.call("VM.create", {"name_label": "vm", "memory_static_max": 256 * MIB})
    await host.call("VBD.create", {"VM": vm, "VDI": vdi, "userdevice": "0"})
    await host.call("VM.start", vm, False, False)
    assert (await host.record(vdi))["allowed_operations"] == [
        "generate_config",
        "snapshot",
        "update",
    ]
    for name, rest in (("destroy", ()), ("resize", (8 * MIB,)), ("clone", ())):
        assert await host.fault(f"VDI.{name}", vdi, *rest) == ["VDI_IN_USE", vdi, name]
    (pbd,) = await host.call("SR.get_PBDs", host.sr)
    assert await host.fault("PBD.unplug", pbd) == ["VDI_IN_USE", vdi, "PBD.unplug"]
    await host.call("VDI.snapshot", vdi)
    await host.call("VM.hard_shutdown", vm)
    assert "destroy" in (await host.record(vdi))["allowed_operations"]
    uses = [await host.call("VDI.get_physical_utilisation", one) for one in (vdi,)]
    assert vm_bytes(host.server, vm) > uses[0], "what it stands on is counted too"


async def test_a_new_disk_is_made_of_a_stream_s_length(host):
    task = await host.call("task.create", "import", "")
    data = block(b"n") + b"x" * 512
    sr_uuid = await host.call("SR.get_uuid", host.sr)
    await host.fill("", data, sr_uuid=sr_uuid, task_id=task)
    assert await host.call("task.get_status", task) == "success"
    vdi = (await host.call("task.get_result", task)).removeprefix("<value>")
    vdi = vdi.removesuffix("</value>")
    assert (await host.read(vdi))[: len(data)] == data


async def test_an_export_that_cannot_begin_says_why_and_so_does_its_task(host):
    task = await host.call("task.create", "export", "")
    with pytest.raises(XapiFault, match="UUID_INVALID"):
        await host.read("nothing", task_id=task)
    assert await host.call("task.get_status", task) == "failure"
    vdi = await host.make_vdi()
    with pytest.raises(XapiFault, match="INVALID_VALUE"):
        await host.read(vdi, format="qcow2")
    with pytest.raises(XapiFault, match="VALUE_NOT_SUPPORTED"):
        await host.read(vdi, base=vdi)


async def test_who_hangs_up_in_an_export_lets_the_disk_go(host):
    vdi = await host.make_vdi(size=64 * MIB)
    query = urlencode({"vdi": vdi, "format": "raw"})
    at, port = host.end.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(at, int(port))
    writer.write(f"GET /export_raw_vdi?{query} HTTP/1.1\r\nhost: x\r\n".encode())
    writer.write(f"authorization: {BASIC['authorization']}\r\n\r\n".encode())
    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
    assert await host.fault("VDI.destroy", vdi) != []
    writer.transport.abort()
    while host.server.operations.of(vdi):
        await host.server.world.clock.sleep(0.005)
    await host.call("VDI.destroy", vdi)


# -- VHD streams


async def test_a_chain_is_exported_whole_changed_exported_as_a_delta_and_restored_elsewhere(
    host, tmp_path
):
    vdi = await host.make_vdi(size=8 * MIB)
    await host.fill(vdi, block(b"a") + block(b"b"))
    first = await host.call("VDI.snapshot", vdi)
    whole = await host.read(first, format="vhd")
    changed = b"A" * 4096 + block(b"a")[4096:] + bytes(2 * MIB) + block(b"c")
    await host.fill(vdi, changed)
    second = await host.call("VDI.snapshot", vdi)
    await host.fill(vdi, block(b"z", 4))
    delta = await host.read(second, format="vhd", base=first)
    assert len(delta) < len(whole) + 3 * MIB

    other = await host.make_sr(tmp_path / "other")
    restored = await host.make_vdi("restored", size=8 * MIB, sr=other)
    await host.fill(restored, whole, format="vhd")
    assert await host.read(restored) == await host.read(first) != await host.read(second)
    kept = await host.call("VDI.snapshot", restored)
    await host.fill(restored, delta, format="vhd")
    assert await host.read(restored) == await host.read(second) == changed + bytes(2 * MIB)
    assert await host.read(kept) == await host.read(first)
    # And back again, from the newer to the older.
    await host.fill(restored, await host.read(first, format="vhd", base=second), format="vhd")
    assert await host.read(restored) == await host.read(first)


async def test_a_delta_of_disks_that_share_nothing_is_what_they_differ_in(host):
    one, other = await host.make_vdi("one"), await host.make_vdi("other")
    await host.fill(one, block(b"x") + block(b"y"))
    await host.fill(other, block(b"x") + block(b"z"))
    delta = await host.read(one, format="vhd", base=other)
    assert len(delta) < 3 * MIB
    await host.fill(other, delta, format="vhd")
    assert await host.read(other) == await host.read(one)


async def test_a_whole_vhd_replaces_what_a_disk_held_and_takes_no_room_for_zeros(host):
    empty, vdi = await host.make_vdi(size=8 * MIB), await host.make_vdi(size=8 * MIB)
    await host.fill(vdi, block(b"o", 2))
    await host.call("VDI.snapshot", vdi)
    await host.fill(vdi, await host.read(empty, format="vhd"), format="vhd")
    assert await host.read(vdi) == bytes(8 * MIB)
    assert (await host.record(vdi))["physical_utilisation"] < 5 * MIB


async def test_a_vhd_that_is_larger_grows_the_disk(host):
    large, small = await host.make_vdi(size=16 * MIB), await host.make_vdi(size=2 * MIB)
    await host.fill(large, bytes(14 * MIB) + block(b"e"))
    await host.fill(small, await host.read(large, format="vhd"), format="vhd")
    assert (await host.record(small))["virtual_size"] == 16 * MIB
    assert await host.read(small) == await host.read(large)


@pytest.mark.parametrize(
    "data", [b"conectix", b"no vhd" * 1000, b"conectix" + b"\xff" * 5000], ids=range(3)
)
async def test_a_stream_that_is_no_vhd_is_refused_and_lets_the_disk_go(host, data):
    vdi = await host.make_vdi()
    with pytest.raises(XapiFault, match="VDI_IO_ERROR"):
        await host.fill(vdi, data, format="vhd")
    await host.call("VDI.destroy", vdi)


async def test_a_vhd_that_is_cut_short_is_refused(host):
    vdi = await host.make_vdi()
    await host.fill(vdi, block(b"c", 2))
    whole = await host.read(vdi, format="vhd")
    with pytest.raises(XapiFault, match="VDI_IO_ERROR"):
        await host.fill(vdi, whole[:-1000], format="vhd")


async def test_a_simulated_disk_goes_out_and_in_as_a_vhd_of_its_size(host):
    local = (await host.call("SR.get_by_name_label", "Local storage"))[0]
    vdi = await host.make_vdi(size=64 * MIB, sr=local)
    made = await host.call("VDI.snapshot", vdi)
    whole = await host.read(made, format="vhd")
    delta = await host.read(vdi, format="vhd", base=made)
    for sr in (local, host.sr):
        restored = await host.make_vdi(size=2 * MIB, sr=sr)
        await host.fill(restored, whole, format="vhd")
        assert (await host.record(restored))["virtual_size"] == 64 * MIB
        await host.fill(restored, delta, format="vhd")
