"""Bodies into structs, and what is wrong with them in the words that clients know."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import msgspec

from xenith.core.errors import Invalid

_UNKNOWN = re.compile(r"^Object contains unknown field `(.+?)`(?: - at `(.+)`)?$", re.DOTALL)
_OTHER = re.compile(r"^(.*?)(?: - at `(.+)`)?$", re.DOTALL)


@lru_cache(maxsize=2048)
def _decoder(struct: type[Any]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(struct)


_plain = msgspec.json.Decoder()


def decode(body: bytes, struct: type[Any]) -> Any:
    """Decode and validate a JSON body.

    Raises:
        Invalid: it is no JSON, or not of the struct's form.
    """
    _refuse_nul(body)
    try:
        return _decoder(struct).decode(body)  # type: ignore[arg-type]
    except msgspec.ValidationError as error:
        raise Invalid(_worded(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"Malformed request body: {error}") from error


def decode_plain(body: bytes) -> Any:
    """Decode JSON of any form.

    Raises:
        Invalid: it is no JSON.
    """
    _refuse_nul(body)
    try:
        return _plain.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"Malformed request body: {error}") from error


def convert(value: Any, struct: type[Any]) -> Any:
    """Validate a decoded value.

    Raises:
        Invalid: it is not of the struct's form.
    """
    try:
        return msgspec.convert(value, struct)
    except msgspec.ValidationError as error:
        raise Invalid(_worded(str(error))) from error


def _refuse_nul(body: bytes) -> None:
    # PostgreSQL has no text with NUL in it, and no name or value needs one.
    if b"\\u0000" in body:
        raise Invalid("Malformed request body: a string contains a NUL character")


def _worded(message: str) -> str:
    unknown = _UNKNOWN.match(message)
    if unknown:
        where = f" at {_field(unknown[2])}" if unknown[2] else ""
        return f"Additional properties are not allowed ('{unknown[1]}' was unexpected){where}"
    other = _OTHER.match(message)
    assert other is not None
    if other[2]:
        return f"Invalid input for field/attribute {_field(other[2])}. {other[1]}"
    return f"Invalid input: {other[1]}"


def _field(path: str) -> str:
    return path.removeprefix("$.").removeprefix("$") or "body"
