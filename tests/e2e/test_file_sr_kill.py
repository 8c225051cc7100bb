"""A host with an SR of real bytes is killed at any moment: what it answered is there, and no more.

Disks are made, filled, snapshot, cloned and destroyed, while garbage is collected all the time.
"""

import asyncio
import random
import signal
import sys

import pytest

from xenith.core.units import MIB
from xenith.core.world import World
from xenith.toolstack.storage.repository import FileRepository
from xenith.xapi import XapiFault, XapiSession

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

PASSWORD = "pass-the-salt"
HOST = """
import asyncio, sys
from pathlib import Path
from xenith.core.world import World
from xenith.toolstack.backends.sim import SimBackend
from xenith.toolstack.fleet import Fleet

async def main(directory, password):
    world = World()
    backend = SimBackend(world, memory_bytes=1 << 30, cpu_count=1, disk_bytes=1 << 40)
    fleet = Fleet(world, Path(directory), event_batch_s=0)
    end = await fleet.add_host("h", backend, password=password)
    fleet.hosts["h"].own_storage.collect_delay_s = 0.0
    await fleet.start()
    print(end.url, flush=True)
    await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


class Host:
    """The process, and what it has promised."""

    def __init__(self, directory, seed):
        self.directory = directory
        self.random = random.Random(seed)
        #: What is in each disk that was answered for: the letter of each of its two blocks.
        self.disks = {}
        #: Disks about which a question was not answered.
        self.doubted = set()

    async def start(self):
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HOST, self.directory, PASSWORD, stdout=asyncio.subprocess.PIPE
        )
        url = (await self.process.stdout.readline()).decode().strip()
        self.session = await XapiSession.login(url, user="root", password=PASSWORD)

    async def call(self, name, *params):
        return await self.session.call(name, *params, timeout_s=30)

    async def kill(self):
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()
        await self.session.close()

    async def fill(self, vdi, data):
        async def chunks():
            yield data

        await self.session.import_raw_vdi(vdi, chunks(), timeout_s=30)

    async def work(self, sr):
        """Ask for one thing after the other, until the host is gone."""
        while True:
            known = sorted(set(self.disks) - self.doubted)
            what = self.random.choice(["create", "fill", "snapshot", "clone", "destroy", "destroy"])
            if what == "create" or not known:
                vdi = await self.call("VDI.create", {"SR": sr, "virtual_size": 4 * MIB})
                self.disks[vdi] = "00"
                continue
            vdi = self.random.choice(known)
            # What is being done may or may not have been, if the answer does not come.
            self.doubted.add(vdi)
            try:
                await self._do(what, vdi)
            except XapiFault as fault:
                if fault.code != "SR_BACKEND_FAILURE_109":
                    raise
            self.doubted.discard(vdi)

    async def _do(self, what, vdi):
        if what == "fill":
            letter = self.random.choice("abc")
            await self.fill(vdi, letter.encode() * 2 * MIB)
            self.disks[vdi] = letter + self.disks[vdi][1]
        elif what == "destroy":
            await self.call("VDI.destroy", vdi)
            del self.disks[vdi]
        else:
            self.disks[await self.call(f"VDI.{what}", vdi)] = self.disks[vdi]

    async def check(self, sr, path):
        """Hold what there is against what was promised."""
        await self.call("SR.scan", sr)
        found = {
            ref: record
            for ref, record in (await self.call("VDI.get_all_records")).items()
            if record["SR"] == sr
        }
        for vdi in set(self.disks) - self.doubted:
            assert vdi in found
        uuids = {record["uuid"] for record in found.values()}
        for record in found.values():
            assert record["location"] == record["uuid"]
            parent = record["sm_config"].get("vhd-parent")
            assert parent is None or parent in uuids
            if record["is_a_snapshot"] and record["snapshot_of"] in found:
                assert record["snapshot_of"] in self.disks
        files = {file.name.removesuffix(".vhd") for file in path.glob("*.vhd")}
        assert uuids <= files
        # Disks that were doubted, and those that were made without an answer, go.
        for vdi, record in found.items():
            if record["managed"] and (vdi in self.doubted or vdi not in self.disks):
                await self.call("VDI.destroy", vdi)
        for vdi in self.doubted:
            self.disks.pop(vdi, None)
        self.doubted.clear()


@pytest.mark.parametrize("seed", range(2))
async def test_what_was_answered_is_there_after_each_of_six_kills(tmp_path, seed):
    host = Host(tmp_path, seed)
    path = tmp_path / "sr"
    await host.start()
    own = (await host.call("host.get_all"))[0]
    config = {"location": str(path)}
    sr = await host.call("SR.create", own, config, 0, "disks", "", "file", "user", False, {})
    for _ in range(6):
        working = asyncio.ensure_future(host.work(sr))
        await asyncio.wait([working], timeout=0.05 + host.random.random() * 0.5)
        assert not working.done(), working.exception()
        await host.kill()
        await asyncio.wait([working])
        assert isinstance(working.exception(), Exception)
        await host.start()
        await host.check(sr, path)

    uuids = {vdi: (await host.call("VDI.get_uuid", vdi)) for vdi in host.disks}
    await host.kill()
    with FileRepository(path, world=World(), reserve_bytes=0) as repository:
        for vdi, letters in host.disks.items():
            data = b"".join(repository.export_raw(uuids[vdi]))
            wanted = "".join(letters).replace("0", "\0").encode()
            assert [data[0], data[2 * MIB]] == list(wanted), letters
            assert data == bytes([wanted[0]]) * 2 * MIB + bytes([wanted[1]]) * 2 * MIB
