"""The bitmap of a block: which of its sectors are present, most significant bit first.

Bitmaps that are full or empty, as most are, are told by one comparison of bytes; only the others
are taken apart into runs.
"""

from __future__ import annotations

import numpy as np

#: Each byte with its bits the other way round: what tapdisk 0.1 wrote.
REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def set_runs(bits: bytes | bytearray, first: int, end: int) -> list[tuple[int, int]]:
    r"""List the runs of present sectors in [first, end) as pairs of begin and end.

    >>> set_runs(b"\x0f\x80", 0, 16), set_runs(b"\xff\xff", 3, 9), set_runs(b"\x00", 0, 8)
    ([(4, 9)], [(3, 9)], [])
    """
    low, high = first // 8, -(-end // 8)
    part = bits[low:high]
    if part.count(0xFF) == len(part):
        return [(first, end)]
    if part.count(0) == len(part):
        return []
    flags = np.unpackbits(np.frombuffer(part, np.uint8))[first - low * 8 : end - low * 8]
    # What np.diff with both ends would give, at a third of its cost.
    edges: list[int] = (np.flatnonzero(flags[1:] != flags[:-1]) + (first + 1)).tolist()
    if flags[0]:
        edges.insert(0, first)
    if flags[-1]:
        edges.append(end)
    return list(zip(edges[::2], edges[1::2], strict=True))


def set_range(bits: bytearray, first: int, end: int) -> bool:
    """Mark the sectors in [first, end) as present; tell whether that changed anything."""
    low, high = first // 8, -(-end // 8)
    width = (high - low) * 8
    mask = (1 << (end - first)) - 1 << (high * 8 - end)
    old = int.from_bytes(bits[low:high])
    new = old | mask
    if new == old:
        return False
    bits[low:high] = new.to_bytes(width // 8)
    return True
