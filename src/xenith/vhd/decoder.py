"""VHD streams are read once, from the front to the end, and held to all that they say.

    footer's copy · header · table · (batmap, locators) · blocks, in any order · footer

The blocks' order in the stream is the table's, sorted by place. Every bound is checked before
anything of that size is read, and memory holds the table, a chunk, and for a raw pipe what came
ahead of its turn. What was written before a fault was found is the caller's to throw away.
Source: Virtual Hard Disk Image Format Specification 1.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from xenith.core.errors import Invalid
from xenith.vhd.bitmap import REVERSED, set_runs
from xenith.vhd.files import Bytes
from xenith.vhd.footer import (
    DIFFERENCING,
    FIXED,
    FOOTER_BYTES,
    SECTOR_BYTES,
    SIZE_BYTES_MAX,
    Footer,
    decode_footer,
    refuse,
)
from xenith.vhd.header import (
    ABSENT,
    HEADER_BYTES,
    Header,
    check_extent,
    decode_header,
    decode_table,
    taken_ranges,
)
from xenith.vhd.image import SHORT_FOOTER_BYTES
from xenith.vhd.pipe import CHUNK_BYTES, ZEROS, Readable, Sink, Source, new_buffer
from xenith.vhd.zeros import is_zero

#: What a stream may hold that its table does not name: old blocks, a batmap, gaps for alignment.
SPARE_BYTES_MAX = 1024 * 1024 * 1024
#: What is kept for a raw pipe of blocks that come before their turn.
HELD_BYTES_MAX = 64 * 1024 * 1024
_NO_END = 1 << 62

Piece = tuple[int, memoryview]


class WritableDisk(Protocol):
    """A disk that has its bytes already, such as a ``Chain``."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the disk."""

    def write(self, offset: int, data: Bytes) -> None:
        """Write whole sectors at the offset."""


