"""A database that crashes at a commit, or whose clients do, and that is away for a while.

The file outlives every client. Each connection belongs to a process; killed before the commit,
its transaction never was; killed after, the rows are there and nobody was told. Then the process
goes no further: who calls is never answered, as nothing of it runs any more.

Where the database itself crashes, its client lives on and is told one thing in both cases, that
the database went away: whether the transaction was, it cannot know. So it is with PostgreSQL when
the connection breaks between COMMIT and its answer.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar

from xenith.core.errors import Unavailable
from xenith.core.ids import Ids
from xenith.core.world import World
from xenith.db import Database, Tx, open_database
from xenith.dev.simulation.owner import Owner, ProcessDied, stop_here

P = ParamSpec("P")
T = TypeVar("T")


class Moment(Enum):
    """When a process or its database dies."""

    BEFORE_COMMIT = "before commit"
    AFTER_COMMIT = "after commit"


class Mortal(Owner, Protocol):
    """A process that a database can kill."""

    def kill(self) -> None:
        """Kill it."""


class Crash(NamedTuple):
    """Who dies at a commit, and when."""

    moment: Moment
    #: Called where the database dies, and not the process.
    on_crash: Callable[[], None] | None = None


class CrashingDatabase:
    """One SQLite file, and when it or those who write to it die."""

    def __init__(self, url: str, ids: Ids) -> None:
        self._url = url
        self._ids = ids
        self._connections: dict[CrashingConnection, None] = {}
        self._next: tuple[int, Crash] | None = None
        self._is_away = False
        #: Share of the commits at which the process dies, half of them before and half after.
        self.crash_rate = 0.0
        #: Commits, crashes and refusals, by those names.
        self.counts: Counter[str] = Counter()

    def crash_at(
        self,
        moment: Moment,
        *,
        commits_before: int = 0,
        on_crash: Callable[[], None] | None = None,
    ) -> None:
        """Have the process die that comes to commit next, or after so many other commits.

        With ``on_crash``, the database dies instead and calls it; it is away until ``come_back``.
        """
        self._next = commits_before, Crash(moment, on_crash)

    def forget_crashes(self) -> None:
        """Have nobody die any more, neither by chance nor as it was ordered."""
        self.crash_rate, self._next = 0.0, None

    def go_away(self) -> None:
        """Refuse everything with Unavailable until it comes back."""
        self._is_away = True

    def come_back(self) -> None:
        """Answer again."""
        self._is_away = False

    def connect(self, world: World, owner: Mortal | None = None) -> CrashingConnection:
        """Connect for a process, or for nobody: then a crash raises ProcessDied."""
        connection = CrashingConnection(
            self, open_database(self._url, ids=world.ids, clock=world.clock), owner
        )
        self._connections[connection] = None
        return connection

    def close(self) -> None:
        """Cut all connections."""
        for connection in tuple(self._connections):
            connection.cut()

    # -- for its connections

    def check(self) -> None:
        """Raise Unavailable while it is away."""
        if self._is_away:
            self.counts["refusals"] += 1
            raise Unavailable("the database is away")

    def draw(self) -> Crash | None:
        """Tell whether the process or the database dies at this commit."""
        if self._next is not None:
            left, crash = self._next
            if left == 0:
                self._next = None
                return crash
            self._next = left - 1, crash
        if self.crash_rate and self._ids.uniform() < self.crash_rate:
            is_before = self._ids.uniform() < 0.5
            return Crash(Moment.BEFORE_COMMIT if is_before else Moment.AFTER_COMMIT)
        return None

    def crash(self, crash: Crash) -> None:
        """Be gone, as a server is that crashed."""
        assert crash.on_crash is not None, "it is the process that dies"
        self.counts["database crashes"] += 1
        self.go_away()
        crash.on_crash()

    def forget(self, connection: CrashingConnection) -> None:
        """Count a connection out."""
        self._connections.pop(connection, None)


class _NeverCommitted(Exception):
    """A transaction is given up where its commit would be."""


class CrashingConnection:
    """One process's ``Database``; cut, it writes and reads no more."""

    def __init__(self, database: CrashingDatabase, inner: Database, owner: Mortal | None) -> None:
        self.dialect = inner.dialect
        self.doubts = 0
        self._database = database
        self._inner = inner
        self._owner = owner
        self._is_cut = False

    async def run(
        self, function: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a transaction; the process or the database may die at its commit."""
        await self._check()
        crash: Crash | None = None

        def transaction(tx: Tx) -> T:
            nonlocal crash
            result = function(tx, *args, **kwargs)
            crash = self._database.draw()
            if crash is not None and crash.moment is Moment.BEFORE_COMMIT:
                raise _NeverCommitted
            if crash is not None:
                tx.hints.clear()
            return result

        try:
            result = await self._inner.run(transaction)
            self._database.counts["commits"] += 1
        except _NeverCommitted:
            pass
        if crash is None:
            return result
        if crash.on_crash is not None:
            self._database.crash(crash)
            self.doubts += 1
            raise Unavailable("the database went away")
        await self._die()
        raise ProcessDied(crash.moment.value)

    async def read(
        self, function: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Read."""
        await self._check()
        return await self._inner.read(function, *args, **kwargs)

    async def close(self) -> None:
        """End this connection; the file stays open for others."""
        self.cut()

    def run_script(self, function: Callable[[Any], T]) -> T:
        """Run on the bare connection in one transaction."""
        if self._is_cut:
            raise ProcessDied("the connection was cut")
        self._database.check()
        return self._inner.run_script(function)

    def listen(self, topic: str, listener: Callable[[str], None]) -> Callable[[], None]:
        """Call ``listener(payload)`` after commits that notify ``topic``, until cut."""
        return self._inner.listen(topic, listener)

    def on_row(self, kind: str, follower: Callable[[Tx, Any], None]) -> None:
        """Call ``follower(tx, row)`` for each ``tx.follow(kind, row)``."""
        self._inner.on_row(kind, follower)

    def cut(self) -> None:
        """End it for good: what is asked of it from now on is never done."""
        if self._is_cut:
            return
        self._is_cut = True
        self._database.forget(self)
        # SQLite's closing waits for nothing, and who is killed cannot wait.
        with contextlib.suppress(StopIteration):
            self._inner.close().send(None)

    async def _check(self) -> None:
        if self._is_cut:
            if self._owner is not None and self._owner.is_dead:
                await stop_here(self._owner)
            raise Unavailable("the database is closed")
        self._database.check()

    async def _die(self) -> None:
        self._database.counts["crashes"] += 1
        if self._owner is not None:
            self._owner.kill()
            await stop_here(self._owner)
