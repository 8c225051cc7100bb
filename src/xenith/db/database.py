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
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from xenith.core.clock import Clock, SystemClock
from xenith.core.errors import Conflict, Invalid, Unavailable, XenithError
from xenith.core.ids import Ids
from xenith.core.log import logger
from xenith.core.world import World
from xenith.db.compiler import Compiler
from xenith.db.patterns import matches
from xenith.db.transaction import ReadTx, Surroundings, Tx

P = ParamSpec("P")
T = TypeVar("T")

_log = logger("db")

#: Threads, and so connections, of one process on PostgreSQL.
POSTGRES_CONNECTIONS = 8
#: Runs of one transaction that keeps losing races on PostgreSQL.
POSTGRES_RUNS_MAX = 50
#: Read whole, a small table is locked whole against what others write; read by its index, only
#: the rows that were looked at. Source: PostgreSQL, Serializable Isolation Level.
_POSTGRES_OPTIONS = "-c enable_seqscan=off"
_BEGIN_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_BEGIN_WRITE = "BEGIN ISOLATION LEVEL SERIALIZABLE"
#: Milliseconds that SQLite waits for another process's write.
SQLITE_BUSY_MS = 5000
#: Result codes that pass, or that an operator mends: nothing is wrong with the statement.
SQLITE_AWAY = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOTADB,
    }
)


class Database(Protocol):
    """One cell's rows."""

    dialect: str
    #: Commits of which nobody knows whether they were, since the answer was lost. Memory that
    #: follows commits reads its rows again when this has risen.
    doubts: int

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
        """Run ``function`` on a bare driver connection in one transaction; for migrations."""

    def listen(self, topic: str, listener: Callable[[str], None]) -> Callable[[], None]:
        """Call ``listener(payload)`` on the loop after commits that notify ``topic``.

        Only this process's commits are heard. Gives the function that ends it.
        """

    def on_row(self, kind: str, follower: Callable[[Tx, Any], None]) -> None:
        """Have ``follower(tx, row)`` called by ``tx.follow(kind, row)``, in its transaction."""


def open_database(url: str, *, ids: Ids | None = None, clock: Clock | None = None) -> Database:
    """Open ``sqlite:///PATH``, ``sqlite://`` (in memory) or ``postgresql://…``.

    ``ids`` and ``clock`` are what transactions see as ``tx.world``.

    Raises:
        Unavailable: the server does not answer, or the file cannot be opened.
    """
    world = World(clock=clock or SystemClock(), ids=ids or Ids())
    if url.startswith("sqlite://"):
        return SqliteDatabase(url.removeprefix("sqlite://").removeprefix("/"), world=world)
    return PostgresDatabase(url, world=world)


