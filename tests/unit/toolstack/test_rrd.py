"""What is measured of simulated hosts, over HTTP and by calls, and what it costs when none asks."""

import asyncio
import base64
import json
import math
import xml.etree.ElementTree as ET
from http.client import HTTPConnection
from urllib.parse import urlencode

import pytest

from xenith.core.clock import ManualClock
from xenith.core.ids import Ids
from xenith.core.units import GIB, MIB
from xenith.core.world import World
from xenith.toolstack.backends import Measured, Sample
from xenith.toolstack.backends.sim import SimBackend
from xenith.toolstack.fleet import Fleet
from xenith.toolstack.rrd.keeping import Shelf
from xenith.toolstack.rrd.sampler import Sampler, archives_of_vm, sampler_of
from xenith.xapi import XapiFault, XapiSession

PASSWORD = "pass-the-salt"
BASIC = {"authorization": "Basic " + base64.b64encode(f"root:{PASSWORD}".encode()).decode()}
DAY_S = 86400


class Counted(SimBackend):
    """A simulated host that counts how often it is measured."""

    count = 0

    async def measure(self, vm_uuids):
        Counted.count += 1
        return await super().measure(vm_uuids)


class Hosts:
    """Simulated hosts on time that a test moves."""

    def __init__(self, directory=None):
        self.clock = ManualClock()
        self.world = World(self.clock, Ids(3))
        self.fleet = Fleet(self.world, directory, event_batch_s=0)
        self.sessions = {}

    async def add(self, name, backend=None):
        backend = backend or Counted(
            self.world, memory_bytes=2 * GIB, cpu_count=2, disk_bytes=100 * GIB
        )
        end = await self.fleet.add_host(name, backend, password=PASSWORD)
        self.sessions[name] = await XapiSession.login(end.url, user="root", password=PASSWORD)
        return self.fleet.hosts[name]

    async def call(self, method, *params, host="host-1"):
        return await self.sessions[host].call(method, *params, timeout_s=10)

    async def run_vm(self, *, host="host-1", disk_bytes=0, has_card=False):
        vm = await self.call(
            "VM.create", {"name_label": "vm", "memory_static_max": 256 * MIB}, host=host
        )
        if disk_bytes:
            (sr,) = await self.call("SR.get_all", host=host)
            vdi = await self.call("VDI.create", {"SR": sr, "virtual_size": disk_bytes}, host=host)
            vbd = {"VM": vm, "VDI": vdi, "userdevice": "0", "mode": "RW", "type": "Disk"}
            await self.call("VBD.create", vbd, host=host)
        if has_card:
            network = (await self.call("network.get_all", host=host))[0]
            vif = {"VM": vm, "network": network, "device": "0", "MAC": ""}
            await self.call("VIF.create", vif, host=host)
        await self.call("VM.start", vm, False, False, host=host)
        return vm, await self.call("VM.get_uuid", vm, host=host)

    async def get(self, path, *, at="host-1", headers=BASIC, **query):
        address = self.fleet.hosts[at].address
        return await asyncio.to_thread(_get, address, path, query, headers)

    async def stop(self):
        for session in self.sessions.values():
            await session.close()
        await self.fleet.stop()


def _get(address, path, query, headers):
    connection = HTTPConnection(address, timeout=20)
    try:
        connection.request("GET", f"{path}?{urlencode(query, doseq=True)}", headers=headers)
        reply = connection.getresponse()
        return reply.status, reply.headers.get_content_type(), reply.read()
    finally:
        connection.close()


@pytest.fixture
async def hosts():
    hosts = Hosts()
    await hosts.add("host-1")
    yield hosts
    await hosts.stop()


class Report:
    """Updates read as Citrix's ``parse_rrd.py`` reads them: columns by what their legend says."""

    def __init__(self, body):
        root = ET.fromstring(body)
        assert root.tag == "xport"
        meta = root.find("meta")
        self.start, self.step, self.end, self.rows, self.columns = (
            int(meta.findtext(name)) for name in ("start", "step", "end", "rows", "columns")
        )
        legend = [entry.text.split(":") for entry in meta.find("legend")]
        self.times, self.values = [], {tuple(entry): [] for entry in legend}
        for row in root.find("data"):
            self.times.append(int(row.findtext("t")))
            for entry, cell in zip(legend, row.findall("v"), strict=True):
                self.values[tuple(entry)].append(float(cell.text))
        assert self.rows == len(self.times)
        assert self.columns == len(legend)

    def of(self, kind, uuid, name, cf="AVERAGE"):
        return self.values[cf, kind, uuid, name]


