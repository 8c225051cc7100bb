"""Lists with any filter, in any order, page by page from either side.

Source: Network API v2.0, "Filtering and Column Selection", "Pagination", "Sorting".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa

from xenith.core.errors import Invalid
from xenith.db import Flag, Json, Row, Tx

#: What one answer holds when the client names no limit; neutron has no limit.
LIST_ITEMS_MAX = 10_000

Conditions = Sequence[sa.ColumnElement[bool]]


@dataclass(frozen=True, slots=True)
class Page:
    """What part of a list is asked for."""

    limit: int | None
    marker: str | None
    is_reversed: bool
    #: Names on the wire, with whether each goes down.
    sort: tuple[tuple[str, bool], ...]

    @property
    def count(self) -> int:
        """How many rows the page may have."""
        return min(self.limit or LIST_ITEMS_MAX, LIST_ITEMS_MAX)


def list_page(
    tx: Tx,
    table: sa.Table,
    page: Page,
    *,
    columns: Mapping[str, sa.Column[Any]],
    where: Conditions,
) -> list[Row]:
    """List a page of rows, in its order. Transaction function.

    Raises:
        Invalid: the marker is not there, or there is no such order.
    """
    order = [(_sortable(columns, name), is_down) for name, is_down in page.sort]
    if all(column is not table.c.id for column, _ in order):
        order.append((table.c.id, False))
    if page.is_reversed:
        order = [(column, not is_down) for column, is_down in order]
    statement = sa.select(table).where(*where)
    if page.marker is not None:
        marker = tx.find(table, id=page.marker)
        if marker is None:
            raise Invalid(f"The marker {page.marker[:64]} could not be found.")
        statement = statement.where(_after(order, marker))
    statement = statement.order_by(
        *(_known(column).desc() if is_down else _known(column) for column, is_down in order)
    )
    rows = tx.all(statement.limit(page.count))
    return rows[::-1] if page.is_reversed else rows


def equals_any(column: sa.Column[Any], values: Sequence[str]) -> sa.ColumnElement[bool]:
    """Give the condition that a column has one of the values of a query string.

    Raises:
        Invalid: a value is no boolean or number where the column holds such.
    """
    if isinstance(column.type, Flag):
        return column.in_([int(_flag(column.name, value)) for value in values])
    if isinstance(column.type, sa.BigInteger):
        return column.in_([_number(column.name, value) for value in values])
    if column.nullable and any(value in ("", "None") for value in values):
        return sa.or_(column.in_(values), column.is_(None))
    return column.in_(values)


def tag_conditions(table: sa.Table, query: Mapping[str, Sequence[str]]) -> Conditions:
    """Give the conditions of ``tags``, ``tags-any``, ``not-tags`` and ``not-tags-any``."""
    found: list[sa.ColumnElement[bool]] = []
    for name, combine, is_not in (
        ("tags", sa.and_, False),
        ("tags-any", sa.or_, False),
        ("not-tags", sa.and_, True),
        ("not-tags-any", sa.or_, True),
    ):
        tags = [tag for value in query.get(name, ()) for tag in value.split(",") if tag]
        if tags:
            condition = combine(*(_has_tag(table.c.tags, tag) for tag in tags))
            found.append(sa.not_(condition) if is_not else condition)
    return found


def _has_tag(column: sa.Column[Any], tag: str) -> sa.ColumnElement[bool]:
    # The column holds JSON text, where a string begins after one of these: a quote within a
    # string has a backslash before it. `replace` is the one search by exact case that both
    # databases have.
    text = sa.func.coalesce(sa.type_coerce(column, sa.Text), "")
    encoded = msgspec.json.encode(tag).decode()
    return sa.or_(*(sa.func.replace(text, before + encoded, "") != text for before in "[,"))


def _sortable(columns: Mapping[str, sa.Column[Any]], name: str) -> sa.Column[Any]:
    column = columns.get(name)
    if column is None or isinstance(column.type, Json):
        raise Invalid(f"'{name[:64]}' is an invalid attribute for sort keys")
    return column


def _known(column: sa.Column[Any]) -> Any:
    """Give a column without NULL, which neither database can compare."""
    if not column.nullable:
        return column
    return sa.func.coalesce(column, "" if isinstance(column.type, sa.Text) else -1)


def _after(order: list[tuple[sa.Column[Any], bool]], marker: Row) -> sa.ColumnElement[bool]:
    """Give the condition that a row comes after the marker."""
    alternatives: list[sa.ColumnElement[bool]] = []
    same: list[sa.ColumnElement[bool]] = []
    for column, is_down in order:
        value = getattr(marker, column.name)
        if value is None:
            value = "" if isinstance(column.type, sa.Text) else -1
        known = _known(column)
        alternatives.append(sa.and_(*same, known < value if is_down else known > value))
        same.append(known == value)
    return sa.or_(*alternatives)


def _flag(name: str, text: str) -> bool:
    word = text.strip().lower()
    if word in ("true", "1", "yes", "on"):
        return True
    if word in ("false", "0", "no", "off"):
        return False
    raise Invalid(
        f"Invalid input for {name}. Reason: '{text[:64]}' cannot be converted to boolean."
    )


def _number(name: str, text: str) -> int:
    if text.isascii() and text.lstrip("-").isdigit() and len(text) <= 18:
        try:
            return int(text)
        except ValueError:
            pass
    raise Invalid(f"Invalid input for {name}. Reason: '{text[:64]}' is not an integer.")
