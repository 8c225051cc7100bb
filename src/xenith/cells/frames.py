"""A frame: one message between neighbours in one signed envelope.

The envelope says who speaks, to whom, in which of their runs, and where in the row of messages
this one stands; what that means is the link's affair, and the body is opaque here. Bytes come from
a broker that is not believed: whatever they are, ``decode`` gives a frame that its sender signed
for this receiver, or raises ``FrameRefused`` with a reason to count.

Layout, integers big-endian, offsets in bytes:

    0      4   magic, "XNFR"; no other thing that a cell signs begins so
    4      1   format, 1
    5      2   h, length of the header
    7      4   b, length of the body
    11     h   header: a msgpack map, see ``Header``; unknown fields pass
    11+h   b   body
    11+h+b 64  Ed25519 signature over all before
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, NamedTuple

import msgspec

from xenith.bus.port import MESSAGE_BYTES_MAX
from xenith.cells.keys import SIGNATURE_BYTES, CellKey, PublicKey
from xenith.core.errors import Invalid, TooLarge
from xenith.core.ids import CellId

#: A frame is one message of the bus.
FRAME_BYTES_MAX = MESSAGE_BYTES_MAX
#: Ours are below 400 bytes; the rest is room for the fields of later versions.
HEADER_BYTES_MAX = 4096
#: Characters of an id, a session or a kind; a UUID has 36.
HEADER_TEXT_MAX = 64

_MAGIC = b"XNFR"
_FORMAT = 1
_PREFIX = struct.Struct(">4sBHI")
_LEAST_BYTES = _PREFIX.size + SIGNATURE_BYTES
#: A body of up to this length always fits; who cuts batches cuts to it.
BODY_BYTES_MAX = FRAME_BYTES_MAX - HEADER_BYTES_MAX - _LEAST_BYTES

_Text = Annotated[str, msgspec.Meta(max_length=HEADER_TEXT_MAX)]
_Id = Annotated[CellId, msgspec.Meta(min_length=1, max_length=HEADER_TEXT_MAX)]


class Reason(StrEnum):
    """Why a frame was refused, for logs and counters."""

    #: Above the limit, or longer than it says itself.
    TOO_LONG = "too_long"
    TRUNCATED = "truncated"
    NOT_A_FRAME = "not_a_frame"
    NEWER_FORMAT = "newer_format"
    BAD_HEADER = "bad_header"
    NOT_FOR_US = "not_for_us"
    UNKNOWN_SENDER = "unknown_sender"
    REVOKED_SENDER = "revoked_sender"
    BAD_SIGNATURE = "bad_signature"


class FrameRefused(Invalid):
    """Bytes that are no frame for this cell from a cell that it knows."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message, reason=reason.value)
        self.reason = reason


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What the envelope says; all of it is signed."""

    sender: _Id
    receiver: _Id
    #: The sender's run: a random id, new with each start, so that old frames are told from new.
    session: _Text
    #: The receiver's run that this was meant for; empty in a hello, when it is not known yet.
    to_session: _Text
    #: Rises with each frame of a session.
    sequence: Annotated[int, msgspec.Meta(ge=0)]
    kind: _Text
    #: Seconds since the epoch by the sender's clock, which may be wrong.
    sent_at: float


class Frame(NamedTuple):
    """A frame that was checked."""

    header: Header
    body: bytes


_encoder = msgspec.msgpack.Encoder()
_header_decoder = msgspec.msgpack.Decoder(Header)


def encode(key: CellKey, header: Header, body: bytes) -> bytes:
    """Write and sign a frame.

    Raises:
        TooLarge: the body is above ``BODY_BYTES_MAX``.
    """
    if len(body) > BODY_BYTES_MAX:
        raise TooLarge(f"a {header.kind} of {len(body)} bytes is above {BODY_BYTES_MAX}: cut it")
    head = _encoder.encode(header)
    assert len(head) <= HEADER_BYTES_MAX, "a header of ours fits by the lengths of its fields"
    data = _PREFIX.pack(_MAGIC, _FORMAT, len(head), len(body)) + head + body
    return data + key.sign(data)


def decode(
    data: bytes,
    *,
    receiver: CellId,
    public_key_of: Callable[[CellId], PublicKey | None],
    is_revoked: Callable[[CellId], bool] | None = None,
) -> Frame:
    """Read a frame that was signed for this receiver; whatever the bytes, nothing else gets by.

    ``is_revoked`` tells, of a sender that has no key that counts, whether it had one once.

    Raises:
        FrameRefused: with the first reason found.
    """
    header_end, body_end = _extent(data)
    header = _header(data[_PREFIX.size : header_end])
    if header.receiver != receiver:
        raise FrameRefused(
            Reason.NOT_FOR_US, f"a frame for cell {header.receiver!r} came to {receiver!r}"
        )
    key = public_key_of(header.sender)
    if key is None:
        if is_revoked is not None and is_revoked(header.sender):
            raise FrameRefused(
                Reason.REVOKED_SENDER, f"the key of cell {header.sender!r} was revoked"
            )
        raise FrameRefused(
            Reason.UNKNOWN_SENDER, f"cell {header.sender!r} is not in the topology known here"
        )
    view = memoryview(data)
    if not key.verify(view[:body_end], view[body_end:]):
        raise FrameRefused(
            Reason.BAD_SIGNATURE,
            f"a frame in the name of cell {header.sender!r} is not signed with its key",
        )
    return Frame(header, data[header_end:body_end])


def _extent(data: bytes) -> tuple[int, int]:
    """Give the offsets where header and body end, held against the length of the data."""
    length = len(data)
    if length > FRAME_BYTES_MAX:
        raise FrameRefused(Reason.TOO_LONG, f"{length} bytes are above {FRAME_BYTES_MAX}")
    # A later format may be laid out otherwise: it is told by its first five bytes alone.
    if data[:4] != _MAGIC[:length]:
        raise FrameRefused(Reason.NOT_A_FRAME, "the bytes do not begin as a frame does")
    if length > 4 and data[4] != _FORMAT:
        if data[4] < _FORMAT:
            raise FrameRefused(Reason.NOT_A_FRAME, f"there never was a format {data[4]}")
        raise FrameRefused(
            Reason.NEWER_FORMAT, f"the frame has format {data[4]}, this program reads {_FORMAT}"
        )
    if length < _LEAST_BYTES:
        raise FrameRefused(Reason.TRUNCATED, f"{length} bytes are too few for a frame")
    _, _, header_length, body_length = _PREFIX.unpack_from(data)
    if header_length > HEADER_BYTES_MAX:
        raise FrameRefused(
            Reason.BAD_HEADER, f"a header of {header_length} bytes is above {HEADER_BYTES_MAX}"
        )
    expected = _LEAST_BYTES + header_length + body_length
    if length != expected:
        reason = Reason.TRUNCATED if length < expected else Reason.TOO_LONG
        raise FrameRefused(reason, f"the frame says {expected} bytes and has {length}")
    header_end = _PREFIX.size + header_length
    return header_end, header_end + body_length


def _header(head: bytes) -> Header:
    try:
        header = _header_decoder.decode(head)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise FrameRefused(Reason.BAD_HEADER, f"the header cannot be read: {error}") from error
    if not math.isfinite(header.sent_at):
        raise FrameRefused(Reason.BAD_HEADER, "the header's time is no number")
    return header
