"""What a token holds, and how it is packed: only ids and times, so that it stays short.

Everything else (names, roles, the catalog) is read from the rows when a token is checked.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

ScopeKind = Literal["unscoped", "project", "domain", "system"]
#: Ways to sign in, in the order of their bits in a token.
METHODS = ("password", "token", "application_credential", "totp")
_SCOPES: tuple[ScopeKind, ...] = ("unscoped", "project", "domain", "system")
_FORMAT = 1
_HEX = re.compile(r"^[0-9a-f]{32}$")


class Payload(msgspec.Struct, frozen=True):
    """What one token says. Times are seconds since the epoch."""

    user_id: str
    #: The user's generation when it was issued; a later one voids it.
    generation: int
    methods: tuple[str, ...]
    issued_at: float
    expires_at: float
    #: Its own audit id, then that of the first token that it was made from.
    audit_ids: tuple[str, ...]
    scope: ScopeKind = "unscoped"
    #: The project's or domain's id.
    scope_id: str | None = None
    app_cred_id: str | None = None


def pack(payload: Payload) -> bytes:
    """Pack a payload."""
    bits = sum(1 << METHODS.index(method) for method in payload.methods)
    return msgspec.msgpack.encode(
        [
            _FORMAT,
            _squeeze(payload.user_id),
            payload.generation,
            bits,
            payload.issued_at,
            payload.expires_at,
            payload.audit_ids,
            _SCOPES.index(payload.scope),
            _squeeze(payload.scope_id),
            _squeeze(payload.app_cred_id),
        ]
    )


def unpack(packed: bytes) -> Payload | None:
    """Read a payload; None when it is of another format."""
    values = msgspec.msgpack.decode(packed)
    if not isinstance(values, list) or not values or values[0] != _FORMAT:
        return None
    _, user_id, generation, bits, issued_at, expires_at, audit_ids, scope, scope_id, app = values
    return Payload(
        user_id=str(_unfold(user_id)),
        generation=generation,
        methods=tuple(method for at, method in enumerate(METHODS) if bits >> at & 1),
        issued_at=issued_at,
        expires_at=expires_at,
        audit_ids=tuple(audit_ids),
        scope=_SCOPES[scope],
        scope_id=_unfold(scope_id),
        app_cred_id=_unfold(app),
    )


def _squeeze(text: str | None) -> Any:
    """Halve an id of hexadecimal digits; others (``default``) stay as they are."""
    return bytes.fromhex(text) if text is not None and _HEX.match(text) else text


def _unfold(value: Any) -> str | None:
    return value.hex() if isinstance(value, bytes) else value
