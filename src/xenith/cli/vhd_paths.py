"""What the commands on disks are given: a file of a repository, a size, a format by its suffix."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from xenith.core.errors import Invalid
from xenith.core.units import GIB, MIB
from xenith.vhd.files import Directory

_UNITS = {"": 1, "K": 1024, "M": MIB, "G": GIB}


def size_in_bytes(size: str) -> int:
    """Read a size with a unit.

    >>> size_in_bytes("2G"), size_in_bytes("512")
    (2147483648, 512)
    """
    unit = size[-1:].upper() if size[-1:].isalpha() else ""
    number = size[: len(size) - len(unit)]
    if unit not in _UNITS or not number.isdecimal():
        raise Invalid(f"{size} is no size: a number with K, M or G.")
    return int(number) * _UNITS[unit]


@contextlib.contextmanager
def repository(path: Path) -> Iterator[Directory]:
    """Hold the directory of a file open."""
    files = Directory(path.absolute().parent)
    try:
        yield files
    finally:
        files.close()