async def test_updates_of_a_vm_are_what_it_had_since_it_started(hosts):
    _, uuid = await hosts.run_vm(disk_bytes=8 * MIB, has_card=True)
    await hosts.clock.advance(300)
    begun = int(hosts.clock.now()) - 100
    status, kind, body = await hosts.get("/rrd_updates", start=begun, cf="AVERAGE", interval=5)
    assert (status, kind) == (200, "text/xml")
    found = Report(body)
    assert found.step == 5
    assert found.times == [found.end - 5 * at for at in range(found.rows)]
    assert begun < found.start <= begun + 5
    assert found.end <= hosts.clock.now() < found.end + 5
    assert found.of("vm", uuid, "memory") == [256.0 * MIB] * found.rows
    for name in ("cpu0", "vbd_xvda_read", "vbd_xvda_write", "vif_0_rx", "vif_0_tx"):
        assert found.of("vm", uuid, name) == [0.0] * found.rows
    assert {entry[1] for entry in found.values} == {"vm"}


async def test_updates_of_the_host_are_asked_for_and_in_all_ways_of_consolidation(hosts):
    (ref,) = await hosts.call("host.get_all")
    uuid = await hosts.call("host.get_uuid", ref)
    await hosts.clock.advance(60)
    await hosts.run_vm()
    await hosts.clock.advance(60)
    _, _, body = await hosts.get("/rrd_updates", start=-50, host="true", vm_uuid="")
    found = Report(body)
    for cf in ("AVERAGE", "MIN", "MAX"):
        assert found.of("host", uuid, "memory_total_kib", cf) == [2 * GIB / 1024] * found.rows
        free = found.of("host", uuid, "memory_free_kib", cf)
        assert free == [(2 * GIB - 256 * MIB) / 1024] * found.rows
    names = {name for _, _, _, name in found.values}
    assert names == {"cpu0", "cpu1", "cpu_avg", "loadavg", "memory_total_kib", "memory_free_kib"}


@pytest.mark.parametrize(
    ("ago_s", "interval_s", "step_s"),
    [
        (500, 5, 5),
        (500, 0, 5),
        (500, 60, 60),
        (700, 0, 60),
        (7000, 5, 60),
        (3 * 3600, 5, 3600),
        (500, 3600, 3600),
        (8 * DAY_S, 5, DAY_S),
        (400 * DAY_S, 5, DAY_S),
        (500, 999_999, DAY_S),
    ],
)
async def test_the_finest_rows_that_reach_so_far_are_given(hosts, ago_s, interval_s, step_s):
    _, uuid = await hosts.run_vm()
    await hosts.clock.advance(20 * DAY_S)
    start = int(hosts.clock.now()) - ago_s
    _, _, body = await hosts.get("/rrd_updates", start=start, interval=interval_s, cf="MAX")
    found = Report(body)
    assert found.step == step_s
    assert found.rows == min(366, found.end // step_s - (start - 1) // step_s)
    values = found.of("vm", uuid, "memory", "MAX")
    assert len(values) == found.rows
    known = [value for value in values if not math.isnan(value)]
    assert set(known) <= {256.0 * MIB}
    assert len(known) >= min(found.rows, 20 * DAY_S // step_s - 1)


async def test_updates_are_json_where_that_is_asked_for(hosts):
    _, uuid = await hosts.run_vm()
    await hosts.clock.advance(12)
    query = {"start": -60, "cf": "AVERAGE", "vm_uuid": uuid}
    _, kind, body = await hosts.get("/rrd_updates", json="true", **query)
    assert kind == "application/json"
    found = json.loads(body)
    meta = found["meta"]
    assert (meta["step"], meta["rows"]) == (5, len(found["data"]))
    column = meta["legend"].index(f"AVERAGE:vm:{uuid}:memory")
    newest, oldest = found["data"][0], found["data"][-1]
    assert (newest["t"], newest["values"][column]) == (meta["end"], 256.0 * MIB)
    assert oldest["values"][column] == "NaN"
    accepting = {**BASIC, "accept": "application/json"}
    assert (await hosts.get("/rrd_updates", headers=accepting, **query))[1:] == (kind, body)
    anything = {**BASIC, "accept": "*/*"}
    assert (await hosts.get("/rrd_updates", headers=anything, **query))[1] == "text/xml"


async def test_vms_are_chosen_by_their_uuids(hosts):
    uuids = [(await hosts.run_vm())[1] for _ in range(3)]
    await hosts.clock.advance(10)

    async def told(**query):
        _, _, body = await hosts.get("/rrd_updates", start=-10, cf="AVERAGE", **query)
        return {uuid for _, _, uuid, _ in Report(body).values}

    assert await told() == set(uuids)
    assert await told(vm_uuid=uuids[1]) == {uuids[1]}
    assert await told(vm_uuid=uuids[:2]) == set(uuids[:2])
    assert await told(vm_uuid="none of them") == set()


@pytest.mark.parametrize("path", ["/rrd_updates", "/host_rrd", "/vm_rrd"])
async def test_whoever_has_no_session_is_told_nothing(hosts, path):
    assert (await hosts.get(path, start=0, headers={}))[0] == 401
    assert (await hosts.get(path, start=0, headers={}, session_id="OpaqueRef:x"))[0] == 401


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"start": "yesterday"},
        {"start": "1e9"},
        {"start": "9" * 400},
        {"start": 0, "interval": "often"},
        {"start": 0, "cf": "LAST"},
        {"start": 0, "cf": "average"},
    ],
)
async def test_what_makes_no_sense_is_refused(hosts, query):
    assert (await hosts.get("/rrd_updates", **query))[0] == 400


