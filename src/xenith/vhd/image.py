"""One VHD file, read and written at offsets, and sound at every moment.

What a crash can do is bounded by two orders of writing, which nothing here departs from:

    a new block     footer at the new end → data and bitmap → sync → entry in the table → sync
    a known block   data → sync → bitmap → sync

A table never names a block whose bytes and whose place in the file are not on the disk, so a
crash leaves the sectors as they were before, and at most some room that nothing names. A bit is
set after its sector's data, or a crash would show a hole instead of what the parent holds. Both
are paid for once in ``flush``, not at each write: as on a disk with a cache, what was written
since the last flush may be old or new after a crash, sector by sector, and nothing else.

Blocks go behind the end of the file, never over anything: the footer that ended the file stays
in the gap before the next block, and a file of which the end is lost has the footer's copy at 0.
Data begins on a page, as libvhd places it, so that it can be read past the page cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xenith.core.errors import Conflict, Exhausted, Invalid
from xenith.vhd.bitmap import REVERSED, set_range, set_runs
from xenith.vhd.files import Bytes, File, Files, read
from xenith.vhd.footer import (
    DIFFERENCING,
    FIXED,
    FOOTER_BYTES,
    SECTOR_BYTES,
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
from xenith.vhd.locator import TEXT_BYTES_MAX, parent_candidates

PAGE_BYTES = 4096
#: Bitmaps kept in memory of one file, and as much of those that were not flushed: what 4 GiB of
#: disk have, and a bound for files with blocks of 256 MiB.
BITMAPS_BYTES_MAX = 1024 * 1024
#: What Microsoft's Virtual PC wrote before 2004: a footer without its last byte.
SHORT_FOOTER_BYTES = 511
_LITTLE_ENDIAN_VERSION = 0x00000001


class Extent(NamedTuple):
    """``length`` sectors and the byte of the file where they begin; None where it lacks them."""

    sector: int
    length: int
    place: int | None


class Image:
    """An open VHD. Offsets and lengths are in bytes, and whole sectors."""

    def __init__(self, file: File, name: str, footer: Footer, footer_is_sound: bool) -> None:
        self.file = file
        self.name = name
        self.footer = footer
        #: False where the footer at the end of the file was lost, and its copy was read.
        self.footer_is_sound = footer_is_sound
        self.header: Header | None = None
        self.table: NDArray[np.uint32] = np.empty(0, np.uint32)
        #: Blocks written to since someone asked: a coalesce has to take these again.
        self.touched: set[int] | None = None
        self._fresh: set[int] = set()
        self._dirty: dict[int, bytearray] = {}
        self._bitmaps: OrderedDict[int, bytes] = OrderedDict()
        self._reverse = footer.creator == b"tap\0" and (
            footer.creator_version == _LITTLE_ENDIAN_VERSION
        )

    @property
    def size_bytes(self) -> int:
        """Bytes of the disk."""
        return self.footer.size_bytes

    @property
    def sectors(self) -> int:
        """Sectors of the disk."""
        return self.footer.size_bytes // SECTOR_BYTES

    @property
    def has_parent(self) -> bool:
        """Tell whether what it lacks is in a parent, and not zero."""
        return self.footer.kind == DIFFERENCING

    @property
    def block_bytes(self) -> int:
        """Bytes of a block; of the whole disk where it is fixed."""
        return self.header.block_bytes if self.header else self.footer.size_bytes

    def blocks(self) -> list[int]:
        """List the blocks that the file has room for, in order."""
        found: list[int] = np.flatnonzero(self.table != ABSENT).tolist()
        return found if self.header else [0]

    def extents(self, first: int, count: int) -> Iterator[Extent]:
        """Give the runs that [first, first + count) falls into, in order, without a gap."""
        if self.header is None:
            yield Extent(first, count, first * SECTOR_BYTES)
            return
        per_block = self.header.block_bytes // SECTOR_BYTES
        end, at = first + count, first
        low, high = first // per_block, -(-end // per_block)
        for block in (np.flatnonzero(self.table[low:high] != ABSENT) + low).tolist():
            start = block * per_block
            data = self._place(block) + self.header.bitmap_bytes
            inside = max(first, start) - start, min(end, start + per_block) - start
            for begin, stop in set_runs(self._bitmap(block), *inside):
                if start + begin > at:
                    yield Extent(at, start + begin - at, None)
                at = start + stop
                yield Extent(start + begin, stop - begin, data + begin * SECTOR_BYTES)
        if end > at:
            yield Extent(at, end - at, None)

    def write(self, offset: int, data: Bytes) -> None:
        """Write sectors; they are on the disk after the next ``flush``."""
        view = memoryview(data).cast("B")
        self.check_range(offset, len(view))
        if self.header is None:
            self.file.write(offset, view)
            if self.touched is not None:
                self.touched.add(0)
            return
        while view:
            block, at = divmod(offset, self.header.block_bytes)
            part = view[: self.header.block_bytes - at]
            self._write_block(self.header, block, at, part)
            offset, view = offset + len(part), view[len(part) :]

    def flush(self) -> None:
        """Bring all that was written to the disk, in the order that this module's head gives."""
        for block in self._fresh:
            self._write_bitmap(block)
        self.file.sync()
        old = [block for block in self._dirty if block not in self._fresh]
        if not old and not self._fresh:
            return
        for block in old:
            self._write_bitmap(block)
        self._write_entries()
        self.file.sync()
        for block, bits in self._dirty.items():
            self._remember(block, bytes(bits))
        self._fresh.clear()
        self._dirty.clear()

    def close(self) -> None:
        """Close the file; what was not flushed is lost."""
        self.file.close()

    def end(self) -> int:
        """Give the byte behind the file's last, where nothing has ever been."""
        return -(-self.file.size() // SECTOR_BYTES) * SECTOR_BYTES

    def check_range(self, offset: int, length_bytes: int) -> None:
        """Refuse what is not whole sectors of the disk.

        Raises:
            Invalid: it is not.
        """
        if (offset | length_bytes) % SECTOR_BYTES:
            raise Invalid(f"{length_bytes} bytes at {offset} are not whole sectors.")
        if offset < 0 or offset + length_bytes > self.size_bytes:
            raise Invalid(f"{length_bytes} bytes at {offset} lie outside the disk {self.name}.")

    def _write_block(self, header: Header, block: int, at: int, part: memoryview) -> None:
        if self.table[block] == ABSENT:
            self._allocate(header, block)
        self.file.write(self._place(block) + header.bitmap_bytes + at, part)
        bits = self._dirty.get(block) or bytearray(self._bitmap(block))
        first = at // SECTOR_BYTES
        if set_range(bits, first, first + len(part) // SECTOR_BYTES):
            self._dirty[block] = bits
        if self.touched is not None:
            self.touched.add(block)
        if len(self._dirty) > _bitmaps_max(bits):
            self.flush()

    def _allocate(self, header: Header, block: int) -> None:
        data = -(-(self.end() + header.bitmap_bytes) // PAGE_BYTES) * PAGE_BYTES
        place = (data - header.bitmap_bytes) // SECTOR_BYTES
        if place >= ABSENT:
            raise Exhausted(f"{self.name} is as long as a table of blocks can say.")
        # The footer goes first: a file always ends with one, unless the power fails.
        self.file.write(data + header.block_bytes, self.footer.encode())
        self.table[block] = place
        self._fresh.add(block)
        self._dirty[block] = bytearray(header.block_bytes // SECTOR_BYTES // 8)

    def _place(self, block: int) -> int:
        return int(self.table[block]) * SECTOR_BYTES

    def _bitmap(self, block: int) -> bytes | bytearray:
        bits = self._dirty.get(block) or self._bitmaps.get(block)
        if bits is None:
            data = read(self.file, self._place(block), self.block_bytes // SECTOR_BYTES // 8)
            bits = data.translate(REVERSED) if self._reverse else data
            self._remember(block, bits)
        return bits

    def _remember(self, block: int, bits: bytes) -> None:
        self._bitmaps[block] = bits
        if len(self._bitmaps) > _bitmaps_max(bits):
            self._bitmaps.popitem(last=False)

    def _write_bitmap(self, block: int) -> None:
        bits = bytes(self._dirty[block])
        self.file.write(self._place(block), bits.translate(REVERSED) if self._reverse else bits)

    def _write_entries(self) -> None:
        # A sector of the table is written whole: it holds no entry that may not be seen.
        if self.header is None:
            return
        per_sector = SECTOR_BYTES // 4
        for sector in sorted({block // per_sector for block in self._fresh}):
            first = sector * per_sector
            entries = self.table[first : first + per_sector].astype(">u4").tobytes()
            self.file.write(self.header.table_offset + first * 4, entries)


def _bitmaps_max(bits: Bytes) -> int:
    # A small bitmap costs as much as the objects around it.
    return BITMAPS_BYTES_MAX // max(len(bits), SECTOR_BYTES)


def open_image(files: Files, name: str, *, writable: bool = False) -> Image:
    """Open a VHD of a repository.

    Raises:
        Invalid: it is no sound VHD.
        NotFound: there is no such file.
        Conflict: it was to be written, and another writes to it.
    """
    file = files.open(name, writable=writable)
    try:
        return _load(file, name, writable=writable)
    except Invalid as error:
        file.close()
        raise Invalid(f"{name}: {error.message}", kind=error.kind) from error
    except BaseException:
        file.close()
        raise


def read_ends(file: File) -> tuple[Footer, bool]:
    """Read the footer at the end, or else its copy; tell whether it was the one at the end.

    Raises:
        Invalid: neither is sound.
    """
    size, errors = file.size(), []
    for length, offset in (
        (FOOTER_BYTES, size - FOOTER_BYTES),
        (SHORT_FOOTER_BYTES, size - SHORT_FOOTER_BYTES),
        (FOOTER_BYTES, 0),
    ):
        if offset < 0 or offset + length > size:
            continue
        try:
            footer = decode_footer(read(file, offset, length).ljust(FOOTER_BYTES, b"\0"))
        except Invalid as error:
            errors.append(error)
            continue
        if offset == 0 and footer.kind == FIXED:
            continue  # a guest's own bytes: a fixed disk has no copy of its footer
        return footer, offset > 0
    raise errors[0] if errors else refuse(f"it has {size} bytes, and no footer")


def read_copy(file: File) -> Footer | None:
    """Read the footer's copy at the beginning; None where there is no sound one."""
    try:
        return decode_footer(read(file, 0, FOOTER_BYTES))
    except Invalid:
        return None


def read_header(file: File, footer: Footer) -> Header:
    """Read the header that a footer points at, and hold it against the file.

    Raises:
        Invalid: it is not sound.
    """
    size = file.size()
    if footer.data_offset + HEADER_BYTES > size:
        raise refuse(f"its header at {footer.data_offset} lies behind the end of the file")
    header = decode_header(read(file, footer.data_offset, HEADER_BYTES))
    check_extent(
        header,
        header_offset=footer.data_offset,
        size_bytes=footer.size_bytes,
        file_bytes=size,
    )
    return header


def find_parent_names(file: File, header: Header, directory: str) -> list[str]:
    """Read the locators; list the files of the directory that they may mean, likeliest first."""
    texts = {
        one.code: read(file, one.offset, min(one.length_bytes, TEXT_BYTES_MAX))
        for one in header.locators
    }
    return parent_candidates(header, texts, directory)


def _load(file: File, name: str, *, writable: bool) -> Image:
    footer, is_trailing = read_ends(file)
    image = Image(file, name, footer, is_trailing)
    size = file.size()
    if footer.kind == FIXED:
        if footer.size_bytes > size - SHORT_FOOTER_BYTES:
            raise refuse(f"it has {size} bytes, and its disk {footer.size_bytes}")
        return image
    header = read_header(file, footer)
    image.header = header
    table = read(file, header.table_offset, header.entries * 4)
    # Measured after it was read: blocks may be added to what others only read.
    size = file.size()
    image.table = decode_table(
        table,
        header,
        file_bytes=size - (size % SECTOR_BYTES or FOOTER_BYTES) if is_trailing else size,
        taken=taken_ranges(header, footer.data_offset),
    )
    if writable:
        _make_ends_alike(image, file)
    return image


def _make_ends_alike(image: Image, file: File) -> None:
    """Write what a crash left of the two footers, before anything else is laid down.

    The one at the end is lost when the power fails while the file grows, and the two differ when
    it fails between their two writes; some readers believe the one and some the other.
    """
    data = image.footer.encode()
    if not image.footer_is_sound:
        file.write(image.end(), data)
    elif read_copy(file) != image.footer:
        file.write(0, data)
    else:
        return
    file.sync()
    image.footer_is_sound = True


def check_writable(image: Image) -> None:
    """Refuse to change a disk that others stand on.

    Raises:
        Conflict: it is hidden.
    """
    if image.footer.hidden:
        raise Conflict(f"{image.name} is hidden: other disks stand on it.", kind="VhdHidden")
