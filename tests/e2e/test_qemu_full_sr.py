"""A guest whose repository is full waits, is shown to, and goes on by itself once there is room."""

import contextlib
import os
import subprocess

import pytest

from xenith.core.ids import derive_uuid
from xenith.core.units import MIB
from xenith.core.world import World
from xenith.dev.tiny_image import find_or_build
from xenith.toolstack.backends import NO_ROOM, DiskSpec, DomainSpec
from xenith.toolstack.backends.qemu import QemuBackend, backend

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

ROOT, DATA, CONFIG, VM, SR = (
    derive_uuid("qemu-full-sr", name) for name in ("root", "data", "cfg", "vm", "sr")
)
PIECE, PIECES = 64 * 1024, 120
#: Each 64 KiB of the disk gets its own number, one after the other, each on the disk first.
WRITER = f"""#!/bin/sh
i=0
while [ $i -lt {PIECES} ]; do
  printf '%08d' $i | dd of=/dev/vdb bs=64k seek=$i conv=notrunc,sync,fsync 2>/dev/null
  i=$((i + 1))
  echo "wrote $i"
done
"""
PATIENCE_S = 240.0


def told(*command):
    return subprocess.run(command, capture_output=True, check=True).stdout.decode().strip()


@pytest.fixture
def disk_of_memory(tmp_path):
    """A file system whose size can be changed while it is in use."""
    if os.geteuid() != 0:
        reason = "a file system is mounted, which takes root"
        if os.environ.get("CI") in {"true", "1"}:
            pytest.fail(f"{reason}, and CI runs every test", pytrace=False)
        pytest.skip(reason)
    path = tmp_path / "sr"
    path.mkdir()
    told("mount", "-t", "tmpfs", "-o", "size=4g", "xenith-test", path)
    yield path
    told("umount", "--lazy", path)


@pytest.fixture
async def host(tmp_path, disk_of_memory, kill_guests):
    made, heard = [], []

    async def make():
        one = QemuBackend(World(), tmp_path / "host")
        await one.start(lambda *change: heard.append(change))
        one.sr = await one.attach_sr(SR, "file", {"location": str(disk_of_memory)})
        one.heard = heard
        made.append(one)
        return one

    yield make
    for one in made:
        await one.stop()
    kill_guests(tmp_path / "host")


async def start_writer(one, config_drive):
    async def chunks(path):
        yield path.read_bytes()

    for vdi, path in ((ROOT, find_or_build()), (CONFIG, config_drive)):
        await one.sr.create(vdi, 2 * MIB)
        await one.sr.fill(vdi, "raw", chunks(path))
    await one.sr.create(DATA, PIECE * PIECES)
    disks = (DiskSpec(ROOT, "0"), DiskSpec(DATA, "1"), DiskSpec(CONFIG, "3", is_read_only=True))
    await one.domain_start(DomainSpec(VM, "writer", 96 * MIB, 1, disks))


async def written(one):
    log = (await one.console_log(VM, 100_000)).decode(errors="replace")
    return max([0, *(int(line.split()[1]) for line in log.splitlines() if "wrote " in line)])


async def until(holds, what):
    clock = World().clock
    deadline = clock.monotonic() + PATIENCE_S
    while not await holds():
        assert clock.monotonic() < deadline, what
        await clock.sleep(0.1)


def resize(path, size_bytes):
    told("mount", "-o", f"remount,size={size_bytes}", path)


async def test_a_guest_waits_while_its_repository_is_full_and_then_goes_on(
    host, make_config_drive, disk_of_memory, monkeypatch
):
    monkeypatch.setattr(backend, "_ROOM_PERIOD_S", 0.2)
    one = await host()
    told_to_guest = {"uuid": VM, "hostname": "writer"}
    await start_writer(one, make_config_drive(WRITER, meta_data=told_to_guest))

    async def has_begun():
        return await written(one) > 0

    await until(has_begun, "the guest writes")
    held = os.statvfs(disk_of_memory)
    resize(disk_of_memory, (held.f_blocks - held.f_bfree) * held.f_frsize + MIB)

    async def is_paused():
        return (await one.running())[VM] == "paused"

    await until(is_paused, "the guest waits")
    assert await written(one) < PIECES
    assert (VM, "paused", NO_ROOM) in one.heard

    # Who comes back to it sees the same.
    await one.stop()
    one = await host()
    assert (await one.running())[VM] == "paused"
    count = await written(one)

    resize(disk_of_memory, 4 << 30)

    async def is_done():
        return await written(one) == PIECES

    await until(is_done, "the guest goes on")
    assert count < PIECES
    assert (VM, "running", NO_ROOM) in one.heard
    assert (await one.running())[VM] == "running"
    await one.domain_shutdown(VM, is_clean=False)
    async with contextlib.aclosing(one.sr.read(DATA, "raw")) as pieces:
        data = b"".join([piece async for piece in pieces])
    wanted = b"".join((b"%08d" % number).ljust(PIECE, b"\0") for number in range(PIECES))
    # An SR rounds sizes up.
    assert data[: len(wanted)] == wanted
    assert not any(data[len(wanted) :])
