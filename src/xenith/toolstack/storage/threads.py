"""Streams between the event loop and the threads in which disks are read and written.

Whoever is slower holds the other up: nothing waits in memory but a few pieces.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Executor

from xenith.vhd.files import Bytes

#: Pieces that wait between a thread that reads a disk and the loop that sends them.
WAITING_MAX = 4


class Inflow:
    """A stream of the loop's, read in a thread by ``readinto`` or piece by piece."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._loop = asyncio.get_running_loop()
        self._rest = memoryview(b"")

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill a part of the buffer, and tell how much; 0 at the end. Blocks."""
        while not self._rest:
            piece = next(self, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def __iter__(self) -> Inflow:
        return self

    def __next__(self) -> bytes:
        """Give the next piece. Blocks."""
        piece = asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()
        if piece is None:
            raise StopIteration
        return piece

    async def _next(self) -> bytes | None:
        # An end cannot be raised through a future.
        return await anext(self._chunks, None)


class Outflow:
    """What a thread writes, for the loop to take."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(WAITING_MAX)
        self._is_left = False

    def write(self, data: Bytes, /) -> int:
        """Hand over a copy of the data; tell its length. Blocks.

        Raises:
            ConnectionError: nobody takes it any more.
        """
        piece = bytes(data)
        asyncio.run_coroutine_threadsafe(self._put(piece), self._loop).result()
        return len(piece)

    async def _put(self, piece: bytes | None) -> None:
        if self._is_left:
            raise ConnectionError("the receiver hung up")
        await self._pieces.put(piece)

    def leave(self) -> None:
        """Take no more; who waits to write is let go."""
        self._is_left = True
        while not self._pieces.empty():
            self._pieces.get_nowait()

    async def end(self) -> None:
        """Tell that all has been written."""
        await self._pieces.put(None)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Give what is written, until its end."""
        while (piece := await self._pieces.get()) is not None:
            yield piece


async def streamed(work: Callable[[Outflow], None], threads: Executor) -> AsyncGenerator[bytes]:
    """Run work that writes in a thread, and give what it writes as it comes."""
    flow = Outflow()

    async def run() -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(threads, work, flow)
        finally:
            if not flow._is_left:  # noqa: SLF001 - this file's own
                await flow.end()

    task = asyncio.create_task(run(), name="disk stream")
    try:
        async for piece in flow.pieces():
            yield piece
        await task
    finally:
        flow.leave()
        # The thread lets go of its disk before whoever hung up is done with.
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
