"""Packing of tokens: what goes in comes out, and stays short."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from xenith.core.clock import ManualClock
from xenith.identity.keys import TokenKeys
from xenith.identity.tokens import METHODS, Payload, pack, unpack

_IDS = st.one_of(st.uuids().map(lambda one: one.hex), st.text(max_size=64))
_TIMES = st.floats(0, 1e10, allow_nan=False)
PAYLOADS = st.builds(
    Payload,
    user_id=_IDS,
    generation=st.integers(1, 2**62),
    methods=st.sets(st.sampled_from(METHODS), min_size=1).map(
        lambda chosen: tuple(method for method in METHODS if method in chosen)
    ),
    issued_at=_TIMES,
    expires_at=_TIMES,
    audit_ids=st.lists(st.text(max_size=22), min_size=1, max_size=2).map(tuple),
    scope=st.sampled_from(("unscoped", "project", "domain", "system")),
    scope_id=st.none() | _IDS,
    app_cred_id=st.none() | _IDS,
)
KEYS = TokenKeys(None, ManualClock())


@given(PAYLOADS)
def test_what_is_packed_is_unpacked(payload):
    assert unpack(pack(payload)) == payload


@given(PAYLOADS)
def test_a_token_is_read_back_and_is_safe_in_a_header(payload):
    token = KEYS.encrypt(pack(payload))
    assert token.isascii()
    assert "=" not in token
    assert unpack(KEYS.decrypt(token)) == payload


@given(st.text(max_size=300))
def test_no_text_is_read_as_a_token(text):
    assert KEYS.decrypt(text) is None


@given(PAYLOADS, st.data())
def test_a_token_with_one_character_changed_is_none(payload, data):
    token = KEYS.encrypt(pack(payload))
    at = data.draw(st.integers(0, len(token) - 3))
    other = "A" if token[at] != "A" else "B"
    assert KEYS.decrypt(token[:at] + other + token[at + 1 :]) is None


def test_a_payload_of_another_format_is_none():
    assert unpack(msgspec.msgpack.encode([2, "x"])) is None
    assert unpack(msgspec.msgpack.encode("x")) is None


def test_a_usual_token_fits_in_two_hundred_and_fifty_five_characters():
    payload = Payload("a" * 32, 1, ("password", "token"), 1.7e9, 1.7e9, ("x" * 22, "y" * 22),
                      "project", "b" * 32)  # fmt: skip
    assert len(KEYS.encrypt(pack(payload))) < 255
