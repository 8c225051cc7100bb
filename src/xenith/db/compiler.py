"""From a SQLAlchemy Core statement to SQL text, parameters and rows, compiled once.

SQLAlchemy's own execution costs about 140 µs a statement against 8-30 µs for the driver, so
statements are compiled here, kept by their structure, and run on the driver. This is the one
place that knows how; nothing of it shows outside ``db/``.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from xenith.db.schema import Flag, Json

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import Dialect
    from sqlalchemy.sql.compiler import SQLCompiler

#: Structures of statement kept; a room has tens, lists with filters make hundreds.
COMPILED_MAX = 2000

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()


def _write_json(value: object) -> str | None:
    return None if value is None else _encoder.encode(value).decode()


def _read_json(value: str | None) -> object:
    return None if value is None else _decoder.decode(value)


def _write_flag(value: object) -> int | None:
    return None if value is None else int(bool(value))


def _read_flag(value: int | None) -> bool | None:
    return None if value is None else bool(value)


def _writer(column_type: object) -> Callable[[Any], Any] | None:
    if isinstance(column_type, Json):
        return _write_json
    return _write_flag if isinstance(column_type, Flag) else None


def _reader(column_type: object) -> Callable[[Any], Any] | None:
    if isinstance(column_type, Json):
        return _read_json
    return _read_flag if isinstance(column_type, Flag) else None


class Compiled:
    """SQL text for one dialect, with what turns values into parameters and tuples into rows."""

    __slots__ = ("_compiled", "_literals", "_make", "_readers", "_writers", "sql")

    def __init__(self, compiled: SQLCompiler) -> None:
        self._compiled = compiled
        self.sql = compiled.string
        self._writers = [
            (name, write)
            for name, bind in compiled.binds.items()
            if (write := _writer(bind.type)) is not None
        ]
        writers = dict(self._writers)
        #: Values that stand in the statement itself.
        self._literals = {
            name: writers[name](bind.effective_value) if name in writers else bind.effective_value
            for name, bind in compiled.binds.items()
            if not bind.required and bind.effective_value is not None
        }
        columns = compiled._result_columns  # noqa: SLF001 - the only place that names result types
        self._readers = [
            (position, read)
            for position, column in enumerate(columns)
            if (read := _reader(column.type)) is not None
        ]
        names = [column.keyname for column in columns]
        row_type = namedtuple("row_type", names, rename=True)  # type: ignore[misc]  # noqa: PYI024
        # Plain text does not say what its columns are: its rows are tuples.
        self._make: Callable[[Iterable[Any]], Any] = row_type._make if names else tuple

    def parameters(
        self, values: Mapping[str, Any], extracted: Sequence[Any] | None = None
    ) -> dict[str, Any]:
        """Give the driver's parameters for the statement's own values and ``values``."""
        parameters: dict[str, Any] = self._compiled.construct_params(  # type: ignore[assignment]
            dict(values) if values else None, extracted_parameters=extracted
        )
        for name, write in self._writers:
            if name in parameters:
                parameters[name] = write(parameters[name])
        return parameters

    def bound(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Give the driver's parameters when ``values`` names every one that is not a literal."""
        parameters = {**self._literals, **values} if self._literals else dict(values)
        for name, write in self._writers:
            if name in values:
                parameters[name] = write(parameters[name])
        return parameters

    def row(self, raw: Sequence[Any]) -> Any:
        """Make a row with named fields of a driver's tuple."""
        if not self._readers:
            return self._make(raw)
        values = list(raw)
        for position, read in self._readers:
            values[position] = read(values[position])
        return self._make(values)


class Prepared:
    """A statement that stands for good: its structure is not looked at again each time it is run.

    What differs from run to run is named with ``sa.bindparam``.
    """

    __slots__ = ("statement",)

    def __init__(self, statement: sa.sql.ClauseElement) -> None:
        self.statement = statement


#: What a transaction runs.
Statement = sa.sql.ClauseElement | Prepared


class Compiler:
    """Compiles for one dialect and keeps what it compiled."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._kept: OrderedDict[Any, Compiled] = OrderedDict()
        self._by_key: dict[Any, Compiled] = {}

    @property
    def kept_count(self) -> int:
        """How many compiled statements are kept; at most twice ``COMPILED_MAX``."""
        return len(self._kept) + len(self._by_key)

    @classmethod
    def sqlite(cls) -> Compiler:
        """For the standard library's sqlite3."""
        return cls(sqlite.dialect(paramstyle="named"))

    @classmethod
    def postgresql(cls) -> Compiler:
        """For psycopg 3."""
        return cls(cast("Any", postgresql.dialect)(paramstyle="pyformat"))

    def compile(
        self, statement: Statement, values: Mapping[str, Any]
    ) -> tuple[Compiled, dict[str, Any]]:
        """Give the compiled form of a statement and its parameters."""
        if isinstance(statement, Prepared):
            compiled = self.fixed(statement, lambda: statement.statement)
            return compiled, compiled.bound(values)
        # The structure without the values.
        cache_key: Any = cast("Any", statement)._generate_cache_key()  # noqa: SLF001 - as above
        if cache_key is None:
            compiled = self._fresh(statement)
            return compiled, compiled.parameters(values)
        kept = self._kept.get(cache_key.key)
        if kept is not None:
            with contextlib.suppress(KeyError):  # another thread may just have evicted it
                self._kept.move_to_end(cache_key.key)
            return kept, kept.parameters(values, cache_key.bindparams)
        if _has_lists(cache_key.bindparams):
            # The text of `IN (...)` depends on how many values there are.
            compiled = self._fresh(statement)
            return compiled, compiled.parameters(values)
        compiled = Compiled(
            cast("Any", statement).compile(dialect=self._dialect, cache_key=cache_key)
        )
        self._kept[cache_key.key] = compiled
        if len(self._kept) > COMPILED_MAX:
            self._kept.popitem(last=False)
        return compiled, compiled.parameters(values, cache_key.bindparams)

    def fixed(self, key: Any, make: Callable[[], sa.sql.ClauseElement]) -> Compiled:
        """Compile what ``make`` gives once for ``key``; parameters are bound by name."""
        compiled = self._by_key.get(key)
        if compiled is None:
            if len(self._by_key) >= COMPILED_MAX:
                self._by_key.clear()
            compiled = self._by_key[key] = self._fresh(make())
        return compiled

    def _fresh(self, statement: sa.sql.ClauseElement) -> Compiled:
        return Compiled(
            cast("Any", statement).compile(
                dialect=self._dialect, compile_kwargs={"render_postcompile": True}
            )
        )


def _has_lists(binds: Sequence[Any]) -> bool:
    return any(bind.expanding for bind in binds)
