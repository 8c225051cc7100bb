"""Sizes, in the units that their names end in."""

from __future__ import annotations

MIB = 1024 * 1024
GIB = 1024 * MIB


def gib_up(size_bytes: int) -> int:
    """Round a size up to whole GiB.

    >>> gib_up(1), gib_up(1073741824), gib_up(0)
    (1, 1, 0)
    """
    return -(-size_bytes // GIB)
