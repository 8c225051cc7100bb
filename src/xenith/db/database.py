"""The two databases behind one door: ``run`` a transaction, ``read`` a snapshot.

SQLite runs inline on the loop: a statement is tens of microseconds, and the order is
deterministic. PostgreSQL runs in a bounded pool of threads, serializable, and a transaction that
lost a race is run again.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from xenith.core.errors import Conflict, Unavailable
from xenith.core.ids import Ids
from xenith.core.log import logger
from xenith.db.compiler import Compiler
from xenith.db.transaction import Tx

P = ParamSpec("P")
T = TypeVar("T")

_log = logger("db")

#: Threads, and so connections, of one process on PostgreSQL.
POSTGRES_CONNECTIONS = 8
#: Runs of one transaction that keeps losing races on PostgreSQL.
POSTGRES_RUNS_MAX = 50
#: Milliseconds that SQLite waits for another process's write.
SQLITE_BUSY_MS = 5000


class Database(Protocol):
    """One cell's rows."""

    dialect: str

    async def run(
        self, function: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a transaction function and commit; what it raises rolls back.

        The function may be run more than once, so it must change nothing but rows.
        """

    async def read(
        self, function: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a function that only reads, on one snapshot."""

    async def close(self) -> None:
        """Give the connections back."""

    def run_script(self, function: Callable[[Any], T]) -> T:
        """Run ``function`` on a bare driver connection and commit; for migrations."""


def open_database(url: str, *, ids: Ids | None = None) -> Database:
    """Open ``sqlite:///PATH``, ``sqlite://`` (in memory) or ``postgresql://…``.

    Raises:
        Unavailable: the server does not answer, or the file cannot be opened.
    """
    if url.startswith("sqlite://"):
        return SqliteDatabase(url.removeprefix("sqlite://").removeprefix("/"))
    return PostgresDatabase(url, ids=ids or Ids())


class SqliteDatabase:
    """SQLite in write-ahead mode, on the loop's own thread."""

    dialect = "sqlite"

    def __init__(self, path: str) -> None:
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = sqlite3.connect(
                path or ":memory:", isolation_level=None, cached_statements=1000
            )
            # NORMAL loses nothing when the process dies; a power cut may lose the last commits
            # but never tears the file.
            for pragma in (
                "journal_mode=WAL",
                "synchronous=NORMAL",
                f"busy_timeout={SQLITE_BUSY_MS}",
                "temp_store=MEMORY",
                "cache_size=-32768",
                "wal_autocheckpoint=4000",
            ):
                self._connection.execute(f"PRAGMA {pragma}")
        except sqlite3.Error as error:
            raise Unavailable(f"the database {path} cannot be opened: {error}") from error
        if path:
            Path(path).chmod(0o600)
        self._cursor = self._connection.cursor()
        self._compiler = Compiler.sqlite()

    async def run(
        self, function: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a transaction inline."""
        cursor = self._cursor
        tx = Tx(cursor, self._compiler)
        try:
            cursor.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise Unavailable(f"the database is busy or full: {error}") from error
        try:
            result = function(tx, *args, **kwargs)
            cursor.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                cursor.execute("ROLLBACK")
            if isinstance(error, sqlite3.IntegrityError):
                raise Conflict(f"a row like this exists: {error}", kind="unique") from error
            if isinstance(error, sqlite3.OperationalError):
                raise Unavailable(f"the database cannot write: {error}") from error
            raise
        for hint in tx.hints:
            hint()
        return result

    async def read(
        self, function: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Read inline; nothing else runs meanwhile, so each statement sees the same rows."""
        return function(Tx(self._cursor, self._compiler), *args, **kwargs)

    async def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def run_script(self, function: Callable[[Any], T]) -> T:
        """Run on the bare connection."""
        return function(self._connection)


class PostgresDatabase:
    """PostgreSQL through psycopg, in threads, serializable."""

    dialect = "postgresql"

    def __init__(self, url: str, *, ids: Ids, connections: int = POSTGRES_CONNECTIONS) -> None:
        import psycopg  # noqa: PLC0415 - a cloud on SQLite does not pay for it

        self._psycopg = psycopg
        self._url = url
        self._ids = ids
        self._compiler = Compiler.postgresql()
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="postgres")
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._idle.put(self._connect())

    async def run(
        self, function: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a transaction in a thread, again when it lost a race."""
        loop = asyncio.get_running_loop()
        result, hints = await loop.run_in_executor(
            self._threads, lambda: self._transact(lambda tx: function(tx, *args, **kwargs))
        )
        for hint in hints:
            hint()
        return result

    async def read(
        self, function: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Read in a thread, on one snapshot."""
        loop = asyncio.get_running_loop()
        result, _ = await loop.run_in_executor(
            self._threads,
            lambda: self._transact(lambda tx: function(tx, *args, **kwargs), is_read=True),
        )
        return result

    async def close(self) -> None:
        """Wait for what runs and close the connections."""
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)
        while not self._idle.empty():
            self._idle.get().close()

    def run_script(self, function: Callable[[Any], T]) -> T:
        """Run on a bare connection in one transaction."""
        with self._connect() as connection:
            connection.autocommit = False
            return function(connection)

    def _connect(self) -> Any:
        try:
            return self._psycopg.connect(self._url, autocommit=True, connect_timeout=10)
        except self._psycopg.Error as error:
            # The address may hold a password: only the server's own words are passed on.
            raise Unavailable(f"PostgreSQL does not answer: {type(error).__name__}") from None

    def _transact(
        self, work: Callable[[Tx], T], *, is_read: bool = False
    ) -> tuple[T, list[Callable[[], None]]]:
        psycopg = self._psycopg
        begin = "BEGIN ISOLATION LEVEL " + (
            "REPEATABLE READ READ ONLY" if is_read else "SERIALIZABLE"
        )
        for _ in range(POSTGRES_RUNS_MAX):
            connection = self._take()
            is_good = False
            try:
                cursor = connection.cursor()
                tx = Tx(cursor, self._compiler)
                cursor.execute(begin)
                try:
                    result = work(tx)
                    cursor.execute("COMMIT")
                except BaseException:
                    with contextlib.suppress(psycopg.Error):
                        cursor.execute("ROLLBACK")
                        is_good = True
                    raise
                is_good = True
            except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
                continue
            except psycopg.errors.UniqueViolation as error:
                raise Conflict("a row like this exists", kind="unique") from error
            except psycopg.OperationalError as error:
                raise Unavailable(f"PostgreSQL went away: {type(error).__name__}") from error
            else:
                return result, tx.hints
            finally:
                if is_good:
                    self._idle.put(connection)
                else:
                    connection.close()
        raise Unavailable("PostgreSQL: a transaction kept losing races")

    def _take(self) -> Any:
        with contextlib.suppress(queue.Empty):
            return self._idle.get_nowait()
        return self._connect()