async def test_a_start_before_all_time_is_answered(hosts):
    for start in ("0", "-0", "-999999999999999", "999999999999999"):
        assert (await hosts.get("/rrd_updates", start=start))[0] == 200


def read_dump(body):
    root = ET.fromstring(body)
    assert root.tag == "rrd"
    names = [source.findtext("name") for source in root.findall("ds")]
    archives = {}
    for archive in root.findall("rra"):
        key = archive.findtext("cf"), int(archive.findtext("pdp_per_row"))
        assert len(archive.find("cdp_prep")) == len(names)
        archives[key] = [
            dict(zip(names, [float(cell.text) for cell in row], strict=True))
            for row in archive.find("database")
        ]
    return root, archives


async def test_all_of_a_vm_is_given_as_rrdtools_dump(hosts):
    _, uuid = await hosts.run_vm()
    await hosts.clock.advance(2 * DAY_S)
    status, kind, body = await hosts.get("/vm_rrd", uuid=uuid)
    assert (status, kind) == (200, "text/xml")
    root, archives = read_dump(body)
    assert (root.findtext("version"), root.findtext("step")) == ("0003", "5")
    assert int(root.findtext("lastupdate")) == int(hosts.clock.now())
    types = {source.findtext("name"): source.findtext("type") for source in root.findall("ds")}
    assert (types["cpu0"], types["memory"]) == ("DERIVE", "GAUGE")
    assert {(cf, points): len(rows) for (cf, points), rows in archives.items()} == {
        (cf, points): rows
        for points, rows in ((1, 120), (12, 120), (720, 168), (17280, 366))
        for cf in ("AVERAGE", "MIN", "MAX")
    }
    hours = [row["memory"] for row in archives["AVERAGE", 720]]
    assert all(math.isnan(value) for value in hours[:100])
    assert hours[-47:] == [256.0 * MIB] * 47
    _, kind, body = await hosts.get("/vm_rrd", uuid=uuid, json="true")
    found = json.loads(body)
    assert kind == "application/json"
    assert [source["name"] for source in found["ds"]] == list(types)
    column = list(types).index("memory")
    values = [row[column] for row in found["rra"][6]["database"]]
    assert values == [value if not math.isnan(value) else "NaN" for value in hours]


async def test_all_of_a_host_is_given_and_of_a_vm_that_is_not_there_nothing(hosts):
    await hosts.clock.advance(60)
    _, _, body = await hosts.get("/host_rrd")
    _, archives = read_dump(body)
    assert archives["MIN", 1][-1]["memory_total_kib"] == 2 * GIB / 1024
    vm = await hosts.call("VM.create", {"name_label": "x", "memory_static_max": 256 * MIB})
    uuid = await hosts.call("VM.get_uuid", vm)
    for named in (uuid, "", "../../etc/passwd"):
        assert (await hosts.get("/vm_rrd", uuid=named))[0] == 404


