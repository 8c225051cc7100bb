"""Hosts as operators see them: hypervisors, services and zones are three views of the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from xenith.compute.operations.context import Context
from xenith.compute.records.aggregates import aggregate_hosts
from xenith.compute.records.hosts import hosts
from xenith.compute.records.instances import instances
from xenith.compute.records.servers import servers
from xenith.core.errors import Conflict, Invalid, NotFound
from xenith.db import Row, Tx

#: An instance is the server's own, and not what another cell has left of it.
_IS_ITS = sa.and_(servers.c.id == instances.c.id, servers.c.cell_id == instances.c.cell_id)

#: The only binary that hosts stand for. Source: what nova's clients ask for.
BINARY = "nova-compute"


class Used(msgspec.Struct, frozen=True):
    """What the servers of a host take of it."""

    server_count: int = 0
    ram_mib: int = 0
    vcpus: int = 0
    disk_gib: int = 0
    #: Servers that something is being done to.
    busy_count: int = 0


class HostView(msgspec.Struct, frozen=True):
    """A host's row, whether it is up, what is used of it, and its servers if asked for."""

    row: Row
    is_up: bool
    used: Used = Used()
    #: (id, name) of each server.
    servers: tuple[tuple[str, str], ...] = ()

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the host said of itself when it was last seen."""
        facts: Mapping[str, Any] = self.row.facts or {}
        return facts


class ServiceChange(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator says of a host; None leaves it."""

    is_enabled: bool | None = None
    disabled_reason: str | None = None
    is_forced_down: bool | None = None


class Zone(msgspec.Struct, frozen=True):
    """A zone with its hosts; it is available while one of them is enabled."""

    name: str
    hosts: list[HostView]

    @property
    def is_available(self) -> bool:
        """Whether servers may be placed there."""
        return any(host.row.is_enabled for host in self.hosts)


#: `list` is a method below.
_Hosts = list[HostView]


class Inventory:
    """Operations on what hosts there are."""

    def __init__(self, context: Context) -> None:
        self._context = context

    # -- hypervisors

    async def list(
        self,
        *,
        pattern: str | None = None,
        marker: str | None = None,
        limit: int | None = None,
        with_used: bool = False,
        with_servers: bool = False,
    ) -> list[HostView]:
        """List hosts by number, after ``marker``: a number or an id.

        Raises:
            Invalid: the marker is no host.
        """

        def read(tx: Tx) -> list[HostView]:
            statement = sa.select(hosts).where(hosts.c.is_removed == 0)
            if pattern is not None:
                statement = statement.where(hosts.c.name.contains(pattern, autoescape=True))
            if marker is not None:
                statement = statement.where(hosts.c.number > self._marker(tx, marker))
            if limit is not None:
                statement = statement.limit(limit)
            rows = tx.all(statement.order_by(hosts.c.number))
            return self._views(tx, rows, with_used=with_used, with_servers=with_servers)

        return await self._context.db.read(read)

    async def get(self, host_ref: str | int, *, with_servers: bool = False) -> HostView:
        """Get a host by number or id, with what is used of it.

        Raises:
            NotFound: there is none.
        """

        def read(tx: Tx) -> HostView:
            row = _find(tx, host_ref)
            if row is None:
                raise NotFound(f"Compute host {str(host_ref)[:64]} could not be found.")
            (view,) = self._views(tx, [row], with_used=True, with_servers=with_servers)
            return view

        return await self._context.db.read(read)

    # -- services

    async def list_services(
        self, *, host: str | None = None, binary: str | None = None
    ) -> Sequence[HostView]:
        """List the services of hosts."""
        if binary not in (None, BINARY):
            return []

        def read(tx: Tx) -> list[HostView]:
            keys = {} if host is None else {"name": host}
            rows = tx.list(hosts, is_removed=False, **keys)
            return self._views(tx, sorted(rows, key=lambda row: int(row.number)))

        return await self._context.db.read(read)

    async def change_service_of(self, host: str, binary: str, change: ServiceChange) -> HostView:
        """Change what is said of a host, by name.

        Raises:
            NotFound: there is no such host or binary.
        """

        def find(tx: Tx) -> Row:
            row = tx.find(hosts, name=host, is_removed=False) if binary == BINARY else None
            if row is None:
                raise NotFound(
                    f"Could not find binary {binary[:255]} on host {host[:255]}.",
                    kind="HostBinaryNotFound",
                )
            return row

        return await self._change(find, change)

    async def change_service(self, service_id: str, change: ServiceChange) -> HostView:
        """Change what is said of a host, by its service's id.

        Raises:
            NotFound: there is no such service.
        """
        return await self._change(lambda tx: _get_service(tx, service_id), change)

    async def delete_service(self, service_ref: str | int) -> None:
        """Take a host that has no servers out of the cloud.

        Raises:
            NotFound: there is no such service.
            Conflict: the host has servers.
        """
        row = await self._context.db.read(_get_service, service_ref)
        on_it = sa.select(instances.c.id).where(
            instances.c.host_id == row.id, instances.c.vm_state != "deleted"
        )
        if await self._context.db.read(lambda tx: tx.first(on_it)) is not None:
            raise Conflict(
                "Unable to delete compute service that is hosting instances. Migrate or "
                "delete the instances first."
            )
        await self._context.change_host(row, is_removed=True)
        await self._context.db.run(lambda tx: tx.delete(aggregate_hosts, host_name=row.name))

    async def _change(self, find: Any, change: ServiceChange) -> HostView:
        values: dict[str, Any] = {}
        if change.is_enabled is not None:
            values["is_enabled"] = change.is_enabled
            values["disabled_reason"] = None if change.is_enabled else change.disabled_reason
        if change.is_forced_down is not None:
            values["is_forced_down"] = change.is_forced_down
        row = await self._context.db.read(find)
        await self._context.change_host(row, **values)

        def read(tx: Tx) -> HostView:
            (view,) = self._views(tx, [tx.get(hosts, id=row.id)])
            return view

        return await self._context.db.read(read)

    # -- zones

    async def list_zones(self) -> Sequence[Zone]:
        """List the zones of all hosts by name."""
        zones: dict[str, _Hosts] = {}
        for view in await self.list_services():
            zones.setdefault(view.row.zone, []).append(view)
        return [Zone(name, zones[name]) for name in sorted(zones)]

    def _views(
        self,
        tx: Tx,
        rows: Sequence[Row],
        *,
        with_used: bool = False,
        with_servers: bool = False,
    ) -> _Hosts:
        ids = [row.id for row in rows]
        used = _used(tx, ids) if with_used else {}
        on_them = _servers(tx, ids) if with_servers else {}
        return [
            HostView(
                row,
                row.is_up and not row.is_forced_down,
                used.get(row.id, Used()),
                tuple(on_them.get(row.id, ())),
            )
            for row in rows
        ]

    def _marker(self, tx: Tx, marker: str) -> int:
        row = _find(tx, int(marker) if marker.isdigit() and len(marker) <= 18 else marker)
        if row is None:
            raise Invalid(f"Marker {marker[:64]} could not be found.")
        return int(row.number)


