"""Changes: rows that a cell owns, on their way up to every cell above it.

A cell numbers its commits' changes: each owned row carries the number of its last one. What a
parent has not seen is then one range of an index, (its cursor, the newest], and a row that changed
a thousand times since is in it once. A batch names the range that it covers; a parent takes it only
when that begins at its cursor or before, and keeps rows and cursor in one transaction. Rows keep
the numbers of the cell they come from wherever they go, so those that come by two ways meet.

A number counts within an epoch. A cell that lost commits (its database was put back from a backup)
begins a new one, and its parents take its rows anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import msgspec
import sqlalchemy as sa

from xenith.core.ids import CellId
from xenith.db import CELL, Flag, Prepared, Row, Tx

#: Bytes of one batch's rows, half of what a message may have; one row alone is far smaller.
BATCH_BYTES_MAX = 512 * 1024
#: Rows of one batch; with rows of about a kilobyte a batch stays far below a message's limit.
BATCH_ROWS_MAX = 200
#: Buckets that the rows of one origin are compared in.
BUCKETS = 64
#: The topic that tells senders which origin has news.
TOPIC = "cells.changes"

#: Rows that were not sent again since the epoch began; what is left of them at its end goes.
_STALE = -1

_encode = msgspec.msgpack.Encoder().encode

cell_self = sa.Table(
    "cell_self",
    CELL,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("cell_id", sa.Text, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    # The number of the last change.
    sa.Column("number", sa.BigInteger, nullable=False),
)

cursors = sa.Table(
    "change_cursors",
    CELL,
    sa.Column("origin", sa.Text, primary_key=True),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    # Rows of an earlier epoch wait for the end of this one's first reading.
    sa.Column("has_stale", Flag, nullable=False),
)

_SELF = {"id": 1}


class Place(msgspec.Struct, frozen=True, order=True, array_like=True):
    """How far an origin's changes are known: all up to ``number`` of ``epoch``."""

    epoch: int = 0
    number: int = 0


