"""Images on a host's SR: each brought once, and cloned for every server.

A cached image is a VDI named for the image. It is marked complete, with its own uuid, only after
the last byte: a half import has no mark and is done again, and a clone carries a mark that is not
its own. However many builds wait for an image, one brings it, and goes on if all of them leave.

Images that no disk stands on leave when nobody has asked for them for long, or when room is needed.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xenith.core.clock import Clock
from xenith.core.errors import Exhausted, Invalid, Unavailable, XenithError
from xenith.core.limits import IMAGE_BYTES_MAX, MIB
from xenith.core.tasks import TaskOwner
from xenith.driver import qcow2, tarball
from xenith.driver.connection import HostConnection
from xenith.driver.faults import Spoken
from xenith.driver.image_trimming import Room, choose, find_unused
from xenith.driver.inventory import CachedImage, Inventory
from xenith.driver.names import COMPLETE_KEY, IMAGE_KEY, image_name
from xenith.driver.tools import read_file
from xenith.xapi import XapiFault

OpenImage = Callable[[str], AsyncIterator[bytes]]

#: Seconds for an image's bytes to reach a host. Source: nova waited 3600 s for a download.
IMPORT_TIMEOUT_S = 3600.0
#: Bytes at the head of a stream that tell what it is.
_HEAD_BYTES = 512
_VHD_COOKIE = b"conectix"
_VHD_FIXED, _VHD_DYNAMIC = 2, 3


@dataclass(slots=True)
class CacheCounts:
    """What became of a host's cache since its driver began."""

    #: Builds whose image was there, and that had it brought.
    hits: int = 0
    misses: int = 0
    #: Images that left, and what that freed.
    removed: int = 0
    freed_bytes: int = 0