async def test_a_vm_that_ended_keeps_what_was_measured_and_one_destroyed_does_not(hosts):
    vm, uuid = await hosts.run_vm()
    await hosts.clock.advance(60)
    await hosts.get("/vm_rrd", uuid=uuid)
    await hosts.call("VM.hard_shutdown", vm)
    await hosts.clock.advance(60)
    _, _, body = await hosts.get("/vm_rrd", uuid=uuid)
    assert read_dump(body)[1]["MAX", 1][-1]["memory"] == 256 * MIB
    _, _, body = await hosts.get("/rrd_updates", start=-60)
    assert Report(body).columns == 0
    await hosts.call("VM.destroy", vm)
    assert (await hosts.get("/vm_rrd", uuid=uuid))[0] == 404


async def test_what_a_disk_and_its_chain_take_is_measured_and_shared_files_count_once(hosts):
    vm, uuid = await hosts.run_vm(disk_bytes=64 * MIB)
    (vbd,) = await hosts.call("VM.get_VBDs", vm)
    vdi = await hosts.call("VBD.get_VDI", vbd)
    disk = hosts.fleet.hosts["host-1"].engine._disks[await hosts.call("VDI.get_uuid", vdi)]
    disk.used_bytes = 5 * MIB
    snapshot = await hosts.call("VDI.snapshot", vdi)
    clone = await hosts.call("VDI.clone", snapshot, {})
    more = {"VM": vm, "VDI": clone, "userdevice": "1", "mode": "RW", "type": "Disk"}
    await hosts.call("VBD.create", more)

    async def takes(name):
        return await hosts.call("VM.query_data_source", vm, name)

    first, second = await takes("vbd_xvda_physical"), await takes("vbd_xvdb_physical")
    assert first >= 5 * MIB
    assert second >= 5 * MIB
    assert 5 * MIB <= await takes("disk_physical") < first + second
    _, _, body = await hosts.get("/vm_rrd", uuid=uuid)
    assert "vbd_xvda_physical" in read_dump(body)[1]["MAX", 1][-1]


async def test_what_a_guest_says_it_has_free_is_passed_on(hosts):
    vm, uuid = await hosts.run_vm()
    engine = hosts.fleet.hosts["host-1"].engine
    engine.guest_writes(uuid, {"data/meminfo_free": "1234"})
    assert await hosts.call("VM.query_data_source", vm, "memory_internal_free") == 1234.0
    engine.guest_writes(uuid, {"data/meminfo_free": "-1\u0663"})
    with pytest.raises(XapiFault, match="INTERNAL_ERROR"):
        await hosts.call("VM.query_data_source", vm, "memory_internal_free")


async def test_data_sources_are_listed_asked_recorded_and_forgotten(hosts):
    vm, uuid = await hosts.run_vm(disk_bytes=8 * MIB)
    (host,) = await hosts.call("host.get_all")
    await hosts.clock.advance(60)
    rows = {row["name_label"]: row for row in await hosts.call("VM.get_data_sources", vm)}
    assert rows["vbd_xvda_read"]["units"] == "B/s"
    assert rows["cpu0"]["max"] == 1.0
    assert rows["memory"]["value"] == 256.0 * MIB
    for class_name, ref, name in (("VM", vm, "memory"), ("host", host, "memory_free_kib")):
        await hosts.call(f"{class_name}.record_data_source", ref, name)
        assert await hosts.call(f"{class_name}.query_data_source", ref, name) > 0
        await hosts.call(f"{class_name}.forget_data_source_archives", ref, name)
        for method in ("record_data_source", "query_data_source", "forget_data_source_archives"):
            with pytest.raises(XapiFault, match="INTERNAL_ERROR"):
                await hosts.call(f"{class_name}.{method}", ref, "nothing")
    assert "memory_free_kib" in {
        row["name_label"] for row in await hosts.call("host.get_data_sources", host)
    }
    await hosts.clock.advance(10)
    _, _, body = await hosts.get("/rrd_updates", start=-60, cf="MIN")
    values = Report(body).of("vm", uuid, "memory", "MIN")
    assert values[0] == 256.0 * MIB
    assert math.isnan(values[-1])
    await hosts.call("VM.hard_shutdown", vm)
    assert await hosts.call("VM.get_data_sources", vm) == []


