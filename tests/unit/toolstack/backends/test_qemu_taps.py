"""A domain has one tap, however many of its launches were cut off."""

import asyncio
import contextlib
import os
import signal
import sys

import pytest

from xenith.core.clock import SystemClock
from xenith.core.ids import derive_uuid
from xenith.core.world import World
from xenith.toolstack.backends.qemu.processes import TAP_MODULE, find_taps
from xenith.toolstack.backends.qemu.taps import TapDisk, find_tap, launch_tap
from xenith.toolstack.storage.repository import FileRepository

pytestmark = pytest.mark.slow

MIB = 1 << 20
DISK = derive_uuid("taps")
#: A tap that has opened its files, and listens only when it is told to.
SLOW = """
import sys, time
from pathlib import Path
from xenith.toolstack.tap.__main__ import Tap
from xenith.toolstack.tap.disk import TapDisk
disk = TapDisk(Path(sys.argv[3]), is_read_only=False)
Path("holds").touch()
while not Path("go").exists():
    time.sleep(0.01)
Tap({sys.argv[5]: disk}).run()
"""


@pytest.fixture
def leaf(tmp_path):
    (tmp_path / "sr").mkdir()
    with FileRepository(tmp_path / "sr", world=World(), reserve_bytes=0) as repository:
        repository.create(DISK, 8 * MIB)
        yield str(tmp_path / "sr" / f"{DISK}.vhd")


@pytest.fixture
def directory(tmp_path):
    made = tmp_path / "domain"
    made.mkdir()
    yield made
    for pid in taps_of(made):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def taps_of(directory):
    return find_taps(directory.parent).get(directory.name, [])


async def test_a_tap_of_a_launch_that_was_cut_off_is_waited_for_and_ended(leaf, directory):
    command = [sys.executable, "-c", SLOW, "-m", TAP_MODULE, leaf, "rw", "disk1.nbd"]
    old = await asyncio.create_subprocess_exec(*command, cwd=directory)
    async with asyncio.timeout(60):
        while not (directory / "holds").exists():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
    assert taps_of(directory) == [old.pid]
    assert await find_tap(directory) is None, "it does not listen yet"
    disks = [TapDisk(leaf, "disk1.nbd", is_read_only=False)]
    launching = asyncio.create_task(launch_tap(directory, disks, clock=SystemClock()))
    await asyncio.sleep(0.2)
    assert not launching.done()
    (directory / "go").touch()
    async with asyncio.timeout(60):
        tap = await launching
        assert await old.wait() == 0
    assert len(taps_of(directory)) == 1
    await tap.quit()


async def test_taps_of_other_domains_are_none_of_it(leaf, directory, tmp_path):
    disks = [TapDisk(leaf, "disk1.nbd", is_read_only=False)]
    tap = await launch_tap(directory, disks, clock=SystemClock())
    assert taps_of(tmp_path / "other") == []
    assert len(taps_of(directory)) == 1
    await tap.quit()
    async with asyncio.timeout(60):
        while taps_of(directory):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
