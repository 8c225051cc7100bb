"""Writes small ISO 9660 images, with the Rock Ridge and Joliet names that guests need.

The plain standard knows only ``8.3`` upper-case names, so each directory is written twice: in the
primary tree with Rock Ridge (what Linux and the BSDs read) and in the Joliet tree (Windows).

    sectors of 2048 bytes
    0-15 unused │ 16 primary descriptor │ 17 Joliet descriptor │ 18 end │ path tables │
    directories of both trees │ files, one extent each, equal contents stored once

Pure; the same files always give the same bytes. Sizes are meant to be small: all is in memory.
Source: ECMA-119; Joliet Specification; Rock Ridge Interchange Protocol 1.12 over SUSP 1.12.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

SECTOR_BYTES = 2048
#: Where the descriptors begin. Source: ECMA-119 6.2.1.
_FIRST_DESCRIPTOR = 16
#: A Joliet name may have 64 characters, of two bytes each. Source: Joliet Specification.
NAME_CHARACTERS_MAX = 64
#: 2000-01-01 00:00:00 UTC, so that equal files give equal images.
_RECORD_TIME = bytes((100, 1, 1, 0, 0, 0, 0))
_DESCRIPTOR_TIME = b"2000010100000000\x00"
_NO_TIME = b"0" * 16 + b"\x00"
_DIRECTORY_MODE = 0o040555
_FILE_MODE = 0o100444
#: The number 1 in both byte orders: this volume of its set.
_ONE = b"\x01\x00\x00\x01"
_SELF, _PARENT = b"\x00", b"\x01"


@dataclass
class _Directory:
    """A directory of the tree; ``extent`` and ``size`` are per tree: primary, Joliet."""

    name: str
    number: int
    parent: _Directory | None
    directories: dict[str, _Directory] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    #: Each entry's name in a tree.
    identifiers: list[dict[str, bytes]] = field(default_factory=list)
    extents: list[int] = field(default_factory=lambda: [0, 0])
    sizes: list[int] = field(default_factory=lambda: [0, 0])

    @property
    def holder(self) -> _Directory:
        """The directory that holds this one; the root holds itself."""
        return self.parent or self


def build_iso9660(files: Mapping[str, bytes], *, label: str) -> bytes:
    r"""Build an image that holds ``files`` (paths with ``/``) under a volume label.

    Raises:
        ValueError: a name is empty, ``.``, ``..`` or longer than 64 characters.

    >>> image = build_iso9660({"a/b.json": b"{}"}, label="config-2")
    >>> image[16 * 2048 : 16 * 2048 + 6], len(image) % 2048
    (b'\x01CD001', 0)
    """
    directories = _tree(files)
    tables = [_sectors(len(_path_table(directories, tree, "<"))) for tree in (0, 1)]
    next_sector = _FIRST_DESCRIPTOR + 3 + 2 * (tables[0] + tables[1])
    for tree in (0, 1):
        for directory in directories:
            size = len(_content(directory, tree, {}))
            directory.extents[tree] = next_sector
            directory.sizes[tree] = size
            next_sector += _sectors(size)
    extents: dict[bytes, int] = {}
    for directory in directories:
        for content in directory.files.values():
            if content not in extents:
                extents[content] = next_sector
                next_sector += _sectors(len(content))

    parts = [bytes(_FIRST_DESCRIPTOR * SECTOR_BYTES)]
    table_sector = _FIRST_DESCRIPTOR + 3
    for tree in (0, 1):
        table_bytes = len(_path_table(directories, tree, "<"))
        parts.append(
            _descriptor(
                tree,
                label=label,
                sector_count=next_sector,
                table=(table_bytes, table_sector, table_sector + tables[tree]),
                root=_record(directories[0], _SELF, tree),
            )
        )
        table_sector += 2 * tables[tree]
    parts.append(_padded(b"\xffCD001\x01"))
    for tree in (0, 1):
        parts.extend(_padded(_path_table(directories, tree, order)) for order in "<>")
    for tree in (0, 1):
        parts.extend(_content(directory, tree, extents) for directory in directories)
    parts.extend(_padded(content) for content in extents)
    return b"".join(parts)


def _tree(files: Mapping[str, bytes]) -> list[_Directory]:
    """Make the directories, in the order of the path table: by depth, then holder, then name."""
    root = _Directory("", 1, None)
    for path in sorted(files):
        *holders, name = path.split("/")
        directory = root
        for part in holders:
            _check(part)
            directory = directory.directories.setdefault(part, _Directory(part, 0, directory))
        _check(name)
        directory.files[name] = files[path]
    ordered = [root]
    for directory in ordered:  # grows while it is walked: breadth first
        ordered.extend(directory.directories[name] for name in sorted(directory.directories))
    for number, directory in enumerate(ordered, start=1):
        directory.number = number
        directory.identifiers = [_identifiers(directory, tree) for tree in (0, 1)]
    return ordered


def _check(name: str) -> None:
    if not 0 < len(name) <= NAME_CHARACTERS_MAX or name in (".", ".."):
        raise ValueError(f"{name[:80]!r} cannot be a name in an ISO image")


def _content(directory: _Directory, tree: int, extents: Mapping[bytes, int]) -> bytes:
    """Give a directory's bytes; with no extents known yet, only their number is right."""
    records = [
        _record(directory, _SELF, tree),
        _record(directory.holder, _PARENT, tree),
    ]
    names = directory.identifiers[tree]
    entries = sorted([*directory.directories, *directory.files], key=names.__getitem__)
    for name in entries:
        child = directory.directories.get(name)
        if child is not None:
            records.append(_record(child, names[name], tree, name=name))
        else:
            content = directory.files[name]
            # An empty file has no extent; any valid sector will do.
            where = (extents.get(content, 0), len(content))
            records.append(_file_record(names[name], tree, where, name=name))
    content_bytes = b""
    for record in records:
        room = -len(content_bytes) % SECTOR_BYTES
        if len(record) > room > 0:  # a record never crosses a sector
            content_bytes += bytes(room)
        content_bytes += record
    return _padded(content_bytes)