async def test_hosts_that_nobody_asks_are_not_measured_and_have_no_archive():
    hosts = Hosts()
    Counted.count = 0
    try:
        for number in range(1, 21):
            await hosts.add(f"host-{number}")
            for _ in range(3):
                await hosts.run_vm(host=f"host-{number}")
        await hosts.clock.advance(30 * DAY_S)
        members = list(hosts.fleet.hosts.values())
        assert Counted.count == 0
        assert all(member.sampler is None for member in members)
        assert sum(member.tasks.task_count for member in members) == 0

        _, uuid = await hosts.run_vm(host="host-7")
        await hosts.get("/vm_rrd", at="host-7", uuid=uuid)
        assert Counted.count == 1
        asked = [member for member in members if member.sampler is not None]
        assert [member.name for member in asked] == ["host-7"]
        assert asked[0].sampler.archive_count == 2, "the VM that was asked for, and its host"
        assert sum(member.tasks.task_count for member in members) == 0
    finally:
        await hosts.stop()


async def test_what_was_measured_of_a_vm_goes_with_it_to_another_host(sim_fleet):
    await sim_fleet.start("one", "two")
    await sim_fleet.join("two", "one")
    one, two = sim_fleet.host("one"), sim_fleet.host("two")
    record = {"name_label": "vm", "memory_static_max": 256 * MIB}
    vm = await sim_fleet.call("one", "VM.create", record)
    await sim_fleet.call("one", "VM.start_on", vm, one.ref, False, False)
    uuid = one.objects.get("VM", vm)["uuid"]
    before = (await sampler_of(one).of_vms())[uuid]
    await sim_fleet.call("one", "VM.pool_migrate", vm, two.ref, {})
    assert await sampler_of(one).of_vms() == {}
    assert await archives_of_vm(one, uuid) is before
    assert sampler_of(one).find(uuid) is None
    assert sampler_of(two).find(uuid) is before
    query = {"start": -60, "session_id": one.begin_session("root", "console")}
    _, _, body = await asyncio.to_thread(_get, two.address, "/rrd_updates", query, {})
    assert {found for _, _, found, _ in Report(body).values} == {uuid}
    measured = await one.pool.backend.measure([uuid])
    assert measured.vms[uuid].figures["memory"] == 256.0 * MIB
    assert "cpu_avg" in measured.host.figures


class Real(SimBackend):
    """A host whose figures are measured, as far as its sampler knows."""

    async def measure(self, vm_uuids):
        now = self._world.clock.now()
        vms = {uuid: Sample({"cpu0": now * 0.25, "memory": 7.0}) for uuid in vm_uuids}
        return Measured(Sample({"cpu_avg": now * 0.5, "loadavg": 1.5}), vms)


async def test_real_hosts_are_measured_every_five_seconds_and_their_past_outlives_them(tmp_path):
    hosts = Hosts()
    backend = Real(hosts.world, memory_bytes=2 * GIB, cpu_count=2, disk_bytes=100 * GIB)
    host = await hosts.add("host-1", backend)
    vm, uuid = await hosts.run_vm(disk_bytes=8 * MIB)
    sampler = sampler_of(host)
    sampler.begin(tmp_path / "rrd")
    for _ in range(70):
        await hosts.clock.advance(5)
    rows = (await sampler.of_vms())[uuid].levels[0].rows(60)[:, 0, 0]
    assert (abs(rows - 0.25) < 1e-9).all()
    assert await hosts.call("VM.query_data_source", vm, "vbd_xvda_physical") >= 0
    metrics = await hosts.call("VM.get_metrics", vm)
    assert await hosts.call("VM_metrics.get_VCPUs_utilisation", metrics) == {"0": 0.25}
    async with asyncio.timeout(5):
        while not list((tmp_path / "rrd").glob("*.rrd")):  # noqa: ASYNC110 - written by a thread
            await asyncio.sleep(0.01)
    await hosts.stop()
    assert not list((tmp_path / "rrd").glob("*.part"))
    kept = Shelf(tmp_path / "rrd").load()
    own = host.objects.get("host", host.ref)["uuid"]
    assert set(kept) == {uuid, own}
    assert (abs(kept[uuid].levels[0].rows(60)[:, 0, 0] - 0.25) < 1e-9).all()
    assert kept[own].value("loadavg") == 1.5
    # It goes on as if there had been no end; what was measured last is what counters grow from.
    again = kept[uuid]
    now = again.updated_s + 60
    again.update(now, {"cpu0": now * 0.25, "memory": 7.0})
    assert abs(again.value("cpu0") - 0.25) < 1e-9
    assert (abs(again.levels[1].rows(1)[:, 0, 0] - 0.25) < 1e-9).all()


