"""Usage: hours of servers in a period, from when each was launched and when it ended."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sa

from xenith.compute.operations.context import Context
from xenith.compute.records.instances import instances
from xenith.compute.records.servers import servers
from xenith.core.errors import Invalid
from xenith.db import Row, Tx


class ServerUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What one server used in the period; sizes as its flavor had them."""

    server_id: str
    project_id: str
    name: str
    flavor_name: str
    vcpus: int
    ram_mib: int
    disk_gib: int
    started_s: float
    ended_s: float | None
    vm_state: str
    hours: float
    uptime_s: int


class ProjectUsage(msgspec.Struct, frozen=True):
    """What a project's servers used in the period."""

    project_id: str
    servers: list[ServerUsage]

    @property
    def hours(self) -> float:
        """Hours of all servers together."""
        return sum(usage.hours for usage in self.servers)

    def hours_of(self, size: str) -> float:
        """Hours, each weighed by a server's size: ``vcpus``, ``ram_mib`` or ``disk_gib``."""
        return sum(usage.hours * float(getattr(usage, size)) for usage in self.servers)


class Usage:
    """Operations on usage."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def list(
        self,
        *,
        start_s: float,
        stop_s: float,
        project_id: str | None = None,
        limit: int | None = None,
        marker: str | None = None,
    ) -> list[ProjectUsage]:
        """List the usage of one project or all, by project and server.

        ``limit`` and ``marker`` count servers, so a project may go on on the next page.

        Raises:
            Invalid: the marker is no server of the list.
        """
        rows = await self._context.db.read(
            _read, start_s, stop_s, project_id=project_id, limit=limit, marker=marker
        )
        now = self._context.world.clock.now()
        return by_project(usage_of(row, start_s, min(stop_s, now), now_s=now) for row in rows)


def _read(
    tx: Tx,
    start_s: float,
    stop_s: float,
    *,
    project_id: str | None,
    limit: int | None,
    marker: str | None,
) -> list[Row]:
    statement = (
        sa.select(
            servers.c.id,
            servers.c.project_id,
            servers.c.name,
            servers.c.flavor,
            instances.c.vm_state,
            instances.c.launched_at,
            instances.c.terminated_at,
        )
        .join(
            instances,
            sa.and_(instances.c.id == servers.c.id, instances.c.cell_id == servers.c.cell_id),
        )
        .where(
            instances.c.launched_at < stop_s,
            sa.or_(instances.c.terminated_at.is_(None), instances.c.terminated_at > start_s),
        )
    )
    if project_id is not None:
        statement = statement.where(servers.c.project_id == project_id)
    if marker is not None:
        last = tx.find(servers, id=marker)
        if last is None:
            raise Invalid(f"marker [{marker[:64]}] not found")
        statement = statement.where(
            sa.or_(
                servers.c.project_id > last.project_id,
                sa.and_(servers.c.project_id == last.project_id, servers.c.id > last.id),
            )
        )
    statement = statement.order_by(servers.c.project_id, servers.c.id)
    return tx.all(statement if limit is None else statement.limit(limit))


def usage_of(row: Any, start_s: float, stop_s: float, *, now_s: float) -> ServerUsage:
    """Work out one server's usage within a period. Pure."""
    ended = row.terminated_at
    seconds = min(stop_s, now_s if ended is None else ended) - max(start_s, row.launched_at)
    flavor = row.flavor
    return ServerUsage(
        server_id=row.id,
        project_id=row.project_id,
        name=row.name,
        flavor_name=flavor["original_name"],
        vcpus=flavor["vcpus"],
        ram_mib=flavor["ram"],
        disk_gib=flavor["disk"] + flavor["ephemeral"],
        started_s=row.launched_at,
        ended_s=ended,
        vm_state="terminated" if ended is not None else row.vm_state,
        hours=max(seconds, 0.0) / 3600,
        uptime_s=int(max((now_s if ended is None else ended) - row.launched_at, 0)),
    )


def by_project(usages: Iterable[ServerUsage]) -> list[ProjectUsage]:
    """Gather servers by project, in the order they come. Pure."""
    projects: dict[str, list[ServerUsage]] = {}
    for usage in usages:
        projects.setdefault(usage.project_id, []).append(usage)
    return [ProjectUsage(project_id, found) for project_id, found in projects.items()]
