"""Headers and tables are read back as written, from qemu-img too, and refused when unsound."""

import subprocess
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenith.core.errors import Invalid
from xenith.core.units import MIB
from xenith.vhd.footer import decode_footer
from xenith.vhd.header import ABSENT, ENTRIES_MAX, Header, Locator, decode_header, decode_table

BLOCK_SECTORS = 4097


def table_of(*entries, file_bytes=64 * MIB):
    header = Header(table_offset=1536, entries=len(entries))
    return decode_table(np.array(entries, ">u4").tobytes(), header, file_bytes=file_bytes)


def test_a_header_is_read_back_as_it_was_written():
    header = Header(
        table_offset=1536,
        entries=7,
        parent_uuid=UUID(int=5),
        parent_timestamp_s=9,
        parent_name="grüße.vhd",
        locators=(Locator(code=b"W2ru", space=512, length_bytes=22, offset=4096),),
    )
    assert decode_header(header.encode()) == header


def test_a_header_and_table_that_qemu_img_wrote_are_read(tmp_path):
    raw, path = tmp_path / "raw", tmp_path / "disk.vhd"
    raw.write_bytes(bytes(2 * MIB) + b"x" * 512 + bytes(6 * MIB - 512))
    options = ["-f", "raw", "-O", "vpc", "-o", "subformat=dynamic,force_size=on"]
    subprocess.run(["qemu-img", "convert", *options, raw, path], check=True)
    data = path.read_bytes()
    at = decode_footer(data[-512:]).data_offset
    header = decode_header(data[at : at + 1024])
    start = header.table_offset
    table = decode_table(data[start : start + header.entries * 4], header, file_bytes=len(data))
    assert header.block_bytes == 2 * MIB
    block = int(table[1]) * 512 + header.bitmap_bytes
    assert data[block : block + 512] == b"x" * 512
    assert table[0] == ABSENT


@pytest.mark.parametrize(
    "wrong",
    [
        {"entries": 0},
        {"entries": ENTRIES_MAX + 1},
        {"block_bytes": 3 * MIB},
        {"block_bytes": 1 << 31},
        {"table_offset": 1024},
        {"table_offset": 1537},
        {"parent_name": "x" * 257},
    ],
)
def test_a_header_outside_the_limits_is_not_written(wrong):
    with pytest.raises(Invalid):
        Header(**{"table_offset": 1536, "entries": 1, **wrong}).encode()


def test_blocks_side_by_side_in_any_order_are_sound():
    assert list(table_of(8 + BLOCK_SECTORS, ABSENT, 8)) == [8 + BLOCK_SECTORS, ABSENT, 8]


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ((8, 8), "overlap"),
        ((8, 7 + BLOCK_SECTORS), "overlap"),
        ((3,), "over its table"),
        ((ABSENT - 1,), "behind the end"),
    ],
)
def test_a_hostile_table_is_refused(entries, reason):
    with pytest.raises(Invalid, match=reason):
        table_of(*entries)


@given(at=st.integers(0, 1023), value=st.integers(1, 255))
def test_no_byte_changes_unseen(at, value):
    data = bytearray(Header(table_offset=1536, entries=1).encode())
    data[at] ^= value
    with pytest.raises(Invalid):
        decode_header(bytes(data))
