"""Empty ext4 file systems for ephemeral disks, made by ``mkfs.ext4`` in a sparse file.

The file goes to the host as a dynamic VHD, of which only the blocks that hold something are sent.
Its metadata is packed at its beginning, so that this is 12 MiB for 1 GiB and 56 MiB for 2000 GiB.
Nothing in it is a tenant's but its size.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from xenith.core.world import World
from xenith.driver.tools import run_tool
from xenith.vhd.disk import RawDisk
from xenith.vhd.encoder import encode_dynamic
from xenith.vhd.pipe import PipeSink

#: Seconds for one file system; that of 2000 GiB takes a tenth of one.
MAKE_TIMEOUT_S = 60.0
#: What the kernel does when a file system is first mounted need not be sent.
_OPTIONS = "packed_meta_blocks=1,lazy_itable_init=1,lazy_journal_init=1,nodiscard"


def find_tool() -> str | None:
    """Find ``mkfs.ext4``; without it (package e2fsprogs) ephemeral disks are blank."""
    # Debian keeps it where users do not look for commands.
    places = (os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin")
    return shutil.which("mkfs.ext4", path=os.pathsep.join(places))


@asynccontextmanager
async def made_as_vhd(
    tool: str, size_bytes: int, *, label: str, uuid: str, world: World
) -> AsyncIterator[Path]:
    """Give the path of a VHD with an empty file system, for the length of the block.

    Raises:
        Unavailable: the file system cannot be made here.
    """
    with TemporaryDirectory(prefix="xenith-ext4-") as directory:
        raw, vhd = Path(directory, "disk.raw"), Path(directory, "disk.vhd")
        await asyncio.to_thread(_lengthen, raw, size_bytes)
        words = ("-q", "-F", "-L", label, "-U", uuid, "-E", _OPTIONS, str(raw))
        await run_tool(tool, *words, timeout_s=MAKE_TIMEOUT_S, doing="make a file system")
        await asyncio.to_thread(_encode, raw, vhd, world)
        yield vhd


def _lengthen(raw: Path, size_bytes: int) -> None:
    with raw.open("wb") as file:
        file.truncate(size_bytes)


def _encode(raw: Path, vhd: Path, world: World) -> None:
    with raw.open("rb", buffering=0) as disk, vhd.open("wb", buffering=0) as out:
        encode_dynamic(RawDisk(disk.fileno()), PipeSink(out), world=world)
