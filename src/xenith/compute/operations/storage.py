"""What operators ask of the disks on hosts; each host's cell asks the host."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from xenith.compute.operations.context import Context
from xenith.compute.records.hosts import hosts
from xenith.compute.records.instances import instances
from xenith.compute.records.servers import servers
from xenith.core.errors import Conflict, NotFound, XenithError
from xenith.core.ids import CellId
from xenith.db import Row, Tx

#: Seconds for one host to tell of its disks, and to do a part of what it is told.
READ_TIMEOUT_S = 20.0
ACT_TIMEOUT_S = 28.0
#: Hosts asked at a time.
ASKED_AT_ONCE_MAX = 32

Uuid = Annotated[str, msgspec.Meta(min_length=36, max_length=36, pattern="^[0-9a-f-]+$")]


class OrphansBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be done to orphans of a host."""

    #: Its id; or its name, where no other cell has a host of that name.
    host: str
    do: Literal["quarantine", "release", "remove"]
    disks: Annotated[list[Uuid], msgspec.Meta(min_length=1, max_length=50)]
    #: Of those to remove: seconds that they must have been in quarantine. A week.
    older_than_s: Annotated[float, msgspec.Meta(ge=0)] = 7 * 86400.0


class CollectBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which repository of a host is to make its chains shorter."""

    host: str
    sr: Uuid


class HostsStorage:
    """The disks on hosts."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def list(self, *, host: str | None, server: str | None) -> list[dict[str, Any]]:
        """Tell of the repositories of all hosts, of one, or of the one that has a server.

        A host that does not answer is told with the reason, and holds nobody up.

        Raises:
            NotFound: there is no such host or server.
        """
        rows = await self._context.db.read(_choose, host, server)
        places = asyncio.Semaphore(ASKED_AT_ONCE_MAX)

        async def ask(row: Row) -> dict[str, Any]:
            shown = {"host": row.name, "id": row.id, "error": "", "repositories": []}
            try:
                async with places:
                    return shown | await self._ask(row, "read", timeout_s=READ_TIMEOUT_S)
            except XenithError as error:
                return shown | {"error": error.message}

        return await asyncio.gather(*map(ask, rows))

    async def act(self, body: OrphansBody) -> Sequence[dict[str, Any]]:
        """Put orphans into quarantine, take them out of it, or remove them; tell of each.

        Raises:
            NotFound: there is no such host.
            Conflict: several hosts have the name.
            Unavailable: it does not answer.
        """
        row = await self._context.db.read(_get_one, body.host)
        told = await self._ask(
            row,
            body.do,
            timeout_s=ACT_TIMEOUT_S,
            disks=body.disks,
            older_than_s=body.older_than_s,
        )
        disks: list[dict[str, Any]] = told["disks"]
        return disks

    async def collect(self, body: CollectBody) -> dict[str, Any]:
        """Have a repository make its chains shorter; tell what came of it so far, and if all has.

        Raises:
            NotFound: there is no such host or repository.
            Conflict: several hosts have the name.
            Unavailable: it does not answer.
        """
        row = await self._context.db.read(_get_one, body.host)
        return await self._ask(row, "collect", timeout_s=ACT_TIMEOUT_S, sr=body.sr)

    async def _ask(self, row: Row, do: str, *, timeout_s: float, **params: Any) -> dict[str, Any]:
        told: dict[str, Any] = await self._context.node.ask(
            CellId(row.cell_id),
            "storage",
            {"host_id": row.id, "do": do, **params},
            timeout_s=timeout_s,
        )
        return told


def _choose(tx: Tx, host: str | None, server: str | None) -> list[Row]:
    if server is not None:
        owner = tx.find(servers, id=server)
        # Of a server that was moved, another cell may have a row too.
        found = owner and tx.find(instances, id=server, cell_id=owner.cell_id)
        if found is None or found.host_id is None:
            raise NotFound(f"Server {server[:64]} is on no host.")
        return tx.list(hosts, id=found.host_id, is_removed=False)
    if host is None:
        return sorted(tx.list(hosts, is_removed=False), key=lambda row: str(row.name))
    rows = tx.list(hosts, id=host, is_removed=False) or tx.list(hosts, name=host, is_removed=False)
    if not rows:
        raise NotFound(f"There is no host {host[:255]}.")
    return rows


def _get_one(tx: Tx, host: str) -> Row:
    rows = _choose(tx, host, None)
    if len(rows) > 1:
        # A name is one cell's own: the hosts that cells run themselves are all called alike.
        ids = ", ".join(str(row.id) for row in rows[:10])
        raise Conflict(f"{len(rows)} hosts are called {host[:255]}: name one by its id, of {ids}")
    return rows[0]