class ImageCache:
    """The images of one host."""

    def __init__(
        self,
        line: HostConnection,
        inventory: Inventory,
        open_image: OpenImage,
        tasks: TaskOwner,
        clock: Clock,
    ) -> None:
        self._line = line
        self._inventory = inventory
        self._open_image = open_image
        self._tasks = tasks
        self._coming: dict[str, asyncio.Future[CachedImage]] = {}
        self._reads_qcow2: bool | None = None
        self._clock = clock
        self._began_s = clock.monotonic()
        #: When somebody last asked for an image; for those that were here before us, never.
        self._asked_s: dict[str, float] = {}
        self.counts = CacheCounts()

    @property
    def is_importing(self) -> bool:
        """Whether an image is on its way, so that a half import is no stray."""
        return bool(self._coming)

    async def ask(self, image_id: str, *, disk_format: str, size_bytes: int) -> None:
        """Have an image on the host for a build that begins; as ``ensure``, and counted."""
        if image_id in self._inventory.images:
            self.counts.hits += 1
        else:
            self.counts.misses += 1
        await self.ensure(image_id, disk_format=disk_format, size_bytes=size_bytes)

    async def ensure(self, image_id: str, *, disk_format: str, size_bytes: int) -> CachedImage:
        """Have an image on the host. Safe to repeat.

        Raises:
            Invalid: the image cannot become a disk.
            Unavailable: the host, or the image's store, is away.
        """
        self._asked_s[image_id] = self._clock.monotonic()
        known = self._inventory.images.get(image_id)
        if known is not None:
            return known
        coming = self._coming.get(image_id)
        if coming is None:
            coming = self._coming[image_id] = asyncio.get_running_loop().create_future()
            # Whoever began it may be cancelled before it ends; its error is then nobody's.
            coming.add_done_callback(lambda future: future.cancelled() or future.exception())
            self._tasks.start(f"image {image_id}", self._bring(image_id, disk_format, size_bytes))
        return await asyncio.shield(coming)

    async def _bring(self, image_id: str, disk_format: str, size_bytes: int) -> None:
        coming = self._coming[image_id]
        try:
            image = await self._import_or_make_room(image_id, disk_format, size_bytes)
        except XenithError as error:
            coming.set_exception(error)
        else:
            self._inventory.images[image_id] = image
            coming.set_result(image)
        finally:
            del self._coming[image_id]
            if not coming.done():
                coming.set_exception(Unavailable(f"the import of image {image_id} was broken off"))

    async def _import_or_make_room(
        self, image_id: str, disk_format: str, size_bytes: int
    ) -> CachedImage:
        doing = Spoken(self._line.address.name, f"take image {image_id}")
        try:
            with doing:
                return await self._import(image_id, disk_format, size_bytes)
        except Exhausted:
            if not await self.trim(idle_max_s=0.0, free_share=0.0):
                raise
        with doing:
            return await self._import(image_id, disk_format, size_bytes)

    async def trim(self, *, idle_max_s: float, free_share: float) -> int:
        """Remove images that no disk stands on; tell how many.

        Those that nobody asked for in ``idle_max_s`` go, and the longest unused of the others until
        ``free_share`` of the repository is free.
        """
        with Spoken(self._line.address.name, "list its cached images"):
            sr = await self._line.call("SR.get_record", self._line.places.sr)
            records = await self._line.call("VDI.get_all_records")
        now = self._clock.monotonic()
        idle = {
            image_id: now - self._asked_s.get(image_id, self._began_s)
            for image_id in self._inventory.images
        }
        room = Room(int(sr["physical_size"]), int(sr["physical_utilisation"]))
        unused = find_unused(self._inventory.images, records, idle)
        chosen = choose(unused, idle_max_s=idle_max_s, lacking_bytes=room.lacks_bytes(free_share))
        removed = 0
        for image in chosen:
            if self._asked_s.get(image.image_id, self._began_s) > now:
                # Somebody came for it meanwhile.
                continue
            known = self._inventory.images.pop(image.image_id)
            try:
                with Spoken(self._line.address.name, f"remove image {image.image_id}"):
                    await self._line.call("VDI.destroy", known.vdi)
            except XenithError:
                self._inventory.images.setdefault(image.image_id, known)
                continue
            self._asked_s.pop(image.image_id, None)
            removed += 1
            self.counts.freed_bytes += image.size_bytes
        self.counts.removed += removed
        return removed

    async def _import(self, image_id: str, disk_format: str, size_bytes: int) -> CachedImage:
        with self._inventory.begin(image_name(image_id)) as was_begun:
            if was_begun:
                await self._remove_halves(image_id)
            chunks = self._open_image(image_id)
            if disk_format == "qcow2" and not await self._can_read_qcow2():
                async with qcow2.converted_to_raw(chunks) as path:
                    return await self._fill_from(image_id, path, disk_format="raw")
            if disk_format == tarball.FORMAT:
                async with tarball.converted_to_vhd(chunks) as path:
                    return await self._fill_from(image_id, path, disk_format="vhd")
            return await self._fill(
                image_id, chunks, disk_format=disk_format, stream_bytes=size_bytes
            )

    async def _fill_from(self, image_id: str, path: Path, *, disk_format: str) -> CachedImage:
        status = await asyncio.to_thread(path.stat)
        return await self._fill(
            image_id, read_file(path), disk_format=disk_format, stream_bytes=status.st_size
        )

    async def _fill(
        self,
        image_id: str,
        chunks: AsyncIterator[bytes],
        *,
        disk_format: str,
        stream_bytes: int,
    ) -> CachedImage:
        line = self._line
        head, chunks = await _peek(chunks)
        size_bytes = disk_size(head, disk_format, stream_bytes)
        # Whole MiB: an SR rounds up anyway, and a raw image may end in the middle of a sector.
        size_bytes = -(-size_bytes // MIB) * MIB
        record = {
            "name_label": image_name(image_id),
            "name_description": "an image that servers are cloned from",
            "SR": line.places.sr,
            "virtual_size": size_bytes,
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": {IMAGE_KEY: image_id},
        }
        ref = await line.call("VDI.create", record)
        try:
            await line.import_vdi(
                ref,
                chunks,
                disk_format=disk_format,
                size_bytes=stream_bytes,
                timeout_s=IMPORT_TIMEOUT_S,
            )
            vdi: dict[str, Any] = await line.call("VDI.get_record", ref)
            await line.call("VDI.add_to_other_config", ref, COMPLETE_KEY, vdi["uuid"])
        except (XapiFault, XenithError):
            await self._remove(ref)
            raise
        return CachedImage(ref, int(vdi["virtual_size"]))

    async def _remove_halves(self, image_id: str) -> None:
        """Remove what an import whose end is not known may have left."""
        for ref in await self._line.call("VDI.get_by_name_label", image_name(image_id)):
            await self._remove(ref)

    async def _remove(self, ref: str) -> None:
        """Remove a half import as far as the host lets us; what stays is a stray by its mark."""
        with suppress(XapiFault, Unavailable):
            # The host may need a moment to see that the bytes have ended.
            await self._line.call_patiently("VDI.destroy", ref)

    async def _can_read_qcow2(self) -> bool:
        """Tell whether the host takes qcow2, as its storage managers say."""
        if self._reads_qcow2 is None:
            try:
                managers = await self._line.call("SM.get_all_records")
            except XapiFault:
                managers = {}
            sr = await self._line.call("SR.get_record", self._line.places.sr)
            self._reads_qcow2 = any(
                manager["type"] == sr["type"]
                and "qcow2" in manager.get("supported_image_formats", ())
                for manager in managers.values()
            )
        return self._reads_qcow2


async def _peek(chunks: AsyncIterator[bytes]) -> tuple[bytes, AsyncIterator[bytes]]:
    """Read a stream's head and give the head, and the whole stream."""
    pieces: list[bytes] = []
    async for chunk in chunks:
        pieces.append(chunk)
        if sum(map(len, pieces)) >= _HEAD_BYTES:
            break
    head = b"".join(pieces)

    async def whole() -> AsyncIterator[bytes]:
        yield head
        async for chunk in chunks:
            yield chunk

    return head[:_HEAD_BYTES], whole()


def disk_size(head: bytes, disk_format: str, size_bytes: int) -> int:
    """Tell how large a disk an image becomes, from its first 512 bytes.

    Source: VHD specification 1.0, Hard Disk Footer: a fixed VHD has it only at the end.

    Raises:
        Invalid: the image is not what it says, leans on another file, or no host takes its format.
    """
    if disk_format == "raw":
        size = size_bytes
    elif disk_format == "qcow2":
        size = qcow2.virtual_size(head)
    elif disk_format == "vhd":
        size = _vhd_size(head, size_bytes)
    else:
        raise Invalid(f"an image of format {disk_format[:32]} cannot be a server's disk")
    if not 0 < size <= IMAGE_BYTES_MAX:
        raise Invalid(f"a disk of {size} bytes is outside the limits")
    return size


def _vhd_size(head: bytes, size_bytes: int) -> int:
    if not head.startswith(_VHD_COOKIE):
        return size_bytes - 512
    if len(head) < 512:
        raise Invalid("the image is cut off in its header")
    size, _, kind = struct.unpack_from(">QII", head, 48)
    if kind not in (_VHD_FIXED, _VHD_DYNAMIC):
        raise Invalid("the image is a differencing VHD: its parent is another file")
    return int(size)