class Decoder:
    """One VHD stream. ``head`` and ``header`` are None where the stream is of a fixed disk."""

    def __init__(self, stream: Readable, *, size_bytes_max: int = SIZE_BYTES_MAX) -> None:
        """Read all that comes before the first block.

        Raises:
            Invalid: it is no sound VHD, or its disk is larger than ``size_bytes_max``.
        """
        self._source = Source(stream)
        self._max = size_bytes_max
        self._spare = 0
        # One for all chunks, since new memory costs as much as reading it full.
        self._buffer = new_buffer(FOOTER_BYTES + CHUNK_BYTES)
        self.head: Footer | None = None
        self.header: Header | None = None
        self.table: NDArray[np.uint32] = np.empty(0, np.uint32)
        self._first = bytearray(FOOTER_BYTES)
        self._first_bytes = self._source.read_some(memoryview(self._first))
        if self._first.startswith(b"conectix"):
            footer = decode_footer(bytes(self._first[: self._first_bytes]))
            # A fixed disk has no copy: these are a guest's own bytes.
            if footer.kind != FIXED:
                self._read_head(footer)

    @property
    def has_parent(self) -> bool:
        """Tell whether what it lacks is in a parent, and not zero."""
        return self.head is not None and self.head.kind == DIFFERENCING

    def pieces(self) -> Iterator[Piece]:
        """Give the disk's bytes as they come, as offset and view.

        A view lasts until the next is asked for. Of a disk without a parent, sectors that a block
        lacks are given as zeros. Only when all are taken has the end of the stream been checked.
        """
        if self.head is None or self.header is None:
            yield from self._fixed()
            return
        for block in map(int, self._blocks()):
            yield from self._block(self.header, block)
        self._read_end(self.head)

    def pieces_in_order(self) -> Iterator[Piece]:
        """Give the pieces in the disk's order.

        Raises:
            Invalid: more than ``HELD_BYTES_MAX`` of blocks would have to wait for their turn.
        """
        if self.head is None or self.header is None:
            yield from self._fixed()
            return
        order = self._blocks()
        self._check_held(order, self.header)
        held: dict[int, list[tuple[int, bytes]]] = {}
        wanted = map(int, np.sort(order))
        due = next(wanted, None)
        for block in map(int, order):
            if block != due:
                held[block] = [(at, bytes(view)) for at, view in self._block(self.header, block)]
                continue
            yield from self._block(self.header, block)
            while (due := next(wanted, None)) in held:
                assert due is not None, "None is no block"
                yield from ((at, memoryview(data)) for at, data in held.pop(due))
        self._read_end(self.head)

    def _blocks(self) -> NDArray[np.int64]:
        there = np.flatnonzero(self.table != ABSENT)
        return there[np.argsort(self.table[there], kind="stable")]

    def _read_head(self, footer: Footer) -> None:
        if footer.size_bytes > self._max:
            raise _too_large(footer.size_bytes, self._max)
        self.head = footer
        self._skip_to(footer.data_offset, "its header")
        self.header = header = decode_header(self._source.read(HEADER_BYTES))
        check_extent(
            header,
            header_offset=footer.data_offset,
            size_bytes=footer.size_bytes,
            file_bytes=_NO_END,
        )
        self._skip_to(header.table_offset, "its table")
        self.table = decode_table(
            self._source.read(header.entries * 4),
            header,
            file_bytes=_NO_END,
            taken=taken_ranges(header, footer.data_offset),
        )

    def _skip_to(self, offset: int, what: str) -> None:
        if offset < self._source.at:
            raise refuse(
                f"{what} at {offset} lies before what a stream needs first; save it as a file and"
                " read that"
            )
        self._spare += offset - self._source.at
        if self._spare > SPARE_BYTES_MAX:
            raise refuse(f"it holds more than {SPARE_BYTES_MAX} bytes that nothing names")
        self._source.skip_to(offset)

    def _block(self, header: Header, block: int) -> Iterator[Piece]:
        assert self.head is not None, "only what has a header has blocks"
        self._skip_to(int(self.table[block]) * SECTOR_BYTES, f"block {block}")
        bits = self._source.read(header.bitmap_bytes)
        if self.head.creator == b"tap\0" and self.head.creator_version == 1:
            bits = bits.translate(REVERSED)
        begin = block * header.block_bytes
        for at in range(0, header.block_bytes, CHUNK_BYTES):
            buffer = self._buffer[: min(CHUNK_BYTES, header.block_bytes)]
            self._source.read_into(buffer)
            inside = max(0, min(len(buffer), self.head.size_bytes - begin - at))
            if not inside:
                continue  # the last block reaches past the end of the disk
            first = at // SECTOR_BYTES
            runs = set_runs(bits, first, first + inside // SECTOR_BYTES)
            cuts = [((a - first) * SECTOR_BYTES, (b - first) * SECTOR_BYTES) for a, b in runs]
            if self.has_parent:
                yield from ((begin + at + a, buffer[a:b]) for a, b in cuts)
                continue
            low = 0
            for a, b in [*cuts, (inside, inside)]:
                buffer[low:a] = ZEROS[: a - low]
                low = b
            yield begin + at, buffer[:inside]

    def _read_end(self, head: Footer) -> None:
        """Read the rest, of which the end must be the footer that came first."""
        tail, begin, buffer = b"", self._source.at, self._buffer
        while count := self._source.read_some(buffer):
            if self._spare + self._source.at - begin > SPARE_BYTES_MAX + FOOTER_BYTES:
                raise refuse(f"it holds more than {SPARE_BYTES_MAX} bytes that nothing names")
            tail = (tail + bytes(buffer[:count]))[-FOOTER_BYTES:]
        footer = _decode_tail(tail, self._source.at)
        told = (footer.uuid, footer.kind, footer.size_bytes, footer.data_offset)
        if told != (head.uuid, head.kind, head.size_bytes, head.data_offset):
            raise refuse("the footer at its end is not like the copy at its beginning")

    def _fixed(self) -> Iterator[Piece]:
        # Its length is known when it ends: a footer's length is held back all along.
        view = self._buffer
        view[: self._first_bytes] = self._first[: self._first_bytes]
        have, at = self._first_bytes, 0
        while count := self._source.read_some(view[FOOTER_BYTES:]) if have == FOOTER_BYTES else 0:
            if count % SECTOR_BYTES:
                raise refuse(f"it has {self._source.at} bytes, which are not whole sectors")
            if at + count > self._max:
                raise _too_large(at + count, self._max)
            yield at, view[:count]
            at += count
            last, view = view, self._buffer
            view[:FOOTER_BYTES] = last[count : count + FOOTER_BYTES]
        footer = _decode_tail(bytes(view[:have]), self._source.at)
        if footer.kind != FIXED or footer.size_bytes != at:
            raise refuse(f"its footer tells of other than a fixed disk of {at} bytes")
        self.head = footer

    def _check_held(self, order: NDArray[np.int64], header: Header) -> None:
        """Refuse, before the first block, an order that would need more memory than there is."""
        if not order.size:
            return
        arrival = np.argsort(order, kind="stable")
        given = np.searchsorted(np.maximum.accumulate(arrival), np.arange(order.size), "right")
        waiting = int((np.arange(1, order.size + 1) - given).max())
        if waiting * header.block_bytes > HELD_BYTES_MAX:
            raise refuse(
                f"{waiting} of its blocks come before their turn, and a pipe waits for"
                f" {HELD_BYTES_MAX} bytes; write it to a file"
            )


def decode(stream: Readable, sink: Sink, *, size_bytes_max: int = SIZE_BYTES_MAX) -> Footer:
    """Write a fixed or dynamic VHD stream as a raw disk; give its footer.

    Raises:
        Invalid: it is no sound VHD, it stands on a parent, it is too large, or its blocks come in
            an order that a pipe cannot be given.
    """
    source = Decoder(stream, size_bytes_max=size_bytes_max)
    if source.has_parent:
        raise refuse("it stands on a parent, and can only be applied to that")
    for offset, view in source.pieces_in_order() if sink.in_order else source.pieces():
        sink.write(offset, view)
    assert source.head is not None, "the end was read"
    sink.end(source.head.size_bytes)
    return source.head


def apply(
    stream: Readable,
    disk: WritableDisk,
    *,
    is_blank: bool = False,
    parent_uuid: UUID | None = None,
) -> Footer:
    """Write a VHD stream of any kind onto a disk, as ``/import_raw_vdi`` does; give its footer.

    A differencing stream changes what it holds and leaves the rest. Any other replaces the disk,
    up to its own size; with ``is_blank`` zeros are taken to be there. The caller flushes.

    Raises:
        Invalid: it is no sound VHD, is larger than the disk, or does not stand on ``parent_uuid``.
    """
    source = Decoder(stream, size_bytes_max=disk.size_bytes)
    header = source.header
    if parent_uuid and source.has_parent and header and header.parent_uuid != parent_uuid:
        raise refuse(f"it stands on {header.parent_uuid}, and not on {parent_uuid}")
    if source.header is not None and not source.has_parent and not is_blank:
        _write_zeros(source, disk)
    for offset, view in source.pieces():
        if not (is_blank and not source.has_parent and is_zero(view)):
            disk.write(offset, view)
    assert source.head is not None, "the end was read"
    return source.head


def _write_zeros(source: Decoder, disk: WritableDisk) -> None:
    """Write zeros where a disk without a parent has no block."""
    assert source.head is not None, "a dynamic disk has a head"
    assert source.header is not None, "a dynamic disk has a header"
    block, size = source.header.block_bytes, source.head.size_bytes
    for absent in map(int, np.flatnonzero(source.table == ABSENT)):
        end = min((absent + 1) * block, size)
        for at in range(absent * block, end, CHUNK_BYTES):
            disk.write(at, ZEROS[: end - at])


def _decode_tail(tail: bytes, length_bytes: int) -> Footer:
    if length_bytes % SECTOR_BYTES == SHORT_FOOTER_BYTES:
        tail = tail[-SHORT_FOOTER_BYTES:] + b"\0"
    try:
        return decode_footer(tail)
    except Invalid as error:
        told = error.message.removeprefix("This is no sound VHD: ").removesuffix(".")
        raise refuse(f"at its end, byte {length_bytes}, {told}") from error


def _too_large(size_bytes: int, size_bytes_max: int) -> Invalid:
    return refuse(f"its disk has {size_bytes} bytes, and {size_bytes_max} are taken")
