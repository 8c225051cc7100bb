"""qcow2 images for hosts that do not read them: made raw by ``qemu-img``, in a bounded process.

The image is a tenant's. Its header is read here first, and one that names another file (a backing
file, a data file) is refused before any program opens it; the formats are given, never guessed.
Source: qemu, docs/interop/qcow2.
"""

from __future__ import annotations

import asyncio
import shutil
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from xenith.core.errors import Invalid, Unavailable
from xenith.core.limits import IMAGE_BYTES_MAX, STREAM_CHUNK_BYTES
from xenith.driver.tools import run_tool, store_file

HEADER_BYTES = 104
_MAGIC = b"QFI\xfb"
#: Incompatible feature bit 2: data in another file.
_EXTERNAL_DATA = 1 << 2
#: What one conversion may take. Source: nova limits qemu-img to 1 GiB and 30 s for a look alone.
ADDRESS_SPACE_BYTES_MAX = 2 * 1024**3
CPU_S_MAX = 3600
CONVERT_TIMEOUT_S = 3600.0


def virtual_size(header: bytes) -> int:
    """Read a qcow2 header and give the disk's size in bytes.

    Raises:
        Invalid: it is no qcow2, or it leans on another file.
    """
    if len(header) < 72 or not header.startswith(_MAGIC):
        raise Invalid("the image is not qcow2")
    version, backing_offset, _, _, size = struct.unpack_from(">IQIIQ", header, 4)
    if version not in (2, 3):
        raise Invalid(f"qcow2 of version {version} is not known")
    if backing_offset:
        raise Invalid("the image has a backing file")
    if version == 3:
        if len(header) < HEADER_BYTES:
            raise Invalid("the image is cut off in its header")
        (incompatible,) = struct.unpack_from(">Q", header, 72)
        if incompatible & _EXTERNAL_DATA:
            raise Invalid("the image keeps its data in another file")
    if not 0 < size <= IMAGE_BYTES_MAX:
        raise Invalid(f"the image's disk of {size} bytes is outside the limits")
    return int(size)


@asynccontextmanager
async def converted_to_raw(chunks: AsyncIterator[bytes]) -> AsyncIterator[Path]:
    """Give the path of a raw copy of a qcow2 stream, for the length of the block.

    Raises:
        Invalid: the stream is no image that may be converted.
        Unavailable: ``qemu-img`` is not installed, or failed.
    """
    _programs()
    with TemporaryDirectory(prefix="xenith-image-") as directory:
        source, target = Path(directory, "image.qcow2"), Path(directory, "image.raw")
        await store_file(chunks, source)
        await convert_to_raw(source, target)
        await asyncio.to_thread(source.unlink)
        yield target


async def convert_to_raw(source: Path, target: Path) -> None:
    """Make a raw file of a qcow2 file; both paths are absolute.

    Raises:
        Invalid: it is no image that may be converted.
        Unavailable: ``qemu-img`` is not installed, or failed.
    """
    program, limiter = _programs()
    size = virtual_size(await asyncio.to_thread(_head, source))
    await run_tool(
        limiter,
        f"--as={ADDRESS_SPACE_BYTES_MAX}",
        f"--cpu={CPU_S_MAX}",
        f"--fsize={size + STREAM_CHUNK_BYTES}",
        program,
        "convert",
        *("-f", "qcow2", "-O", "raw"),
        str(source),
        str(target),
        timeout_s=CONVERT_TIMEOUT_S,
        doing="convert the image",
        failure=Invalid,
    )


def _programs() -> tuple[str, str]:
    program, limiter = shutil.which("qemu-img"), shutil.which("prlimit")
    if program is None or limiter is None:
        missing = "qemu-img (package qemu-utils)" if program is None else "prlimit (util-linux)"
        raise Unavailable(f"qcow2 images need {missing} on this machine", kind="NoConverter")
    return program, limiter


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEADER_BYTES)
