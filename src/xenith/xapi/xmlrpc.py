"""XML-RPC as XenAPI speaks it: 64-bit integers are strings of digits, void is an empty string.

The standard library marshals; what is ours is which Python value becomes what.
"""

from __future__ import annotations

import re
import xmlrpc.client
from collections.abc import Mapping
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
#: The ends of lines that the standard library puts between tags. Where a text holds nothing else,
#: they are its own; anywhere else in a text no bare ``<`` follows them.
_LAYOUT = re.compile(r"\n(?=<)(?<=>\n)(?<!<string>\n)(?<!<name>\n)")


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
    value = _outward(result)
    wrapped = {"Status": "Success", "Value": value} if is_wrapped else value
    return _plain(xmlrpc.client.dumps((wrapped,), methodresponse=True)).encode()


def encode_fault(fault: XapiFault) -> bytes:
    """Write a failure."""
    wrapped = {"Status": "Failure", "ErrorDescription": fault.description}
    return _plain(xmlrpc.client.dumps((wrapped,), methodresponse=True)).encode()


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
    if isinstance(value, str):
        text = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return f"<value>{_UNWRITABLE.sub(chr(0xFFFD), text)}</value>"
    whole = _plain(xmlrpc.client.dumps((_outward(value),)))
    return whole[whole.index("<value>") : whole.rindex("</value>") + len("</value>")]


def _plain(document: str) -> str:
    """Leave out what stands between tags, as xapi does: some clients take it for a value."""
    return _LAYOUT.sub("", document)


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