class SqliteDatabase:
    """SQLite in write-ahead mode, on the loop's own thread."""

    dialect = "sqlite"

    def __init__(self, path: str, *, world: World) -> None:
        try:
            if path:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                # Made before SQLite opens it, so that its log files inherit the mode.
                Path(path).touch(mode=0o600)
            self._connection = sqlite3.connect(
                path or ":memory:", isolation_level=None, cached_statements=1000
            )
            self._connection.create_function("REGEXP", 2, matches, deterministic=True)
            # NORMAL loses nothing when the process dies; a power cut may lose the last commits
            # but never tears the file.
            for pragma in (
                "journal_mode=WAL",
                "synchronous=NORMAL",
                f"busy_timeout={SQLITE_BUSY_MS}",
                "temp_store=MEMORY",
                "cache_size=-32768",
                "wal_autocheckpoint=4000",
                "foreign_keys=ON",  # as PostgreSQL has them
            ):
                self._connection.execute(f"PRAGMA {pragma}")
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(f"the database {path} cannot be opened: {error}") from error
        self._cursor = self._connection.cursor()
        # A COMMIT that fails here was rolled back, and who calls is told so.
        self.doubts = 0
        self._compiler = Compiler.sqlite()
        self._surroundings = Surroundings(world)

    async def run(
        self, function: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a transaction inline."""
        cursor = self._cursor
        tx = Tx(cursor, self._compiler, self._surroundings)
        try:
            cursor.execute("BEGIN IMMEDIATE")
            result = function(tx, *args, **kwargs)
            cursor.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                cursor.execute("ROLLBACK")
            if (ours := _sqlite_error(error)) is not None:
                raise ours from error
            raise
        for hint in tx.hints:
            hint()
        return result

    async def read(
        self, function: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Read inline; nothing else runs meanwhile, so each statement sees the same rows."""
        try:
            return function(
                ReadTx(self._cursor, self._compiler, self._surroundings), *args, **kwargs
            )
        except (sqlite3.Error, OverflowError) as error:
            if (ours := _sqlite_error(error)) is not None:
                raise ours from error
            raise

    async def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def run_script(self, function: Callable[[Any], T]) -> T:
        """Run on the bare connection in one transaction."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = function(connection)
        except BaseException:
            connection.rollback()
            raise
        connection.commit()
        return result

    def listen(self, topic: str, listener: Callable[[str], None]) -> Callable[[], None]:
        """Call ``listener(payload)`` after commits that notify ``topic``."""
        return self._surroundings.listen(topic, listener)

    def on_row(self, kind: str, follower: Callable[[Tx, Any], None]) -> None:
        """Call ``follower(tx, row)`` for each ``tx.follow(kind, row)``."""
        self._surroundings.followers[kind] = follower


def _sqlite_error(error: BaseException) -> XenithError | None:
    """Give our error for what the caller can act on, None for what is a mistake of ours."""
    if isinstance(error, OverflowError):
        return Invalid("a number is too large to be kept")
    if not isinstance(error, sqlite3.Error):
        return None
    # Errors of the module itself, such as use after close, have no code.
    code, name = getattr(error, "sqlite_errorcode", 0), getattr(error, "sqlite_errorname", "")
    match code & 0xFF, name:
        case _, "SQLITE_CONSTRAINT_UNIQUE" | "SQLITE_CONSTRAINT_PRIMARYKEY":
            return Conflict("a row like this exists", kind="unique", detail=str(error))
        case _, "SQLITE_CONSTRAINT_FOREIGNKEY":
            return Conflict("a row that this one needs or frees is in use", kind="reference")
        case code, _ if code in SQLITE_AWAY:
            return Unavailable(f"the database cannot be used: {error}")
    return None


class PostgresDatabase:
    """PostgreSQL through psycopg, in threads, serializable."""

    dialect = "postgresql"

    def __init__(self, url: str, *, world: World, connections: int = POSTGRES_CONNECTIONS) -> None:
        import psycopg  # noqa: PLC0415 - a cloud on SQLite does not pay for it

        self._psycopg = psycopg
        self.doubts = 0
        self._url = url
        self._compiler = Compiler.postgresql()
        self._surroundings = Surroundings(world)
        self._writing = threading.Lock()
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
        try:
            with self._connect() as connection:
                connection.autocommit = False
                return function(connection)
        except self._psycopg.OperationalError as error:
            raise Unavailable(f"PostgreSQL went away: {type(error).__name__}") from error

    def listen(self, topic: str, listener: Callable[[str], None]) -> Callable[[], None]:
        """Call ``listener(payload)`` after commits that notify ``topic``."""
        return self._surroundings.listen(topic, listener)

    def on_row(self, kind: str, follower: Callable[[Tx, Any], None]) -> None:
        """Call ``follower(tx, row)`` for each ``tx.follow(kind, row)``."""
        self._surroundings.followers[kind] = follower

    def _connect(self) -> Any:
        try:
            return self._psycopg.connect(
                self._url, autocommit=True, connect_timeout=10, options=_POSTGRES_OPTIONS
            )
        except self._psycopg.ProgrammingError:
            raise Invalid("the database's address is not postgresql://USER@HOST/NAME") from None
        except self._psycopg.Error as error:
            # The address may hold a password: only the server's own words are passed on.
            raise Unavailable(f"PostgreSQL does not answer: {type(error).__name__}") from None

    def _transact(
        self, work: Callable[[Tx], T], *, is_read: bool = False
    ) -> tuple[T, list[Callable[[], None]]]:
        if is_read:
            return self._repeat(work, ReadTx, _BEGIN_READ)
        # Transactions of one process that race make each other run again: one at a time built five
        # times as many servers. Those of other processes still race, and are run again.
        with self._writing:
            return self._repeat(work, Tx, _BEGIN_WRITE)

    def _repeat(
        self, work: Callable[[Tx], T], kind: type[Tx], begin: str
    ) -> tuple[T, list[Callable[[], None]]]:
        psycopg = self._psycopg
        for _ in range(POSTGRES_RUNS_MAX):
            connection, is_new = self._take()
            is_good = is_begun = is_committing = False
            try:
                cursor = connection.cursor()
                tx = kind(cursor, self._compiler, self._surroundings)
                cursor.execute(begin)
                is_begun = True
                try:
                    result = work(tx)
                    is_committing = True
                    cursor.execute("COMMIT")
                except BaseException:
                    with contextlib.suppress(psycopg.Error):
                        cursor.execute("ROLLBACK")
                        is_good = True
                    raise
                is_good = True
            except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
                continue
            except psycopg.Error as error:
                if isinstance(error, psycopg.OperationalError) and not (is_begun or is_new):
                    continue  # the server was started anew since this connection was last used
                self.doubts += is_committing
                if (ours := _postgres_error(error)) is not None:
                    raise ours from error
                raise
            else:
                return result, tx.hints
            finally:
                if is_good:
                    self._idle.put(connection)
                else:
                    connection.close()
        raise Unavailable("PostgreSQL: a transaction kept losing races")

    def _take(self) -> tuple[Any, bool]:
        with contextlib.suppress(queue.Empty):
            return self._idle.get_nowait(), False
        return self._connect(), True


def _postgres_error(error: Any) -> XenithError | None:
    """Give our error for what the caller can act on, None for what is a mistake of ours."""
    import psycopg  # noqa: PLC0415 - as above

    match error:
        case psycopg.errors.UniqueViolation():
            return Conflict("a row like this exists", kind="unique", detail=str(error))
        case psycopg.errors.ForeignKeyViolation():
            return Conflict("a row that this one needs or frees is in use", kind="reference")
        case psycopg.DataError():
            return Invalid("a value cannot be kept: too large, or not text")
        case psycopg.OperationalError():
            return Unavailable(f"PostgreSQL went away: {type(error).__name__}")
    return None
