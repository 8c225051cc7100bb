"""JSON-RPC 2.0 and 1.0 as XenAPI speaks them. Source: xapi's `jsonrpc` handler."""

from __future__ import annotations

from typing import Any

import msgspec

from xenith.xapi.faults import XapiFault
from xenith.xapi.xmlrpc import Int32


class Envelope(msgspec.Struct):
    """A request in either version."""

    method: str
    params: list[Any]
    id: str | int
    jsonrpc: str = ""


class _Error(msgspec.Struct):
    message: str
    data: list[Any] = []
    code: int = 0


class _Answer(msgspec.Struct):
    id: Any = None
    result: Any = None
    error: Any = None


_envelope = msgspec.json.Decoder(Envelope)
_answer = msgspec.json.Decoder(_Answer)


def _number(value: Any) -> int:
    if isinstance(value, Int32):
        return int(value)
    raise NotImplementedError(type(value).__name__)


_encode = msgspec.json.Encoder(enc_hook=_number).encode


def encode_call(method: str, params: list[Any], call_id: int) -> bytes:
    """Write a call, version 2.0."""
    return _encode({"jsonrpc": "2.0", "method": method, "params": params, "id": call_id})


def decode_call(body: bytes) -> Envelope:
    """Read a call.

    Raises:
        msgspec.DecodeError: it is no call.
    """
    try:
        return _envelope.decode(body)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError("the call is too deep, or no UTF-8") from error


def encode_result(envelope: Envelope, result: Any) -> bytes:
    """Write a success."""
    if envelope.jsonrpc == "2.0":
        return _encode({"jsonrpc": "2.0", "result": result, "id": envelope.id})
    return _encode({"result": result, "error": None, "id": envelope.id})


def encode_fault(envelope: Envelope, fault: XapiFault) -> bytes:
    """Write a failure."""
    if envelope.jsonrpc == "2.0":
        error = {"code": 1, "message": fault.code, "data": list(fault.params)}
        return _encode({"jsonrpc": "2.0", "error": error, "id": envelope.id})
    return _encode({"result": None, "error": fault.description, "id": envelope.id})


def decode_answer(body: bytes) -> Any:
    """Read an answer and give its result.

    Raises:
        XapiFault: the call failed.
        msgspec.DecodeError: it is no answer.
    """
    try:
        answer = _answer.decode(body)
    except (UnicodeDecodeError, RecursionError) as nonsense:
        raise msgspec.DecodeError("the answer is too deep, or no UTF-8") from nonsense
    if answer.error is None:
        return answer.result
    if isinstance(answer.error, list) and answer.error:
        raise XapiFault(*answer.error)
    error = msgspec.convert(answer.error, _Error)
    raise XapiFault(error.message, *error.data)
