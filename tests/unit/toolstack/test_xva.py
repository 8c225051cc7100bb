"""VMs out of a pool and into it as XVA: what is in the file, and what a bad one leaves behind."""

import asyncio
import base64
import gzip
import hashlib
import io
import json
import struct
import tarfile
import xmlrpc.client
from http.client import HTTPConnection
from urllib.parse import urlencode

import pytest

from xenith.core.units import MIB
from xenith.toolstack.recovery import IMPORTING
from xenith.toolstack.storage.file_sr import FileSr
from xenith.toolstack.xva.checksums import xxh64, xxh64_slowly
from xenith.xapi import XapiFault

PASSWORD = "pass-the-salt"
BASIC = {"authorization": "Basic " + base64.b64encode(f"root:{PASSWORD}".encode()).decode()}
#: Bytes, a hole, bytes again, a hole that ends the disk: pieces 0, 3 and the last are there.
ROOT = b"r" * 1000 + bytes(3 * MIB - 1000) + b"x" * MIB + bytes(4 * MIB)
DATA = bytes(2 * MIB - 4) + b"last"


class Place:
    """A pool of one host with a directory of disks; a test can kill and restart it."""

    def __init__(self, fleet, path):
        self.fleet, self.path = fleet, path

    async def start(self):
        await self.fleet.start("a")
        self.session = await self.fleet.session("a")

    async def prepare(self):
        await self.start()
        own = (await self.call("host.get_all"))[0]
        config = {"location": str(self.path)}
        self.sr = await self.call("SR.create", own, config, 0, "d", "", "file", "user", False, {})
        return self

    async def call(self, method, *params):
        return await self.session.call(method, *params, timeout_s=20)

    async def make_vm(self, name="exported", *, disks=(ROOT, DATA)):
        """Make a VM with disks of these bytes, a drive and a card."""
        vm = await self.call(
            "VM.create",
            {
                "name_label": name,
                "memory_static_max": str(256 * MIB),
                "VCPUs_max": "2",
                "VCPUs_at_startup": "2",
                "platform": {"acpi": "1"},
                "other_config": {"mine": "yes", "mac_seed": "1"},
                "tags": ["a<b", "c"],
            },
        )
        for number, data in enumerate(disks):
            vdi = await self.call(
                "VDI.create",
                {"SR": self.sr, "virtual_size": str(len(data)), "name_label": f"disk {number}"},
            )
            await self.request("PUT", "/import_raw_vdi", {"vdi": vdi}, data)
            given = {"VM": vm, "VDI": vdi, "userdevice": str(number), "bootable": number == 0}
            await self.call("VBD.create", given)
        await self.call("VBD.create", {"VM": vm, "type": "CD", "mode": "RO", "userdevice": "7"})
        network = await self.call("network.create", {"name_label": "front"})
        card = {"VM": vm, "network": network, "device": "0", "MAC": "02:00:00:00:00:01"}
        await self.call("VIF.create", card)
        return vm

    async def request(self, verb, path, query, data=None):
        return await asyncio.to_thread(self._request, verb, path, query, data)

    def _request(self, verb, path, query, data):
        connection = HTTPConnection(self.fleet.url("a").removeprefix("http://"), timeout=20)
        try:
            connection.request(verb, f"{path}?{urlencode(query)}", body=data, headers=BASIC)
            reply = connection.getresponse()
            body = reply.read()
        finally:
            connection.close()
        if reply.status != 200:
            raise XapiFault(*json.loads(body))
        return body

    async def take_in(self, data, **query):
        """Import; give the VM."""
        task = await self.call("task.create", "import", "")
        await self.request("PUT", "/import", {"sr_id": self.sr, "task_id": task, **query}, data)
        return await self.made(task)

    async def made(self, task):
        record = await self.call("task.get_record", task)
        assert record["status"] == "success", record["error_info"]
        (refs,), _ = xmlrpc.client.loads(f"<params><param>{record['result']}</param></params>")
        (vm,) = refs
        return vm

    async def bytes_of(self, vm):
        """Read a VM's disks in the order of their devices."""
        found = {}
        for vbd in await self.call("VM.get_VBDs", vm):
            row = await self.call("VBD.get_record", vbd)
            if row["type"] == "Disk":
                query = {"vdi": row["VDI"], "format": "raw"}
                found[row["userdevice"]] = await self.request("GET", "/export_raw_vdi", query)
        return [found[device] for device in sorted(found)]

    async def cards_of(self, vm):
        return [
            await self.call("VIF.get_record", vif) for vif in await self.call("VM.get_VIFs", vm)
        ]

    async def counts(self):
        """Count everything that an import makes."""
        classes = ("VM", "VBD", "VDI", "VIF", "network")
        counts = [len(await self.call(f"{name}.get_all")) for name in classes]
        return [*counts, len(list(self.path.glob("*.vhd")))]


