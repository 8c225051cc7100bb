"""Changes to what a VHD says of itself: hidden or not, its size, its parent.

A footer is one sector, which a disk writes whole or not at all; it may be changed where it is,
each of the two copies being sound at each moment. A header is two sectors and has no copy. It is
never changed while it counts: a new one is laid behind the file's end, the footers are turned to
it, then the old place is written and the footers are turned back.

    |footer|header|…|footer|                    as it was
    |footer|header|…|footer|header'|footer|     both footers point at header'
    |footer|header'|…|footer|                   at the old place once more, and cut off
"""

from __future__ import annotations

from dataclasses import replace

from xenith.core.errors import Invalid
from xenith.vhd.create import batmap_of, table_of, vhd_time
from xenith.vhd.files import Files
from xenith.vhd.footer import (
    FIXED,
    FOOTER_BYTES,
    SECTOR_BYTES,
    SIZE_BYTES_MAX,
    Footer,
)
from xenith.vhd.header import ABSENT, HEADER_BYTES, Header, Locator
from xenith.vhd.image import Image
from xenith.vhd.locator import encode_text, place

#: Zeros written at a time.
ZEROS_BYTES = 1024 * 1024


def set_hidden(image: Image, is_hidden: bool) -> None:
    """Mark a disk as one that others stand on, or as one that is used. Safe to repeat."""
    if image.footer.hidden != is_hidden:
        _write_footers(image, replace(image.footer, hidden=is_hidden))


def resize(image: Image, size_bytes: int) -> None:
    """Grow a disk; what is new reads as zeros. Safe to repeat.

    Raises:
        Invalid: it would shrink, which would lose what its end holds, or pass 2040 GiB.
    """
    if size_bytes < image.size_bytes:
        raise Invalid(
            f"{image.name} has {image.size_bytes} bytes and is not cut to {size_bytes}: what its"
            " end holds would be lost. Copy what is needed to a smaller disk.",
            kind="VhdShrink",
        )
    if size_bytes > SIZE_BYTES_MAX or size_bytes % SECTOR_BYTES:
        raise Invalid(f"A disk of {size_bytes} bytes is not whole sectors up to 2040 GiB.")
    if size_bytes == image.size_bytes:
        return
    image.flush()
    footer = replace(image.footer, size_bytes=size_bytes)
    if image.header is None:
        _grow_fixed(image, footer)
        return
    entries = -(-size_bytes // image.header.block_bytes)
    if entries > image.header.entries:
        _grow_table(image, entries)
    _write_footers(image, footer)


def reparent(image: Image, parent: Image, *, files: Files) -> None:
    """Make a disk stand on another parent, whose bytes must be what it stood on. Safe to repeat."""
    assert image.header is not None, "only a disk with a header has a parent"
    image.flush()
    base = image.end()
    tail, stored = place(parent.name, base)
    header = replace(
        image.header,
        parent_uuid=parent.footer.uuid,
        parent_timestamp_s=vhd_time(files.modified_s(parent.name)),
        parent_name=parent.name,
        locators=tail,
    )
    home = _fit(image.header.locators, parent.name)
    if home is None:
        _switch(image, header, header, stored=stored, keep_bytes=len(stored))
        return
    last = replace(header, locators=tuple(one for one, _ in home))
    _switch(image, header, last, stored=stored, keep_bytes=0, at_home=home)


def _switch(
    image: Image,
    shadow: Header,
    last: Header,
    *,
    stored: bytes,
    keep_bytes: int,
    at_home: list[tuple[Locator, bytes]] | None = None,
) -> None:
    """Replace a header as this module's head draws it; ``stored`` goes before the new one."""
    home, base, file = image.footer.data_offset, image.end(), image.file
    away = base + len(stored)
    file.write(base, stored + shadow.encode() + image.footer.encode())
    # The length and the new header must be there before a footer points at them.
    file.sync()
    _write_footers(image, replace(image.footer, data_offset=away))
    for locator, text in at_home or ():
        file.write(locator.offset, text)
    file.write(home, last.encode())
    file.sync()
    _write_footers(image, replace(image.footer, data_offset=home))
    image.header = last
    # Both footers point home, and what lay behind is no longer read. Where nothing is kept the
    # file ends with the footer that it had, which is the one of now.
    if keep_bytes:
        file.write(base + keep_bytes, image.footer.encode())
        file.truncate(base + keep_bytes + FOOTER_BYTES)
    else:
        file.truncate(base)
    file.sync()


def _write_footers(image: Image, footer: Footer) -> None:
    data, size = footer.encode(), image.file.size()
    if footer.kind != FIXED:
        image.file.write(0, data)
    # A footer of 511 bytes gets its last one.
    cut = size % SECTOR_BYTES
    image.file.write(size - (cut or FOOTER_BYTES), data)
    image.file.sync()
    image.footer = footer


def _grow_fixed(image: Image, footer: Footer) -> None:
    # A fixed disk's one footer is its last sector. It is laid at the new end saying the old size,
    # so that where it was lies outside the disk until zeros are there; then it says the new one.
    file, old = image.file, image.end() - FOOTER_BYTES
    stop = min(footer.size_bytes, old)
    if footer.size_bytes > old:
        file.write(footer.size_bytes, image.footer.encode())
        file.sync()
        stop = min(footer.size_bytes, old + FOOTER_BYTES)
    # One sector, but where a crash was in between or another left room before the footer.
    for at in range(image.size_bytes, stop, ZEROS_BYTES):
        file.write(at, bytes(min(ZEROS_BYTES, stop - at)))
    file.sync()
    _write_footers(image, footer)


def _grow_table(image: Image, entries: int) -> None:
    """Lay a longer table behind the file's end: where it was, blocks follow it."""
    assert image.header is not None, "a fixed disk has no table"
    base = image.end()
    grown = replace(image.header, entries=entries, table_offset=base)
    table = bytearray(table_of(grown))
    told = image.table.astype(">u4").tobytes()
    table[: len(told)] = told
    stored = bytes(table) + batmap_of(grown, base + len(table))
    _switch(image, grown, grown, stored=stored, keep_bytes=len(stored))
    new = image.table.copy()
    new.resize(entries)
    new[len(image.table) :] = ABSENT
    image.table = new


def _fit(locators: tuple[Locator, ...], name: str) -> list[tuple[Locator, bytes]] | None:
    """Give the locators with the new texts, or None where one of them has no room for its own."""
    fitted = []
    for one in locators:
        room = one.space if one.space >= SECTOR_BYTES else one.space * SECTOR_BYTES
        try:
            text = encode_text(one.code, name)
        except Invalid:
            return None
        if len(text) > room or one.offset < FOOTER_BYTES + HEADER_BYTES:
            return None
        fitted.append((replace(one, length_bytes=len(text)), text.ljust(room, b"\0")))
    return fitted or None
