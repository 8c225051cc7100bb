"""A host of real guests, over XenAPI, that is killed: guests and their disks are held again."""

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import pytest

from xenith.core.units import MIB
from xenith.xapi import XapiFault, XapiSession

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

PASSWORD = "pass-the-salt"
HOST = """
import asyncio, sys
from pathlib import Path
from xenith.core.world import World
from xenith.toolstack.backends.qemu import QemuBackend
from xenith.toolstack.fleet import Fleet

async def main(directory, password):
    world = World()
    backend = QemuBackend(world, Path(directory) / "host", memory_bytes=1 << 30)
    fleet = Fleet(world, Path(directory), event_batch_s=0)
    end = await fleet.add_host("h", backend, password=password)
    fleet.hosts["h"].storage.collect_delay_s = 0.0
    await fleet.start()
    print(end.url, flush=True)
    await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


class Host:
    def __init__(self, directory):
        self.directory = directory

    async def start(self):
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HOST, self.directory, PASSWORD, stdout=asyncio.subprocess.PIPE
        )
        url = (await self.process.stdout.readline()).decode().strip()
        self.session = await XapiSession.login(url, user="root", password=PASSWORD)

    async def call(self, name, *params):
        return await self.session.call(name, *params, timeout_s=60)

    async def kill(self):
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()
        await self.session.close()


@pytest.fixture
async def host(tmp_path, kill_guests):
    host = Host(tmp_path)
    await host.start()
    yield host
    await host.kill()
    kill_guests(tmp_path / "host")


def leaves(directory: Path) -> int:
    return len(list(directory.glob("host/sr/*/*.vhd")))


async def test_a_vm_and_its_disk_are_as_they_were_after_kills_in_the_middle_of_snapshots(host):
    call = host.call
    sr = (await call("SR.get_all"))[0]
    vdi = await call("VDI.create", {"SR": sr, "virtual_size": 64 * MIB, "name_label": "root"})
    vm = await call("VM.create", {"name_label": "vm", "memory_static_max": 32 * MIB})
    await call("VBD.create", {"VM": vm, "VDI": vdi, "userdevice": "0"})
    await call("VM.start", vm, False, False)
    domid = await call("VM.get_domid", vm)
    snapshots = [await call("VDI.snapshot", vdi)]
    for moment_s in (0.0, 0.005, 0.02, 0.05):
        taking = asyncio.ensure_future(call("VDI.snapshot", vdi))
        await asyncio.sleep(moment_s)
        await host.kill()
        with contextlib.suppress(Exception):
            snapshots.append(await taking)
        await host.start()
        assert await call("VM.get_power_state", vm) == "Running"
        assert await call("VM.get_domid", vm) == domid
        with pytest.raises(XapiFault, match="VDI_IN_USE"):
            await call("VDI.destroy", vdi)
        snapshots.append(await call("VDI.snapshot", vdi))
        await call("SR.scan", sr)

    records = await call("VDI.get_all_records")
    assert set(snapshots) <= set(records)
    await call("VM.hard_shutdown", vm)
    for ref, record in records.items():
        if record["managed"]:
            await call("VDI.destroy", ref)
    deadline = asyncio.get_running_loop().time() + 30
    # What they all stood on goes too.
    while leaves(host.directory):
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.1)
    assert await call("VDI.get_all") == []
