"""What stands behind each piece of a disk: SHA-1 in older archives, XXH64 in newer ones.

Source: xen-api, stream_vdi.ml, ``.checksum`` and ``.xxhash``; both are read by hosts of today, and
the first by older ones too.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import struct
from collections.abc import Callable
from functools import cache

SHA1_SUFFIX = ".checksum"
XXH64_SUFFIX = ".xxhash"

#: Source: the xxHash specification 0.1.1, XXH64.
_P1, _P2, _P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P4, _P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_MASK = 2**64 - 1
_STRIPE_BYTES = 32


def sha1(data: bytes) -> str:
    """Give the SHA-1 of a piece, as ``.checksum`` holds it.

    >>> sha1(b"")
    'da39a3ee5e6b4b0d3255bfef95601890afd80709'
    """
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def xxh64(data: bytes) -> str:
    """Give the XXH64 of a piece, as ``.xxhash`` holds it.

    >>> xxh64(b""), xxh64(b"xenith")
    ('EF46DB3751D8E999', '5E2FA1B2438C06E1')
    """
    return f"{(_library() or xxh64_slowly)(data):016X}"


@cache
def _library() -> Callable[[bytes], int] | None:
    """Find the library, which each Debian has since ``apt`` needs it."""
    name = ctypes.util.find_library("xxhash")
    if name is None:
        return None
    function = ctypes.CDLL(name).XXH64
    function.restype = ctypes.c_uint64
    function.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64)
    return lambda data: int(function(data, len(data), 0))


def xxh64_slowly(data: bytes) -> int:
    """Give the XXH64 of a piece where there is no library: some ten megabytes a second."""
    size = len(data)
    whole = size - size % _STRIPE_BYTES
    hashed = _of_stripes(data, whole) if whole else _P5
    hashed = (hashed + size) & _MASK
    at = whole
    while at + 8 <= size:
        (lane,) = struct.unpack_from("<Q", data, at)
        hashed = (_rotated(hashed ^ _round(0, lane), 27) * _P1 + _P4) & _MASK
        at += 8
    if at + 4 <= size:
        (lane,) = struct.unpack_from("<I", data, at)
        hashed = (_rotated(hashed ^ (lane * _P1 & _MASK), 23) * _P2 + _P3) & _MASK
        at += 4
    for byte in data[at:]:
        hashed = _rotated(hashed ^ (byte * _P5 & _MASK), 11) * _P1 & _MASK
    hashed = (hashed ^ hashed >> 33) * _P2 & _MASK
    hashed = (hashed ^ hashed >> 29) * _P3 & _MASK
    return hashed ^ hashed >> 32


def _of_stripes(data: bytes, whole: int) -> int:
    a, b, c, d = (_P1 + _P2) & _MASK, _P2, 0, -_P1 & _MASK
    for lanes in struct.iter_unpack("<4Q", memoryview(data)[:whole]):
        a, b = _round(a, lanes[0]), _round(b, lanes[1])
        c, d = _round(c, lanes[2]), _round(d, lanes[3])
    hashed = _rotated(a, 1) + _rotated(b, 7) + _rotated(c, 12) + _rotated(d, 18)
    for each in (a, b, c, d):
        hashed = ((hashed ^ _round(0, each)) * _P1 + _P4) & _MASK
    return hashed & _MASK


def _round(accumulated: int, lane: int) -> int:
    return _rotated((accumulated + lane * _P2) & _MASK, 31) * _P1 & _MASK


def _rotated(number: int, by: int) -> int:
    return (number << by | number >> 64 - by) & _MASK
