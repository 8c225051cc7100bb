"""What a field of a XenAPI class is, and short ways to write one down in a table.

A maker's first parameter says who may write the field. Source: xapi's datamodel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from xenith.xapi import NULL

#: Types of fields; and of parameters: "text" must be text already, "any" is checked elsewhere.
Kind = Literal["str", "int", "bool", "float", "ref", "date", "set", "map", "text", "texts", "any"]
#: RW: a client sets it; C: given at creation or by a method of its own; R: the server's.
Access = Literal["RW", "C", "R"]

EPOCH = "19700101T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a class."""

    kind: Kind
    access: Access
    default: Any = None
    #: Whether a create must name it.
    is_required: bool = False

    def make_default(self) -> Any:
        """Give a value that no other record shares."""
        if self.kind == "map":
            return dict(self.default or {})
        if self.kind == "set":
            return list(self.default or [])
        return self.default


def text(access: Access = "RW", default: str = "") -> Field:
    """Describe a text."""
    return Field("str", access, default)


def number(access: Access = "R", default: int = 0) -> Field:
    """Describe a whole number."""
    return Field("int", access, default)


def truth(access: Access = "R", default: bool = False) -> Field:
    """Describe a truth."""
    return Field("bool", access, default)


def ref(access: Access = "R", required: bool = False) -> Field:
    """Describe a reference; a required one must be given at creation."""
    return Field("ref", access, NULL, required)


def refs(access: Access = "R") -> Field:
    """Describe a set."""
    return Field("set", access)


def texts(access: Access = "RW") -> Field:
    """Describe a map of texts."""
    return Field("map", access)


def date() -> Field:
    """Describe a time, the epoch until it is set."""
    return Field("date", "R", EPOCH)


NAMED = {"uuid": text("R"), "name_label": text(), "name_description": text()}
OPERATIONS = {"allowed_operations": refs(), "current_operations": texts("R")}
