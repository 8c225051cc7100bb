"""What must hold in a region of real processes when it has settled, read past all that they say.

Rows are read from each cell's database, hosts are asked over XenAPI. What is wrong is a sentence.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from region import ROOT, Member, Region

from xenith.cells.changes import Changes, Place, cell_self
from xenith.compute.origin import TABLES
from xenith.compute.records.hosts import hosts as host_rows
from xenith.compute.records.instances import instances
from xenith.core.errors import XenithError
from xenith.db import Database, Tx, open_database
from xenith.dev.invariants import (
    HostRecords,
    find_in_rows,
    join_rows,
    read_cell,
    read_rows,
    records_of,
)

SETTLE_TIMEOUT_S = 240.0
LOOK_PERIOD_S = 0.5
_CHANGES = Changes(TABLES)
#: What one cell knows of an origin: how far, and the hashes of its rows.
Known = dict[str, tuple[Place, list[bytes]]]


async def settle(region: Region) -> None:
    """Wait until nothing is wrong anywhere; what is, when the time is up, fails the test."""
    deadline = asyncio.get_running_loop().time() + SETTLE_TIMEOUT_S
    async with _databases(region) as databases:
        while found := await _problems(region, databases):
            assert asyncio.get_running_loop().time() < deadline, "\n".join(found[:50])
            await asyncio.sleep(LOOK_PERIOD_S)


async def machines(region: Region) -> list[HostRecords]:
    """Ask every host for all that it has."""
    async with _databases(region) as databases:
        return await _machines(region, databases)


@contextlib.asynccontextmanager
async def _databases(region: Region) -> AsyncIterator[dict[str, Database]]:
    opened: dict[str, Database] = {}
    try:
        for name, member in region.members.items():
            opened[name] = open_database(member.database)
        yield opened
    finally:
        for database in opened.values():
            await database.close()


async def _problems(region: Region, databases: dict[str, Database]) -> list[str]:
    try:
        rows = await databases[ROOT].read(read_rows)
        own = await databases[ROOT].read(_CHANGES.places)
        origins = {name: await _own_id(database) for name, database in databases.items()}
        below = {
            origins[name]: await databases[name].read(_read_below, origins[name])
            for name in region.shape.parents
        }
        known = {name: await db.read(_read_known, set(own)) for name, db in databases.items()}
        found = find_in_rows(join_rows(rows, below), await _machines(region, databases))
    except (XenithError, OSError) as error:
        return [f"it cannot be looked at: {error!r}"]
    return [*found, *_projections(region, origins, known)]


async def _own_id(database: Database) -> str:
    return str((await database.read(lambda tx: tx.list(cell_self)))[0].cell_id)


def _read_below(tx: Tx, cell_id: str) -> tuple[list[Any], dict[str, Any]]:
    return tx.list(instances, cell_id=cell_id), read_cell(tx)


def _read_known(tx: Tx, origins: set[str]) -> Known:
    return {each: (_CHANGES.place(tx, each), _CHANGES.hashes(tx, each)) for each in origins}


async def _machines(region: Region, databases: dict[str, Database]) -> list[HostRecords]:
    found: list[HostRecords] = []
    for leaf in region.leaves:
        rows = await databases[leaf.name].read(lambda tx: tx.list(host_rows, is_removed=False))
        addresses = {row.name: row.url for row in rows}
        found += await records_of(addresses, password=_password(leaf))
    return found


def _password(leaf: Member) -> str:
    return (leaf.data / "hosts.password").read_text().strip()


def _projections(region: Region, origins: dict[str, str], known: dict[str, Known]) -> Iterator[str]:
    """Hold that all above a leaf have its rows as it has them."""
    for leaf in region.shape.leaves:
        origin = origins[leaf]
        place, hashes = known[leaf][origin]
        for above in _above(region, leaf):
            its_place, its_hashes = known[above][origin]
            if its_place != place:
                yield f"{above} knows {leaf} up to {its_place}, not {place}"
            elif its_hashes != hashes:
                differing = sum(a != b for a, b in zip(hashes, its_hashes, strict=True))
                yield f"{above} has other rows of {leaf} in {differing} buckets"


def _above(region: Region, name: str) -> set[str]:
    found: set[str] = set()
    for parent in region.shape.parents.get(name, ()):
        found |= {parent} | _above(region, parent)
    return found
