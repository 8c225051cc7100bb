"""The language of ``get_all_records_where``: ``field "name__label"="x" and not (…)``.

Values compare as the database writes them: booleans as "true" and "false", numbers as digits.
Source: xapi's db_filter; fields of namespaces are written with ``__``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from xenith.toolstack.schema import CLASSES
from xenith.xapi.faults import XapiFault

Holds = Callable[[Mapping[str, Any]], bool]

#: Characters of an expression, and parentheses within each other.
LENGTH_MAX = 10_000
DEPTH_MAX = 50

_TOKEN = re.compile(r'\s*(?:(field|and|or|not|true|false)\b|"((?:[^"\\]|\\.)*)"|([()=]))')
#: Fields that the wire writes in one word and the language in two.
_NAMES = {
    "name__label": "name_label",
    "name__description": "name_description",
    "snapshot_info__": "snapshot_info",
}


def parse(expression: str, class_name: str) -> Holds:
    """Give the test that an expression means.

    Raises:
        XapiFault: INTERNAL_ERROR, as xapi answers, the expression makes no sense.
    """
    if len(expression) > LENGTH_MAX:
        raise _nonsense(expression)
    return _Parser(expression, class_name).whole()


class _Parser:
    def __init__(self, text: str, class_name: str) -> None:
        self._text = text
        self._fields = CLASSES[class_name]
        self._tokens = list(_tokens(text))
        self._at = 0
        self._depth = 0

    def whole(self) -> Holds:
        holds = self._either()
        if self._at != len(self._tokens):
            raise _nonsense(self._text)
        return holds

    def _either(self) -> Holds:
        parts = [self._both()]
        while self._take("or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else _any_of(parts)

    def _both(self) -> Holds:
        parts = [self._one()]
        while self._take("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else _all_of(parts)

    def _one(self) -> Holds:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise _nonsense(self._text[:100])
        holds = self._bare()
        self._depth -= 1
        return holds

    def _bare(self) -> Holds:
        if self._take("not"):
            inner = self._one()
            return lambda record: not inner(record)
        if self._take("("):
            inner = self._either()
            self._need(")")
            return inner
        if self._take("true"):
            return lambda _record: True
        if self._take("false"):
            return lambda _record: False
        left = self._value()
        self._need("=")
        right = self._value()
        return lambda record: left(record) == right(record)

    def _value(self) -> Callable[[Mapping[str, Any]], str]:
        if self._take("field"):
            name = self._string()
            name = _NAMES.get(name, name)
            if name not in self._fields:
                raise _nonsense(f"no field {name[:64]}")
            return lambda record: written(record[name])
        text = self._string()
        return lambda _record: text

    def _string(self) -> str:
        token = self._tokens[self._at] if self._at < len(self._tokens) else ""
        if not token.startswith('"'):
            raise _nonsense(self._text)
        self._at += 1
        return re.sub(r"\\(.)", r"\1", token[1:])

    def _take(self, token: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at] == token:
            self._at += 1
            return True
        return False

    def _need(self, token: str) -> None:
        if not self._take(token):
            raise _nonsense(self._text)


def _tokens(text: str) -> Any:
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _nonsense(text)
        # A quote in front tells a string from a word.
        yield match[1] or match[3] or '"' + match[2]
        at = match.end()


def written(value: Any) -> str:
    """Write a value as the database does."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


# A chain of a thousand clauses is one loop and not a thousand calls within each other.
def _all_of(parts: list[Holds]) -> Holds:
    return lambda record: all(holds(record) for holds in parts)


def _any_of(parts: list[Holds]) -> Holds:
    return lambda record: any(holds(record) for holds in parts)


def _nonsense(text: str) -> XapiFault:
    return XapiFault("INTERNAL_ERROR", f"Db_filter.Parse_error: {text[:200]}")
