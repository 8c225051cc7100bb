"""The header of a dynamic or differencing VHD, and the table of where its blocks lie.

Every bound is held against the file's own length before anything of that size is read.
Source: Virtual Hard Disk Image Format Specification 1.0.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from xenith.vhd.footer import SECTOR_BYTES, checksum, refuse

HEADER_BYTES = 1024
BLOCK_BYTES = 2 * 1024 * 1024
#: What a block's entry says when the block is not there.
ABSENT = 0xFFFFFFFF
#: A bound on memory: 16 MiB of table, four times what the largest disk of 2 MiB blocks needs.
ENTRIES_MAX = 4 * 1024 * 1024
BLOCK_BYTES_MAX = 256 * 1024 * 1024
LOCATORS = 8

_LAYOUT = struct.Struct(">8sQQIIII16sI4x512s")
_LOCATOR = struct.Struct(">4sII4xQ")
_LOCATORS_AT = 576
_COOKIE = b"cxsparse"
_NO_NEXT = 0xFFFFFFFFFFFFFFFF
_VERSION = 0x00010000
_CHECKSUM_AT = 36
_NAME_BYTES = 512
_NIL = UUID(int=0)


@dataclass(frozen=True, kw_only=True)
class Locator:
    """Where the file holds one spelling of its parent's path; ``space`` is as it was met."""

    code: bytes
    space: int
    length_bytes: int
    offset: int


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a header says; ``parent_timestamp_s`` counts from 2000."""

    table_offset: int
    entries: int
    block_bytes: int = BLOCK_BYTES
    parent_uuid: UUID = _NIL
    parent_timestamp_s: int = 0
    parent_name: str = ""
    locators: tuple[Locator, ...] = ()

    @property
    def bitmap_bytes(self) -> int:
        """Bytes of the bitmap before each block, in whole sectors."""
        return -(-self.block_bytes // (SECTOR_BYTES * SECTOR_BYTES * 8)) * SECTOR_BYTES

    def encode(self) -> bytes:
        """Return the 1024 bytes, their checksum in place."""
        _check(self)
        try:
            name = self.parent_name.encode("utf-16-be")
        except UnicodeEncodeError as error:
            raise refuse("its parent's name holds half of a surrogate pair") from error
        if len(name) > _NAME_BYTES or len(self.locators) > LOCATORS:
            raise refuse("its parent's name or its locators do not fit in a header")
        data = bytearray(HEADER_BYTES)
        _LAYOUT.pack_into(
            data,
            0,
            _COOKIE,
            _NO_NEXT,
            self.table_offset,
            _VERSION,
            self.entries,
            self.block_bytes,
            0,
            self.parent_uuid.bytes,
            self.parent_timestamp_s,
            name,
        )
        for at, one in enumerate(self.locators):
            where = _LOCATORS_AT + at * _LOCATOR.size
            _LOCATOR.pack_into(data, where, one.code, one.space, one.length_bytes, one.offset)
        struct.pack_into(">I", data, _CHECKSUM_AT, checksum(data, _CHECKSUM_AT))
        return bytes(data)


def decode_header(data: bytes) -> Header:
    """Read 1024 bytes as a header, or refuse them."""
    if len(data) != HEADER_BYTES:
        raise refuse(f"its header has {len(data)} bytes, not {HEADER_BYTES}")
    cookie, _, table, version, entries, block, told, parent, stamp, name = _LAYOUT.unpack_from(data)
    if cookie != _COOKIE or version != _VERSION:
        raise refuse("its header does not begin with 'cxsparse' of version 1.0")
    counted = checksum(data, _CHECKSUM_AT)
    if told != counted:
        raise refuse(f"its header's checksum is {told:#x}, and its bytes make {counted:#x}")
    places = range(_LOCATORS_AT, _LOCATORS_AT + LOCATORS * _LOCATOR.size, _LOCATOR.size)
    met = (_LOCATOR.unpack_from(data, place) for place in places)
    header = Header(
        table_offset=table,
        entries=entries,
        block_bytes=block,
        parent_uuid=UUID(bytes=parent),
        parent_timestamp_s=stamp,
        parent_name=name.decode("utf-16-be", "replace").partition("\0")[0],
        locators=tuple(
            Locator(code=code, space=space, length_bytes=length, offset=offset)
            for code, space, length, offset in met
            if code != bytes(4)
        ),
    )
    _check(header)
    return header


def decode_table(
    data: bytes,
    header: Header,
    *,
    file_bytes: int,
    taken: Sequence[tuple[int, int]] = (),
) -> NDArray[np.uint32]:
    """Read the table of blocks, and refuse blocks that overlap or lie outside the file.

    ``taken`` are the ranges of bytes, begin and end, that hold something else: the header, the
    locators. ``file_bytes`` ends where the trailing footer begins, where there is one.
    """
    if len(data) != header.entries * 4:
        raise refuse(f"its table of {header.entries} blocks is cut off at {len(data)} bytes")
    table = np.frombuffer(data, dtype=">u4").astype(np.uint32)
    there = np.sort(table[table != ABSENT]).astype(np.int64) * SECTOR_BYTES
    if not there.size:
        return table
    stride = header.bitmap_bytes + header.block_bytes
    # A table that was grown lies behind blocks, so none of these need be the lowest.
    table_end = header.table_offset + len(data)
    if any(_lies_over(there, stride, begin, end) for begin, end in ((0, SECTOR_BYTES), *taken)):
        raise refuse("a block lies over a footer, a header or a parent locator")
    if _lies_over(there, stride, header.table_offset, table_end):
        raise refuse("a block lies over its table")
    if int(there[-1]) + stride > file_bytes:
        raise refuse("a block lies behind the end of the file")
    if np.any(np.diff(there) < stride):
        raise refuse("two blocks overlap")
    return table


def _lies_over(there: NDArray[np.int64], stride: int, begin: int, end: int) -> bool:
    """Tell whether a block of ``stride`` bytes, at one of the sorted offsets, meets a range."""
    at = int(np.searchsorted(there, begin - stride, side="right"))
    return at < there.size and int(there[at]) < end


def check_extent(header: Header, *, header_offset: int, size_bytes: int, file_bytes: int) -> None:
    """Hold a header against its footer and its file, before its table is read.

    Raises:
        Invalid: it has too few blocks for its disk, or its parts lie over each other or outside.
    """
    if header.entries * header.block_bytes < size_bytes:
        raise refuse(f"its {header.entries} blocks do not hold {size_bytes} bytes")
    table_end = header.table_offset + header.entries * 4
    if max(table_end, header_offset + HEADER_BYTES) > file_bytes:
        raise refuse("its header or its table lies behind the end of the file")
    if header_offset < table_end and header.table_offset < header_offset + HEADER_BYTES:
        raise refuse(f"its table at {header.table_offset} lies over its header")
    for one in header.locators:
        if one.offset + one.length_bytes > file_bytes:
            raise refuse("a parent locator lies behind the end of the file")


def taken_ranges(header: Header, header_offset: int) -> list[tuple[int, int]]:
    """List what else than blocks and the table lies where, as ranges of bytes."""
    ranges = [(header_offset, header_offset + HEADER_BYTES)]
    ranges += [(one.offset, one.offset + one.length_bytes) for one in header.locators]
    return [(begin, end) for begin, end in ranges if end > begin]


def _check(header: Header) -> None:
    if not 0 < header.entries <= ENTRIES_MAX:
        raise refuse(f"its table has {header.entries} blocks, and 1 to {ENTRIES_MAX} are read")
    block = header.block_bytes
    if not SECTOR_BYTES * 8 <= block <= BLOCK_BYTES_MAX or block & (block - 1):
        raise refuse(f"its blocks of {block} bytes are no power of two up to {BLOCK_BYTES_MAX}")
    if not SECTOR_BYTES + HEADER_BYTES <= header.table_offset < 1 << 63:
        raise refuse(f"its table at {header.table_offset} lies over its header")
    if header.table_offset % SECTOR_BYTES:
        raise refuse(f"its table at {header.table_offset} is not on a sector")