class Batch(msgspec.Struct, frozen=True, kw_only=True, tag="changes"):
    """The changes of one origin in (``after``, ``to``], each row once and as it is now."""

    origin: str
    epoch: int
    after: int
    to: int
    #: The newest number when this was read; what lies behind it is not known from this batch.
    head: int
    #: Kind of row and its columns by name, in the order of their numbers.
    rows: list[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class ChangedTable:
    """A table whose rows travel up. It has the columns of ``carried_columns``.

    ``private`` are columns that stay in the cell.
    """

    kind: str
    table: sa.Table
    keys: tuple[str, ...]
    private: frozenset[str] = frozenset()

    @property
    def names(self) -> list[str]:
        """The columns that travel; the origin is said once in the batch."""
        skipped = self.private | {"cell_id", "extra"}
        return [column.name for column in self.table.c if column.name not in skipped]


def carried_columns() -> list[sa.Column[Any]]:
    """Make the columns that each table whose rows travel up has."""
    from xenith.db import Json  # noqa: PLC0415 - one name, used here alone

    return [
        sa.Column("cell_id", sa.Text, primary_key=True),
        sa.Column("change_number", sa.BigInteger, nullable=False),
        # Columns that a newer cell sent and this version does not know; passed on as they came.
        sa.Column("extra", Json),
    ]


def ensure_self(tx: Tx, cell_id: CellId) -> Row:
    """Note whose database this is, once; tell it with its epoch and number.

    Raises:
        AssertionError: it is another cell's.
    """
    row = tx.find(cell_self, **_SELF)
    if row is None:
        tx.insert(cell_self, {**_SELF, "cell_id": cell_id, "epoch": 1, "number": 0})
        return tx.get(cell_self, **_SELF)
    assert row.cell_id == cell_id, f"the database is of cell {row.cell_id}, not {cell_id}"
    return row


def mark_change(tx: Tx) -> dict[str, Any]:
    """Give what a row that this cell owns is written with: whose it is, and its change's number.

    The row that counts is written by every change, so numbers are given in the order of commits.
    Transaction function.
    """
    row = tx.change(cell_self, _SELF, counter="number")
    assert row is not None, "the cell has its row from its first start"
    tx.notify(TOPIC, row.cell_id)
    return {"cell_id": row.cell_id, "change_number": row.number}


def begin_epoch(tx: Tx, *, beyond: int) -> None:
    """Number changes anew, in an epoch above ``beyond``: commits that parents saw are gone."""
    row = tx.get(cell_self, **_SELF)
    tx.update(cell_self, _SELF, epoch=max(row.epoch, beyond) + 1)
    tx.notify(TOPIC, row.cell_id)


class Changes:
    """Reads, applies and compares the rows of origins, by the tables that were registered."""

    def __init__(self, tables: Sequence[ChangedTable]) -> None:
        for each in tables:
            for name in each.names:
                # An older cell on the way keeps what it does not know as JSON, which has no bytes.
                is_binary = isinstance(each.table.c[name].type, sa.LargeBinary)
                assert not is_binary, f"{each.kind}.{name} is of bytes and cannot travel"
        self._tables = {each.kind: each for each in tables}
        self._names = {each.kind: each.names for each in tables}
        #: Of every column but whose row it is and what is unknown; also of those that stay below.
        self._defaults = {
            each.kind: {
                column.name: _default(column)
                for column in each.table.c
                if column.name not in ("cell_id", "extra")
            }
            for each in tables
        }
        self._after = {each.kind: _after(each) for each in tables}
        self._all = {
            each.kind: Prepared(
                sa.select(each.table)
                .where(each.table.c.cell_id == sa.bindparam("origin"))
                .order_by(*each.table.primary_key)
            )
            for each in tables
        }

    # -- the sender's side

    def place(self, tx: Tx, origin: str) -> Place:
        """Tell how far this cell knows an origin: its own changes, or those that came up."""
        row = tx.find(cell_self, **_SELF)
        if row is not None and row.cell_id == origin:
            return Place(row.epoch, row.number)
        row = tx.find(cursors, origin=origin)
        return Place() if row is None else Place(row.epoch, row.number)

    def places(self, tx: Tx) -> dict[str, Place]:
        """Tell how far this cell knows each origin, itself included."""
        row = tx.get(cell_self, **_SELF)
        found = {row.origin: Place(row.epoch, row.number) for row in tx.list(cursors)}
        return {**found, row.cell_id: Place(row.epoch, row.number)}

    def read_batch(self, tx: Tx, origin: str, *, after: int) -> Batch:
        """Read what comes after a number, up to a batch's size. Transaction function."""
        place = self.place(tx, origin)
        to = place.number
        found: list[tuple[int, str, Row]] = []
        for kind, statement in self._after.items():
            rows = tx.all(statement, origin=origin, after=after)
            if len(rows) == BATCH_ROWS_MAX:
                to = min(to, int(rows[-1].change_number))
            found += [(int(row.change_number), kind, row) for row in rows]
        found.sort(key=lambda one: one[0])
        if len(found) > BATCH_ROWS_MAX:
            to = min(to, found[BATCH_ROWS_MAX - 1][0])
        packed: list[tuple[str, dict[str, Any]]] = []
        room = BATCH_BYTES_MAX
        last = after
        for number, kind, row in found:
            if number > to:
                break
            one = self._packed(kind, row)
            room -= len(_encode(one))
            if room < 0 and packed and number > last:
                # What is left goes in the next one.
                to = last
                break
            packed.append((kind, one))
            last = number
        return Batch(
            origin=origin,
            epoch=place.epoch,
            after=after,
            to=max(to, after),
            head=place.number,
            rows=packed,
        )

    def _packed(self, kind: str, row: Row) -> dict[str, Any]:
        packed = {name: getattr(row, name) for name in self._names[kind]}
        if row.extra:
            packed.update(row.extra)
        return packed

    # -- the receiver's side

    def find_flaw(self, batch: Batch) -> str:
        """Say what is wrong with a batch as such, whatever this cell knows; empty when nothing."""
        if not (batch.epoch >= 1 and 0 <= batch.after <= batch.to <= batch.head):
            return "it goes backwards"
        for kind, packed in batch.rows:
            number = packed.get("change_number")
            if not isinstance(number, int) or not batch.after < number <= batch.to:
                return "a row's number is not of the batch"
            each = self._tables.get(kind)
            if each is not None and any(packed.get(name) is None for name in each.keys):
                return "a row has no key"
        return ""

    def apply(self, tx: Tx, batch: Batch) -> Place:
        """Take a batch over, if it begins where this cell stands; tell where it stands then.

        Who keeps the database follows each row (``tx.follow``). Transaction function.
        """
        row = tx.find(cursors, origin=batch.origin)
        place = Place() if row is None else Place(row.epoch, row.number)
        has_stale = row is not None and row.has_stale
        if batch.epoch < place.epoch:
            return place
        if batch.epoch > place.epoch:
            if batch.after != 0:
                return Place(batch.epoch, 0)
            # Rows that the new epoch does not bring again are no more.
            has_stale = row is not None
            for each in self._tables.values() if has_stale else ():
                tx.update(each.table, {"cell_id": batch.origin}, change_number=_STALE)
            place = Place(batch.epoch, 0)
        elif batch.after > place.number or batch.to <= place.number:
            return place
        for kind, group in _by_kind(batch.rows):
            self._write(tx, batch.origin, kind, group, place.number)
        if has_stale and batch.to == batch.head:
            self._sweep(tx, batch.origin)
            has_stale = False
        tx.upsert(
            cursors,
            {
                "origin": batch.origin,
                "epoch": batch.epoch,
                "number": batch.to,
                "has_stale": has_stale,
            },
        )
        tx.notify(TOPIC, batch.origin)
        return Place(batch.epoch, batch.to)

    def _sweep(self, tx: Tx, origin: str) -> None:
        for each in self._tables.values():
            tx.delete(each.table, cell_id=origin, change_number=_STALE)

    def _write(
        self,
        tx: Tx,
        origin: str,
        kind: str,
        rows: Iterable[Mapping[str, Any]],
        known: int,
    ) -> None:
        each = self._tables.get(kind)
        if each is None:
            # A kind that a newer cell sends; its next parent that knows it will ask for it anew.
            return
        news = [
            self._unpacked(kind, origin, packed)
            for packed in rows
            if packed["change_number"] > known
        ]
        tx.upsert_many(each.table, news)
        if tx.is_followed(kind):
            for values in news:
                tx.follow(kind, SimpleNamespace(**values))

    def _unpacked(self, kind: str, origin: str, packed: Mapping[str, Any]) -> dict[str, Any]:
        # A column that an older cell does not send has its table's default.
        defaults = self._defaults[kind]
        extra = {name: value for name, value in packed.items() if name not in defaults}
        # Whose rows these are is not for the sender to say.
        return {
            **{name: packed.get(name, default) for name, default in defaults.items()},
            "cell_id": origin,
            "extra": extra or None,
        }

    # -- comparing

    def hashes(self, tx: Tx, origin: str) -> list[bytes]:
        """Hash an origin's rows in buckets of their keys."""
        buckets = [hashlib.blake2b(digest_size=8) for _ in range(BUCKETS)]
        for kind, key, encoded in self._encoded(tx, origin):
            buckets[bucket_of(key)].update(kind.encode() + b"\0" + encoded)
        return [bucket.digest() for bucket in buckets]

    def read_bucket(self, tx: Tx, origin: str, bucket: int) -> list[tuple[str, dict[str, Any]]]:
        """Read all rows of one bucket."""
        return [
            (kind, self._packed(kind, row))
            for kind, statement in self._all.items()
            for row in tx.all(statement, origin=origin)
            if bucket_of(self._key(kind, row)) == bucket
        ]

    def replace_bucket(
        self,
        tx: Tx,
        origin: str,
        bucket: int,
        rows: Sequence[tuple[str, dict[str, Any]]],
    ) -> int:
        """Make one bucket as its origin has it; tell how many rows were wrong."""
        wanted: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in self._tables}
        for kind, packed in rows:
            if kind in wanted:
                wanted[kind]["\0".join(str(packed[n]) for n in self._tables[kind].keys)] = packed
        wrong = 0
        for kind, each in self._tables.items():
            for row in tx.all(self._all[kind], origin=origin):
                key = self._key(kind, row)
                if bucket_of(key) != bucket:
                    continue
                has_it = key in wanted[kind]
                wanted_row = wanted[kind].pop(key) if has_it else None
                if wanted_row == self._packed(kind, row):
                    continue
                wrong += 1
                keys = {name: getattr(row, name) for name in each.keys}
                tx.delete(each.table, cell_id=origin, **keys)
                if wanted_row is not None:
                    self._write(tx, origin, kind, [wanted_row], _STALE)
            wrong += len(wanted[kind])
            self._write(tx, origin, kind, wanted[kind].values(), _STALE)
        return wrong

    def forget(self, tx: Tx, origin: str) -> None:
        """Drop all that is known of an origin, so that it is sent anew."""
        for each in self._tables.values():
            tx.delete(each.table, cell_id=origin)
        tx.delete(cursors, origin=origin)
        tx.notify(TOPIC, origin)

    def _encoded(self, tx: Tx, origin: str) -> Iterable[tuple[str, str, bytes]]:
        encode = msgspec.msgpack.Encoder(order="deterministic").encode
        for kind, statement in self._all.items():
            for row in tx.all(statement, origin=origin):
                yield kind, self._key(kind, row), encode(self._packed(kind, row))

    def _key(self, kind: str, row: Row) -> str:
        return "\0".join(str(getattr(row, name)) for name in self._tables[kind].keys)


def bucket_of(key: str) -> int:
    """Tell which bucket a row's key falls into, the same in every cell."""
    return hashlib.blake2b(key.encode(), digest_size=1).digest()[0] % BUCKETS


def root_of(hashes: Sequence[bytes]) -> bytes:
    """Give one hash for all buckets."""
    return hashlib.blake2b(b"".join(hashes), digest_size=16).digest()


def _after(each: ChangedTable) -> Prepared:
    table = each.table
    return Prepared(
        sa.select(table)
        .where(
            table.c.cell_id == sa.bindparam("origin"),
            table.c.change_number > sa.bindparam("after"),
        )
        .order_by(table.c.change_number)
        .limit(BATCH_ROWS_MAX)
    )


def _by_kind(
    rows: Sequence[tuple[str, dict[str, Any]]],
) -> Iterable[tuple[str, list[dict[str, Any]]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for kind, packed in rows:
        groups.setdefault(kind, []).append(packed)
    return groups.items()


def _default(column: sa.Column[Any]) -> Any:
    if column.nullable:
        return None
    if isinstance(column.type, sa.LargeBinary):
        return b""
    if isinstance(column.type, sa.Text):
        return ""
    return False if isinstance(column.type, Flag) else 0
