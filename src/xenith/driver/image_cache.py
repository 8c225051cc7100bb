"""Images on a host's SR: each brought once for all who have it, and cloned for every server.

A cached image is a VDI named for the image. It is marked complete, with its own uuid, only after
the last byte: a half import has no mark and is done again, and a clone carries a mark that is not
its own. However many builds wait for an image, one brings it, and goes on if all of them leave;
of several drivers that have the SR, the one that has claimed it (``image_claims``).

Images that no disk stands on leave when nobody has asked for them for long, or when room is needed;
when one was asked for last is marked on it, since who asked may be another driver.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from xenith.core.errors import Exhausted, NotFound, Unavailable, XenithError
from xenith.core.limits import MIB
from xenith.core.tasks import TaskOwner
from xenith.core.world import World
from xenith.driver import qcow2, tarball
from xenith.driver.chains import Record
from xenith.driver.connection import HostConnection
from xenith.driver.faults import Spoken
from xenith.driver.image_claims import ImageClaims
from xenith.driver.image_heads import disk_size, peek
from xenith.driver.image_trimming import Room, choose, find_unused
from xenith.driver.inventory import CachedImage, Inventory
from xenith.driver.names import (
    ASKED_KEY,
    COMPLETE_KEY,
    IMAGE_KEY,
    image_name,
    is_complete_image,
    is_half_import,
)
from xenith.driver.tools import read_file
from xenith.vhd import TARBALL
from xenith.xapi import XapiFault

OpenImage = Callable[[str], AsyncIterator[bytes]]

#: Seconds for an image's bytes to reach a host. Source: nova waited 3600 s for a download.
IMPORT_TIMEOUT_S = 3600.0
#: Seconds between two looks for an image that another driver brings.
WATCH_S = 1.0
#: Seconds after which a mark of having been asked for is written anew; and for which an image that
#: was asked for is held to be one that a server is being made of: its clone may be yet to come.
ASKED_MARK_S = 300.0
ASKED_HOLDS_S = 600.0
#: Digits of a time in seconds; what is longer is none of ours.
_MARK_CHARACTERS_MAX = 16


@dataclass(slots=True)
class CacheCounts:
    """What became of a host's cache since its driver began."""

    #: Builds whose image was there, and that had it brought.
    hits: int = 0
    misses: int = 0
    #: Images that another driver of the repository brought, and that this one found or waited for.
    shared: int = 0
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
        world: World,
        claims: ImageClaims,
    ) -> None:
        self._line = line
        self._inventory = inventory
        self._open_image = open_image
        self._tasks = tasks
        self._coming: dict[str, asyncio.Future[CachedImage]] = {}
        self._reads_qcow2: bool | None = None
        self._world = world
        self._clock = world.clock
        self._claims = claims
        self._began_s = world.clock.monotonic()
        #: When somebody last asked for an image; for those that were here before us, never.
        self._asked_s: dict[str, float] = {}
        #: When the mark that says so was last written.
        self._marked_s: dict[str, float] = {}
        self.counts = CacheCounts()

    @property
    def is_importing(self) -> bool:
        """Whether an image is on its way, so that a half import is no stray."""
        return bool(self._coming)

    async def ask(self, image_id: str, *, disk_format: str, size_bytes: int) -> None:
        """Have an image on the host for a build that begins; as ``ensure``, and counted."""
        known = self._inventory.images.get(image_id)
        if known is not None:
            self.counts.hits += 1
            with Spoken(self._line.address.name, f"mark image {image_id} as asked for"):
                await self._mark_asked(image_id, known)
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
        with doing:
            found, claim = await self._find_or_claim(image_id)
        if found is not None:
            return found
        keeping = self._tasks.start(f"claim on image {image_id}", self._claims.keep(claim))
        try:
            try:
                with doing:
                    return await self._import(image_id, disk_format, size_bytes)
            except Exhausted:
                if not await self.trim(idle_max_s=0.0, free_share=0.0):
                    raise
            with doing:
                return await self._import(image_id, disk_format, size_bytes)
        finally:
            keeping.cancel()
            await self._claims.release(image_id, claim)

    async def _find_or_claim(self, image_id: str) -> tuple[CachedImage | None, str]:
        """Have the claim on an image, or the image once another driver has brought it."""
        until = self._clock.monotonic() + IMPORT_TIMEOUT_S
        while True:
            found, _ = await self._look(image_id)
            claim = None if found is not None else await self._claims.take(image_id)
            if claim is not None:
                # Whoever had it may have come to the end since, or died.
                found, halves = await self._look(image_id)
                if found is None:
                    for ref in halves:
                        await self._remove(ref)
                    return None, claim
                await self._claims.release(image_id, claim)
            if found is not None:
                self.counts.shared += 1
                await self._mark_asked(image_id, found)
                return found, ""
            if self._clock.monotonic() >= until:
                raise Unavailable(f"image {image_id} is brought by another, and does not come")
            await self._clock.sleep(WATCH_S * (1 + self._world.ids.uniform() / 2))

    async def _look(self, image_id: str) -> tuple[CachedImage | None, list[str]]:
        """Find an image on the repository, and half imports of it."""
        whole: dict[str, CachedImage] = {}
        halves: list[str] = []
        for ref in await self._line.call("VDI.get_by_name_label", image_name(image_id)):
            try:
                record = await self._line.call("VDI.get_record", ref)
            except XapiFault as fault:
                if fault.code != "HANDLE_INVALID":
                    raise
                continue
            if record["SR"] != self._line.places.sr:
                continue
            if is_complete_image(record):
                whole[record["uuid"]] = CachedImage(ref, int(record["virtual_size"]))
            elif is_half_import(record):
                halves.append(ref)
        return (whole[min(whole)] if whole else None), halves

    async def _mark_asked(self, image_id: str, image: CachedImage) -> None:
        """Mark an image as asked for, unless that was done of late."""
        now = self._clock.monotonic()
        if now - self._marked_s.get(image_id, -ASKED_MARK_S) < ASKED_MARK_S:
            return
        try:
            await self._line.call("VDI.remove_from_other_config", image.vdi, ASKED_KEY)
            await self._line.call(
                "VDI.add_to_other_config", image.vdi, ASKED_KEY, f"{self._clock.now():.0f}"
            )
        except XapiFault as fault:
            if fault.code == "HANDLE_INVALID":
                # Somebody removed it: it is brought again.
                self._inventory.images.pop(image_id, None)
            elif fault.code != "MAP_DUPLICATE_KEY":
                raise
        self._marked_s[image_id] = now

    async def trim(self, *, idle_max_s: float, free_share: float) -> int:
        """Remove images that no disk stands on; tell how many.

        Those that nobody asked for in ``idle_max_s`` go, and the longest unused of the others until
        ``free_share`` of the repository is free.
        """
        images = dict(self._inventory.images)
        with Spoken(self._line.address.name, "list its cached images"):
            sr = await self._line.call("SR.get_record", self._line.places.sr)
            records = await self._line.call("VDI.get_all_records")
        idle = self._list_idle(images, records)
        room = Room(int(sr["physical_size"]), int(sr["physical_utilisation"]))
        unused = find_unused({key: images[key] for key in idle}, records, idle)
        chosen = choose(unused, idle_max_s=idle_max_s, lacking_bytes=room.lacks_bytes(free_share))
        removed = 0
        for one in chosen:
            known = images[one.image_id]
            if await self._evict(one.image_id, known, records[known.vdi]):
                removed += 1
                self.counts.freed_bytes += one.size_bytes
        self.counts.removed += removed
        return removed

    def _list_idle(
        self, images: Mapping[str, CachedImage], records: Mapping[str, Record]
    ) -> dict[str, float]:
        """Tell how many seconds nobody has asked for images, without those asked for of late.

        A server may be on its way to be made of one of those, on whichever host.
        """
        now = self._clock.monotonic()
        idle: dict[str, float] = {}
        for image_id, image in images.items():
            record = records.get(image.vdi)
            if record is None:
                # Another driver was first.
                self._forget(image_id, image)
                continue
            ago = self._asked_ago_s(image_id, record, now)
            if ago >= ASKED_HOLDS_S:
                idle[image_id] = now - self._began_s if ago == inf else ago
        return idle

    async def _evict(self, image_id: str, known: CachedImage, record: Record) -> bool:
        """Remove an image unless somebody came for it; tell whether it was removed."""
        try:
            with Spoken(self._line.address.name, f"remove image {image_id}"):
                if not await self._leaves(image_id, record, known):
                    return False
                await self._line.call("VDI.destroy", known.vdi)
        except NotFound:
            # Another driver was first.
            self._forget(image_id, known)
            return False
        except XenithError:
            self._inventory.images.setdefault(image_id, known)
            return False
        self._asked_s.pop(image_id, None)
        self._marked_s.pop(image_id, None)
        return True

    def _asked_ago_s(self, image_id: str, record: Record, now: float) -> float:
        """Tell how long ago an image was asked for, here or by who marked it; infinite if never."""
        ago = now - self._asked_s.get(image_id, -inf)
        mark = record["other_config"].get(ASKED_KEY, "")
        if mark.isdecimal() and len(mark) < _MARK_CHARACTERS_MAX:
            # Clocks differ: what is said to be yet to come has just been.
            ago = min(ago, max(0.0, self._clock.now() - int(mark)))
        return ago

    async def _leaves(self, image_id: str, record: Record, known: CachedImage) -> bool:
        """Tell whether nobody came for an image since its record was read, and forget it then."""
        config = await self._line.call("VDI.get_other_config", known.vdi)
        if config.get(ASKED_KEY) != record["other_config"].get(ASKED_KEY):
            return False
        if self._inventory.images.get(image_id) != known:
            return False
        if self._clock.monotonic() - self._asked_s.get(image_id, -inf) < ASKED_HOLDS_S:
            return False
        self._forget(image_id, known)
        return True

    def _forget(self, image_id: str, known: CachedImage) -> None:
        """Forget an image, unless another has come in its place."""
        if self._inventory.images.get(image_id) == known:
            del self._inventory.images[image_id]

    async def _import(self, image_id: str, disk_format: str, size_bytes: int) -> CachedImage:
        chunks = self._open_image(image_id)
        if disk_format == "qcow2" and not await self._can_read_qcow2():
            async with qcow2.converted_to_raw(chunks) as path:
                return await self._fill_from(image_id, path, disk_format="raw")
        if disk_format == TARBALL:
            async with tarball.converted_to_vhd(chunks) as path:
                return await self._fill_from(image_id, path, disk_format="vhd")
        return await self._fill(image_id, chunks, disk_format=disk_format, stream_bytes=size_bytes)

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
        head, chunks = await peek(chunks)
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
            "other_config": {IMAGE_KEY: image_id, ASKED_KEY: f"{self._clock.now():.0f}"},
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
            self._marked_s[image_id] = self._clock.monotonic()
            vdi: dict[str, Any] = await line.call("VDI.get_record", ref)
            await line.call("VDI.add_to_other_config", ref, COMPLETE_KEY, vdi["uuid"])
        except (XapiFault, XenithError):
            await self._remove(ref)
            raise
        return CachedImage(ref, int(vdi["virtual_size"]))

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