async def test_a_vm_that_is_destroyed_leaves_no_file(tmp_path):
    hosts = Hosts()
    host = await hosts.add("host-1")
    vm, uuid = await hosts.run_vm()
    sampler = sampler_of(host)
    sampler.begin(tmp_path)
    await hosts.clock.advance(5)
    await sampler.of_vms()
    await sampler.keep()
    assert (tmp_path / f"{uuid}.rrd").exists()
    await hosts.call("VM.hard_shutdown", vm)
    await hosts.call("VM.destroy", vm)
    await hosts.clock.advance(5)
    await sampler.keep()
    assert not (tmp_path / f"{uuid}.rrd").exists()
    await hosts.stop()


async def test_a_disk_that_is_full_does_not_hold_up_the_end_of_a_host(tmp_path):
    hosts = Hosts()
    host = await hosts.add("host-1")
    (tmp_path / "rrd").write_text("no directory")
    sampler = sampler_of(host)
    sampler.begin(tmp_path / "rrd")
    await sampler.of_host()
    await hosts.stop()
    assert (tmp_path / "rrd").read_text() == "no directory"


async def test_processors_of_a_vm_that_ended_are_not_shown_as_used():
    hosts = Hosts()
    backend = Real(hosts.world, memory_bytes=2 * GIB, cpu_count=2, disk_bytes=100 * GIB)
    host = await hosts.add("host-1", backend)
    vm, _ = await hosts.run_vm()
    metrics = await hosts.call("VM.get_metrics", vm)
    sampler_of(host).begin(None)
    for _ in range(15):
        await hosts.clock.advance(5)
    assert await hosts.call("VM_metrics.get_VCPUs_utilisation", metrics) == {"0": 0.25}
    await hosts.call("VM.hard_shutdown", vm)
    for _ in range(15):
        await hosts.clock.advance(5)
    assert await hosts.call("VM_metrics.get_VCPUs_utilisation", metrics) == {}
    await hosts.stop()


async def test_a_file_that_is_damaged_or_anothers_costs_only_itself(tmp_path):
    hosts = Hosts()
    host = await hosts.add("host-1")
    uuids = [(await hosts.run_vm())[1] for _ in range(4)]
    sampler = sampler_of(host)
    sampler.begin(tmp_path)
    await hosts.clock.advance(5)
    assert set(await sampler.of_vms()) == set(uuids)
    await hosts.stop()
    good, torn, empty, other = (tmp_path / f"{uuid}.rrd" for uuid in uuids)
    torn.write_bytes(torn.read_bytes()[:-100])
    empty.write_bytes(b"")
    other.write_bytes(b"\x81\xa5names\x90")
    (tmp_path / "notes.rrd").write_bytes(b"x")
    good.with_suffix(".part").write_bytes(b"half")
    found = Shelf(tmp_path).load()
    assert uuids[0] in found
    assert not found.keys() & set(uuids[1:])
    assert Shelf(tmp_path / "nowhere").load() == {}


async def test_a_disk_that_cannot_be_looked_at_costs_only_its_own_figures(hosts):
    vm, _ = await hosts.run_vm(disk_bytes=8 * MIB)
    host = hosts.fleet.hosts["host-1"]
    host.own_storage.attached.clear()
    names = {row["name_label"] for row in await hosts.call("VM.get_data_sources", vm)}
    assert "memory" in names
    assert not any(name.endswith("physical") for name in names)


def test_a_sampler_of_no_one_keeps_nothing(hosts):
    assert Sampler(hosts.fleet.hosts["host-1"]).archive_count == 0
