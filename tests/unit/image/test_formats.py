"""What the check of formats makes of any bytes at all."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from xenith.core.errors import Invalid
from xenith.core.limits import IMAGE_BYTES_MAX
from xenith.image.formats import DISK_FORMATS, HEAD_BYTES, TAIL_BYTES, Inspector, detected

BEGINNINGS = [b"", b"QFI\xfb", b"conectix", b"KDMV", b"COWD", b"vhdxfile", b"# Disk DescriptorFile"]
ENDS = [b"", b"conectix" + bytes(504), b"conectix" + b"\xff" * 504]


def seen(disk_format, data, *, piece_bytes):
    inspector = Inspector(disk_format)
    for at in range(0, len(data), piece_bytes):
        inspector.see(data[at : at + piece_bytes])
    return inspector


ANYTHING = st.builds(
    lambda begin, middle, end: begin + middle + end,
    st.sampled_from(BEGINNINGS),
    st.binary(max_size=2000),
    st.sampled_from(ENDS),
)


@given(st.sampled_from(DISK_FORMATS), ANYTHING, st.integers(1, 3000))
def test_any_bytes_are_taken_with_a_size_in_bounds_or_are_invalid(name, data, piece_bytes):
    inspector = seen(name, data, piece_bytes=piece_bytes)
    assert inspector.size_bytes == len(data)
    with contextlib.suppress(Invalid):
        size = inspector.virtual_size_bytes()
        assert size is None or 0 <= size <= IMAGE_BYTES_MAX


@given(ANYTHING, st.integers(1, 3000))
def test_how_a_stream_is_cut_makes_no_difference(data, piece_bytes):
    whole = seen("raw", data, piece_bytes=len(data) or 1)
    cut = seen("raw", data, piece_bytes=piece_bytes)
    assert (cut._head, cut._tail) == (whole._head, whole._tail)
    assert detected(cut._head, cut._tail) == detected(whole._head, whole._tail)


def test_only_the_ends_are_kept_however_much_comes():
    inspector = Inspector("raw")
    for _ in range(64):
        inspector.see(bytes(HEAD_BYTES))
    assert len(inspector._head) == HEAD_BYTES
    assert len(inspector._tail) == TAIL_BYTES
    assert inspector.size_bytes == 64 * HEAD_BYTES
