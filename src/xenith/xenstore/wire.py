"""Frames as they are on the wire.

    0   u32  operation
    4   u32  request id, echoed in the answer
    8   u32  transaction id, 0 outside of one
    12  u32  length of the payload that follows, at most 4096

All little-endian. A payload is texts that end in a zero byte, with raw bytes last where an
operation carries a value.

Source: xen, docs/misc/xenstore.txt and xen/include/public/io/xs_wire.h.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from xenith.xenstore.errors import ProtocolError

HEADER = struct.Struct("<IIII")
#: Bytes of a payload, either way. Source: XENSTORE_PAYLOAD_MAX.
PAYLOAD_BYTES_MAX = 4096
#: Bytes of a path, without ``/local/domain/<domid>/`` where it begins so.
#: Source: XENSTORE_REL_PATH_MAX.
RELATIVE_PATH_BYTES_MAX = 2048
OK = b"OK\0"


class Op(IntEnum):
    """Operations by number. 20 was taken back and is not used again."""

    CONTROL = 0
    DIRECTORY = 1
    READ = 2
    GET_PERMS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    INTRODUCE = 8
    RELEASE = 9
    GET_DOMAIN_PATH = 10
    WRITE = 11
    MKDIR = 12
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16
    IS_DOMAIN_INTRODUCED = 17
    RESUME = 18
    SET_TARGET = 19
    RESET_WATCHES = 21
    DIRECTORY_PART = 22


class Header(NamedTuple):
    """What comes before a payload; ``op`` may be a number that no operation has."""

    op: int
    request_id: int
    transaction_id: int
    size_bytes: int


class Frame(NamedTuple):
    """One message."""

    op: int
    request_id: int
    transaction_id: int
    payload: bytes

    def encode(self) -> bytes:
        """Give the bytes on the wire."""
        assert len(self.payload) <= PAYLOAD_BYTES_MAX, "a payload that no one may send"
        head = HEADER.pack(self.op, self.request_id, self.transaction_id, len(self.payload))
        return head + self.payload


def decode_header(data: bytes) -> Header:
    """Read a header of 16 bytes.

    Raises:
        ProtocolError: more is announced than may be sent.
    """
    header = Header(*HEADER.unpack(data))
    if header.size_bytes > PAYLOAD_BYTES_MAX:
        raise ProtocolError(f"a payload of {header.size_bytes} bytes is announced")
    return header


def texts(payload: bytes) -> list[bytes]:
    """Give the texts of a payload; what follows the last zero byte is none."""
    return payload.split(b"\0")[:-1]


def join(*parts: bytes) -> bytes:
    """Make a payload of texts."""
    return b"".join(part + b"\0" for part in parts)
