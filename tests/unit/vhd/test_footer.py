"""A footer is read back as it was written, as is one of qemu-img, and is refused when unsound."""

import struct
import subprocess
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from xenith.core.errors import Invalid
from xenith.core.units import GIB, MIB
from xenith.vhd.footer import (
    DIFFERENCING,
    DYNAMIC,
    FIXED,
    NO_OFFSET,
    SIZE_BYTES_MAX,
    Footer,
    checksum,
    decode_footer,
    geometry,
)

UUID_A = UUID("5b4c0b4e-6a67-4a7e-9c52-0f2f3ad4a001")


def resealed(data, at, value):
    changed = bytearray(data)
    changed[at : at + len(value)] = value
    struct.pack_into(">I", changed, 64, checksum(changed, 64))
    return bytes(changed)


@pytest.mark.parametrize("kind", [DYNAMIC, DIFFERENCING])
def test_a_footer_is_read_back_as_it_was_written(kind):
    footer = Footer(kind=kind, size_bytes=3 * MIB, original_bytes=2 * MIB, uuid=UUID_A, hidden=True)
    assert decode_footer(footer.encode()) == footer


def test_a_fixed_disk_has_no_header():
    footer = decode_footer(Footer(kind=FIXED, size_bytes=MIB, uuid=UUID_A).encode())
    assert footer.data_offset == NO_OFFSET


@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
def test_a_footer_that_qemu_img_wrote_is_read(tmp_path, kind):
    path = tmp_path / "disk.vhd"
    options = f"subformat={kind},force_size=on"
    command = ["qemu-img", "create", "-q", "-f", "vpc", "-o", options, path, str(8 * MIB)]
    subprocess.run(command, check=True)
    footer = decode_footer(path.read_bytes()[-512:])
    assert footer.size_bytes == 8 * MIB
    assert footer.kind == {"fixed": FIXED, "dynamic": DYNAMIC}[kind]


@pytest.mark.parametrize(
    ("size_bytes", "expected"),
    [
        (MIB, (30, 4, 17)),
        (GIB, (2080, 16, 63)),
        (SIZE_BYTES_MAX, (65535, 16, 255)),
    ],
)
def test_geometry_follows_the_appendix(size_bytes, expected):
    assert geometry(size_bytes) == expected


@pytest.mark.parametrize("size_bytes", [0, 513, SIZE_BYTES_MAX + 512])
def test_a_size_outside_the_limits_is_neither_written_nor_read(size_bytes):
    with pytest.raises(Invalid):
        Footer(kind=DYNAMIC, size_bytes=size_bytes, uuid=UUID_A).encode()
    sound = Footer(kind=DYNAMIC, size_bytes=MIB, uuid=UUID_A).encode()
    with pytest.raises(Invalid, match="2040 GiB"):
        decode_footer(resealed(sound, 48, struct.pack(">Q", size_bytes)))


def test_early_tapdisk_left_the_checksum_when_it_hid_a_disk():
    old = Footer(kind=DYNAMIC, size_bytes=MIB, uuid=UUID_A, creator_version=0x00010001)
    assert decode_footer(old.encode()[:85] + b"\1" + bytes(426)).hidden
    new = Footer(kind=DYNAMIC, size_bytes=MIB, uuid=UUID_A)
    with pytest.raises(Invalid, match="checksum"):
        decode_footer(new.encode()[:85] + b"\1" + bytes(426))


@given(at=st.integers(0, 511), value=st.integers(1, 255))
def test_no_byte_changes_unseen(at, value):
    data = bytearray(Footer(kind=DYNAMIC, size_bytes=MIB, uuid=UUID_A).encode())
    data[at] ^= value
    with pytest.raises(Invalid):
        decode_footer(bytes(data))


@given(st.binary(max_size=600))
@example(b"")
def test_any_bytes_are_read_or_refused_with_one_error(data):
    with pytest.raises(Invalid):
        decode_footer(data)
