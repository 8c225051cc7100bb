"""Readable disks: what an encoder asks of a chain, a raw file or a pipe.

All tell in runs what they hold, so that holes are neither read nor sent. A ``Chain`` is one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from xenith.core.errors import Invalid
from xenith.vhd.chain import Chain, Run
from xenith.vhd.footer import SECTOR_BYTES, SIZE_BYTES_MAX, refuse
from xenith.vhd.image import Image
from xenith.vhd.pipe import ZEROS, Readable, Source


class Disk(Protocol):
    """A disk of whole sectors that can be read; runs whose link is None are zeros, and not read."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the disk."""

    def runs(self, first: int = 0, count: int | None = None) -> Iterator[Run]:
        """Map a range of sectors: runs in order, without a gap."""

    def read_run(self, run: Run, view: memoryview) -> None:
        """Fill the view, of a run's length, with the bytes of a run that has a link."""


class RawDisk:
    """A raw file or block device; its holes are found where its file system tells them.

    A last sector that is cut off is filled with zeros.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._end = os.lseek(descriptor, 0, os.SEEK_END)
        self.size_bytes = _whole_sectors(self._end)

    def runs(self, first: int = 0, count: int | None = None) -> Iterator[Run]:
        """Map a range of sectors."""
        sectors = self.size_bytes // SECTOR_BYTES
        end = sectors if count is None else first + count
        while first < end:
            data = self._seek(first * SECTOR_BYTES, os.SEEK_DATA)
            begin = min(data // SECTOR_BYTES, end)
            if begin > first:
                yield Run(first, begin - first, None, 0)
            if begin == end:
                return
            hole = self._seek(data, os.SEEK_HOLE)
            first = min(-(-hole // SECTOR_BYTES), end)
            yield Run(begin, first - begin, 0, begin * SECTOR_BYTES)

    def read_run(self, run: Run, view: memoryview) -> None:
        """Fill the view with the run's bytes."""
        offset = run.place
        inside = max(0, self._end - offset)
        view[inside:] = bytes(max(0, len(view) - inside))
        view = view[:inside]
        while view:
            count = os.preadv(self._descriptor, [view], offset)
            if not count:
                raise refuse(f"it was cut off at {offset} while it was read")
            offset, view = offset + count, view[count:]

    def _seek(self, offset: int, whence: int) -> int:
        try:
            return os.lseek(self._descriptor, offset, whence)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return self.size_bytes  # nothing but a hole comes behind


class PipeDisk:
    """A raw disk that arrives once, from its front to its end: all of it counts as data.

    Bytes behind ``size_bytes`` are left in the stream. A last sector that is cut off is filled.
    """

    def __init__(self, stream: Readable, *, size_bytes: int) -> None:
        self._source = Source(stream)
        self._end = size_bytes
        self.size_bytes = _whole_sectors(size_bytes)

    def runs(self, first: int = 0, count: int | None = None) -> Iterator[Run]:
        """Map a range of sectors: one run."""
        count = self.size_bytes // SECTOR_BYTES - first if count is None else count
        yield Run(first, count, 0, first * SECTOR_BYTES)

    def read_run(self, run: Run, view: memoryview) -> None:
        """Fill the view with the next bytes.

        Raises:
            Invalid: the stream ended, or that is not the next run.
        """
        if run.place != self._source.at:
            raise Invalid("A disk that comes through a pipe is read once, in order.")
        inside = min(len(view), self._end - run.place)
        self._source.read_into(view[:inside])
        view[inside:] = bytes(len(view) - inside)


def fill(disk: Disk, offset: int, view: memoryview) -> None:
    """Fill the view, of a chunk at most, with the disk's bytes, and zeros behind its end."""
    inside = max(0, min(len(view), disk.size_bytes - offset))
    view[inside:] = ZEROS[: len(view) - inside]
    first, count = offset // SECTOR_BYTES, inside // SECTOR_BYTES
    for run in _overlaid(disk, first, count) if _is_deep(disk) else disk.runs(first, count):
        begin = run.sector * SECTOR_BYTES - offset
        part = view[begin : begin + run.length * SECTOR_BYTES]
        if run.link is None:
            part[:] = ZEROS[: len(part)]
        else:
            disk.read_run(run, part)


def _is_deep(disk: Disk) -> TypeGuard[Chain]:
    return isinstance(disk, Chain) and len(disk.images) > 1


def _overlaid(chain: Chain, first: int, count: int) -> Iterator[Run]:
    """Map a range as ``Chain.runs`` does, laying each link over those below it.

    That asks every link once for the range, where going down at every gap asks for each gap: with
    five links of scattered writes it costs a fifth. The range is a block or so.
    """
    owner = np.full(count, -1, np.int16)
    #: Where in the owner's file a sector is, less the sector's own offset.
    shift = np.zeros(count, np.int64)
    for link in range(len(chain.images) - 1, -1, -1):
        image = chain.images[link]
        inside = max(0, min(count, image.sectors - first))
        # Behind a link's end are zeros, whatever is below it.
        owner[inside:], shift[inside:] = -1, 0
        for sector, length, place in image.extents(first, inside) if inside else ():
            if place is not None:
                here = slice(sector - first, sector - first + length)
                owner[here], shift[here] = link, place - sector * SECTOR_BYTES
    turns = np.flatnonzero((owner[1:] != owner[:-1]) | (shift[1:] != shift[:-1])) + 1
    begin = 0
    for end in [*turns.tolist(), count]:
        link, sector = int(owner[begin]), first + begin
        place = int(shift[begin]) + sector * SECTOR_BYTES
        if link < 0:
            yield Run(sector, end - begin, None, 0)
        else:
            yield Run(sector, end - begin, link, place)
        begin = end


def allocated(disk: Disk, block_bytes: int) -> NDArray[np.bool_]:
    """Tell of each block of the disk whether any of its bytes may be other than zero.

    Of a chain the tables are asked and no bitmap is read: cost goes by blocks, not by runs.
    """
    if isinstance(disk, Chain):
        return allocated_in(disk.images, disk.size_bytes, block_bytes)
    edges = np.zeros(-(-disk.size_bytes // block_bytes) + 1, np.int32)
    for run in disk.runs():
        if run.link is not None:
            edges[run.sector * SECTOR_BYTES // block_bytes] += 1
            edges[-(-(run.sector + run.length) * SECTOR_BYTES // block_bytes)] -= 1
    return np.cumsum(edges[:-1]) > 0


def allocated_in(images: list[Image], size_bytes: int, block_bytes: int) -> NDArray[np.bool_]:
    """Tell of each block of a disk whether any of the images has room for a part of it."""
    count = -(-size_bytes // block_bytes)
    edges = np.zeros(count + 1, np.int32)
    for image in images:
        own = image.block_bytes
        blocks = np.array(image.blocks(), np.int64)
        np.add.at(edges, np.minimum(blocks * own // block_bytes, count), 1)
        np.add.at(edges, np.minimum(-(-(blocks + 1) * own // block_bytes), count), -1)
    return np.cumsum(edges[:-1]) > 0


def _whole_sectors(length_bytes: int) -> int:
    size = -(-length_bytes // SECTOR_BYTES) * SECTOR_BYTES
    if not 0 < size <= SIZE_BYTES_MAX:
        raise Invalid(f"A disk of {length_bytes} bytes is not one of up to 2040 GiB.")
    return size
