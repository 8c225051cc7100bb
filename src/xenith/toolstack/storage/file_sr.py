"""A file repository as the server's loop uses it: each call in a thread of the repository's own.

A disk that a running domain writes to is snapshot between two of its writes: ``quiet`` is asked to
hold the writer still, with its files closed, for as long as that takes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from xenith.core.world import World
from xenith.toolstack.backends import BackendError, Contents, Repository
from xenith.toolstack.storage.garbage import Collected
from xenith.toolstack.storage.inventory import Vdi
from xenith.toolstack.storage.repository import FileRepository
from xenith.toolstack.storage.space import SrUse
from xenith.toolstack.storage.threads import Inflow, Outflow, streamed

_Result = TypeVar("_Result")
#: Holds whoever writes to a disk still while it is entered; tells whether there is someone.
Quiet = Callable[[str], contextlib.AbstractAsyncContextManager[bool]]

#: Types of SR that are a directory of VHDs. Source: sm's drivers of those names.
KINDS = ("ext", "file", "nfs")
#: Calls of one SR at a time. They take turns there, so that more would only wait in a thread.
CALLS_MAX = 8
#: Streams and copies of one SR at a time, each for as long as it lasts.
STREAMS_MAX = 32


@contextlib.asynccontextmanager
async def nobody_writes(_vdi_uuid: str) -> AsyncIterator[bool]:
    """Hold nobody: for disks that no domain writes to."""
    yield False


def directory_of(device_config: Mapping[str, str]) -> Path | None:
    """Give the directory that a PBD names, if it names one.

    Source: sm's ``FileSR.py``, device_config ``location``; nova's file SRs say ``path``.

    Raises:
        BackendError: SR_BACKEND_FAILURE_47, it is no place of its own.
    """
    named = device_config.get("location") or device_config.get("path")
    if not named:
        return None
    path = Path(named)
    if not path.is_absolute() or ".." in path.parts or "\0" in named:
        raise BackendError("SR_BACKEND_FAILURE_47", "", f"{named[:200]} is no absolute path.", "")
    return path


class FileSr:
    """One attached SR over ``FileRepository``."""

    def __init__(
        self, repository: FileRepository, *, size_bytes_max: int = 0, quiet: Quiet = nobody_writes
    ) -> None:
        self.repository = repository
        self._size_bytes_max = size_bytes_max
        self._quiets = [quiet]
        #: How many hosts of this process have it.
        self._user_count = 1
        self._calls = ThreadPoolExecutor(CALLS_MAX, thread_name_prefix="sr call")
        # Of their own, so that no call waits for somebody's slow line.
        self._streams = ThreadPoolExecutor(STREAMS_MAX, thread_name_prefix="sr stream")

    def share(self, quiet: Quiet = nobody_writes) -> FileSr:
        """Let another host of this process have the directory too, until it closes it."""
        self._user_count += 1
        self._quiets.append(quiet)
        return self

    async def has(self, vdi_uuid: str) -> bool:
        """Tell whether a disk lies here."""
        return await self._run(partial(self.repository.has, vdi_uuid))

    async def free_bytes(self) -> int:
        """Tell what the directory's file system has, with what is kept back from callers."""
        return await self._run(self.repository.free_bytes)

    async def activate(self, vdi_uuid: str, *, is_writable: bool) -> str:
        """Hold a disk for a domain, and tell its file's path. It is not held where this fails."""
        work = partial(self.repository.activate, vdi_uuid, is_writable=is_writable)
        task = asyncio.ensure_future(self._run(work))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # The thread goes on, and what it holds nobody would give back.
            await asyncio.wait([task])
            if task.exception() is None:
                await self.deactivate(vdi_uuid, is_writable=is_writable)
            raise

    async def deactivate(self, vdi_uuid: str, *, is_writable: bool) -> None:
        """Let go of a disk that was activated so."""
        await self._run(partial(self.repository.deactivate, vdi_uuid, is_writable=is_writable))

    async def create(self, vdi_uuid: str, size_bytes: int) -> None:
        """Make an empty disk."""
        await self._run(partial(self.repository.create, vdi_uuid, size_bytes))

    async def clone(self, vdi_uuid: str, source_uuid: str) -> None:
        """Make a disk that begins as another is."""
        await self._run(partial(self.repository.clone, source_uuid, vdi_uuid))

    async def snapshot(self, vdi_uuid: str, source_uuid: str) -> None:
        """Make a disk that keeps what another holds now."""
        async with contextlib.AsyncExitStack() as stack:
            is_quiet = await self._hold(source_uuid, stack)
            await self._run(
                partial(self.repository.snapshot, source_uuid, vdi_uuid, is_quiet=is_quiet)
            )

    async def _hold(self, vdi_uuid: str, stack: contextlib.AsyncExitStack) -> bool:
        """Hold a disk's writer still until the stack ends; tell whether there is one."""
        # It is on one of the hosts.
        held = [await stack.enter_async_context(quiet(vdi_uuid)) for quiet in self._quiets]
        return any(held)

    async def copy(self, vdi_uuid: str, source_uuid: str, into: Repository) -> None:
        """Make a disk of another's bytes that stands on nothing."""
        if isinstance(into, FileSr):
            copy = partial(self.repository.copy, source_uuid, vdi_uuid, to=into.repository)
            await self._run(copy, is_stream=True)
            return
        vdi = await self._run(partial(self.repository.get, source_uuid))
        await into.create(vdi_uuid, vdi.size_bytes)

    async def resize(self, vdi_uuid: str, size_bytes: int) -> None:
        """Grow a disk."""
        await self._run(partial(self.repository.resize, vdi_uuid, size_bytes))

    async def destroy(self, vdi_uuid: str) -> None:
        """Remove a disk."""
        await self._run(partial(self.repository.delete, vdi_uuid))

    async def introduce(self, vdi_uuid: str) -> list[Vdi]:
        """Look at a disk that was laid there by others; give it and what it stands on."""
        return await self._run(partial(self.repository.introduce, vdi_uuid))

    async def fill(self, vdi_uuid: str, disk_format: str, chunks: AsyncIterator[bytes]) -> int:
        """Fill a disk from a raw or VHD stream; tell the virtual size in bytes."""
        flow = Inflow(chunks)
        if disk_format == "raw":
            work = partial(self.repository.import_raw, vdi_uuid, flow)
        else:
            work = partial(self.repository.import_vhd, vdi_uuid, flow)
        return await self._run(work, is_stream=True)

    async def read(
        self, vdi_uuid: str, disk_format: str, *, base_uuid: str = ""
    ) -> AsyncGenerator[bytes]:
        """Give a disk as a stream."""

        def work(flow: Outflow) -> None:
            if disk_format == "vhd":
                self.repository.export_vhd(vdi_uuid, flow, base=base_uuid)
                return
            for piece in self.repository.export_raw(vdi_uuid):
                flow.write(piece)

        async with contextlib.aclosing(streamed(work, self._streams)) as pieces:
            async for piece in pieces:
                yield piece

    async def scan(self) -> Contents:
        """Tell what there is now."""
        return await self._run(self._scan)

    def _scan(self) -> Contents:
        return self._bounded(*self.repository.contents())

    def _bounded(self, vdis: dict[str, Vdi], use: SrUse) -> Contents:
        if self._size_bytes_max:
            size = min(use.physical_size_bytes, self._size_bytes_max)
            use = replace(use, physical_size_bytes=max(size, use.physical_utilisation_bytes))
        return Contents(vdis, use)

    async def look(self, *vdi_uuids: str) -> Contents:
        """Tell of some disks and what they stand on; the others are not read."""
        return await self._run(lambda: self._bounded(*self.repository.look(vdi_uuids)))

    async def collect(self) -> Collected:
        """Do a bounded part of what garbage collection has to do.

        A domain is held still for the end of a merge below it: for as long as a file takes to be
        opened, not for as long as the bytes take.
        """
        done = await self._run(self.repository.collect, is_stream=True)
        if done.writers:
            async with contextlib.AsyncExitStack() as stack:
                held = [uuid for uuid in done.writers if await self._hold(uuid, stack)]
                ended = await self._run(partial(self.repository.end_merge, held))
            done.coalesced += ended.coalesced
            done.left |= ended.left
            done.writers = []
            # What came in the way now would do so again at once.
            done.is_done = bool(ended.left)
        return done

    async def close(self) -> None:
        """Let the directory go, when what is being done has been, and no other host has it."""
        self._user_count -= 1
        if self._user_count:
            return
        await self._run(self.repository.close)
        self._calls.shutdown(wait=False)
        self._streams.shutdown(wait=False)

    async def _run(self, work: Callable[[], _Result], *, is_stream: bool = False) -> _Result:
        threads = self._streams if is_stream else self._calls
        return await asyncio.get_running_loop().run_in_executor(threads, work)


async def open_file_sr(
    path: Path, *, world: World, size_bytes_max: int = 0, quiet: Quiet = nobody_writes
) -> FileSr:
    """Attach a directory; ``size_bytes_max`` is its share of a file system that others use too.

    Raises:
        BackendError: SR_BACKEND_FAILURE_47, it is not there; 16, another process has it.
    """
    if not await asyncio.to_thread(path.is_dir):
        raise BackendError("SR_BACKEND_FAILURE_47", "", f"{path} is no directory.", "")
    repository = await asyncio.to_thread(FileRepository, path, world=world)
    return FileSr(repository, size_bytes_max=size_bytes_max, quiet=quiet)
