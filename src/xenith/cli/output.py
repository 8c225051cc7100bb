"""What every command shows goes through ``show``: a table for people, or JSON for programs.

A mapping is one thing, shown as fields and values; a sequence is a list of things, shown as rows.
Names come from tenants, so a table shows their control characters escaped: a name cannot move the
cursor of the operator's terminal.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from cyclopts import Parameter

#: The type of a command's ``output`` argument: ``output: Output = "table"``.
Output = Annotated[
    Literal["table", "json"], Parameter(name=["--output", "-o"], help="How to show the result.")
]


def show(shown: Mapping[str, Any] | Sequence[Any], output: Literal["table", "json"]) -> None:
    """Print one thing or a list of things; structs and dataclasses are taken as mappings."""
    plain = msgspec.to_builtins(shown, enc_hook=str)
    if output == "json":
        print(json.dumps(plain, indent=2, ensure_ascii=False))
    elif isinstance(plain, Mapping):
        print(table([{"field": name, "value": value} for name, value in plain.items()]))
    else:
        print(table(plain))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay rows out in columns, named and ordered as in the first row.

    >>> print(table([{"name": "a", "ram_mib": 512}, {"name": "bb", "ram_mib": None}]))
    NAME  RAM_MIB
    a     512
    bb    -
    """
    if not rows:
        return "(none)"
    names = list(rows[0])
    lines = [[name.upper() for name in names]]
    lines += [[cell(row.get(name)) for name in names] for row in rows]
    widths = [max(_width(line[column]) for line in lines) for column in range(len(names))]
    return "\n".join(
        "  ".join(
            text + " " * (width - _width(text)) for text, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def cell(value: Any) -> str:
    r"""Write one value on one line, with nothing in it that a terminal would obey.

    >>> cell("a\x1b[2J"), cell(None), cell(True), cell(["x", 1])
    ('a\\x1b[2J', '-', 'yes', 'x, 1')
    """
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{cell(name)}={cell(item)}" for name, item in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value) or "-"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    # C: controls, formats (which reorder text), surrogates; Z beside the space: line ends.
    category = unicodedata.category(character)
    if category[0] == "C" or category in {"Zl", "Zp"}:
        return character.encode("unicode_escape").decode("ascii")
    return character


def _width(text: str) -> int:
    """Count the columns of a terminal that a text takes."""
    return sum(
        0
        if unicodedata.combining(character)
        else 1 + (unicodedata.east_asian_width(character) in "FW")
        for character in text
    )