@pytest.fixture
async def place(sim_fleet, tmp_path):
    place = await Place(sim_fleet, tmp_path / "sr").prepare()
    yield place
    await place.session.close()


@pytest.fixture
async def exported(place):
    """A VM and the file that it was exported to."""
    vm = await place.make_vm()
    return vm, await place.request("GET", "/export", {"ref": vm})


def members(archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return [(info.name, tar.extractfile(info).read()) for info in tar]


def written(items):
    """Make an archive of members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in items:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def with_manifest(archive, change):
    """Change the text of an archive's manifest."""
    (name, xml), *rest = members(archive)
    return written([(name, change(xml.decode()).encode()), *rest])


def with_field(archive, name, old, new):
    """Change each field of a name that has a value."""
    said = f"<name>{name}</name><value>"
    return with_manifest(archive, lambda xml: xml.replace(f"{said}{old}<", f"{said}{new}<"))


async def test_a_vm_is_a_tar_of_its_records_and_of_what_its_disks_hold(place, exported):
    _, archive = exported
    (name, xml), *rest = members(archive)
    assert name == "ova.xml"
    (value,), _ = xmlrpc.client.loads(b"<params><param>" + xml + b"</param></params>")
    assert value["version"]["export_vsn"] == "2"
    classes = [one["class"] for one in value["objects"]]
    assert classes == ["VM", *["VBD"] * 3, "VIF", "network", "VDI", "VDI", "SR"]
    by_class = {one["class"]: one for one in value["objects"]}
    assert by_class["VM"]["snapshot"]["name_label"] == "exported"
    assert b"OpaqueRef:" not in xml.replace(b"OpaqueRef:NULL", b"")
    names = [name.partition("/") for name, _ in rest]
    root, data = dict.fromkeys(prefix for prefix, _, _ in names)
    assert [rest for prefix, _, rest in names if prefix == root and "." not in rest] == [
        *("00000000", "00000003", "00000007"),
    ]
    assert [rest for prefix, _, rest in names if prefix == data and "." not in rest] == [
        *("00000000", "00000001"),
    ]
    held = dict(rest)
    for name, content in rest:
        if not name.endswith(".checksum"):
            assert held[name + ".checksum"].decode() == hashlib.sha1(content).hexdigest()
    assert held[f"{data}/00000001"].endswith(b"last")


async def test_a_vm_comes_in_as_it_went_out(place, exported):
    vm, archive = exported
    made = await place.take_in(archive)
    assert await place.bytes_of(made) == [ROOT, DATA]
    old, new = [await place.call("VM.get_record", one) for one in (vm, made)]
    for name in ("name_label", "memory_static_max", "VCPUs_max", "platform", "tags"):
        assert old[name] == new[name], name
    assert new["uuid"] != old["uuid"]
    assert (new["other_config"], new["power_state"]) == ({"mine": "yes"}, "Halted")
    assert new["current_operations"] == {}
    (card,) = await place.cards_of(made)
    assert card["MAC"] != "02:00:00:00:00:01"
    assert card["network"] == (await place.cards_of(vm))[0]["network"]
    kinds = [await place.call("VBD.get_type", vbd) for vbd in new["VBDs"]]
    assert sorted(kinds) == ["CD", "Disk", "Disk"]
    await place.call("VM.start", made, False, False)


async def test_a_vm_that_is_restored_is_the_one_that_was(place, exported):
    vm, archive = exported
    uuid = await place.call("VM.get_uuid", vm)
    copy = await place.take_in(archive, restore="true")
    assert await place.call("VM.get_uuid", copy) != uuid
    assert [card["MAC"] for card in await place.cards_of(copy)] == ["02:00:00:00:00:01"]
    for one in (vm, copy):
        await place.call("VM.destroy", one)
    restored = await place.take_in(archive, restore="true")
    assert await place.call("VM.get_uuid", restored) == uuid
    assert (await place.call("VM.get_other_config", restored))["mac_seed"] == "1"


async def test_what_a_restored_vm_says_of_itself_is_not_believed(place, exported):
    vm, archive = exported
    uuid = await place.call("VM.get_uuid", vm)
    hostile = with_field(archive, "uuid", uuid, "../../etc/passwd")
    hostile = with_field(hostile, "suspend_SR", "OpaqueRef:NULL", "Ref:8")
    record = await place.call("VM.get_record", await place.take_in(hostile, restore="true"))
    assert len(record["uuid"]) == 36
    assert record["suspend_SR"] == "OpaqueRef:NULL"
    before = await place.counts()
    damaged = with_field(archive, "MAC", "02:00:00:00:00:01", "ff:ff:ff:ff:ff:ff")
    with pytest.raises(XapiFault, match="MAC_INVALID"):
        await place.take_in(damaged, restore="true")
    assert await place.counts() == before


@pytest.mark.parametrize("word", ["true", "gzip"])
async def test_a_file_may_be_packed(place, exported, word):
    vm, archive = exported
    packed = await place.request("GET", "/export", {"ref": vm, "use_compression": word})
    assert len(packed) < len(archive) / 20
    assert members(gzip.decompress(packed))[1:] == members(archive)[1:]
    assert await place.bytes_of(await place.take_in(packed)) == [ROOT, DATA]
    in_parts = gzip.compress(archive[:70000]) + gzip.compress(archive[70000:])
    assert await place.bytes_of(await place.take_in(in_parts)) == [ROOT, DATA]


async def test_the_checksums_of_newer_hosts_are_read_too(place, exported):
    _, archive = exported
    changed, last = [], b""
    for name, content in members(archive):
        if name.endswith(".checksum"):
            changed.append((name.replace(".checksum", ".xxhash"), xxh64(last).encode()))
        else:
            changed.append((name, content))
        last = content
    assert await place.bytes_of(await place.take_in(written(changed))) == [ROOT, DATA]
    at = next(n for n, (name, _) in enumerate(changed) if name.endswith(".xxhash"))
    changed[at] = (changed[at][0], b"0" * 16)
    with pytest.raises(XapiFault, match="IMPORT_ERROR_SOME_CHECKSUMS_FAILED"):
        await place.take_in(written(changed))


def test_xxh64_is_the_same_with_and_without_the_library():
    for size in (0, 1, 3, 4, 8, 31, 32, 33, 100, 4096 + 7):
        data = bytes(n * 7 % 251 for n in range(size))
        assert f"{xxh64_slowly(data):016X}" == xxh64(data)
    # Source: the xxHash specification's own test of the empty text.
    assert xxh64_slowly(b"") == 0xEF46DB3751D8E999


async def test_bytes_that_are_damaged_are_refused_unless_they_are_wanted(place, exported):
    _, archive = exported
    before = await place.counts()
    damaged = bytearray(archive)
    damaged[archive.index(b"x" * 512) + 100] = ord("y")
    with pytest.raises(XapiFault, match="IMPORT_ERROR_SOME_CHECKSUMS_FAILED"):
        await place.take_in(bytes(damaged))
    assert await place.counts() == before
    root, _ = await place.bytes_of(await place.take_in(bytes(damaged), force="true"))
    assert (len(root), root.count(b"y")) == (len(ROOT), 1)


async def test_a_file_that_is_cut_leaves_nothing(place, exported):
    _, archive = exported
    before = await place.counts()
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        begins = [info.offset for info in tar]
    for at in [
        0,
        100,
        *begins[1:],
        begins[-1] + 512 + 40,
        begins[1] + 512 + 1000,
        len(archive) - 1024,
    ]:
        with pytest.raises(XapiFault, match="IMPORT_ERROR_PREMATURE_EOF"):
            await place.take_in(archive[:at])
        assert await place.counts() == before, at


def swapped(archive):
    """Put the pieces of a disk in another order."""
    items = members(archive)
    return written([items[0], *items[3:5], *items[1:3], *items[5:]])


def renumbered(archive, number):
    items = members(archive)
    name = items[3][0]
    prefix = name.partition("/")[0]
    items[3] = (f"{prefix}/{number:08d}", items[3][1])
    items[4] = (f"{prefix}/{number:08d}.checksum", items[4][1])
    return written(items)


def linked(archive):
    info = tarfile.TarInfo("ova.xml")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info.tobuf() + archive


def padded(archive):
    """A manifest that is longer than any."""
    info = tarfile.TarInfo("ova.xml")
    info.size = 2**40
    return info.tobuf(tarfile.GNU_FORMAT) + archive


DOCTYPE = '<!DOCTYPE a [<!ENTITY b "cc"><!ENTITY c "&b;&b;&b;">]>'
BAD = {
    "no tar": (lambda archive: b"x" * 2048, "IMPORT_ERROR_GENERIC"),
    "a link": (linked, "IMPORT_ERROR_GENERIC"),
    "no manifest": (lambda a: written(members(a)[1:]), "IMPORT_ERROR_UNEXPECTED_FILE"),
    "a long manifest": (padded, "IMPORT_ERROR_GENERIC"),
    "entities": (lambda a: with_manifest(a, lambda x: DOCTYPE + x), "IMPORT_ERROR_GENERIC"),
    "no xml": (lambda a: with_manifest(a, lambda x: x[:-30]), "IMPORT_ERROR_GENERIC"),
    "another value": (
        lambda a: with_manifest(a, lambda x: "<value>x</value>"),
        "IMPORT_ERROR_GENERIC",
    ),
    "a newer form": (
        lambda a: with_manifest(
            a,
            lambda x: x.replace(
                "<name>export_vsn</name><value>2", "<name>export_vsn</name><value>3"
            ),
        ),
        "IMPORT_INCOMPATIBLE_VERSION",
    ),
    "a wrong type": (
        lambda a: with_manifest(
            a,
            lambda x: x.replace(
                "<name>memory_static_max</name><value>2", "<name>memory_static_max</name><value>y2"
            ),
        ),
        "FIELD_TYPE_ERROR",
    ),
    "a control domain": (
        lambda a: with_manifest(
            a,
            lambda x: x.replace(
                "<name>is_control_domain</name><value><boolean>0",
                "<name>is_control_domain</name><value><boolean>1",
            ),
        ),
        "IMPORT_ERROR_GENERIC",
    ),
    "no processors": (
        lambda a: with_field(a, "VCPUs_max", "2", "0"),
        "INVALID_VALUE",
    ),
    "no memory": (
        lambda a: with_field(a, "memory_static_max", str(256 * MIB), "-1"),
        "INVALID_VALUE",
    ),
    "two disks at one place": (
        lambda a: with_field(a, "userdevice", "1", "0"),
        "DEVICE_ALREADY_EXISTS",
    ),
    "a place that is none": (
        lambda a: with_field(a, "userdevice", "1", "../../x"),
        "INVALID_DEVICE",
    ),
    "a mode that is none": (
        lambda a: with_field(a, "mode", "RO", "XX"),
        "INVALID_VALUE",
    ),
    "a missing record": (
        lambda a: with_manifest(a, lambda x: x.replace(">VBD<", ">Nothing<")),
        "IMPORT_ERROR_FAILED_TO_FIND_OBJECT",
    ),
    "pieces out of order": (swapped, "IMPORT_ERROR_GENERIC"),
    "a piece beyond the disk": (
        lambda a: renumbered(a, 99999999),
        "IMPORT_ERROR_GENERIC",
    ),
    "a disk that is not there": (
        lambda a: written([m for m in members(a) if not m[0].startswith(members(a)[-1][0][:6])]),
        "IMPORT_ERROR_ATTACHED_DISKS_NOT_FOUND",
    ),
    "a disk of nobody": (
        lambda a: written(
            [*members(a), ("Ref:99/00000000", b"z"), ("Ref:99/00000000.checksum", b"")]
        ),
        "IMPORT_ERROR_SOME_CHECKSUMS_FAILED",
    ),
    "a file beside": (
        lambda a: written([members(a)[0], ("../../etc/cron.d/x", b"z"), *members(a)[1:]]),
        "IMPORT_ERROR_UNEXPECTED_FILE",
    ),
    "no checksum": (
        lambda a: written(
            [m for m in members(a) if not m[0].endswith(".checksum")],
        ),
        "IMPORT_ERROR_UNEXPECTED_FILE",
    ),
    "a long piece": (
        lambda a: written([members(a)[0], (members(a)[1][0], bytes(2 * MIB)), *members(a)[2:]]),
        "IMPORT_ERROR_GENERIC",
    ),
    "zstd": (lambda archive: struct.pack("<I", 0xFD2FB528) + archive, "VALUE_NOT_SUPPORTED"),
    "a broken gzip": (lambda a: gzip.compress(a)[:100] + b"no" * 999, "IMPORT_ERROR_GENERIC"),
    "a cut gzip": (lambda a: gzip.compress(a)[:-200], "IMPORT_ERROR_PREMATURE_EOF"),
}


@pytest.mark.parametrize(("make", "code"), BAD.values(), ids=BAD)
async def test_a_file_that_is_none_is_refused_and_leaves_nothing(place, exported, make, code):
    _, archive = exported
    before = await place.counts()
    with pytest.raises(XapiFault, match=code):
        await place.take_in(make(archive))
    assert await place.counts() == before


async def test_an_sr_without_room_takes_nothing(place, exported):
    _, archive = exported
    large = with_manifest(archive, lambda x: x.replace(f"<value>{len(ROOT)}<", f"<value>{2**50}<"))
    before = await place.counts()
    with pytest.raises(XapiFault, match="VDI_TOO_LARGE"):
        await place.take_in(large)
    assert await place.counts() == before


async def test_what_runs_is_not_exported_and_its_snapshot_is(place):
    vm = await place.make_vm()
    await place.call("VM.start", vm, False, False)
    with pytest.raises(XapiFault, match="VM_BAD_POWER_STATE"):
        await place.request("GET", "/export", {"ref": vm})
    snapshot = await place.call("VM.snapshot", vm, "kept")
    uuid = await place.call("VM.get_uuid", snapshot)
    archive = await place.request("GET", "/export", {"uuid": uuid})
    made = await place.take_in(archive)
    record = await place.call("VM.get_record", made)
    assert (record["is_a_template"], record["is_a_snapshot"]) == (True, False)
    assert await place.bytes_of(made) == [ROOT, DATA]


async def test_a_vm_is_held_while_it_goes_out(place):
    # More than sockets hold.
    vm = await place.make_vm(disks=(b"x" * 64 * MIB,))
    at, port = place.fleet.url("a").removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(at, int(port), limit=1024)
    query = urlencode({"ref": vm, "session_id": place.session._reference})
    writer.write(f"GET /export?{query} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    clock = place.fleet.world.clock
    while "export" not in (await place.call("VM.get_current_operations", vm)).values():
        await clock.sleep(0.01)
    with pytest.raises(XapiFault, match="OTHER_OPERATION_IN_PROGRESS"):
        await place.call("VM.start", vm, False, False)
    writer.close()
    while await place.call("VM.get_current_operations", vm):
        await clock.sleep(0.01)
    await place.call("VM.start", vm, False, False)


async def test_who_has_no_session_is_refused(place, exported):
    vm, _ = exported
    none = {"ref": vm, "session_id": "OpaqueRef:none"}
    for verb, path, query in (("GET", "/export", none), ("PUT", "/import", {})):
        reply = await asyncio.to_thread(bare, place.fleet.url("a"), verb, path, query)
        assert reply == 401


def bare(url, verb, path, query):
    connection = HTTPConnection(url.removeprefix("http://"), timeout=20)
    connection.request(verb, f"{path}?{urlencode(query)}")
    status = connection.getresponse().status
    connection.close()
    return status


async def test_without_an_sr_the_pools_own_is_taken(place, exported):
    _, archive = exported
    pool = (await place.call("pool.get_all"))[0]
    await place.call("pool.set_default_SR", pool, place.sr)
    task = await place.call("task.create", "import", "")
    await place.request("PUT", "/import", {"task_id": task}, archive)
    assert await place.bytes_of(await place.made(task)) == [ROOT, DATA]
    await place.call("pool.set_default_SR", pool, "OpaqueRef:NULL")
    with pytest.raises(XapiFault, match="DEFAULT_SR_NOT_FOUND"):
        await place.request("PUT", "/import", {}, archive)


async def test_who_asks_with_nothing_is_answered(place):
    before = await place.counts()
    await place.request("PUT", "/import", {"sr_id": place.sr}, b"")
    with pytest.raises(XapiFault, match="HANDLE_INVALID"):
        await place.request("PUT", "/import", {"sr_id": "OpaqueRef:no"}, b"")
    assert await place.counts() == before


async def begin(place, data, **query):
    """Begin to send a file of unknown length; give the connection and the task."""
    task = await place.call("task.create", "import", "")
    reference = place.session._reference
    query = {"sr_id": place.sr, "session_id": reference, "task_id": task, **query}
    at, port = place.fleet.url("a").removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(at, int(port))
    head = f"PUT /import/?{urlencode(query)} HTTP/1.1\r\nhost: x\r\n"
    writer.write(f"{head}content-length: {1 << 50}\r\n\r\n".encode() + data)
    return writer, task


async def status_of(place, task):
    while (status := await place.call("task.get_status", task)) == "pending":
        await place.fleet.world.clock.sleep(0.01)
    return status


@pytest.mark.parametrize("cut", [0, 700])
async def test_who_does_not_know_the_length_hears_by_the_task(place, exported, cut):
    _, archive = exported
    before = await place.counts()
    writer, task = await begin(place, archive[: len(archive) - cut * 1024])
    if cut:
        await asyncio.sleep(0.05)
        writer.close()
        assert await status_of(place, task) == "failure"
        assert await place.counts() == before
    else:
        assert await status_of(place, task) == "success"
        writer.close()
        assert await place.bytes_of(await place.made(task)) == [ROOT, DATA]


@pytest.mark.parametrize("share", [0.05, 0.4, 0.75, 0.9])
async def test_a_host_that_dies_in_an_import_keeps_nothing_of_it(place, exported, share):
    _, archive = exported
    before = await place.counts()
    writer, _ = await begin(place, archive[: int(len(archive) * share)])
    vms = place.fleet.host("a").objects.all("VM").values()
    while all(IMPORTING not in record["other_config"] for record in vms):
        await place.fleet.world.clock.sleep(0.01)
    await asyncio.sleep(0.1)
    attached = place.fleet.host("a").own_storage.attached.values()
    await place.fleet.kill()
    for entry in list(attached):
        # The lock of a process that is gone goes with it.
        if isinstance(entry.repository, FileSr):
            await entry.repository.close()
    writer.close()
    await place.session.close()
    await place.start()
    after = await place.counts()
    # A network that was made is as any other.
    assert after[:4] + after[5:] == before[:4] + before[5:]
    assert await place.bytes_of(await place.take_in(archive)) == [ROOT, DATA]
