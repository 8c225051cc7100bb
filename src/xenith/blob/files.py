"""A store in a directory: a file a name, written beside and renamed when whole and on the disk.

Every call on a file goes to a thread, since a disk may take longer than the loop may wait. A
writer holds a lock on its draft, so that a later start tells a dead process's draft from a live
one's.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

from xenith.blob.store import DRAFT, checked_name
from xenith.core.errors import Conflict, NotFound, Unavailable
from xenith.core.limits import STREAM_CHUNK_BYTES

T = TypeVar("T")


class FileStore:
    """Bytes in files of one directory, readable by their owner only."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for draft in directory.glob("*" + DRAFT):
            _remove_if_dead(draft)

    async def write(
        self, name: str, chunks: AsyncIterator[bytes], *, size_bytes: int | None = None
    ) -> int:
        """Write beside, bring it to the disk, then rename."""
        del size_bytes
        path = self._path(name)
        draft = path.with_name(path.name + DRAFT)
        with _as_unavailable():
            descriptor = await _in_thread(_begin, draft)
        is_whole = False
        size = 0
        try:
            async for piece in _gathered(chunks):
                with _as_unavailable():
                    await _in_thread(_write_all, descriptor, piece)
                size += len(piece)
            with _as_unavailable():
                await _in_thread(_finish, descriptor, draft, path)
            is_whole = True
        finally:
            # Also when cancelled: neither of these waits for anything but the directory.
            if not is_whole:
                draft.unlink(missing_ok=True)
            os.close(descriptor)
        return size

    async def read(
        self, name: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """Read in pieces."""
        path = self._path(name)
        try:
            file = await asyncio.to_thread(path.open, "rb", buffering=0)
        except FileNotFoundError:
            raise NotFound(f"no bytes are stored under {name}") from None
        with file:
            file.seek(offset)
            left = length
            while left is None or left > 0:
                count = STREAM_CHUNK_BYTES if left is None else min(left, STREAM_CHUNK_BYTES)
                with _as_unavailable():
                    piece = await _in_thread(file.read, count)
                if not piece:
                    return
                if left is not None:
                    left -= len(piece)
                yield piece

    async def size(self, name: str) -> int:
        """Ask the file system."""
        path = self._path(name)
        try:
            return (await asyncio.to_thread(path.stat)).st_size
        except FileNotFoundError:
            raise NotFound(f"no bytes are stored under {name}") from None

    async def delete(self, name: str) -> None:
        """Unlink; of a large file that takes a while."""
        with _as_unavailable():
            await asyncio.to_thread(self._path(name).unlink, missing_ok=True)

    async def list(self) -> list[str]:
        """List the whole files."""
        return await asyncio.to_thread(_names, self._directory)

    async def close(self) -> None:
        """Nothing is held."""

    def _path(self, name: str) -> Path:
        return self._directory / checked_name(name)


async def _in_thread(work: Callable[..., T], *arguments: object) -> T:
    """Run a call in a thread, and see it end even when cancelled.

    Its descriptor is closed afterwards: closed under it, the number may be another file's by then.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        raise


@contextlib.contextmanager
def _as_unavailable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"the image store fails: {error.strerror}") from error


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


def _begin(draft: Path) -> int:
    """Open and lock a draft.

    Raises:
        Conflict: another writer has it.
    """
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Conflict(f"{draft.name} is being written already") from None
    os.ftruncate(descriptor, 0)
    return descriptor


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _finish(descriptor: int, draft: Path, path: Path) -> None:
    # Renamed before its bytes are down, a file may be found empty after a loss of power.
    os.fsync(descriptor)
    draft.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _remove_if_dead(draft: Path) -> None:
    """Remove a draft whose writer is gone; a live one holds its lock."""
    with contextlib.suppress(FileNotFoundError, BlockingIOError), draft.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        draft.unlink(missing_ok=True)


def _names(directory: Path) -> list[str]:
    with os.scandir(directory) as entries:
        return sorted(
            entry.name for entry in entries if entry.is_file() and not entry.name.endswith(DRAFT)
        )
