"""Disks are written as streams: raw, fixed and dynamic, in one pass and without going back.

A dynamic VHD's table comes before its blocks, so a pipe gets it when all that is known of the
blocks is where the source says it has data; a new file gets it last, when the blocks that held
nothing but zeros have been left out too.

    into a pipe     footer · header · table · batmap · blocks, packed · footer
    into a file     the same, each block's data on a page, holes for zeros

From a pipe into a pipe nothing can be known ahead: every block is allocated, at a place that
follows from its number. A table behind the blocks would not help. Its place stands in the header,
which comes first, and the place follows from how many blocks there are.
Source: blktap's ``libvhd.c`` for the order and the batmap; xen-api's stream for the packing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from xenith.core.errors import Exhausted
from xenith.core.world import World
from xenith.vhd.create import batmap_of, new_footer, table_of
from xenith.vhd.disk import Disk, allocated, read_chunks
from xenith.vhd.files import Bytes
from xenith.vhd.footer import (
    DIFFERENCING,
    DYNAMIC,
    FIXED,
    FOOTER_BYTES,
    SECTOR_BYTES,
    Footer,
)
from xenith.vhd.header import ABSENT, BLOCK_BYTES, HEADER_BYTES, Header
from xenith.vhd.image import PAGE_BYTES
from xenith.vhd.locator import place
from xenith.vhd.pipe import CHUNK_BYTES, Sink, new_buffer
from xenith.vhd.zeros import is_zero

BITMAP_BYTES = BLOCK_BYTES // SECTOR_BYTES // 8
FULL_BITMAP = b"\xff" * BITMAP_BYTES

#: Bytes and where in a block they go, its bitmap being at 0.
Part = tuple[int, Bytes]
Load = Callable[[int], Iterable[Part]]


@dataclass(frozen=True, kw_only=True)
class Parent:
    """What a differencing stream stands on; ``timestamp_s`` counts from 2000."""

    uuid: UUID
    name: str
    timestamp_s: int = 0


@dataclass(kw_only=True)
class Layout:
    """Where the parts of a dynamic or differencing stream lie."""

    footer: Footer
    header: Header
    stored: bytes
    #: The batmap and the locators' texts end here.
    head_end: int
    #: Bytes between one block and the next.
    gap: int
    table: NDArray[np.uint32] = field(init=False)

    def __post_init__(self) -> None:
        self.table = np.full(self.header.entries, ABSENT, np.uint32)
        data = self.head_end + BITMAP_BYTES
        #: Where the next block's bitmap goes, and where what was laid down ends.
        self.block_end = self.head_end
        self.at = data + (-data % PAGE_BYTES if self.gap else 0) - BITMAP_BYTES

    def head(self) -> bytes:
        """Give all that is before the blocks."""
        table = bytearray(table_of(self.header))
        told = self.table.astype(">u4").tobytes()
        table[: len(told)] = told
        return self.footer.encode() + self.header.encode() + bytes(table) + self.stored

    def place(self, block: int) -> int:
        """Tell the place of a block that has one."""
        return int(self.table[block]) * SECTOR_BYTES

    def add(self, block: int) -> int:
        """Give a block the next place, and tell it."""
        here = self.at
        if here // SECTOR_BYTES >= ABSENT:
            raise Exhausted("A VHD cannot say where a block behind 2 TiB is.")
        self.table[block] = here // SECTOR_BYTES
        self.block_end = here + BITMAP_BYTES + BLOCK_BYTES
        self.at = self.block_end + self.gap
        return here


def layout(size_bytes: int, sink: Sink, *, world: World, parent: Parent | None = None) -> Layout:
    """Lay out a stream for a sink, with no block yet."""
    footer = new_footer(DIFFERENCING if parent else DYNAMIC, size_bytes, world)
    header = Header(table_offset=FOOTER_BYTES + HEADER_BYTES, entries=-(-size_bytes // BLOCK_BYTES))
    table_end = header.table_offset + len(table_of(header))
    stored = batmap_of(header, table_end)
    if parent:
        locators, texts = place(parent.name, table_end + len(stored))
        stored += texts
        header = replace(
            header,
            parent_uuid=parent.uuid,
            parent_timestamp_s=parent.timestamp_s,
            parent_name=parent.name,
            locators=locators,
        )
    return Layout(
        footer=footer,
        header=header,
        stored=stored,
        head_end=table_end + len(stored),
        gap=0 if sink.in_order else PAGE_BYTES - BITMAP_BYTES,
    )


def write_blocks(plan: Layout, blocks: Iterable[int], sink: Sink, load: Load) -> int:
    """Write a stream's head, its blocks and its end; give its length.

    ``load`` gives the parts of a block in order, its bitmap first; each is written before the
    next is asked for. Where it gives none, a file does without the block, and a pipe, which was
    told of it, gets zeros.
    """
    if sink.in_order:
        blocks = list(blocks)
        for block in blocks:
            plan.add(block)
        sink.write(0, plan.head())
    for block in blocks:
        at = plan.place(block) if sink.in_order else None
        for offset, data in load(block):
            at = plan.add(block) if at is None else at
            sink.write(at + offset, data)
    if not sink.in_order:
        sink.write(0, plan.head())
    end = plan.block_end
    sink.write(end, plan.footer.encode())
    sink.end(end + FOOTER_BYTES)
    return end + FOOTER_BYTES


def encode_dynamic(disk: Disk, sink: Sink, *, world: World, find_zeros: bool = False) -> int:
    """Write a disk as a dynamic VHD; a chain is flattened. Give the stream's length.

    Into a file, blocks of zeros are left out. Into a pipe they are too if ``find_zeros`` is asked
    for, which reads the disk twice; else what the disk's map says is there is sent.
    """
    plan = layout(disk.size_bytes, sink, world=world)
    buffer = new_buffer(CHUNK_BYTES)

    def load(block: int) -> Iterator[Part]:
        parts = load_whole(disk, block, buffer)
        return parts if sink.in_order else _unless_zero(parts)

    blocks: list[int] = np.flatnonzero(allocated(disk, BLOCK_BYTES)).tolist()
    if find_zeros and sink.in_order:
        blocks = [block for block in blocks if any(_unless_zero(load(block)))]
    return write_blocks(plan, blocks, sink, load)


def load_whole(disk: Disk, block: int, buffer: memoryview) -> Iterator[Part]:
    """Give a block of a disk, all of its sectors present; what is zero may be left out."""
    yield 0, FULL_BITMAP
    begin = block * BLOCK_BYTES
    for offset, view in read_chunks(disk, begin, BLOCK_BYTES, buffer):
        yield BITMAP_BYTES + offset - begin, view


def _unless_zero(parts: Iterator[Part]) -> Iterator[Part]:
    """Give a bitmap and what is behind it, from the first part on that is not zero."""
    bitmap = next(parts)
    for part in parts:
        if not is_zero(part[1]):
            yield bitmap
            yield part
            yield from parts


def dynamic_bytes(disk: Disk) -> int:
    """Tell how long ``encode_dynamic`` makes the stream of a disk into a pipe."""
    entries = -(-disk.size_bytes // BLOCK_BYTES)
    header = Header(table_offset=FOOTER_BYTES + HEADER_BYTES, entries=entries)
    table_end = header.table_offset + len(table_of(header))
    count = int(np.count_nonzero(allocated(disk, BLOCK_BYTES)))
    head = table_end + len(batmap_of(header, table_end))
    return head + count * (BITMAP_BYTES + BLOCK_BYTES) + FOOTER_BYTES


def encode_raw(disk: Disk, sink: Sink) -> int:
    """Write a disk as it is; a chain is flattened. Give the length."""
    _copy(disk, sink)
    sink.end(disk.size_bytes)
    return disk.size_bytes


def encode_fixed(disk: Disk, sink: Sink, *, world: World) -> int:
    """Write a disk as a fixed VHD; a chain is flattened. Give the length."""
    _copy(disk, sink)
    sink.write(disk.size_bytes, new_footer(FIXED, disk.size_bytes, world).encode())
    return disk.size_bytes + FOOTER_BYTES


def _copy(disk: Disk, sink: Sink) -> None:
    buffer = new_buffer(CHUNK_BYTES)
    for block in np.flatnonzero(allocated(disk, BLOCK_BYTES)).tolist():
        for offset, view in read_chunks(disk, block * BLOCK_BYTES, BLOCK_BYTES, buffer):
            sink.write(offset, view)
