"""An OVF tarball of VHDs is read whole as it is uploaded, by a process of its own.

The header of one tells nothing: it may be packed, and what matters are the files in it. So each
piece goes to ``xenith.vhd.tarball_process`` before it goes to the store, and an image is one when
that has found a sound chain.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, AsyncIterator

from xenith.core.errors import Invalid, Unavailable

#: Seconds for the rest of a tarball to be read when all of it has come.
END_TIMEOUT_S = 600.0
#: Processes at a time; each has some tens of MiB, and 2 GiB at most.
READERS_MAX = 16
#: Bytes of what a process says that are read.
_SAID_BYTES_MAX = 4096
#: The exit code of one that refuses what it read.
_REFUSED = 1


class TarballReader:
    """A process that reads one tarball."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def seen(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Give the pieces on, each when the process has taken it.

        Raises:
            Invalid: it is no tarball of one sound chain.
        """
        stdin = self._process.stdin
        assert stdin is not None, "it was begun with a pipe"
        async for piece in chunks:
            try:
                stdin.write(piece)
                await stdin.drain()
            except (BrokenPipeError, ConnectionResetError):
                await self.size_bytes()
                raise Unavailable("a tarball was not read to its end") from None
            yield piece

    async def size_bytes(self) -> int:
        """End the stream, and give the size of the disk in it.

        Raises:
            Invalid: it is no tarball of one sound chain.
            Unavailable: the process was ended by others, or took too long.
        """
        assert self._process.stdin is not None, "it was begun with a pipe"
        self._process.stdin.close()
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                out, said = await self._process.communicate()
        except TimeoutError as error:
            raise Unavailable(f"a tarball was not read in {END_TIMEOUT_S:g} s") from error
        text = said[-_SAID_BYTES_MAX:].decode("utf-8", "replace").strip()
        if self._process.returncode == _REFUSED and "\n" not in text:
            raise Invalid(text, kind="ImageFormatMismatch")
        if self._process.returncode != 0:
            raise Unavailable(f"a tarball could not be read: code {self._process.returncode}")
        return int(out)


class TarballReaders:
    """The readers of one image service, a bounded number at a time."""

    def __init__(self) -> None:
        self._count = 0

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncGenerator[TarballReader]:
        """Give a reader for the length of the block.

        Raises:
            Unavailable: there are as many as may be.
        """
        if self._count >= READERS_MAX:
            # Who waited would hold its client's connection, and one slow client all the others.
            raise Unavailable(f"{READERS_MAX} tarballs are being uploaded: try again later")
        self._count += 1
        try:
            async with _reading() as reader:
                yield reader
        finally:
            self._count -= 1


@contextlib.asynccontextmanager
async def _reading() -> AsyncGenerator[TarballReader]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "xenith.vhd.tarball_process", "inspect"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield TarballReader(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
