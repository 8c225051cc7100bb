"""Readable disks: what an encoder asks of a chain, a raw file or a pipe.

All tell in runs what they hold, so that holes are neither read nor sent. A ``Chain`` is one.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Protocol

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
    """Fill the view, of a block at most, with the disk's bytes, and zeros behind its end."""
    inside = max(0, min(len(view), disk.size_bytes - offset))
    view[inside:] = ZEROS[: len(view) - inside]
    for run in disk.runs(offset // SECTOR_BYTES, inside // SECTOR_BYTES):
        begin = run.sector * SECTOR_BYTES - offset
        part = view[begin : begin + run.length * SECTOR_BYTES]
        if run.link is None:
            part[:] = ZEROS[: len(part)]
        else:
            disk.read_run(run, part)


def read_chunks(
    disk: Disk, offset: int, length_bytes: int, buffer: memoryview
) -> Iterator[tuple[int, memoryview]]:
    """Give a range of the disk in chunks of the buffer's size, as offset and view, in order.

    A view lasts until the next is asked for. Chunks that are zeros by the disk's map are left out.
    The map is asked once, for the range.
    """
    end = min(offset + length_bytes, disk.size_bytes)
    runs = disk.runs(offset // SECTOR_BYTES, (end - offset) // SECTOR_BYTES)
    for chunk, cut in itertools.groupby(_cut(runs, len(buffer)), key=lambda pair: pair[0]):
        parts = [run for _, run in cut]
        if all(run.link is None for run in parts):
            continue
        begin = max(offset, chunk * len(buffer))
        for run in parts:
            at = run.sector * SECTOR_BYTES - begin
            part = buffer[at : at + run.length * SECTOR_BYTES]
            if run.link is None:
                part[:] = ZEROS[: len(part)]
            else:
                disk.read_run(run, part)
        yield begin, buffer[: at + len(part)]


def _cut(runs: Iterable[Run], chunk_bytes: int) -> Iterator[tuple[int, Run]]:
    """Cut runs where chunks end; give each part with its chunk's number."""
    size = chunk_bytes // SECTOR_BYTES
    for sector, length, link, place in runs:
        at, end = sector, sector + length
        while at < end:
            stop = min(end, (at // size + 1) * size)
            here = place + (at - sector) * SECTOR_BYTES if link is not None else 0
            yield at // size, Run(at, stop - at, link, here)
            at = stop


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
