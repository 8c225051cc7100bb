"""A VHD's footer, and the geometry and checksum that it holds.

The reader is strict: bytes that do not make one sound footer are refused with one error.
Source: Virtual Hard Disk Image Format Specification 1.0, and blktap's ``vhd.h`` for ``hidden``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from xenith.core.errors import Invalid
from xenith.core.units import GIB

SECTOR_BYTES = 512
FOOTER_BYTES = 512
#: The largest disk that storage managers make. Source: sm's ``vhdutil.py``.
SIZE_BYTES_MAX = 2040 * GIB
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
#: Where a fixed disk's footer says that no header follows.
NO_OFFSET = 0xFFFFFFFFFFFFFFFF
#: Seconds from the Unix epoch to the one that VHD counts from.
EPOCH_S = 946684800

_LAYOUT = struct.Struct(">8sIIQI4sI4sQQHBBII16sBB426x")
_COOKIE = b"conectix"
_VERSION = 0x00010000
_FEATURES = 0x00000002
_CHECKSUM_AT = 64
_HIDDEN_AT = 85
#: Versions of tapdisk that set ``hidden`` and left the checksum as it was.
_STALE_CHECKSUM_VERSIONS = (0x00000001, 0x00010001)


def refuse(message: str) -> Invalid:
    """Name what is wrong with a file, in the one error that this room raises for bad bytes."""
    return Invalid(f"This is no sound VHD: {message}.", kind="VhdInvalid")


def checksum(data: bytes | bytearray, at: int) -> int:
    r"""Sum the bytes with the four at ``at`` left out, and return the ones' complement.

    >>> hex(checksum(b"\x01\xff\xff\xff\xff", 1))
    '0xfffffffe'
    """
    return ~(sum(data) - sum(data[at : at + 4])) & 0xFFFFFFFF


def geometry(size_bytes: int) -> tuple[int, int, int]:
    """Return cylinders, heads and sectors per track for a size, as the format's appendix has it.

    >>> geometry(1024 * 1024 * 1024)
    (2080, 16, 63)
    """
    sectors = min(-(-size_bytes // SECTOR_BYTES), 65535 * 16 * 255)
    if sectors >= 65535 * 16 * 63:
        return sectors // 255 // 16, 16, 255
    tracks = sectors // 17
    heads, per_track = max(4, -(-tracks // 1024)), 17
    if tracks >= heads * 1024 or heads > 16:
        heads, per_track = 16, 31
        tracks = sectors // per_track
    if tracks >= heads * 1024:
        heads, per_track = 16, 63
        tracks = sectors // per_track
    return tracks // heads, heads, per_track


@dataclass(frozen=True, kw_only=True)
class Footer:
    """What a footer says; ``timestamp_s`` counts from 2000."""

    kind: int
    size_bytes: int
    uuid: UUID
    timestamp_s: int = 0
    original_bytes: int = 0
    data_offset: int = FOOTER_BYTES
    creator: bytes = b"tap\0"
    creator_version: int = 0x00010003
    creator_os: bytes = b"\0\0\0\0"
    features: int = _FEATURES
    saved_state: int = 0
    hidden: bool = False

    def encode(self) -> bytes:
        """Return the 512 bytes, their checksum in place."""
        _check(self)
        offset = NO_OFFSET if self.kind == FIXED else self.data_offset
        data = bytearray(
            _LAYOUT.pack(
                _COOKIE,
                self.features,
                _VERSION,
                offset,
                self.timestamp_s,
                self.creator,
                self.creator_version,
                self.creator_os,
                self.original_bytes or self.size_bytes,
                self.size_bytes,
                *geometry(self.size_bytes),
                self.kind,
                0,
                self.uuid.bytes,
                self.saved_state,
                int(self.hidden),
            )
        )
        struct.pack_into(">I", data, _CHECKSUM_AT, checksum(data, _CHECKSUM_AT))
        return bytes(data)


def decode_footer(data: bytes) -> Footer:
    """Read 512 bytes as a footer, or refuse them."""
    if len(data) != FOOTER_BYTES:
        raise refuse(f"its footer has {len(data)} bytes, not {FOOTER_BYTES}")
    (cookie, features, version, offset, stamp, creator, creator_version, creator_os) = (
        _LAYOUT.unpack(data)[:8]
    )
    (original, size, _, _, _, kind, told, uuid, saved, hidden) = _LAYOUT.unpack(data)[8:]
    if cookie != _COOKIE:
        raise refuse("its footer does not begin with 'conectix'")
    if version != _VERSION:
        raise refuse(f"its version {version:#x} is not 1.0")
    _check_sum(data, told, creator_version if creator == b"tap\0" else None)
    if hidden > 1:
        raise refuse(f"its hidden flag is {hidden}")
    footer = Footer(
        kind=kind,
        size_bytes=size,
        uuid=UUID(bytes=uuid),
        timestamp_s=stamp,
        original_bytes=original,
        data_offset=offset,
        creator=creator,
        creator_version=creator_version,
        creator_os=creator_os,
        features=features,
        saved_state=saved,
        hidden=bool(hidden),
    )
    _check(footer)
    return footer


def _check_sum(data: bytes, told: int, tapdisk_version: int | None) -> None:
    counted = checksum(data, _CHECKSUM_AT)
    if told == counted:
        return
    shown = data[:_HIDDEN_AT] + b"\0" + data[_HIDDEN_AT + 1 :]
    stale = tapdisk_version in _STALE_CHECKSUM_VERSIONS
    if not (stale and told == checksum(shown, _CHECKSUM_AT)):
        raise refuse(f"its footer's checksum is {told:#x}, and its bytes make {counted:#x}")


def _check(footer: Footer) -> None:
    if footer.kind not in {FIXED, DYNAMIC, DIFFERENCING}:
        raise refuse(f"its type {footer.kind} is not fixed, dynamic or differencing")
    size = footer.size_bytes
    if not 0 < size <= SIZE_BYTES_MAX or size % SECTOR_BYTES:
        raise refuse(f"its size of {size} bytes is not whole sectors up to 2040 GiB")
    if footer.kind != FIXED and not FOOTER_BYTES <= footer.data_offset < 1 << 63:
        raise refuse(f"its header at {footer.data_offset} is not behind the footer's copy")
