"""XML-RPC as XenAPI speaks it: 64-bit integers are strings of digits, void is an empty string.

The standard library reads, and writes calls. Answers are written here, as xapi writes them: a text
is a bare value, and nothing stands between the tags. Xen Orchestra's client takes what stands there
for a value, and an empty ``<string>`` for none.
"""

from __future__ import annotations

import re
import xmlrpc.client
from collections.abc import Callable, Mapping
from typing import Any
from xml.parsers.expat import ExpatError

from xenith.xapi.faults import XapiFault

#: What the parser throws at texts that are no XML-RPC.
_NONSENSE = (
    ExpatError,
    xmlrpc.client.Error,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    RecursionError,
)
#: Characters that XML 1.0 has no way to write.
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_HEAD = '<?xml version="1.0"?><methodResponse><params><param>'
_TAIL = "</param></params></methodResponse>"


class Int32(int):
    """A number that XML-RPC too has as a number. Source: xapi's event.from, valid_ref_counts."""

    __slots__ = ()


def encode_call(method: str, params: list[Any]) -> bytes:
    """Write a call."""
    values = tuple(_outward(param) for param in params)
    return xmlrpc.client.dumps(values, methodname=method).encode()


def decode_call(body: bytes) -> tuple[str, list[Any]]:
    """Read a call: its method and parameters.

    Raises:
        ValueError: it is no call.
    """
    try:
        params, method = xmlrpc.client.loads(body, use_builtin_types=False)
        values = [_inward(param) for param in params]
    except _NONSENSE as error:
        raise ValueError(f"no XML-RPC call: {error}") from error
    if method is None:
        raise ValueError("no XML-RPC call: it names no method")
    return method, values


def encode_result(result: Any, *, is_wrapped: bool = True) -> bytes:
    """Write a success."""
    return _answer({"Status": "Success", "Value": result} if is_wrapped else result)


def encode_fault(fault: XapiFault) -> bytes:
    """Write a failure."""
    return _answer({"Status": "Failure", "ErrorDescription": fault.description})


def decode_answer(body: bytes) -> Any:
    """Read an answer and give its value.

    Raises:
        XapiFault: the call failed.
        ValueError: it is no answer.
    """
    try:
        (wrapped,), _ = xmlrpc.client.loads(body, use_builtin_types=False)
        wrapped = _inward(wrapped)
    except _NONSENSE as error:
        raise ValueError(f"no XML-RPC answer: {error}") from error
    if not isinstance(wrapped, dict) or "Status" not in wrapped:
        return wrapped
    if wrapped["Status"] == "Success":
        return wrapped.get("Value", "")
    raise XapiFault(*[str(part) for part in wrapped.get("ErrorDescription", ["INTERNAL_ERROR"])])


def fragment(value: Any) -> str:
    """Write a task's result: the XML of one value, or nothing for no value."""
    if value is None or value == "":
        return ""
    parts: list[str] = []
    _write(value, parts.append)
    return "".join(parts)


def read_fragment(data: bytes) -> Any:
    """Read the XML of one value that is not to be trusted.

    Raises:
        ValueError: it is none.
    """
    # Entities of its own would let a short text stand for a long one.
    if b"<!" in data:
        raise ValueError("no XML-RPC value: it declares something")
    head = data.find(b"?>") + 2 if data.lstrip().startswith(b"<?xml") else 0
    try:
        params, _ = xmlrpc.client.loads(
            b"<params><param>" + data[head:] + b"</param></params>", use_builtin_types=False
        )
        (value,) = params
        return _inward(value)
    except _NONSENSE as error:
        raise ValueError(f"no XML-RPC value: {error}") from error


def _answer(value: Any) -> bytes:
    parts = [_HEAD]
    _write(value, parts.append)
    parts.append(_TAIL)
    return "".join(parts).encode()


def _write(value: Any, put: Callable[[str], None]) -> None:
    if isinstance(value, Int32):
        put(f"<value><i4>{value}</i4></value>")
    elif isinstance(value, bool):
        put(f"<value><boolean>{value:d}</boolean></value>")
    elif isinstance(value, float):
        put(f"<value><double>{value!r}</double></value>")
    elif isinstance(value, xmlrpc.client.DateTime):
        put(f"<value><dateTime.iso8601>{value.value}</dateTime.iso8601></value>")
    elif isinstance(value, Mapping):
        put("<value><struct>")
        for key, item in value.items():
            put(f"<member><name>{_text(str(key))}</name>")
            _write(item, put)
            put("</member>")
        put("</struct></value>")
    elif isinstance(value, list | tuple | set | frozenset):
        put("<value><array><data>")
        for item in value:
            _write(item, put)
        put("</data></array></value>")
    else:
        put(f"<value>{'' if value is None else _text(str(value))}</value>")


def _text(text: str) -> str:
    text = _UNWRITABLE.sub("\ufffd", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _outward(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, str):
        return _UNWRITABLE.sub("\ufffd", value)
    if isinstance(value, bool | float | xmlrpc.client.DateTime):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        return {_outward(str(key)): _outward(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_outward(item) for item in value]
    return str(value)


def _inward(value: Any) -> Any:
    if isinstance(value, xmlrpc.client.DateTime):
        return str(value)
    if isinstance(value, xmlrpc.client.Binary):
        return value.data.decode("utf-8", "replace")
    if isinstance(value, dict):
        return {key: _inward(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_inward(item) for item in value]
    return value
