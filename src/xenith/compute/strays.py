"""What a root's rows and its cells' rows do not agree on for good, found and ended.

It should find nothing, ever. It does when a database was put back from a backup: a cell has a
server that the root deleted or gave to another cell, or the root waits for a build that nobody has.
And it does when a cell was moved to another parent at the moment at which the parent that it left
had to tell it to let a build go, or when the root died in the middle of a cell's removal.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from xenith.cells.intents import intents
from xenith.compute.operations.cell_edits import forget_cell
from xenith.compute.operations.context import Context
from xenith.compute.operations.servers import BUILD_LIFE_S
from xenith.compute.origin import send_delete
from xenith.compute.records.hosts import hosts
from xenith.compute.records.instances import instances
from xenith.compute.records.servers import servers
from xenith.core.log import logger
from xenith.db import Row, Tx

_log = logger("compute.strays")

#: Servers that one activation ends; the next goes on.
STRAYS_MAX = 100
#: Seconds without a change after which rows are held to disagree for good: no verdict, fence or
#: change takes as long on its way while its cells answer.
SETTLED_S = 600.0
#: The same for what was accepted and never confirmed: nothing that could still confirm it is open.
UNCONFIRMED_S = 60.0

_OPEN = sa.select(intents.c.subject).where(
    intents.c.subject == servers.c.id, intents.c.closed_at.is_(None)
)
_STRAYS = (
    sa.select(
        instances.c.id,
        instances.c.cell_id,
        instances.c.is_confirmed,
        servers.c.deleted_at,
        servers.c.cell_id.label("owner"),
    )
    .join(servers, servers.c.id == instances.c.id)
    .where(
        instances.c.vm_state != "deleted",
        sa.or_(
            sa.and_(
                instances.c.updated_at < sa.bindparam("before"),
                servers.c.updated_at < sa.bindparam("before"),
            ),
            sa.and_(
                instances.c.is_confirmed.is_(False),
                instances.c.updated_at < sa.bindparam("unconfirmed_before"),
                servers.c.updated_at < sa.bindparam("unconfirmed_before"),
            ),
        ),
        sa.or_(
            servers.c.deleted_at.is_not(None),
            sa.func.coalesce(servers.c.cell_id, "") != instances.c.cell_id,
        ),
        ~_OPEN.exists(),
    )
    .limit(STRAYS_MAX)
)
_CELLS = sa.select(hosts.c.cell_id).where(hosts.c.is_removed.is_(False)).distinct()
_FORGOTTEN = (
    sa.select(servers.c.id)
    .where(
        servers.c.cell_id.is_(None),
        servers.c.fault.is_(None),
        servers.c.deleted_at.is_(None),
        servers.c.updated_at < sa.bindparam("before"),
        ~_OPEN.exists(),
    )
    .limit(STRAYS_MAX)
)


class Strays:
    """Deletes what cells should not have, and ends builds that nobody has."""

    name = "compute.strays"
    period_s = 300.0

    def __init__(self, context: Context) -> None:
        self._context = context

    async def activate(self) -> Mapping[str, int]:
        """Look at the rows that have not changed for long."""
        now = self._context.world.clock.now()
        topology = self._context.node.topology
        named = await self._context.db.read(lambda tx: tx.all(_CELLS))
        for row in named:
            if topology.find(row.cell_id) is None:
                await self._context.db.run(forget_cell, row.cell_id)
        return await self._context.db.run(self._end, now)

    def _end(self, tx: Tx, now_s: float) -> dict[str, int]:
        strays = tx.all(_STRAYS, before=now_s - SETTLED_S, unconfirmed_before=now_s - UNCONFIRMED_S)
        for row in strays:
            self._end_stray(tx, row, now_s)
        forgotten = tx.all(_FORGOTTEN, before=now_s - BUILD_LIFE_S - SETTLED_S)
        message = "The request to build the server was lost; delete it and ask again."
        fault = {"code": 500, "created": now_s, "message": message, "details": message}
        for row in forgotten:
            _log.warning("forgotten build", server=row.id)
            tx.update(
                servers, {"id": row.id}, fault=fault, pending_task_state=None, updated_at=now_s
            )
        return {"strays": len(strays), "forgotten": len(forgotten)}

    def _end_stray(self, tx: Tx, row: Row, now_s: float) -> None:
        owns = row.owner is not None and tx.find(instances, id=row.id, cell_id=row.owner)
        if row.deleted_at is None and row.is_confirmed and not owns:
            # It runs, and nowhere else: the name of the cell is what is wrong.
            _log.warning("server found", server=row.id, named=row.owner, cell=row.cell_id)
            tx.update(servers, {"id": row.id}, cell_id=row.cell_id, fault=None, updated_at=now_s)
            return
        _log.warning("stray server", server=row.id, cell=row.cell_id)
        send_delete(self._context, tx, row.id, row.cell_id)
