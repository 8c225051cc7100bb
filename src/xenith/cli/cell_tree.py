"""A tree of cells drawn for people: one line a cell, with what an operator looks for first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xenith.cli.output import cell as escaped
from xenith.cli.output import table

#: Flavors that have a column when none are named: a line should fit a terminal.
FLAVORS_SHOWN = 3

Cell = Mapping[str, Any]


def draw(found: Mapping[str, Any], flavors: Sequence[str] = ()) -> str:
    """Draw the tree that ``GET /v1/cells`` tells of, and what is expected or wrong below it."""
    cells: list[Cell] = found["cells"]
    sizes = list(flavors) or _small_ones(cells)
    said = [table([_row(cell, before, sizes) for before, cell in lines_of(cells)])]
    said += [
        f"{escaped(cell['name'])} is dark: {escaped(cell['silence'])}"
        for cell in cells
        if cell["is_dark"]
    ]
    said += [
        f"{cell['name']} follows version {cell['topology']} of the topology, the newest is "
        f"{found['version']}"
        for cell in cells
        if not cell["is_dark"] and cell["topology"] != found["version"]
    ]
    said += [
        f"{each['name']} is expected below {', '.join(each['parents'])} until {each['expires_at']}"
        for each in found["expected"]
    ]
    return "\n".join(said)


def lines_of(cells: Sequence[Cell]) -> Iterator[tuple[str, Cell]]:
    """Give each cell once, in the order of drawing, with the lines that lead to it.

    A cell with several parents stands below its first.

    >>> cells = [{"name": "api", "parents": []}, {"name": "a", "parents": ["api"]},
    ...          {"name": "b", "parents": ["api", "a"]}, {"name": "a1", "parents": ["a"]}]
    >>> for before, cell in lines_of(cells):
    ...     print(before + cell["name"])
    api
    ├─ a
    │  └─ a1
    └─ b
    """
    below: dict[str, list[Cell]] = {}
    for cell in cells:
        below.setdefault(cell["parents"][0] if cell["parents"] else "", []).append(cell)
    for root in below.get("", ()):
        yield "", root
        yield from _below(below, root["name"], "")


def _below(below: Mapping[str, list[Cell]], name: str, before: str) -> Iterator[tuple[str, Cell]]:
    children = below.get(name, [])
    for at, child in enumerate(children):
        is_last = at == len(children) - 1
        yield before + ("└─ " if is_last else "├─ "), child
        yield from _below(below, child["name"], before + ("   " if is_last else "│  "))


def _small_ones(cells: Sequence[Cell]) -> list[str]:
    """Name the flavors that most people ask after; they come in the order of their size."""
    first: Mapping[str, int] = next((cell["free"] for cell in cells if cell["free"]), {})
    return list(first)[:FLAVORS_SHOWN]


def _row(cell: Cell, before: str, sizes: Sequence[str]) -> dict[str, Any]:
    others = cell["parents"][1:]
    free = cell["free"] or {}
    return {
        "cell": before + cell["name"] + (f" (+ {', '.join(others)})" if others else ""),
        "state": _state(cell),
        "hosts": _hosts(cell),
        "servers": cell["servers"],
        "age": age(cell["age_s"]),
        "link": link(cell),
        "intents": _intents(cell),
        **{size: free.get(size) for size in sizes},
    }


def _state(cell: Cell) -> str:
    if not cell["parents"]:
        return "dark" if cell["is_dark"] else "root"
    words = [str(cell["state"])]
    if cell["successor"]:
        words[0] += f" to {cell['successor']}"
    if cell["is_revoked"]:
        words.append("key revoked")
    if cell["is_dark"]:
        words.append("dark")
    return ", ".join(words)


def _hosts(cell: Cell) -> str:
    up = "?" if cell["is_dark"] else cell["hosts_up"]
    return f"{up}/{cell['hosts']}"


def age(seconds: float | None) -> str:
    """Write how old something is.

    >>> age(0.42), age(75.0), age(7300), age(None)
    ('0.4 s', '75 s', '2 h', 'never')
    """
    if seconds is None:
        return "never"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def link(cell: Cell) -> str:
    """Say how a cell's links to its parents are: how many open, and what went wrong on them."""
    links = cell["links"]
    if not links:
        return "-"
    alive = sum(each["is_open"] and each["is_alive"] for each in links)
    words = "open" if alive == len(links) else "shut"
    said = [f"{alive}/{len(links)} open" if 0 < alive < len(links) else words]
    refused = sum(
        sum(each[side].values())
        for each in links
        for side in ("refused_by_parent", "refused_by_cell")
    )
    counts = {
        "refused": refused,
        "unsent": sum(each["unsent"] for each in links),
        "dropped": sum(each["dropped"] for each in links),
    }
    return ", ".join(said + [f"{count} {name}" for name, count in counts.items() if count])


def _intents(cell: Cell) -> int:
    """Count what the parents have given it and wait for; of a root, what it has decided on none."""
    if not cell["links"]:
        return int(cell.get("undecided", 0))
    return sum(each["open_intents"] for each in cell["links"])
