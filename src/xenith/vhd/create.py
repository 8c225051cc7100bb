"""New VHDs: fixed, dynamic, and differencing on a parent.

A file is made under a name that nothing looks for, brought to the disk whole and then renamed,
so that no scan ever meets half of one.

    0 footer's copy · 512 header · 1536 table · batmap's header · batmap · locators · footer

Blocks follow where the footer is. The batmap, libvhd's shortcut for full blocks, is left at zero,
which says nothing; libvhd wants it there in files whose creator says ``tap``.
Source: blktap's ``libvhd.c`` for the order and the batmap.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID

from xenith.core.errors import Conflict, Invalid, NotFound
from xenith.core.world import World
from xenith.vhd.files import File, Files
from xenith.vhd.footer import (
    DIFFERENCING,
    DYNAMIC,
    EPOCH_S,
    FIXED,
    FOOTER_BYTES,
    SECTOR_BYTES,
    SIZE_BYTES_MAX,
    Footer,
)
from xenith.vhd.header import BLOCK_BYTES, HEADER_BYTES, Header
from xenith.vhd.image import Image, open_image
from xenith.vhd.locator import place

#: What a file is called until it is whole; ``recover`` removes what a crash left of these.
NEW_SUFFIX = ".new"
_BATMAP = struct.Struct(">8sQIIIB")
_BATMAP_VERSION = 0x00010002


def vhd_time(unix_s: float) -> int:
    """Turn a time since 1970 into one since 2000, as the 32 bits of the format hold it."""
    return max(0, min(int(unix_s) - EPOCH_S, 0xFFFFFFFF))


def create_fixed(files: Files, name: str, *, size_bytes: int, world: World) -> None:
    """Make a disk of zeros with all of its room, as a hole."""
    footer = new_footer(FIXED, size_bytes, world)
    _write_whole(files, name, [(size_bytes, footer.encode())])


def create_dynamic(
    files: Files,
    name: str,
    *,
    size_bytes: int,
    world: World,
    block_bytes: int = BLOCK_BYTES,
) -> None:
    """Make a disk of zeros that grows as it is written."""
    footer = new_footer(DYNAMIC, size_bytes, world)
    header = Header(
        table_offset=FOOTER_BYTES + HEADER_BYTES,
        entries=-(-size_bytes // block_bytes),
        block_bytes=block_bytes,
    )
    _write_whole(files, name, _metadata(footer, header, ""))


def create_differencing(
    files: Files,
    name: str,
    *,
    parent: str,
    world: World,
    size_bytes: int | None = None,
    named_parent: str | None = None,
) -> None:
    """Make an empty disk on a parent, as large as that or larger; the parent is to be hidden.

    ``named_parent`` is what the child calls it, where that is not its name.

    Raises:
        Conflict: the parent is written to, by its user or by a coalesce, or the name is taken.
    """
    if name in files.names():
        raise Conflict(f"{name} exists already.", kind="VhdExists")
    # Opened as if to be written, for the lock: what a child stands on must not change.
    base = open_image(files, parent, writable=True)
    try:
        write_differencing(
            files,
            name,
            base=base,
            named_parent=named_parent or parent,
            world=world,
            size_bytes=size_bytes,
        )
        files.rename(name + NEW_SUFFIX, name)
        files.sync()
    finally:
        base.close()


def write_differencing(
    files: Files,
    name: str,
    *,
    base: Image,
    named_parent: str,
    world: World,
    size_bytes: int | None = None,
) -> None:
    """Make an empty disk on a parent and leave it under its new name, on the disk and whole."""
    size = base.size_bytes if size_bytes is None else size_bytes
    if size < base.size_bytes:
        raise Invalid(f"A disk on {base.name} has at least its {base.size_bytes} bytes.")
    block = base.header.block_bytes if base.header else BLOCK_BYTES
    header = Header(
        table_offset=FOOTER_BYTES + HEADER_BYTES,
        entries=-(-size // block),
        block_bytes=block,
        parent_uuid=base.footer.uuid,
        parent_timestamp_s=vhd_time(files.modified_s(base.name)),
        parent_name=named_parent,
    )
    footer = new_footer(DIFFERENCING, size, world)
    write_new(files, name, _metadata(footer, header, named_parent))


def new_footer(kind: int, size_bytes: int, world: World) -> Footer:
    """Make the footer of a new disk.

    Raises:
        Invalid: the size is not one that a VHD can have.
    """
    if not 0 < size_bytes <= SIZE_BYTES_MAX or size_bytes % SECTOR_BYTES:
        raise Invalid(f"A disk of {size_bytes} bytes is not whole sectors up to 2040 GiB.")
    return Footer(
        kind=kind,
        size_bytes=size_bytes,
        uuid=UUID(world.ids.uuid()),
        timestamp_s=vhd_time(world.clock.now()),
    )


def batmap_of(header: Header, table_end: int) -> bytes:
    """Give a batmap's header and an empty map, to be written behind a table."""
    length = _sectors_up(-(-header.entries // 8))
    nothing = 0xFFFFFFFF
    head = _BATMAP.pack(
        b"tdbatmap",
        table_end + SECTOR_BYTES,
        length // SECTOR_BYTES,
        _BATMAP_VERSION,
        nothing,
        0,
    )
    return head.ljust(SECTOR_BYTES, b"\0") + bytes(length)


def table_of(header: Header) -> bytes:
    """Give a table without a block, up to a whole sector."""
    return b"\xff" * _sectors_up(header.entries * 4)


@contextlib.contextmanager
def new_file(files: Files, name: str) -> Iterator[File]:
    """Give a file that is there under its name, whole, when the block ends; or not at all.

    Raises:
        Conflict: there is a file of that name, or another is making it.
    """
    if name in files.names():
        raise Conflict(f"{name} exists already.", kind="VhdExists")
    temporary = name + NEW_SUFFIX
    # What a crash left is nobody's. What another is writing is locked: without it under its name,
    # that other would give the whole one's name to our half.
    with contextlib.suppress(NotFound), contextlib.closing(files.open(temporary, writable=True)):
        files.unlink(temporary)
    file = files.open(temporary, create=True)
    try:
        yield file
        file.sync()
        files.rename(temporary, name)
        files.sync()
    except BaseException:
        files.unlink(temporary)
        raise
    finally:
        file.close()


def write_new(files: Files, name: str, parts: list[tuple[int, bytes]]) -> None:
    """Write a file's parts under its new name and bring them to the disk.

    Raises:
        Conflict: there is a file of that name.
    """
    temporary = name + NEW_SUFFIX
    with contextlib.suppress(NotFound):
        files.unlink(temporary)
    file: File = files.open(temporary, create=True)
    try:
        for offset, data in parts:
            file.write(offset, data)
        file.sync()
    finally:
        file.close()


def _write_whole(files: Files, name: str, parts: list[tuple[int, bytes]]) -> None:
    """Write a file that is there whole or not at all.

    Raises:
        Conflict: there is a file of that name.
    """
    if name in files.names():
        raise Conflict(f"{name} exists already.", kind="VhdExists")
    write_new(files, name, parts)
    files.rename(name + NEW_SUFFIX, name)
    files.sync()


def _metadata(footer: Footer, header: Header, parent: str) -> list[tuple[int, bytes]]:
    table = table_of(header)
    at = header.table_offset + len(table)
    batmap = batmap_of(header, at)
    locators, stored = place(parent, at + len(batmap)) if parent else ((), b"")
    head = replace(header, locators=locators).encode()
    whole = footer.encode() + head + table + batmap + stored + footer.encode()
    return [(0, whole)]


def _sectors_up(length_bytes: int) -> int:
    return -(-length_bytes // SECTOR_BYTES) * SECTOR_BYTES
