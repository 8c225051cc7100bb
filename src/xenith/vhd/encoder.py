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

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from xenith.core.errors import Exhausted
from xenith.core.world import World
from xenith.vhd.behind import Behind
from xenith.vhd.create import batmap_of, table_of, vhd_time
from xenith.vhd.disk import Disk, allocated, fill
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
from xenith.vhd.pipe import Sink
from xenith.vhd.zeros import is_zero

BITMAP_BYTES = BLOCK_BYTES // SECTOR_BYTES // 8
FULL_BITMAP = b"\xff" * BITMAP_BYTES

#: Bytes and where in a block they go, its bitmap being at 0.
Part = tuple[int, Bytes]
Load = Callable[[int, bytearray], list[Part]]


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

    ``load`` gives the parts of a block, its bitmap first, and may use the buffer for them. Where
    it gives none, a file does without the block, and a pipe, which was told of it, gets zeros.
    """
    if sink.in_order:
        blocks = list(blocks)
        for block in blocks:
            plan.add(block)
        sink.write(0, plan.head())
    free, busy = (bytearray(BITMAP_BYTES + BLOCK_BYTES) for _ in range(2))
    with Behind() as behind:
        for block in blocks:
            if parts := load(block, free):
                at = plan.place(block) if sink.in_order else plan.add(block)
                behind.do(partial(_write_parts, sink, at, parts))
                free, busy = busy, free
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

    def load(block: int, buffer: bytearray) -> list[Part]:
        parts = load_whole(disk, block, buffer)
        is_spare = not sink.in_order and is_zero(memoryview(buffer)[BITMAP_BYTES:])
        return [] if is_spare else parts

    blocks: list[int] = np.flatnonzero(allocated(disk, BLOCK_BYTES)).tolist()
    if find_zeros and sink.in_order:
        data = memoryview(bytearray(BLOCK_BYTES))
        blocks = [block for block in blocks if _has_data(disk, block, data)]
    return write_blocks(plan, blocks, sink, load)


def load_whole(disk: Disk, block: int, buffer: bytearray) -> list[Part]:
    """Fill the buffer with a block of a disk, all of its sectors present."""
    buffer[:BITMAP_BYTES] = FULL_BITMAP
    fill(disk, block * BLOCK_BYTES, memoryview(buffer)[BITMAP_BYTES:])
    return [(0, buffer)]


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


def new_footer(kind: int, size_bytes: int, world: World) -> Footer:
    """Make the footer of a new disk, of a size that was checked."""
    return Footer(
        kind=kind,
        size_bytes=size_bytes,
        uuid=UUID(world.ids.uuid()),
        timestamp_s=vhd_time(world.clock.now()),
    )


def _copy(disk: Disk, sink: Sink) -> None:
    free, busy = (memoryview(bytearray(BLOCK_BYTES)) for _ in range(2))
    with Behind() as behind:
        for block in np.flatnonzero(allocated(disk, BLOCK_BYTES)).tolist():
            offset = block * BLOCK_BYTES
            part = free[: disk.size_bytes - offset]
            fill(disk, offset, part)
            behind.do(partial(sink.write, offset, part))
            free, busy = busy, free


def _has_data(disk: Disk, block: int, view: memoryview) -> bool:
    fill(disk, block * BLOCK_BYTES, view)
    return not is_zero(view)


def _write_parts(sink: Sink, at: int, parts: list[Part]) -> None:
    for offset, data in parts:
        sink.write(at + offset, data)
