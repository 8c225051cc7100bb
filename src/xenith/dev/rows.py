"""A cell's database when the cell starts: its server may be away, and is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from xenith.core.errors import Unavailable
from xenith.core.log import logger
from xenith.core.settings import Settings
from xenith.core.world import World
from xenith.db import Database, open_database
from xenith.db.migrate import prepare

_log = logger("dev.rows")

#: Between two attempts to reach a database's server: none rarer than the last of them.
RETRY_MIN_S = 0.2
RETRY_MAX_S = 3.0


async def open_rows(
    settings: Settings, world: World, directory: Path, *, trees: Iterable[str] | None = None
) -> Database:
    """Open a cell's database and bring its tables up to date; wait while its server is away.

    A power failure brings machines back in any order, so who waits needs nobody to start it again.
    The address is not shown: it may hold a password.

    Raises:
        Conflict: the database is newer than this program.
        Invalid: the address is none.
        Unavailable: the file cannot be opened.
    """
    if not settings.database or settings.database.startswith("sqlite:"):
        url = settings.database or f"sqlite:///{directory / 'xenith.db'}"
        return _open(url, world, trees)
    delay_s, reason = RETRY_MIN_S, ""
    while True:
        try:
            # In a thread, since a server that hangs would hold up the loop and with it a stop.
            found = await asyncio.to_thread(_open, settings.database, world, trees)
        except Unavailable as error:
            if error.message != reason:
                _log.warning("database away, waiting for it", error=error.message)
            reason = error.message
        else:
            if reason:
                _log.info("database is back")
            return found
        await world.clock.sleep(delay_s)
        delay_s = min(2 * delay_s, RETRY_MAX_S)


def _open(url: str, world: World, trees: Iterable[str] | None) -> Database:
    database = open_database(url, ids=world.ids, clock=world.clock)
    prepare(database, trees=trees)
    return database
