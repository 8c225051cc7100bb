"""Real guests in QEMU, from the tiny image, through everything that a host does with them."""

import asyncio
import os
import signal
import sys
import time

import pytest

from xenith.core.ids import derive_uuid
from xenith.core.world import World
from xenith.dev.tiny_image import find_or_build
from xenith.toolstack.backends import BackendError, DiskSpec, DomainSpec, NicSpec
from xenith.toolstack.backends.qemu import QemuBackend
from xenith.toolstack.backends.qemu.processes import find_qemus

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

MIB = 1 << 20
MAC = "52:54:00:12:34:56"
BASE, ROOT, CONFIG, VM, SR = (
    derive_uuid("qemu-test", name) for name in ("base", "root", "cfg", "vm", "sr")
)
META = {
    "uuid": VM,
    "hostname": "first-light.novalocal",
    "public_keys": {"mine": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA me@here\n"},
}
NETWORK = {
    "links": [{"id": "tap0", "type": "phy", "ethernet_mac_address": MAC, "mtu": 1450}],
    "networks": [
        {
            "id": "network0",
            "link": "tap0",
            "type": "ipv4",
            "ip_address": "10.11.12.13",
            "netmask": "255.255.240.0",
            "routes": [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.11.0.1"}],
        }
    ],
    "services": [{"type": "dns", "address": "10.11.0.2"}],
}
USER_DATA = "#!/bin/sh\necho user data ran on $(hostname) with $(ip route | grep -c ^default) way\n"
BOOT_TIMEOUT_S = 180


@pytest.fixture(scope="module")
def image():
    return find_or_build()


@pytest.fixture
def config_drive(make_config_drive):
    return make_config_drive(USER_DATA, meta_data=META, network_data=NETWORK)


@pytest.fixture
async def host(tmp_path, kill_guests):
    """A function that makes backends over one directory; what still runs at the end is killed."""
    # Deeper than the 108 bytes that a socket's path may have.
    directory = tmp_path / ("long-name-" * 12)
    made = []

    async def make():
        changes = []
        backend = QemuBackend(World(), directory)
        await backend.start(lambda *change: changes.append(change))
        backend.sr = await backend.attach_sr(SR, "file", {})
        backend.changes = changes
        backend.directory = directory
        made.append(backend)
        return backend

    yield make
    for backend in made:
        await backend.stop()
    kill_guests(directory)


async def chunks(path, size=1 << 18):
    with path.open("rb") as file:
        while chunk := file.read(size):
            yield chunk


async def furnish(backend, image, config_drive, *, is_cd=False):
    await backend.sr.create(BASE, 2 * MIB)
    await backend.sr.fill(BASE, "raw", chunks(image))
    await backend.sr.clone(ROOT, BASE)
    await backend.sr.resize(ROOT, 64 * MIB)
    await backend.sr.create(CONFIG, 2 * MIB)
    await backend.sr.fill(CONFIG, "raw", chunks(config_drive))
    disks = (DiskSpec(ROOT, "0"), DiskSpec(CONFIG, "3", is_read_only=True, is_cd=is_cd))
    return DomainSpec(VM, "first light", 96 * MIB, 1, disks, (NicSpec("0", MAC, "n"),))


async def wait_for(backend, text, *, count=1):
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    while time.monotonic() < deadline:
        log = (await backend.console_log(VM, 100_000)).decode(errors="replace")
        if log.count(text) >= count:
            return log
        await World().clock.sleep(0.1)
    pytest.fail(f"no {text!r} (times {count}) in:\n{log}")


async def test_a_guest_lives_a_whole_life(host, image, config_drive):
    backend = await host()
    spec = await furnish(backend, image, config_drive)
    first = await backend.domain_start(spec)
    assert await backend.domain_start(spec) == first, "one that runs is left alone"
    log = await wait_for(backend, "login:")
    for line in (
        "host name: first-light.novalocal",
        "address: 10.11.12.13/20 eth0",
        "route: default via 10.11.0.1",
        "disk: vda 64 MiB",
        "keys: 1",
        "xenith-tiny ready",
        "user data ran on first-light.novalocal with 1 way",
    ):
        assert line in log
    with pytest.raises(BackendError, match="VDI_IN_USE"):
        await backend.sr.destroy(ROOT)

    await backend.domain_pause(VM)
    assert await backend.running() == {VM: "paused"}
    await backend.domain_unpause(VM)
    assert await backend.running() == {VM: "running"}

    await backend.domain_suspend(VM)
    assert await backend.running() == {VM: "suspended"}
    assert find_qemus(backend.directory / "domains") == {}
    second = await backend.domain_resume(spec)
    assert second > first
    assert await backend.running() == {VM: "running"}

    # The resumed guest is the same one: it hears its button, and has booted only once.
    third = await backend.domain_reboot(VM, is_clean=True)
    assert third > second
    log = await wait_for(backend, "login:", count=2)
    assert log.count("power button: shutting down") == 1
    assert log.count("xenith-tiny ready") == 2

    await backend.domain_shutdown(VM, is_clean=True)
    assert await backend.running() == {}
    assert backend.changes == [], "only what a guest does by itself is news"

    for vdi in (BASE, ROOT, CONFIG):
        await backend.sr.destroy(vdi)
    await backend.sr.collect()
    await backend.domain_forget(VM)
    assert (await backend.sr.scan()).vdis == {}
    assert not list((backend.directory / "sr" / SR).glob("*.vhd"))
    assert list((backend.directory / "domains").iterdir()) == []


async def test_a_guest_that_lived_on_is_found_again(host, image, config_drive):
    backend = await host()
    spec = await furnish(backend, image, config_drive, is_cd=True)
    domid = await backend.domain_start(spec)
    await backend.stop()

    again = await host()
    assert again.changes == []
    assert await again.running() == {VM: "running"}
    assert await again.domain_start(spec) == domid
    await wait_for(again, "address: 10.11.12.13/20")
    await again.domain_reboot(VM, is_clean=False)
    await wait_for(again, "address: 10.11.12.13/20", count=2)
    await again.domain_shutdown(VM, is_clean=False)
    await again.domain_shutdown(VM, is_clean=False)
    assert await again.running() == {}


async def test_a_guest_that_dies_is_news_and_one_that_died_meanwhile_too(host, image, config_drive):
    backend = await host()
    spec = await furnish(backend, image, config_drive)
    await backend.domain_start(spec, is_paused=True)
    assert await backend.running() == {VM: "paused"}
    (pid,) = find_qemus(backend.directory / "domains")[VM]
    os.kill(pid, signal.SIGKILL)
    while not backend.changes:
        await World().clock.sleep(0.01)
    assert backend.changes == [(VM, "crashed", "QEMU ended unasked")]

    await backend.domain_start(spec)
    await backend.stop()
    (pid,) = find_qemus(backend.directory / "domains")[VM]
    os.kill(pid, signal.SIGKILL)
    while find_qemus(backend.directory / "domains"):
        await World().clock.sleep(0.01)
    again = await host()
    assert [change[:2] for change in again.changes] == [(VM, "halted")]
    assert await again.running() == {}
    await again.domain_start(spec)
    await again.domain_shutdown(VM, is_clean=False)


async def test_what_a_guest_cannot_be_started_with_is_refused_and_leaves_no_qemu(
    host, image, config_drive
):
    backend = await host()
    spec = await furnish(backend, image, config_drive)
    base = (await backend.sr.scan()).vdis[ROOT].parent
    parent = DomainSpec(VM, "on the parent", 64 * MIB, 1, (DiskSpec(base, "0"),))
    with pytest.raises(BackendError, match="VDI_NOT_MANAGED"):
        await backend.domain_start(parent)
    missing = DomainSpec(VM, "on nothing", 64 * MIB, 1, (DiskSpec(derive_uuid("no"), "0"),))
    with pytest.raises(BackendError, match="VDI_MISSING"):
        await backend.domain_start(missing)
    huge = DomainSpec(VM, "too large", 1 << 60, 1, spec.disks)
    with pytest.raises(BackendError, match="QEMU does not start"):
        await backend.domain_start(huge)
    with pytest.raises(BackendError, match="VM_BAD_POWER_STATE"):
        await backend.domain_pause(VM)
    assert await backend.running() == {}
    assert find_qemus(backend.directory / "domains") == {}


async def test_a_guest_that_does_not_hear_its_button_runs_on(tmp_path):
    backend = QemuBackend(World(), tmp_path, shutdown_timeout_s=0.5)
    await backend.start(lambda *_: None)
    backend.sr = await backend.attach_sr(SR, "file", {})
    disk = derive_uuid("blank")
    await backend.sr.create(disk, MIB)
    await backend.domain_start(DomainSpec(VM, "deaf", 16 * MIB, 1, (DiskSpec(disk, "0"),)))
    with pytest.raises(BackendError, match="VM_SHUTDOWN_TIMEOUT"):
        await backend.domain_shutdown(VM, is_clean=True)
    with pytest.raises(BackendError, match="VM_SHUTDOWN_TIMEOUT"):
        await backend.domain_reboot(VM, is_clean=True)
    assert await backend.running() == {VM: "running"}
    await backend.domain_shutdown(VM, is_clean=False)
    assert await backend.running() == {}
    await backend.stop()


async def test_memory_that_cannot_be_read_back_leaves_the_domain_suspended(host):
    backend = await host()
    disk = derive_uuid("blank")
    await backend.sr.create(disk, MIB)
    spec = DomainSpec(VM, "x", 16 * MIB, 1, (DiskSpec(disk, "0"),))
    await backend.domain_start(spec)
    await backend.domain_suspend(VM)
    await backend.domain_suspend(VM)
    memory = backend.directory.resolve() / "domains" / VM / "memory"
    good = memory.read_bytes()
    memory.write_bytes(good[: len(good) // 2])
    with pytest.raises(BackendError):
        await backend.domain_resume(spec)
    assert await backend.running() == {VM: "suspended"}
    assert find_qemus(backend.directory / "domains") == {}
    assert backend.changes == []
    memory.write_bytes(good)
    await backend.domain_resume(spec)
    assert await backend.running() == {VM: "running"}
    await backend.domain_suspend(VM)
    await backend.domain_shutdown(VM, is_clean=False)
    assert await backend.running() == {}


async def test_a_qemu_that_does_not_answer_can_still_be_cut_off(host):
    backend = await host()
    disk = derive_uuid("blank")
    await backend.sr.create(disk, MIB)
    await backend.domain_start(DomainSpec(VM, "x", 16 * MIB, 1, (DiskSpec(disk, "0"),)))
    (pid,) = find_qemus(backend.directory / "domains")[VM]
    os.kill(pid, signal.SIGSTOP)
    await backend.domain_shutdown(VM, is_clean=False)
    assert await backend.running() == {}
    assert find_qemus(backend.directory / "domains") == {}


KILLED = f"""
import asyncio, os, signal, sys
from pathlib import Path
from xenith.core.world import World
from xenith.toolstack.backends import DiskSpec, DomainSpec
from xenith.toolstack.backends.qemu import QemuBackend

async def main(directory, vm, disk, moment):
    backend = QemuBackend(World(), Path(directory), accelerator="tcg")
    await backend.start(lambda *_: None)
    sr = await backend.attach_sr("{SR}", "file", {{}})
    await sr.create(disk, 1 << 20)
    die = lambda: os.kill(os.getpid(), signal.SIGKILL)
    asyncio.get_running_loop().call_later(float(moment), die)
    await backend.domain_start(DomainSpec(vm, "x", 16 << 20, 1, (DiskSpec(disk, "0"),)))
    await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("moment_s", [0.0, 0.01, 0.03, 0.06, 0.1, 0.5])
async def test_after_a_kill_at_any_moment_a_domain_is_there_once_or_not_at_all(host, moment_s):
    backend = await host()
    await backend.stop()
    disk = derive_uuid("blank")
    command = [sys.executable, "-c", KILLED, backend.directory, VM, disk, str(moment_s)]
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == -signal.SIGKILL

    again = await host()
    assert [change[:2] for change in again.changes] in ([], [(VM, "halted")])
    spec = DomainSpec(VM, "x", 16 * MIB, 1, (DiskSpec(disk, "0"),))
    await again.domain_start(spec)
    assert await again.running() == {VM: "running"}
    assert len(find_qemus(again.directory / "domains")[VM]) == 1
    await again.domain_shutdown(VM, is_clean=False)
    await again.sr.destroy(disk)
    assert find_qemus(again.directory / "domains") == {}
    assert not list((again.directory / "sr" / SR).glob("*.vhd"))
