"""Aggregates of hosts, and the zones that hosts have through them.

The zone that counts for placement is in the host's row, which is its cell's: what changes an
aggregate with a zone has the cell write it there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from xenith.compute.operations.context import Context
from xenith.compute.operations.servers import bytes_format
from xenith.compute.records.aggregates import (
    ZONE,
    aggregate_hosts,
    aggregates,
    all_host_names,
    change_aggregate,
    host_names,
    next_number,
    zones_of_host,
)
from xenith.compute.records.hosts import hosts
from xenith.compute.records.instances import instances
from xenith.core.errors import Conflict, Invalid, NotFound, Unavailable
from xenith.core.ids import CellId
from xenith.core.log import logger
from xenith.db import Row, Tx
from xenith.http import Principal

_log = logger("compute.aggregates")

#: Hosts that a change brings to another zone, with that zone.
Moved = list[tuple[Row, str]]


class AggregateView(msgspec.Struct, frozen=True):
    """An aggregate with the names of its hosts."""

    row: Row
    hosts: list[str]


class Aggregates:
    """Operations on aggregates."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def list(self) -> list[AggregateView]:
        """List all aggregates by number."""

        def read(tx: Tx) -> list[AggregateView]:
            members = all_host_names(tx)
            return [AggregateView(row, members.get(row.number, [])) for row in tx.list(aggregates)]

        return await self._context.db.read(read)

    async def get(self, number: int) -> AggregateView:
        """Get one aggregate.

        Raises:
            NotFound: there is none of that number.
        """
        return await self._context.db.read(_view, number)

    async def create(self, *, name: str, zone: str | None) -> AggregateView:
        """Make an aggregate.

        Raises:
            Conflict: the name is taken.
        """

        def insert(tx: Tx) -> AggregateView:
            _refuse_taken(tx, name)
            number = next_number(tx)
            tx.insert(
                aggregates,
                {
                    "number": number,
                    "id": self._context.world.ids.uuid(),
                    "name": name,
                    "metadata": {} if zone is None else {ZONE: zone},
                    "created_at": self._now(),
                    "updated_at": None,
                },
            )
            return _view(tx, number)

        return await self._context.db.run(insert)

    async def update(
        self, number: int, *, name: str | None, metadata: Mapping[str, str | None]
    ) -> AggregateView:
        """Rename an aggregate, and change items of its metadata; None takes an item away.

        Raises:
            Conflict: the name is taken, or the zone may not change now.
        """

        def change(tx: Tx, moved: Moved) -> AggregateView:
            view = _view(tx, number)
            if name is not None and name != view.row.name:
                _refuse_taken(tx, name)
            kept = {**view.row.metadata, **metadata}
            changed = {key: value for key, value in kept.items() if value is not None}
            if changed.get(ZONE) != view.row.metadata.get(ZONE):
                moved += self._move(tx, view, changed.get(ZONE))
            change_aggregate(
                tx,
                number,
                now_s=self._now(),
                name=view.row.name if name is None else name,
                metadata=changed,
            )
            return _view(tx, number)

        return await self._change(change)

    async def delete(self, number: int) -> None:
        """Delete an aggregate.

        Raises:
            Invalid: it has hosts.
        """

        def delete(tx: Tx) -> None:
            if _view(tx, number).hosts:
                raise Invalid(f"Cannot delete aggregate {number}: Host aggregate is not empty")
            tx.delete(aggregates, number=number)

        await self._context.db.run(delete)

    async def add_host(self, number: int, host_name: str) -> AggregateView:
        """Put a host into an aggregate.

        Raises:
            NotFound: there is no such host.
            Conflict: it is in already, or would be in two zones, or change zone with servers on it.
        """

        def add(tx: Tx, moved: Moved) -> AggregateView:
            view = _view(tx, number)
            host = _host(tx, host_name)
            if host_name in view.hosts:
                raise Conflict(f"Aggregate {number} already has host {host_name}.")
            zone = view.row.metadata.get(ZONE)
            if zone is not None:
                moved += self._set_zone(tx, host, zone, without=number)
            tx.insert(aggregate_hosts, {"aggregate": number, "host_name": host_name})
            return _view(tx, number)

        return await self._change(add)

    async def remove_host(self, number: int, host_name: str) -> AggregateView:
        """Take a host out of an aggregate.

        Raises:
            NotFound: there is no such host, or it is not in.
            Conflict: servers on it are in the aggregate's zone.
        """

        def remove(tx: Tx, moved: Moved) -> AggregateView:
            view = _view(tx, number)
            host = _host(tx, host_name)
            if not tx.delete(aggregate_hosts, aggregate=number, host_name=host_name):
                raise NotFound(f"Aggregate {number} has no host {host_name}.")
            if ZONE in view.row.metadata:
                moved += self._set_zone(tx, host, None, without=number)
            return _view(tx, number)

        return await self._change(remove)

    async def cache_images(
        self, number: int, image_ids: Sequence[str], principal: Principal
    ) -> None:
        """Have images brought to an aggregate's hosts; does not wait for it.

        A cell that is away is not asked again: the first build brings an image too.

        Raises:
            NotFound: there is no such aggregate, or no such image that is whole.
        """

        def read(tx: Tx) -> tuple[list[Row], list[dict[str, Any]]]:
            members = [
                tx.find(hosts, name=name, is_removed=False) for name in _view(tx, number).hosts
            ]
            images = [self._image(tx, image_id, principal) for image_id in image_ids]
            return [host for host in members if host is not None], images

        members, images = await self._context.db.read(read)
        by_cell: dict[str, list[str]] = {}
        for host in members:
            by_cell.setdefault(host.cell_id, []).append(host.id)
        for cell_id, host_ids in by_cell.items():
            asked = {"host_ids": host_ids, "images": images}
            try:
                await self._context.node.ask(CellId(cell_id), "cache_images", asked)
            except Unavailable as error:
                _log.warning("images not cached", cell=cell_id, error=str(error))

    def _image(self, tx: Tx, image_id: str, principal: Principal) -> dict[str, Any]:
        image = self._context.images.find_image(tx, image_id, principal)
        if image is None or image.status != "active":
            raise NotFound(f"Image {image_id[:64]} could not be found.")
        return {
            "id": image.id,
            "disk_format": bytes_format(image),
            "size_bytes": image.size_bytes,
        }

    def _move(self, tx: Tx, view: AggregateView, zone: str | None) -> Moved:
        moved: Moved = []
        for name in view.hosts:
            host = tx.find(hosts, name=name, is_removed=False)
            if host is not None:
                moved += self._set_zone(tx, host, zone, without=view.row.number)
        return moved

    def _set_zone(self, tx: Tx, host: Row, zone: str | None, *, without: int) -> Moved:
        """Give a host its zone; ``zone`` None is what its other aggregates say, or the default."""
        others = zones_of_host(tx, host.name, without=without)
        if zone is not None and others and others != [zone]:
            raise Conflict(f"Host {host.name} is already in availability zone {others[0]}.")
        wanted = zone or (others[0] if others else self._context.default_zone)
        if wanted == host.zone:
            return []
        on_it = sa.select(instances.c.id).where(
            instances.c.host_id == host.id, instances.c.vm_state != "deleted"
        )
        if tx.first(on_it) is not None:
            raise Conflict(
                f"Host {host.name} has servers in availability zone {host.zone}: move them first."
            )
        return [(host, wanted)]

    async def _change(self, change: Callable[[Tx, Moved], AggregateView]) -> AggregateView:
        """Run a change, and have the cells of the hosts that it moves follow.

        A cell that is away is told when it is back: what aggregates say is compared in time.
        """

        def run(tx: Tx) -> tuple[AggregateView, Moved]:
            moved: Moved = []
            return change(tx, moved), moved

        view, moved = await self._context.db.run(run)
        for host, zone in moved:
            await self._context.change_host(host, zone=zone)
        return view

    def _now(self) -> float:
        return self._context.world.clock.now()


def _view(tx: Tx, number: int) -> AggregateView:
    row = tx.find(aggregates, number=number)
    if row is None:
        raise NotFound(f"Aggregate {number} could not be found.")
    return AggregateView(row, host_names(tx, number))


def _host(tx: Tx, name: str) -> Row:
    row = tx.find(hosts, name=name, is_removed=False)
    if row is None:
        raise NotFound(f"Compute host {name[:255]} could not be found.")
    return row


def _refuse_taken(tx: Tx, name: str) -> None:
    if tx.find(aggregates, name=name) is not None:
        raise Conflict(f"Aggregate {name} already exists.")
