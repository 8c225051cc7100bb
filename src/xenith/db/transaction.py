"""What a transaction function sees: statements in, rows out, and hints for after the commit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import sqlalchemy as sa

from xenith.core.errors import Bug, NotFound
from xenith.core.world import World
from xenith.db.compiler import Compiled, Compiler, Statement

#: A row: a named tuple with the statement's columns as fields.
Row = Any


class Cursor(Protocol):
    """The part of a driver's cursor that is used here."""

    @property
    def rowcount(self) -> int:
        """How many rows the last statement met."""

    def execute(self, sql: str, parameters: Any = ..., /) -> Any:
        """Run one statement."""

    def executemany(self, sql: str, parameters: Any, /) -> Any:
        """Run one statement for each of many sets of parameters."""

    def fetchone(self) -> Any:
        """Give the next row or None."""

    def fetchall(self) -> Any:
        """Give the rows that are left."""


class Surroundings:
    """What all transactions of one database share: its world and who listens to its commits."""

    __slots__ = ("followers", "listeners", "world")

    def __init__(self, world: World) -> None:
        self.world = world
        self.followers: dict[str, Callable[[Tx, Row], None]] = {}
        self.listeners: dict[str, list[Callable[[str], None]]] = {}

    def listen(self, topic: str, listener: Callable[[str], None]) -> Callable[[], None]:
        """Call ``listener`` for each ``tx.notify(topic, ...)``; gives what ends that."""
        listeners = self.listeners.setdefault(topic, [])
        listeners.append(listener)
        return lambda: listeners.remove(listener)


