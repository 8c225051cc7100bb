"""Disks of real guests that write: snapshot while they do, and each has the bytes of its moment."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from xenith.core.ids import derive_uuid
from xenith.core.world import World
from xenith.dev.tiny_image import find_or_build
from xenith.toolstack.backends import BackendError, DiskSpec, DomainSpec
from xenith.toolstack.backends.qemu import QemuBackend

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

MIB = 1 << 20
ROOT, DATA, CONFIG, VM, SR = (
    derive_uuid("qemu-snapshots", name) for name in ("root", "data", "cfg", "vm", "sr")
)
SNAPSHOTS = [derive_uuid("qemu-snapshots", str(number)) for number in range(4)]
SECTOR = 512
#: Each second sector of the disk gets its own number, one after the other, each on the disk first.
WRITER = """#!/bin/sh
i=1
while [ $i -le 3000 ]; do
  printf '%08d' $i | dd of=/dev/vdb bs=512 seek=$((i * 2)) conv=notrunc,fsync 2>/dev/null
  [ $((i % 20)) = 0 ] && echo "wrote $i"
  i=$((i + 1))
done
"""


@pytest.fixture
async def host(tmp_path, kill_guests):
    made = []

    async def make():
        backend = QemuBackend(World(), tmp_path / "host")
        await backend.start(lambda *_: None)
        backend.sr = await backend.attach_sr(SR, "file", {})
        made.append(backend)
        return backend

    yield make
    for backend in made:
        await backend.stop()
    kill_guests(tmp_path / "host")


async def io(backend, command):
    """Have QEMU do what a guest would: read or write through the guest's own device."""
    domain = backend._domains.get(VM)
    line = f'qemu-io -d /machine/peripheral/disk1-device/virtio-backend "{command}"'
    told = await domain._command("human-monitor-command", {"command-line": line})
    assert "failed" not in told, told
    return told


async def read(backend, vdi):
    async with contextlib.aclosing(backend.sr.read(vdi, "raw")) as pieces:
        return b"".join([piece async for piece in pieces])


async def collected(backend):
    """Collect until nothing is left to do; gives all that was done."""
    done = await backend.sr.collect()
    while not done.is_done:
        more = await backend.sr.collect()
        done.coalesced += more.coalesced
        done.is_done = more.is_done
    return done


async def started(backend, **qos):
    if DATA not in (await backend.sr.scan()).vdis:
        await backend.sr.create(DATA, 8 * MIB)
    disk = DiskSpec(DATA, "0", **qos)
    spec = DomainSpec(VM, "blank", 16 * MIB, 1, (disk,))
    await backend.domain_start(spec, is_paused=True)
    return disk


async def test_a_snapshot_of_a_running_disk_has_what_was_written_before_it_and_nothing_after(host):
    backend = await host()
    await started(backend)
    await io(backend, "write -P 0x11 0 64k")
    await backend.sr.snapshot(SNAPSHOTS[0], DATA)
    await io(backend, "write -P 0x22 4k 4k")
    await io(backend, "write -z 8k 4k")
    await backend.sr.snapshot(SNAPSHOTS[1], DATA)
    await io(backend, "write -P 0x33 6M 512")
    with pytest.raises(BackendError, match="VDI_IN_USE"):
        await read(backend, DATA)

    first, second = await read(backend, SNAPSHOTS[0]), await read(backend, SNAPSHOTS[1])
    assert first == b"\x11" * 65536 + bytes(8 * MIB - 65536)
    changed = b"\x11" * 4096 + b"\x22" * 4096 + bytes(4096) + b"\x11" * (65536 - 12288)
    assert second == changed + bytes(8 * MIB - 65536)

    # Its chain gets shorter under the guest, and is the shortest when it has ended.
    await backend.sr.destroy(SNAPSHOTS[0])
    assert len((await collected(backend)).coalesced) == 1
    await io(backend, "read -P 0x22 4k 4k")
    await io(backend, "read -P 0x11 12k 4k")
    await io(backend, "read -P 0x33 6M 512")
    assert await read(backend, SNAPSHOTS[1]) == second
    await backend.sr.destroy(SNAPSHOTS[1])
    await backend.domain_shutdown(VM, is_clean=False)
    assert (await read(backend, DATA))[: 6 * MIB + 512] == second[: 6 * MIB] + b"\x33" * 512
    assert (await collected(backend)).coalesced == [DATA]
    assert (await read(backend, DATA))[: 6 * MIB + 512] == second[: 6 * MIB] + b"\x33" * 512


async def test_a_disk_is_still_held_by_its_guest_when_the_toolstack_comes_back(host):
    backend = await host()
    await started(backend)
    await io(backend, "write -P 0x44 0 4k")
    await backend.stop()

    again = await host()
    for refused in (again.sr.destroy(DATA), again.sr.resize(DATA, 16 * MIB)):
        with pytest.raises(BackendError, match="VDI_IN_USE"):
            await refused
    await again.sr.snapshot(SNAPSHOTS[0], DATA)
    await io(again, "write -P 0x55 0 4k")
    await again.domain_shutdown(VM, is_clean=False)
    assert (await read(again, SNAPSHOTS[0]))[:4096] == b"\x44" * 4096
    assert (await read(again, DATA))[:4096] == b"\x55" * 4096
    await again.sr.destroy(DATA)


