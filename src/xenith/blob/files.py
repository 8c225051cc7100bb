"""A store in a directory: a file a name, written beside and renamed when whole.

Reading and writing a chunk goes to a thread, since a disk may take longer than the loop may wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from xenith.blob.store import DRAFT, checked_name
from xenith.core.errors import NotFound, Unavailable
from xenith.core.limits import STREAM_CHUNK_BYTES


class FileStore:
    """Bytes in files of one directory, readable by their owner only."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for draft in directory.glob("*" + DRAFT):
            draft.unlink(missing_ok=True)

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        """Write beside, then rename."""
        path = self._path(name)
        draft = path.with_name(path.name + DRAFT)
        size = 0
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                async for piece in _gathered(chunks):
                    await asyncio.to_thread(_write_all, file.fileno(), piece)
                    size += len(piece)
            draft.replace(path)
        except BaseException as error:
            draft.unlink(missing_ok=True)
            if isinstance(error, OSError) and not isinstance(error, ConnectionError):
                raise Unavailable(f"the image store cannot be written: {error.strerror}") from error
            raise
        return size

    async def read(
        self, name: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """Read in pieces."""
        path = self._path(name)
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError:
            raise NotFound(f"no bytes are stored under {name}") from None
        with file:
            file.seek(offset)
            left = length
            while left is None or left > 0:
                count = STREAM_CHUNK_BYTES if left is None else min(left, STREAM_CHUNK_BYTES)
                piece = await asyncio.to_thread(file.read, count)
                if not piece:
                    return
                if left is not None:
                    left -= len(piece)
                yield piece

    async def size(self, name: str) -> int:
        """Ask the file system."""
        try:
            return self._path(name).stat().st_size
        except FileNotFoundError:
            raise NotFound(f"no bytes are stored under {name}") from None

    async def delete(self, name: str) -> None:
        """Unlink."""
        with contextlib.suppress(FileNotFoundError):
            self._path(name).unlink()

    async def list(self) -> list[str]:
        """List the whole files."""
        return sorted(
            entry.name
            for entry in os.scandir(self._directory)
            if entry.is_file() and not entry.name.endswith(DRAFT)
        )

    async def close(self) -> None:
        """Nothing is held."""

    def _path(self, name: str) -> Path:
        return self._directory / checked_name(name)


async def _gathered(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Join small pieces, so that each trip to a thread is worth it."""
    pieces: list[bytes] = []
    size = 0
    async for piece in chunks:
        pieces.append(piece)
        size += len(piece)
        if size >= STREAM_CHUNK_BYTES:
            yield b"".join(pieces)
            pieces.clear()
            size = 0
    if pieces:
        yield b"".join(pieces)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