class Tx:
    """One transaction on one connection. Valid only while its function runs."""

    __slots__ = ("_compiler", "_cursor", "_surroundings", "hints")

    def __init__(self, cursor: Cursor, compiler: Compiler, surroundings: Surroundings) -> None:
        self._cursor = cursor
        self._compiler = compiler
        self._surroundings = surroundings
        self.hints: list[Callable[[], None]] = []

    @property
    def world(self) -> World:
        """The clock and ids of this database, for rows that carry a time or an id of their own."""
        return self._surroundings.world

    def on_commit(self, hint: Callable[[], None]) -> None:
        """Call ``hint`` on the loop after the commit; only a hint, the rows are the truth."""
        self.hints.append(hint)

    def notify(self, topic: str, payload: str) -> None:
        """Tell who listens to ``topic`` in this process, after the commit; only a hint."""
        for listener in self._surroundings.listeners.get(topic, ()):
            self.hints.append(partial(listener, payload))

    def is_followed(self, kind: str) -> bool:
        """Tell whether anybody who keeps this database does anything about such rows."""
        return kind in self._surroundings.followers

    def follow(self, kind: str, row: Row) -> None:
        """Do in this transaction what who keeps this database does about such a row."""
        follower = self._surroundings.followers.get(kind)
        if follower is not None:
            follower(self, row)

    # -- statements of any form

    def all(self, statement: Statement, **values: Any) -> list[Row]:
        """List the rows of a query."""
        compiled, parameters = self._compiler.compile(statement, values)
        self._cursor.execute(compiled.sql, parameters)
        make = compiled.row
        return [make(raw) for raw in self._cursor.fetchall()]

    def first(self, statement: Statement, **values: Any) -> Row | None:
        """Find the first row of a query, or None."""
        compiled, parameters = self._compiler.compile(statement, values)
        self._cursor.execute(compiled.sql, parameters)
        raw = self._cursor.fetchone()
        return None if raw is None else compiled.row(raw)

    def scalar(self, statement: Statement, **values: Any) -> Any:
        """Give the first column of the first row, or None."""
        row = self.first(statement, **values)
        return None if row is None else row[0]

    def run(self, statement: Statement, **values: Any) -> int:
        """Run an insert, update or delete and tell how many rows it met."""
        compiled, parameters = self._compiler.compile(statement, values)
        self._cursor.execute(compiled.sql, parameters)
        return self._cursor.rowcount

    # -- the common forms, compiled once for a table and a set of columns

    def insert(self, table: sa.Table, row: Mapping[str, Any]) -> None:
        """Insert one row."""
        compiled = self._insert(table, tuple(row))
        self._cursor.execute(compiled.sql, compiled.bound(row))

    def insert_many(self, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows that all have the same columns."""
        if rows:
            compiled = self._insert(table, tuple(rows[0]))
            self._cursor.executemany(compiled.sql, [compiled.bound(row) for row in rows])

    def upsert(self, table: sa.Table, row: Mapping[str, Any]) -> None:
        """Insert a row, or give the one with its primary key these values."""
        names = tuple(row)
        compiled = self._compiler.fixed(
            ("upsert", table.name, names), lambda: _upsert_statement(table, names)
        )
        self._cursor.execute(compiled.sql, compiled.bound(row))

    def upsert_many(self, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Upsert rows that all have the same columns."""
        if rows:
            names = tuple(rows[0])
            compiled = self._compiler.fixed(
                ("upsert", table.name, names), lambda: _upsert_statement(table, names)
            )
            self._cursor.executemany(compiled.sql, [compiled.bound(row) for row in rows])

    def peek(self, table: sa.Table, names: tuple[str, ...], **keys: Any) -> Row | None:
        """Find some columns of the row that has these values, or None."""
        key_names = tuple(keys)
        compiled = self._compiler.fixed(
            ("peek", table.name, names, key_names),
            lambda: _conditions(sa.select(*(table.c[name] for name in names)), table, key_names),
        )
        self._cursor.execute(compiled.sql, compiled.bound(_prefixed(keys)))
        raw = self._cursor.fetchone()
        return None if raw is None else compiled.row(raw)

    def find(self, table: sa.Table, **keys: Any) -> Row | None:
        """Find the row that has these values, or None."""
        compiled = self._where(table, tuple(keys))
        self._cursor.execute(compiled.sql, compiled.bound(_prefixed(keys)))
        raw = self._cursor.fetchone()
        return None if raw is None else compiled.row(raw)

    def get(self, table: sa.Table, **keys: Any) -> Row:
        """Get the row that has these values.

        Raises:
            NotFound: there is none.
        """
        row = self.find(table, **keys)
        if row is None:
            raise NotFound(f"{table.name} has no row with {keys}")
        return row

    def list(self, table: sa.Table, **keys: Any) -> list[Row]:
        """List the rows that have these values, in the order of the primary key."""
        compiled = self._where(table, tuple(keys))
        self._cursor.execute(compiled.sql, compiled.bound(_prefixed(keys)))
        make = compiled.row
        return [make(raw) for raw in self._cursor.fetchall()]

    def update(self, table: sa.Table, keys: Mapping[str, Any], **values: Any) -> int:
        """Give the rows with ``keys`` these values; tell how many there were.

        A key of None asks for rows that have no value there.
        """
        given = {name: value for name, value in keys.items() if value is not None}
        key_names, value_names = tuple(given), tuple(values)
        absent = tuple(name for name in keys if name not in given)
        compiled = self._compiler.fixed(
            ("update", table.name, key_names, absent, value_names),
            lambda: (
                _conditions(sa.update(table), table, key_names)
                .where(*(table.c[name].is_(None) for name in absent))
                .values(
                    {name: sa.bindparam(name, type_=table.c[name].type) for name in value_names}
                )
            ),
        )
        self._cursor.execute(compiled.sql, compiled.bound({**_prefixed(given), **values}))
        return self._cursor.rowcount

    def change(
        self,
        table: sa.Table,
        keys: Mapping[str, Any],
        *,
        counter: str,
        without: frozenset[str] = frozenset(),
        **values: Any,
    ) -> Row | None:
        """Give the row with ``keys`` these values and raise its counter; give it as it then is.

        Columns named in ``without`` are not read back: long ones that nobody looks at.
        """
        key_names, value_names = tuple(keys), tuple(values)
        compiled = self._compiler.fixed(
            ("change", table.name, key_names, value_names, without),
            lambda: (
                _conditions(sa.update(table), table, key_names)
                .values(
                    {
                        counter: table.c[counter] + 1,
                        **{
                            name: sa.bindparam(name, type_=table.c[name].type)
                            for name in value_names
                        },
                    }
                )
                .returning(*(column for column in table.c if column.name not in without))
            ),
        )
        self._cursor.execute(compiled.sql, compiled.bound({**_prefixed(keys), **values}))
        found = self._cursor.fetchall()
        return compiled.row(found[0]) if found else None

    def delete(self, table: sa.Table, **keys: Any) -> int:
        """Delete the rows that have these values; tell how many there were."""
        assert keys, "a delete without a condition empties the table"
        names = tuple(keys)
        compiled = self._compiler.fixed(
            ("delete", table.name, names), lambda: _conditions(sa.delete(table), table, names)
        )
        self._cursor.execute(compiled.sql, compiled.bound(_prefixed(keys)))
        return self._cursor.rowcount

    def _insert(self, table: sa.Table, names: tuple[str, ...]) -> Compiled:
        return self._compiler.fixed(
            ("insert", table.name, names),
            lambda: sa.insert(table).values({name: sa.bindparam(name) for name in names}),
        )

    def _where(self, table: sa.Table, names: tuple[str, ...]) -> Compiled:
        return self._compiler.fixed(
            ("where", table.name, names),
            lambda: _conditions(sa.select(table), table, names).order_by(*table.primary_key),
        )


class ReadTx(Tx):
    """A transaction that may only read, the same on each database."""

    __slots__ = ()

    def _refuse(self, *_args: Any, **_values: Any) -> Any:
        raise Bug("a transaction of read() writes: it belongs in run()")

    run = insert = insert_many = upsert = upsert_many = update = change = delete = _refuse


def _prefixed(keys: Mapping[str, Any]) -> dict[str, Any]:
    return {"key_" + name: value for name, value in keys.items()}


def _conditions(statement: Any, table: sa.Table, names: tuple[str, ...]) -> Any:
    for name in names:
        column = table.c[name]
        statement = statement.where(column == sa.bindparam("key_" + name, type_=column.type))
    return statement


def _upsert_statement(table: sa.Table, names: tuple[str, ...]) -> Any:
    # Both dialects know the same `ON CONFLICT`; SQLite's construct compiles on each.
    from sqlalchemy.dialects.postgresql import insert  # noqa: PLC0415 - rare

    statement = insert(table).values({name: sa.bindparam(name) for name in names})
    keys = [column.name for column in table.primary_key]
    changed = {name: statement.excluded[name] for name in names if name not in keys}
    if not changed:
        return statement.on_conflict_do_nothing(index_elements=keys)
    return statement.on_conflict_do_update(index_elements=keys, set_=changed)
