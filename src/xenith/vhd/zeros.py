"""Zeros are found by comparing with zeros, which stops at the first byte that is none.

Only ``bytes`` compare as memory does: two memoryviews are compared item by item, a hundred times
slower, so what begins with zeros is copied before it is compared, a granule at a time.
"""

from __future__ import annotations

from xenith.vhd.files import Bytes

#: What a hole is looked for in: large beside a call's cost, small beside a block.
GRANULE_BYTES = 64 * 1024
_ZEROS = bytes(GRANULE_BYTES)
_GLANCE_BYTES = 64


def is_zero(data: Bytes) -> bool:
    r"""Tell whether all bytes are zero.

    >>> is_zero(bytes(100_000)), is_zero(bytes(100_000) + b"\1")
    (True, False)
    """
    view = memoryview(data)
    return all(_is_zero(view[at : at + GRANULE_BYTES]) for at in range(0, len(view), GRANULE_BYTES))


def data_runs(data: Bytes) -> list[tuple[int, int]]:
    r"""List the runs of granules that are not all zero, as pairs of begin and end.

    >>> data_runs(bytes(65536) + b"\1"), data_runs(b"\1" * 70_000), data_runs(b"")
    ([(65536, 65537)], [(0, 70000)], [])
    """
    view, runs = memoryview(data), list[tuple[int, int]]()
    for at in range(0, len(view), GRANULE_BYTES):
        end = min(at + GRANULE_BYTES, len(view))
        if _is_zero(view[at:end]):
            continue
        if runs and runs[-1][1] == at:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((at, end))
    return runs


def _is_zero(view: memoryview) -> bool:
    # A glance spares most data the copy.
    if bytes(view[:_GLANCE_BYTES]) != _ZEROS[: min(len(view), _GLANCE_BYTES)]:
        return False
    return bytes(view) == (_ZEROS if len(view) == GRANULE_BYTES else _ZEROS[: len(view)])