async def test_a_guest_does_not_wait_for_a_toolstack_that_died_while_it_held_a_disk(host):
    backend = await host()
    await started(backend)
    domain = backend._domains.get(VM)
    await domain.tap.order("hold", "disk1.nbd")
    domain.tap.release()
    await io(backend, "write -P 0x66 0 4k")
    await backend.domain_shutdown(VM, is_clean=False)
    assert (await read(backend, DATA))[:4096] == b"\x66" * 4096


async def test_a_domain_whose_tap_is_killed_does_not_outlive_it_when_the_toolstack_returns(
    host, tmp_path
):
    backend = await host()
    await started(backend)
    await backend.stop()
    os.kill(find_tap_pid(tmp_path), signal.SIGKILL)
    again = await host()
    clock = World().clock
    deadline = clock.monotonic() + 30
    # It is seen to be dead at once, or soon.
    while await again.running():
        assert clock.monotonic() < deadline
        await clock.sleep(0.1)
    while (await again.sr.scan()).vdis:
        assert clock.monotonic() < deadline
        with contextlib.suppress(BackendError):
            await again.sr.destroy(DATA)


async def test_input_and_output_are_limited_from_the_start_and_anew_while_a_guest_runs(
    host, tmp_path
):
    backend = await host()
    slow = {"qos_type": "throttle", "qos_params": {"iops-total": "100", "bps-write": "1000000"}}
    disk = await started(backend, **slow)
    domain = backend._domains.get(VM)

    async def limits():
        path = {"path": "/objects/disk1-limits", "property": "limits"}
        return await domain._command("qom-get", path)

    assert (await limits())["iops-total"] == 100
    assert (await limits())["bps-write"] == 1000000
    clock = World().clock
    begun = clock.monotonic()
    for _ in range(30):
        await io(backend, "read 0 512")
    assert clock.monotonic() - begun > 0.15, "a burst is a tenth of a second's worth"
    faster = DiskSpec(disk.vdi_uuid, disk.device, qos_type="ionice", qos_params={"class": "lowest"})
    await backend.set_qos(VM, faster)
    assert (await limits())["iops-total"] == 0
    assert "best-effort: prio 7" in find_weights(tmp_path)


def told(*command):
    return subprocess.run(command, capture_output=True, check=True).stdout.decode().strip()


def find_weights(directory):
    threads = [path.name for path in Path(f"/proc/{find_tap_pid(directory)}/task").iterdir()]
    return [told("ionice", "-p", thread) for thread in threads]


def find_tap_pid(directory):
    """The tap of this test's host: other tests, beside it, have a guest of the same name."""
    for pid in told("pgrep", "-f", "xenith.toolstack.tap").split():
        with contextlib.suppress(FileNotFoundError):
            room = Path(f"/proc/{pid}/cwd").readlink()
            if room.name == VM and room.is_relative_to(directory.resolve()):
                return int(pid)
    pytest.fail("there is no tap")


async def test_a_guest_that_writes_all_the_time_finds_each_snapshot_whole(
    host, tmp_path, make_config_drive
):
    backend = await host()
    image = find_or_build()
    iso = make_config_drive(WRITER, meta_data={"uuid": VM, "hostname": "writer"})

    async def chunks(path):
        yield path.read_bytes()

    for vdi, path in ((ROOT, image), (CONFIG, iso)):
        await backend.sr.create(vdi, 2 * MIB)
        await backend.sr.fill(vdi, "raw", chunks(path))
    await backend.sr.create(DATA, 8 * MIB)
    disks = (DiskSpec(ROOT, "0"), DiskSpec(DATA, "1"), DiskSpec(CONFIG, "3", is_read_only=True))
    await backend.domain_start(DomainSpec(VM, "writer", 96 * MIB, 1, disks))

    clock = World().clock
    deadline = clock.monotonic() + 180

    async def written():
        log = (await backend.console_log(VM, 100_000)).decode(errors="replace")
        return max([0, *(int(line.split()[1]) for line in log.splitlines() if "wrote " in line)])

    for vdi in SNAPSHOTS:
        before = await written()
        while (now := await written()) <= before:
            assert clock.monotonic() < deadline, "the guest writes"
            await clock.sleep(0.1)
        await backend.sr.snapshot(vdi, DATA)
        data = await read(backend, vdi)
        sectors = [data[at : at + 8] for at in range(2 * SECTOR, len(data), 2 * SECTOR)]
        count = sum(one != bytes(8) for one in sectors)
        # The first so many, in order, with nothing between them, and nothing after the last.
        assert sectors[:count] == [b"%08d" % number for number in range(1, count + 1)]
        await backend.sr.destroy(vdi)
        await collected(backend)
        assert (await backend.sr.look(DATA)).vdis[DATA].depth <= 2, "it does not grow for ever"
        assert count >= now
    await backend.domain_shutdown(VM, is_clean=False)
    assert (await read(backend, DATA))[2 * SECTOR :][:8] == b"00000001"
