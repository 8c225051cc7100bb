"""A real guest in QEMU speaks xenstore's protocol at its port, with its own rights."""

import asyncio
import contextlib
import time

import pytest

from xenith.core.ids import derive_uuid
from xenith.core.world import World
from xenith.dev.tiny_image import find_or_build
from xenith.toolstack.backends import DiskSpec, DomainSpec
from xenith.toolstack.backends.qemu import QemuBackend
from xenith.toolstack.backends.qemu.xenstore import SOCKET
from xenith.xenstore import XenstoreError, connect
from xenith.xenstore.wire import Frame, Op

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

MIB = 1 << 20
VM, SR, ROOT, CONFIG = (derive_uuid("xenstore-test", name) for name in "abcd")
BOOT_TIMEOUT_S = 180


def words(op, *texts, value=b""):
    """A request as the shell's printf takes it."""
    payload = b"".join(text.encode() + b"\0" for text in texts) + value
    return "".join(f"\\{byte:03o}" for byte in Frame(op, 7, 0, payload).encode())


GUEST = f"""#!/bin/sh
name=$(grep -l org.xenith.xenstore.0 /sys/class/virtio-ports/*/name)
exec 3<>/dev/$(basename $(dirname $name))
ask() {{
    printf "$1" >&3
    set -- $(dd bs=1 count=16 <&3 2>/dev/null | hexdump -v -e '16/1 "%u " "\\n"')
    printf "%s " $1
    dd bs=1 count=$((${{13}} + 256 * ${{14}})) <&3 2>/dev/null | tr '\\0' '.'
}}
echo "read: $(ask '{words(Op.READ, "vm-data/hostname")}')"
echo "write: $(ask '{words(Op.WRITE, "data/guest/hello", value=b"from the guest")}')"
echo "theirs: $(ask '{words(Op.WRITE, "/local/domain/9999/data/x", value=b"mine now")}')"
echo "root: $(ask '{words(Op.DIRECTORY, "/")}')"
echo "xenstore done"
"""


@pytest.fixture
def config_drive(make_config_drive):
    return make_config_drive(GUEST, meta_data={"uuid": VM, "hostname": "guest"})


@pytest.fixture
async def backend(tmp_path):
    made = QemuBackend(World(), tmp_path / ("long-name-" * 12))
    await made.start(lambda *_: None)
    made.sr = await made.attach_sr(SR, "file", {})
    yield made
    await made.domain_shutdown(VM, is_clean=False)
    await made.stop()


async def chunks(path, size=1 << 18):
    with path.open("rb") as file:
        while chunk := file.read(size):
            yield chunk


async def furnish(backend, config_drive):
    for vdi, path in ((ROOT, find_or_build()), (CONFIG, config_drive)):
        await backend.sr.create(vdi, 64 * MIB)
        await backend.sr.fill(vdi, "raw", chunks(path))
    disks = (DiskSpec(ROOT, "0"), DiskSpec(CONFIG, "3", is_read_only=True))
    keys = {"vm-data/hostname": "web-1"}
    return DomainSpec(VM, "speaks", 96 * MIB, 1, disks, xenstore=keys)


async def wait_for(backend, text, *, count=1):
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    while time.monotonic() < deadline:
        log = (await backend.console_log(VM, 100_000)).decode(errors="replace")
        if log.count(text) >= count:
            return log
        await asyncio.sleep(0.1)
    pytest.fail(f"no {text!r} (times {count}) in:\n{log}")


async def test_a_guest_reads_what_it_is_given_and_writes_its_own_alone(backend, config_drive):
    told = asyncio.Event()
    backend.watch_xenstore(lambda uuid: told.set() if uuid == VM else None)
    spec = await furnish(backend, config_drive)
    domid = await backend.domain_start(spec)
    home = f"/local/domain/{domid}"
    async with await connect(backend._directory / SOCKET) as tool:
        async with contextlib.aclosing(tool.events(f"{home}/data")) as events:
            seen = [await anext(events)]
            async with asyncio.timeout(BOOT_TIMEOUT_S):
                while seen[-1] != f"{home}/data/guest/hello":
                    seen.append(await anext(events))
        assert await tool.read(f"{home}/data/guest/hello") == b"from the guest"
        log = await wait_for(backend, "xenstore done")
        for line in (
            f"read: {Op.READ} web-1",
            f"write: {Op.WRITE} OK.",
            f"theirs: {Op.ERROR} EACCES.",
            f"root: {Op.ERROR} EACCES.",
        ):
            assert line in log
        async with asyncio.timeout(BOOT_TIMEOUT_S):
            await told.wait()
        keys = await backend.xenstore_read(VM)
        assert keys["data/guest/hello"] == "from the guest"

        # A reboot is a new domain with a fresh tree, and what the host gave is in it.
        await backend.xenstore_write(VM, {"vm-data/hostname": "web-2"})
        again = await backend.domain_reboot(VM, is_clean=False)
        assert again > domid
        with pytest.raises(XenstoreError, match="ENOENT"):
            await tool.read(home)
    await wait_for(backend, f"read: {Op.READ} web-2")
    log = await wait_for(backend, "xenstore done", count=2)

    # Our own restart: the guest is found again, and its port is served again.
    await backend.stop()
    fresh = QemuBackend(World(), backend._directory)
    await fresh.start(lambda *_: None)
    try:
        fresh.sr = await fresh.attach_sr(SR, "file", {})
        assert (await fresh.xenstore_read(VM))["vm-data/hostname"] == "web-2"
        await fresh.domain_reboot(VM, is_clean=False)
        await wait_for(fresh, f"read: {Op.READ} web-2", count=2)
    finally:
        await fresh.domain_shutdown(VM, is_clean=False)
        await fresh.stop()
