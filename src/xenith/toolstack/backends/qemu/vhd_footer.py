"""The footer of a VHD file: the little that must be known before one is let in.

A tenant's file is hostile: it is held to the specification here before qemu-img may read it, and
a differencing disk, which names another file as its parent, never gets that far.

Source: Microsoft, "Virtual Hard Disk Image Format Specification" 1.0, Hard Disk Footer Format;
all fields big-endian: cookie at 0, data offset at 16, current size at 48, disk type at 60,
checksum at 64.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from xenith.core.limits import IMAGE_BYTES_MAX

FOOTER_BYTES = 512
SECTOR_BYTES = 512
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
_CHECKSUM_AT = 64


class FooterError(ValueError):
    """The bytes are no footer that we take."""


class Footer(NamedTuple):
    """What a footer says."""

    disk_type: int
    size_bytes: int
    data_offset: int


def parse_footer(data: bytes) -> Footer:
    """Read a footer strictly.

    Raises:
        FooterError: it is not whole, its sums are wrong, or the disk is of a type not taken.
    """
    if len(data) != FOOTER_BYTES or not data.startswith(b"conectix"):
        raise FooterError("there is no VHD footer")
    (checksum,) = struct.unpack_from(">I", data, _CHECKSUM_AT)
    total = sum(data) - sum(data[_CHECKSUM_AT : _CHECKSUM_AT + 4])
    if checksum != ~total & 0xFFFFFFFF:
        raise FooterError("the VHD footer's checksum is wrong")
    (data_offset,) = struct.unpack_from(">Q", data, 16)
    (size_bytes,) = struct.unpack_from(">Q", data, 48)
    (disk_type,) = struct.unpack_from(">I", data, 60)
    if disk_type == DIFFERENCING:
        raise FooterError("a differencing VHD needs its parent; send a whole disk")
    if disk_type not in (FIXED, DYNAMIC):
        raise FooterError(f"VHD disk type {disk_type} is not known")
    if size_bytes % SECTOR_BYTES or not 0 < size_bytes <= IMAGE_BYTES_MAX:
        raise FooterError(f"a VHD of {size_bytes} bytes is not taken")
    return Footer(disk_type, size_bytes, data_offset)
