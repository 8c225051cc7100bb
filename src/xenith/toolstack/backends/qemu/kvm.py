"""Whether KVM works: found out by running a guest, since a device node proves nothing.

Nested virtualisation can offer /dev/kvm and run real mode, then stop at the first ``iret`` in
protected mode, or refuse the machine's own processor model. So the guest is a boot sector that
SeaBIOS loads, that goes on through protected mode and an interrupt's return into long mode with
paging and another, and there writes a byte to QEMU's debug port, which becomes the exit code. The
answer is kept for as long as the machine is up.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from xenith.core.log import logger

#: A machine with KVM needs a tenth of this; one that hangs in KVM costs all of it, once a boot.
PROBE_TIMEOUT_S = 3.0
#: isa-debug-exit ends QEMU with (value << 1) | 1; the guest writes 0x2a.
_PROBE_EXIT_CODE = 0x2A << 1 | 1
#: The guest, assembled; each line is one step.
_PROBE_CODE = bytes.fromhex(
    "fa31c08ed88ec08ed0bc007cfc"  # cli; flat segments; a stack below the code
    "bf0010b90018f3ab"  # clear the page tables at 0x1000
    "c70600100320c70600200330c70600308300"  # map the first 2 MiB
    "660f0116c87c0f20c00c010f22c066ea3d7c00000800"  # lgdt; protected mode; far jump
    "66b810008ed88ed0bc007c00009c6a0868537c0000cf"  # 32-bit segments and stack; iret
    "0f20e00c200f22e0b8001000000f22d8"  # physical address extension; cr3
    "b9800000c00f3280cc010f300f20c00d000000800f22c0"  # long mode and paging on
    "ea817c00001800"  # far jump into it
    "66b810008ed0bc007c00006a1068007c00009c6a18689d7c000048cf"  # 64-bit stack; iretq
    "b02ae6f4f4ebfd0f1f400000"  # out 0xf4, 0x2a; halt for good
    "00000000000000ff"  # the null descriptor
    "ff0000009acf00ffff00000092cf00ffff0000009aaf001f"  # 32-bit code, data, 64-bit code
    "00a87c0000"  # where they are
)
_SECTOR = _PROBE_CODE.ljust(510, b"\0") + b"\x55\xaa"
_log = logger("toolstack.qemu")


class Answer(msgspec.Struct, frozen=True):
    """What a probe found, and on what it depends."""

    boot_id: str
    program: str
    is_working: bool


async def has_kvm(program: Path, directory: Path) -> bool:
    """Tell whether guests run under KVM here; probes once for each boot of the machine."""
    kept = directory / "kvm.json"
    machine = (_boot_id(), str(program))
    answer = _read(kept)
    if answer is not None and (answer.boot_id, answer.program) == machine:
        return answer.is_working
    is_working = await runs_guest(program, directory, "kvm")
    _log.debug("kvm probed", works=is_working)
    part = kept.with_suffix(".part")
    part.write_bytes(msgspec.json.encode(Answer(*machine, is_working)))
    part.replace(kept)
    return is_working


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _read(kept: Path) -> Answer | None:
    try:
        return msgspec.json.decode(kept.read_bytes(), type=Answer)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


async def runs_guest(program: Path, directory: Path, accelerator: str) -> bool:
    """Run the probe's guest and tell whether it came to its end."""
    disk = directory / "probe.raw"
    disk.write_bytes(_SECTOR.ljust(1024 * 1024, b"\0"))
    # The same processor model as real guests get: KVM can fail on that alone.
    model = "host" if accelerator == "kvm" else "max"
    drive = {"driver": "raw", "node-name": "probe"}
    file = {"driver": "file", "filename": str(disk)}
    arguments = ["-accel", accelerator, "-cpu", model, "-machine", "pc", "-m", "16M"]
    arguments += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    arguments += ["-blockdev", msgspec.json.encode({**drive, "file": file}).decode()]
    arguments += ["-device", "virtio-blk-pci,drive=probe"]
    arguments += ["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]
    process = await asyncio.create_subprocess_exec(
        str(program),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            return await process.wait() == _PROBE_EXIT_CODE
    except TimeoutError:
        return False
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        disk.unlink(missing_ok=True)
