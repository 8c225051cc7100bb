"""Pages of a list: the asked page, and the link to the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from xenith.core.errors import Invalid
from xenith.core.limits import PAGE_ITEMS_MAX
from xenith.http.call import Call


@dataclass(frozen=True, slots=True)
class Page:
    """What part of a list is asked for, in what order."""

    limit: int
    marker: str | None
    #: Column names with whether each goes down.
    sort: tuple[tuple[str, bool], ...]


def asked_page(
    call: Call[Any],
    *,
    default_limit: int = PAGE_ITEMS_MAX,
    default_sort: tuple[tuple[str, bool], ...] = (("created_at", True), ("id", True)),
    sort_names: dict[str, str] | None = None,
) -> Page:
    """Read ``limit``, ``marker``, ``sort_key`` and ``sort_dir``, or ``sort=key:dir,…``.

    ``sort_names`` maps the API's keys to columns; others are refused. Ties are broken by id, so
    that pages are stable.

    Raises:
        Invalid: a limit is no number, or a key or direction is not known.
    """
    limit = call.asked_int("limit", default=default_limit)
    assert limit is not None
    names = sort_names or {}
    asked: list[tuple[str, str]] = []
    if (text := call.asked("sort")) is not None:
        for part in filter(None, text.split(",")):
            key, _, direction = part.partition(":")
            asked.append((key, direction or "desc"))
    else:
        keys = call.query.get("sort_key", [])
        directions = call.query.get("sort_dir", [])
        if len(directions) > len(keys) and keys:
            raise Invalid("Sort direction size exceeds sort key size")
        default = directions[0] if directions else "desc"
        asked = [
            (key, directions[at] if at < len(directions) else default)
            for at, key in enumerate(keys)
        ]
        if not keys and directions:
            asked = [("created_at", directions[0])] if "created_at" in names else []
    sort: list[tuple[str, bool]] = []
    for key, direction in asked:
        if key not in names:
            raise Invalid(f"Invalid input for query parameter sort_key: '{key}' is no sort key")
        if direction not in ("asc", "desc"):
            raise Invalid(f"Invalid input for query parameter sort_dir: '{direction}'")
        sort.append((names[key], direction == "desc"))
    chosen = tuple(sort) or default_sort
    if all(name != "id" for name, _ in chosen):
        chosen = (*chosen, ("id", chosen[-1][1]))
    return Page(limit=min(limit, PAGE_ITEMS_MAX), marker=call.asked("marker"), sort=chosen)


def next_url(call: Call[Any], marker: str, *, limit: int | None = None) -> str:
    """Give the address of the page after ``marker``, with the call's own filters."""
    query = [
        (key, value)
        for key, values in call.query.items()
        if key != "marker"
        for value in values
        if not (key == "limit" and limit is not None)
    ]
    if limit is not None:
        query.append(("limit", str(limit)))
    query.append(("marker", marker))
    return f"{call.url}{call.path}?{urlencode(query)}"