def _find(tx: Tx, host_ref: str | int) -> Row | None:
    if isinstance(host_ref, int):
        return tx.find(hosts, number=host_ref, is_removed=False)
    return tx.find(hosts, id=host_ref, is_removed=False)


def _get_service(tx: Tx, service_ref: str | int) -> Row:
    row = (
        tx.find(hosts, number=service_ref, is_removed=False)
        if isinstance(service_ref, int)
        else tx.find(hosts, service_id=service_ref, is_removed=False)
    )
    if row is None:
        raise NotFound(f"Service {str(service_ref)[:64]} not found.", kind="ServiceNotFound")
    return row


def _used(tx: Tx, host_ids: Sequence[str]) -> dict[str, Used]:
    """Add up what the servers on some hosts take, as their flavors say."""
    rows = tx.all(
        sa.select(instances.c.host_id, instances.c.task_state, servers.c.flavor)
        .join(servers, _IS_ITS)
        .where(instances.c.host_id.in_(list(host_ids)), instances.c.vm_state != "deleted")
    )
    found: dict[str, list[int]] = {}
    for row in rows:
        flavor = row.flavor
        disk = flavor["disk"] + flavor["ephemeral"] + -(-flavor["swap"] // 1024)
        sums = found.setdefault(row.host_id, [0, 0, 0, 0, 0])
        parts = (1, flavor["ram"], flavor["vcpus"], disk, int(row.task_state is not None))
        found[row.host_id] = [total + part for total, part in zip(sums, parts, strict=True)]
    return {host_id: Used(*sums) for host_id, sums in found.items()}


def _servers(tx: Tx, host_ids: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    rows = tx.all(
        sa.select(instances.c.host_id, servers.c.id, servers.c.name)
        .join(servers, _IS_ITS)
        .where(instances.c.host_id.in_(list(host_ids)), instances.c.vm_state != "deleted")
        .order_by(servers.c.created_at, servers.c.id)
    )
    for row in rows:
        found.setdefault(row.host_id, []).append((row.id, row.name))
    return found