def _identifiers(directory: _Directory, tree: int) -> dict[str, bytes]:
    """Give each entry its name in a tree; the primary's are numbered, Rock Ridge has the real."""
    if tree == 1:
        return {
            name: (name if name in directory.directories else name + ";1").encode("utf-16-be")
            for name in (*directory.directories, *directory.files)
        }
    entries = sorted([*directory.directories, *directory.files])
    return {
        name: f"D{number:07d}".encode()
        if name in directory.directories
        else f"F{number:07d}.;1".encode()
        for number, name in enumerate(entries)
    }


def _record(directory: _Directory, identifier: bytes, tree: int, *, name: str = "") -> bytes:
    system_use = b""
    if tree == 0:
        # Links: itself from its holder, its own ".", and ".." of each directory in it.
        links = 2 + len(directory.directories)
        system_use = _posix(_DIRECTORY_MODE, links) + _name(name)
        if identifier == _SELF and directory.number == 1:
            system_use = _ROOT_MARK + system_use + _EXTENSION
    where = (directory.extents[tree], directory.sizes[tree])
    return _directory_record(identifier, where, system_use, flags=2)


def _file_record(identifier: bytes, tree: int, where: tuple[int, int], *, name: str) -> bytes:
    system_use = _posix(_FILE_MODE, 1) + _name(name) if tree == 0 else b""
    return _directory_record(identifier, where, system_use, flags=0)


def _directory_record(
    identifier: bytes, where: tuple[int, int], system_use: bytes, *, flags: int
) -> bytes:
    """Source: ECMA-119 9.1."""
    padding = b"" if len(identifier) % 2 else b"\x00"
    length = 33 + len(identifier) + len(padding) + len(system_use)
    odd = length % 2
    return b"".join(
        (
            bytes((length + odd, 0)),
            _both32(where[0]),
            _both32(where[1]),
            _RECORD_TIME,
            bytes((flags, 0, 0)),
            _ONE,
            bytes((len(identifier),)),
            identifier,
            padding,
            system_use,
            bytes(odd),
        )
    )


@cache
def _posix(mode: int, links: int) -> bytes:
    """PX: mode, links, owner, group, serial number."""
    return b"PX\x2c\x01" + b"".join(map(_both32, (mode, links, 0, 0, 0)))


def _name(name: str) -> bytes:
    """NM: the real name."""
    if not name:
        return b""
    encoded = name.encode()
    return b"NM" + bytes((5 + len(encoded), 1, 0)) + encoded


#: SP: SUSP is in use. It must be the first entry of the root's own record.
_ROOT_MARK = b"SP\x07\x01\xbe\xef\x00"
#: ER: which protocol the entries are of. The identifier alone is what readers look for.
_EXTENSION = b"ER" + bytes((8 + 10, 1, 10, 0, 0, 1)) + b"RRIP_1991A"


def _path_table(directories: list[_Directory], tree: int, order: str) -> bytes:
    """Source: ECMA-119 9.4."""
    entries: list[bytes] = []
    for directory in directories:
        if directory.parent is None:
            identifier = _SELF
        else:
            identifier = directory.parent.identifiers[tree][directory.name]
        entries.append(
            struct.pack(
                f"{order}BBIH", len(identifier), 0, directory.extents[tree], directory.holder.number
            )
            + identifier
            + bytes(len(identifier) % 2)
        )
    return b"".join(entries)


def _descriptor(
    tree: int, *, label: str, sector_count: int, table: tuple[int, int, int], root: bytes
) -> bytes:
    """Give a volume descriptor. Source: ECMA-119 8.4 and 8.5; Joliet's escape sequence."""
    table_bytes, little, big = table

    def text(value: str, length: int) -> bytes:
        if tree == 1:
            return value.encode("utf-16-be")[:length].ljust(length, b"\x00")
        return value.encode("ascii", "replace")[:length].ljust(length, b" ")

    # The root's record in a descriptor is 34 bytes, without extensions.
    root = bytes((34,)) + root[1:34]
    return _padded(
        b"".join(
            (
                bytes((1 + tree,)) + b"CD001\x01\x00",
                text("LINUX", 32),
                text(label, 32),
                bytes(8),
                _both32(sector_count),
                b"%/E".ljust(32, b"\x00") if tree == 1 else bytes(32),
                _both16(1),
                _both16(1),
                _both16(SECTOR_BYTES),
                _both32(table_bytes),
                struct.pack("<II", little, 0),
                struct.pack(">II", big, 0),
                root,
                text("", 128) * 4,
                text("", 37) * 3,
                _DESCRIPTOR_TIME * 2,
                _NO_TIME * 2,
                b"\x01\x00",
            )
        )
    )


def _both16(value: int) -> bytes:
    return value.to_bytes(2, "little") + value.to_bytes(2, "big")


def _both32(value: int) -> bytes:
    return value.to_bytes(4, "little") + value.to_bytes(4, "big")


def _sectors(size: int) -> int:
    return -(-size // SECTOR_BYTES)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % SECTOR_BYTES)
