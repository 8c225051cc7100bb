"""Lists with filters and pages, for every noun: one query, in the order of ids.

Source: Identity API v3, "Filtering and listing".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from xenith.core.errors import Invalid
from xenith.db import Flag, Row, Tx

#: What one answer holds when the client names no limit; keystone has no limit.
LIST_ITEMS_MAX = 10_000


def list_rows(
    tx: Tx,
    table: sa.Table,
    query: Mapping[str, Sequence[str]],
    *,
    filters: Sequence[str] = (),
    where: Sequence[sa.ColumnElement[bool]] = (),
) -> tuple[list[Row], bool]:
    """List rows that match a query string; tells as well whether more follow.

    Raises:
        Invalid: a limit or a boolean is none.
    """
    limit = _limit(query)
    statement = sa.select(table).where(*where, *_conditions(table, query, filters))
    if "marker" in query:
        statement = statement.where(table.c.id > query["marker"][-1])
    rows = tx.all(statement.order_by(table.c.id).limit(limit + 1))
    return rows[:limit], len(rows) > limit


def page(rows: Sequence[Row], query: Mapping[str, Sequence[str]]) -> tuple[list[Row], bool]:
    """Cut a page out of rows that are in the order of ids."""
    limit = _limit(query)
    if "marker" in query:
        rows = [row for row in rows if row.id > query["marker"][-1]]
    return list(rows[:limit]), len(rows) > limit


def read_flag(text: str) -> bool:
    """Read a boolean of a query string; the empty one is true, as ``?effective`` means.

    Raises:
        Invalid: it is none.
    """
    word = text.strip().lower()
    if word in ("", "1", "true", "yes", "on", "t", "y"):
        return True
    if word in ("0", "false", "no", "off", "f", "n"):
        return False
    raise Invalid(f"'{text[:40]}' is no boolean.")


def _limit(query: Mapping[str, Sequence[str]]) -> int:
    if "limit" not in query:
        return LIST_ITEMS_MAX
    text = query["limit"][-1]
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise Invalid(f"Invalid input for query parameter limit: '{text[:40]}' is no count.")
    # A page of nothing has no last row to go on from.
    return max(1, min(int(text), LIST_ITEMS_MAX))


def _conditions(
    table: sa.Table, query: Mapping[str, Sequence[str]], filters: Sequence[str]
) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    for key, values in query.items():
        name, _, how = key.partition("__")
        if name not in filters:
            continue
        column, value = table.c[name], values[-1]
        if isinstance(column.type, Flag):
            if not how:
                found.append(column == sa.literal(int(read_flag(value))))
        elif how in _HOW:
            found.append(_HOW[how](column, value))
    return found


_HOW: dict[str, Any] = {
    "": lambda column, value: column == value,
    "contains": lambda column, value: column.contains(value, autoescape=True),
    "icontains": lambda column, value: column.icontains(value, autoescape=True),
    "startswith": lambda column, value: column.startswith(value, autoescape=True),
    "istartswith": lambda column, value: column.istartswith(value, autoescape=True),
    "endswith": lambda column, value: column.endswith(value, autoescape=True),
    "iendswith": lambda column, value: column.iendswith(value, autoescape=True),
    "iexact": lambda column, value: sa.func.lower(column) == value.lower(),
}
