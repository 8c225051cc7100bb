"""Programs of this machine that disks are made with: no shell, no input, and an end in time.

What they read and write are files in a directory of their own, which streams go into and come from.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from xenith.core.errors import TooLarge, Unavailable, XenithError
from xenith.core.limits import IMAGE_BYTES_MAX, STREAM_CHUNK_BYTES

#: Characters of what a program said last that an error tells.
SAID_MAX = 200


async def run_tool(
    *command: str, timeout_s: float, doing: str, failure: type[XenithError] = Unavailable
) -> None:
    """Run a program to its end.

    Raises:
        Unavailable: it did not end in time, and was ended.
        failure: it failed; what it said last is told. ``doing`` is what it was to do.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout_s):
            _, said = await process.communicate()
    except TimeoutError as error:
        raise Unavailable(f"could not {doing} in {timeout_s:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        text = said.decode("utf-8", "replace").strip()[-SAID_MAX:]
        raise failure(f"could not {doing}: {text}")


async def store_file(chunks: AsyncIterator[bytes], path: Path) -> None:
    """Write a stream to a file; writes happen off the loop.

    Raises:
        TooLarge: it is longer than an image may be.
    """
    written = 0
    with path.open("wb") as file:
        async for chunk in chunks:
            written += len(chunk)
            if written > IMAGE_BYTES_MAX:
                raise TooLarge("the image is larger than the limit")
            await asyncio.to_thread(file.write, chunk)


async def read_file(path: Path) -> AsyncIterator[bytes]:
    """Stream a file; reads happen off the loop."""
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(_read, file):
            yield piece


def _read(file: BinaryIO) -> bytes:
    return file.read(STREAM_CHUNK_BYTES)
