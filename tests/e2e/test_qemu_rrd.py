"""A real guest that reads a disk: what it used is measured, over HTTP, and outlives the host."""

import asyncio
import base64
import math
import os
import xml.etree.ElementTree as ET
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

from xenith.core.units import GIB, MIB
from xenith.core.world import World
from xenith.dev.tiny_image import find_or_build
from xenith.toolstack.backends.qemu import QemuBackend
from xenith.toolstack.fleet import Fleet
from xenith.xapi import XapiSession

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

PASSWORD = "pass-the-salt"
BASIC = {"authorization": "Basic " + base64.b64encode(f"root:{PASSWORD}".encode()).decode()}
DATA_BYTES = 16 * MIB
#: It waits before it reads, so that there is a measurement from before, and writes a little.
READER = """#!/bin/sh
sleep 12
dd if=/dev/vdb of=/dev/null bs=64k 2>/dev/null
dd if=/dev/zero of=/dev/vdb bs=64k count=16 conv=fsync 2>/dev/null
echo all is read
"""


class Host:
    def __init__(self, directory):
        self.directory = directory

    async def start(self):
        self.world = World()
        backend = QemuBackend(self.world, self.directory / "host", memory_bytes=1 * GIB)
        self.fleet = Fleet(self.world, self.directory, event_batch_s=0)
        self.end = await self.fleet.add_host("h", backend, password=PASSWORD)
        await self.fleet.start()
        self.session = await XapiSession.login(self.end.url, user="root", password=PASSWORD)

    async def stop(self):
        await self.session.close()
        await self.fleet.stop()

    async def call(self, name, *params):
        return await self.session.call(name, *params, timeout_s=60)

    async def get(self, path, **query):
        return await asyncio.to_thread(self._send, "GET", path, query, None)

    async def make_disk(self, data, *, size=None):
        (sr,) = await self.call("SR.get_all")
        record = {"SR": sr, "virtual_size": size or len(data), "name_label": "disk"}
        vdi = await self.call("VDI.create", record)
        await asyncio.to_thread(
            self._send, "PUT", "/import_raw_vdi", {"vdi": vdi, "format": "raw"}, data
        )
        return vdi

    def _send(self, method, path, query, data):
        url = f"{self.end.url}{path}?{urlencode(query)}"
        request = Request(url, data=data, headers=BASIC, method=method)
        with urlopen(request, timeout=60) as reply:
            return reply.read()


@pytest.fixture
async def host(tmp_path, kill_guests):
    host = Host(tmp_path)
    await host.start()
    yield host
    await host.stop()
    kill_guests(tmp_path / "host")


def columns(body):
    """Read rows by what each column is, oldest first."""
    root = ET.fromstring(body)
    legend = [entry.text.split(":") for entry in root.find("meta/legend")]
    rows = [[float(cell.text) for cell in row.findall("v")] for row in root.find("data")][::-1]
    return {name: [row[at] for row in rows] for at, (*_, name) in enumerate(legend)}


def total(rates):
    return sum(rate * 5 for rate in rates if not math.isnan(rate))


async def test_a_guest_that_reads_a_disk_is_seen_to_and_is_remembered(
    host, tmp_path, make_config_drive
):
    drive = make_config_drive(READER, meta_data={"uuid": "x", "hostname": "reader"}).read_bytes()
    disks = [
        await host.make_disk(find_or_build().read_bytes(), size=64 * MIB),
        await host.make_disk(os.urandom(DATA_BYTES)),
        await host.make_disk(drive),
    ]
    record = {"name_label": "reader", "memory_static_max": 96 * MIB}
    vm = await host.call("VM.create", record)
    for at, vdi in zip(("0", "1", "3"), disks, strict=True):
        mode = "RO" if at == "3" else "RW"
        vbd = {"VM": vm, "VDI": vdi, "userdevice": at, "mode": mode, "type": "Disk"}
        await host.call("VBD.create", vbd)
    begun = int(host.world.clock.now())
    await host.call("VM.start", vm, False, False)
    uuid = await host.call("VM.get_uuid", vm)

    async def measured():
        return columns(await host.get("/rrd_updates", start=begun, cf="AVERAGE", interval=5))

    deadline = host.world.clock.monotonic() + 180
    found = {}
    while total(found.get("vbd_xvdb_write", [])) < 0.9 * MIB:
        assert host.world.clock.monotonic() < deadline, "the guest reads, and then it writes"
        await host.world.clock.sleep(2)
        found = await measured()
    # Its kernel reads the partition table too, and ahead.
    assert DATA_BYTES <= total(found["vbd_xvdb_read"]) < DATA_BYTES + 2 * MIB
    assert total(found["vbd_xvdb_iops_read"]) > 10
    assert total(found["vbd_xvdd_write"]) == 0
    assert {value for value in found["memory"] if not math.isnan(value)} == {96.0 * MIB}
    used = [value for value in found["cpu0"] if not math.isnan(value)]
    assert 0.2 < max(used) <= 1.0, "a guest that boots works"
    assert await host.call("VM.query_data_source", vm, "vbd_xvdb_physical") >= DATA_BYTES
    assert await host.call("VM.query_data_source", vm, "disk_physical") >= DATA_BYTES + MIB
    (own,) = await host.call("host.get_all")
    assert await host.call("host.query_data_source", own, "loadavg") >= 0
    assert 0 < await host.call("host.query_data_source", own, "cpu_avg") <= 1

    # The guest runs on while the host is away, and what was measured is there when it is back.
    await host.stop()
    await host.start()
    # The host may have gone in the middle of a row, which is whole in the next.
    after = await measured()
    assert total(after["vbd_xvdb_read"]) >= DATA_BYTES
    dump = ET.fromstring(await host.get("/vm_rrd", uuid=uuid))
    assert "vbd_xvdb_read" in [source.findtext("name") for source in dump.findall("ds")]
    await host.call("VM.hard_shutdown", vm)
