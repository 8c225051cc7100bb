"""Whatever bytes a broker hands over: a frame that its sender signed for us, or a named refusal."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenith.bus.port import MESSAGE_BYTES_MAX
from xenith.cells import frames
from xenith.cells.frames import (
    BODY_BYTES_MAX,
    FRAME_BYTES_MAX,
    HEADER_BYTES_MAX,
    FrameRefused,
    Header,
    Reason,
)
from xenith.cells.keys import CellKey, PublicKey
from xenith.core.errors import Invalid, TooLarge
from xenith.core.ids import CellId

PARENT, CHILD, STRANGER, GONE = (CellId(name) for name in ("parent", "child", "stranger", "gone"))
KEYS = {name: CellKey.derive(name.encode()) for name in (PARENT, CHILD, STRANGER, GONE)}
HEADER = Header(
    sender=PARENT,
    receiver=CHILD,
    session="s1",
    to_session="s2",
    sequence=7,
    kind="intent",
    sent_at=1_700_000_000.5,
)


def public_key_of(cell_id: CellId) -> PublicKey | None:
    return KEYS[cell_id].public if cell_id in (PARENT, CHILD) else None


def decode(data: bytes) -> frames.Frame:
    return frames.decode(
        data, receiver=CHILD, public_key_of=public_key_of, is_revoked=lambda cell: cell == GONE
    )


def reason_of(data: bytes) -> Reason:
    with pytest.raises(FrameRefused) as refused:
        decode(data)
    assert refused.value.fields["reason"] == refused.value.reason
    assert refused.value.message
    return refused.value.reason


def outcome(data: bytes) -> Header | Reason:
    """Tell what a decoder may do: give a header, or a reason. Anything else fails the test."""
    try:
        return decode(data).header
    except FrameRefused as refused:
        return refused.reason


def signed(head: bytes, body: bytes = b"body", *, key: CellKey = KEYS[PARENT]) -> bytes:
    """Write a frame around any header, truly signed: a neighbour may be of any version, or evil."""
    data = struct.pack(">4sBHI", b"XNFR", 1, len(head), len(body)) + head + body
    return data + key.sign(data)


def head_with(**fields: Any) -> bytes:
    return msgspec.msgpack.encode({**msgspec.to_builtins(HEADER), **fields})


GOOD = frames.encode(KEYS[PARENT], HEADER, b"body")


def test_a_frame_comes_out_as_it_went_in():
    assert decode(GOOD) == (HEADER, b"body")


def test_the_layout_is_what_the_documentation_says():
    assert signed(msgspec.msgpack.encode(HEADER)) == GOOD


@given(
    body=st.binary(max_size=2000),
    sequence=st.integers(0, 2**63 - 1),
    kind=st.text(max_size=64),
    sent_at=st.floats(allow_nan=False, allow_infinity=False),
)
def test_any_message_comes_out_as_it_went_in(body, sequence, kind, sent_at):
    header = msgspec.structs.replace(HEADER, sequence=sequence, kind=kind, sent_at=sent_at)
    assert decode(frames.encode(KEYS[PARENT], header, body)) == (header, body)


def test_a_hello_says_no_session_of_the_receiver():
    header = msgspec.structs.replace(HEADER, to_session="")
    assert decode(frames.encode(KEYS[PARENT], header, b"")) == (header, b"")


def test_the_largest_body_fits_a_message_of_the_bus_and_a_larger_one_is_refused():
    body = bytes(BODY_BYTES_MAX)
    data = frames.encode(KEYS[PARENT], HEADER, body)
    assert len(data) <= FRAME_BYTES_MAX <= MESSAGE_BYTES_MAX
    assert decode(data).body == body
    with pytest.raises(TooLarge, match="cut it"):
        frames.encode(KEYS[PARENT], HEADER, body + b"x")


def test_the_largest_header_that_passes_fits_the_limit():
    text = "\N{MUSICAL SYMBOL G CLEF}" * 64
    header = Header(
        sender=CellId(text),
        receiver=CellId(text),
        session=text,
        to_session=text,
        sequence=2**63 - 1,
        kind=text,
        sent_at=1e300,
    )
    data = frames.encode(KEYS[PARENT], header, bytes(BODY_BYTES_MAX))
    assert len(data) <= FRAME_BYTES_MAX
    frame = frames.decode(data, receiver=CellId(text), public_key_of=lambda _: KEYS[PARENT].public)
    assert frame.header == header


def test_every_truncation_is_refused():
    reasons = {reason_of(GOOD[:length]) for length in range(len(GOOD))}
    assert reasons == {Reason.TRUNCATED}


def test_every_flip_of_a_byte_is_refused():
    reasons = set()
    for at in range(len(GOOD)):
        for flip in (0x01, 0x80, 0xFF):
            data = bytearray(GOOD)
            data[at] ^= flip
            reasons.add(reason_of(bytes(data)))
    assert Reason.BAD_SIGNATURE in reasons
    assert reasons >= {Reason.NOT_A_FRAME, Reason.NEWER_FORMAT, Reason.TRUNCATED, Reason.BAD_HEADER}


@given(data=st.binary(max_size=400))
def test_random_bytes_are_refused(data):
    assert reason_of(data) in {Reason.NOT_A_FRAME, Reason.TRUNCATED}


@given(data=st.binary(max_size=400), length=st.none() | st.integers(0, 2**16 - 1))
def test_random_bytes_after_a_good_beginning_are_refused(data, length):
    prefix = b"XNFR\x01" if length is None else b"XNFR\x01" + length.to_bytes(2, "big")
    assert reason_of(prefix + data) in set(Reason) - {Reason.NOT_A_FRAME}


@given(head=st.binary(max_size=200))
def test_random_headers_are_refused_though_signed(head):
    assert reason_of(signed(head)) == Reason.BAD_HEADER


# What msgpack can say, with lengths and types that lie more often than random bytes do.
_MSGPACK_LIES = st.lists(
    st.sampled_from(
        [
            bytes([lead]) + tail
            for lead in (*range(0xC0, 0xE0), 0x81, 0x8F, 0x91, 0x9F, 0xA1, 0xBF, 0x00, 0xFF)
            for tail in (b"", b"\xff\xff\xff\xff", b"\x00\x00\x00\x01", b"\xff" * 9)
        ]
    )
    | st.sampled_from([msgspec.msgpack.encode(name) for name in Header.__struct_fields__]),
    max_size=12,
).map(b"".join)


@given(head=_MSGPACK_LIES)
def test_msgpack_that_lies_is_refused_though_signed(head):
    count = bytes([0x80 | 7])
    for lie in (head, count + head, b"\xdf\xff\xff\xff\xff" + head):
        assert reason_of(signed(lie)) == Reason.BAD_HEADER


@pytest.mark.parametrize(
    ("head_length", "body_length", "reason"),
    [
        (0xFFFF, 0, Reason.BAD_HEADER),
        (HEADER_BYTES_MAX + 1, 0, Reason.BAD_HEADER),
        (HEADER_BYTES_MAX, 0, Reason.TRUNCATED),
        (10, 0xFFFFFFFF, Reason.TRUNCATED),
        (0, 0, Reason.TOO_LONG),
    ],
)
def test_lengths_that_lie_are_refused(head_length, body_length, reason):
    data = struct.pack(">4sBHI", b"XNFR", 1, head_length, body_length) + GOOD[11:]
    assert reason_of(data) == reason


def test_bytes_moved_between_header_and_body_are_refused():
    _, _, head_length, body_length = struct.unpack_from(">4sBHI", GOOD)
    moved = struct.pack(">4sBHI", b"XNFR", 1, head_length + 1, body_length - 1)
    assert reason_of(moved + GOOD[11:]) == Reason.BAD_HEADER


@pytest.mark.parametrize("depth", [600, HEADER_BYTES_MAX - 400])
@pytest.mark.parametrize("lead", [b"\x91", b"\x81\xa1a"])
def test_deep_nesting_is_refused_and_overflows_nothing(depth, lead):
    known = msgspec.msgpack.encode(HEADER)
    nested = bytes([known[0] + 1]) + known[1:] + b"\xa3new" + lead * (depth // len(lead)) + b"\xc0"
    # How deep the decoder goes is its own affair; up to there an unknown field passes.
    assert outcome(signed(nested)) in {HEADER, Reason.BAD_HEADER}


def test_a_frame_above_the_limit_is_refused_before_it_is_read():
    assert reason_of(bytes(FRAME_BYTES_MAX + 1)) == Reason.TOO_LONG
    assert reason_of(GOOD + b"x") == Reason.TOO_LONG


def test_a_newer_format_is_told_even_when_it_is_laid_out_otherwise():
    assert reason_of(b"XNFR\x02") == Reason.NEWER_FORMAT
    assert reason_of(b"XNFR\xff whatever" * 10) == Reason.NEWER_FORMAT


def test_unknown_fields_of_a_header_pass():
    data = signed(head_with(added_later={"deep": [1, 2]}, another=None))
    assert decode(data) == (HEADER, b"body")


@pytest.mark.parametrize(
    "fields",
    [
        {"sequence": -1},
        {"sequence": "1"},
        {"sender": ""},
        {"sender": "x" * 65},
        {"sender": None},
        {"kind": "x" * 65},
        {"session": b"s1"},
        {"sent_at": float("nan")},
        {"sent_at": float("inf")},
        {"sent_at": "now"},
    ],
)
def test_a_header_with_a_field_out_of_range_is_refused(fields):
    assert reason_of(signed(head_with(**fields))) == Reason.BAD_HEADER


@pytest.mark.parametrize("field", Header.__struct_fields__)
def test_a_header_that_lacks_a_field_is_refused(field):
    fields = msgspec.to_builtins(HEADER)
    del fields[field]
    assert reason_of(signed(msgspec.msgpack.encode(fields))) == Reason.BAD_HEADER


def test_a_header_that_is_no_utf_8_is_refused():
    head = msgspec.msgpack.encode(HEADER).replace(b"intent", b"\xff" * 6)
    assert reason_of(signed(head)) == Reason.BAD_HEADER


def test_a_frame_for_another_cell_is_refused():
    assert reason_of(signed(head_with(receiver="other"))) == Reason.NOT_FOR_US


def test_a_frame_from_a_cell_that_is_not_known_is_refused():
    assert reason_of(signed(head_with(sender=STRANGER), key=KEYS[STRANGER])) == (
        Reason.UNKNOWN_SENDER
    )


def test_a_frame_from_a_cell_whose_key_was_revoked_is_refused():
    data = signed(head_with(sender=GONE), key=KEYS[GONE])
    assert reason_of(data) == Reason.REVOKED_SENDER
    with pytest.raises(FrameRefused) as refused:
        frames.decode(data, receiver=CHILD, public_key_of=public_key_of)
    assert refused.value.reason == Reason.UNKNOWN_SENDER


@given(sequence=st.integers(0, 3), kind=st.sampled_from(["", "hello"]), body=st.binary(max_size=9))
def test_a_known_cell_cannot_speak_in_the_name_of_another(sequence, kind, body):
    header = msgspec.structs.replace(HEADER, sequence=sequence, kind=kind, to_session="")
    assert reason_of(frames.encode(KEYS[CHILD], header, body)) == Reason.BAD_SIGNATURE


def test_a_signature_for_one_frame_does_not_pass_on_another():
    later = frames.encode(KEYS[PARENT], msgspec.structs.replace(HEADER, sequence=8), b"body")
    assert reason_of(later[:-64] + GOOD[-64:]) == Reason.BAD_SIGNATURE


def test_a_refusal_is_invalid_with_a_name_from_the_closed_set():
    assert issubclass(FrameRefused, Invalid)
    assert sorted(Reason) == [
        "bad_header",
        "bad_signature",
        "newer_format",
        "not_a_frame",
        "not_for_us",
        "revoked_sender",
        "too_long",
        "truncated",
        "unknown_sender",
    ]


def test_hostile_names_are_escaped_in_messages():
    with pytest.raises(FrameRefused) as refused:
        decode(signed(head_with(sender="\x1b[31m\nroot")))
    assert "\x1b" not in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.slow
@settings(max_examples=2000)
@given(
    cuts=st.lists(
        st.tuples(st.integers(0, len(GOOD)), st.integers(0, 8), st.binary(max_size=8)),
        min_size=1,
        max_size=4,
    )
)
def test_any_splice_of_a_good_frame_is_refused_unless_it_changed_nothing(cuts):
    data = GOOD
    for at, removed, added in cuts:
        data = data[:at] + added + data[at + removed :]
    if data == GOOD:
        assert decode(data) == (HEADER, b"body")
    else:
        assert reason_of(data) in set(Reason)
