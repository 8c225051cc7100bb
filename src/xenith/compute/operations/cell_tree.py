"""The tree of cells as operators look at it: every cell asked at once, and the dark ones named.

What stands in the topology is known here; what a cell has and how it is, it says itself, by a
question passed down the tree. A cell that does not answer is shown by what came up from it before,
with the age of that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from xenith.cells import joining
from xenith.cells.capacity import slots
from xenith.cells.status import CellStatus, LinkStatus
from xenith.cells.topology import CellEntry, Topology
from xenith.compute.operations.context import Context
from xenith.compute.operations.wanted import FLAVOR_CLASS
from xenith.compute.records.flavors import flavors
from xenith.compute.records.hosts import hosts
from xenith.compute.records.servers import servers
from xenith.core.clock import iso_seconds
from xenith.core.errors import XenithError
from xenith.core.ids import CellId
from xenith.db import Row, Tx

#: Seconds that a cell has to say how it is; an operator watches.
STATUS_TIMEOUT_S = 2.0
#: Cells asked at a time: 500 dark ones are known to be so within two rounds.
ASKED_AT_ONCE_MAX = 256


class _Known(msgspec.Struct, frozen=True):
    """A cell that was asked: what it said, or why nothing came."""

    status: CellStatus | None
    silence: str = ""


class _Amounts(msgspec.Struct, frozen=True):
    """How much of everything there is in one cell, without those below it."""

    hosts: int = 0
    hosts_up: int = 0
    servers: int = 0


class CellTree:
    """The tree and its cells, read."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def list(self) -> dict[str, Any]:
        """Tell of all cells, those above before those below, and of those that are expected."""
        topology = self._context.node.topology
        return {
            "region": topology.region,
            "version": topology.version,
            "cells": await self._shown(topology, from_the_top(topology)),
            "expected": await self._expected(),
        }

    async def get(self, ref: str) -> dict[str, Any]:
        """Tell of one cell.

        Raises:
            NotFound: there is none of that id or name.
        """
        topology = self._context.node.topology
        entry = topology.get(ref)
        below = topology.descendants(entry.id)
        beside = [entry, *topology.parents(entry.id), *(topology.get(each) for each in below)]
        shown = await self._shown(topology, beside)
        return next(each for each in shown if each["id"] == entry.id)

    async def _shown(
        self, topology: Topology, entries: Sequence[CellEntry]
    ) -> Sequence[dict[str, Any]]:
        places = asyncio.Semaphore(ASKED_AT_ONCE_MAX)
        sizes = await self._context.db.read(lambda tx: tx.list(flavors, is_public=True))
        sizes = sorted(sizes, key=lambda flavor: (flavor.ram_mib, flavor.root_gib, flavor.name))

        async def ask(entry: CellEntry) -> tuple[_Known, dict[str, int]]:
            async with places:
                known = await self._ask(entry.id)
            # Counted here, so that between cells others have their turn.
            return known, {} if known.status is None else _free(known.status, sizes)

        found = await asyncio.gather(*(ask(entry) for entry in entries))
        known = {entry.id: one for entry, (one, _) in zip(entries, found, strict=True)}
        seen = {
            entry.id: await self._context.db.read(_seen_before, entry.id)
            for entry in entries
            if known[entry.id].status is None
        }
        amounts = {
            entry.id: seen.get(entry.id) or _amounts(known[entry.id].status) for entry in entries
        }
        ages = {**self._context.node.ages(), self._context.node.cell_id: 0.0}
        # A router has no rows of its own, which are as new as can be.
        ages |= {each: 0.0 for each, one in known.items() if one.status and not one.status.number}
        return [
            {
                **_written(topology, entry),
                **_said(known[entry.id], free),
                **_sums(amounts, {entry.id} | topology.descendants(entry.id)),
                "age_s": _rounded(ages.get(entry.id)),
                "links": _links(topology, entry, known),
            }
            for entry, (_, free) in zip(entries, found, strict=True)
        ]

    async def _ask(self, cell_id: CellId) -> _Known:
        try:
            told = await self._context.node.ask(cell_id, "status", {}, timeout_s=STATUS_TIMEOUT_S)
            return _Known(msgspec.convert(told, CellStatus))
        except XenithError as error:
            return _Known(None, error.message)
        except msgspec.ValidationError:
            return _Known(None, "what it says of itself cannot be read")

    async def _expected(self) -> Sequence[dict[str, Any]]:
        """Tell which cells have a token and have not joined yet."""
        now_s = self._context.world.clock.now()
        tokens = await self._context.db.read(lambda tx: tx.list(joining.join_tokens))
        return [
            {
                "name": token.cell_name,
                "parents": [self._name(parent) for parent in token.parents],
                "expires_at": iso_seconds(token.expires_at),
            }
            for token in sorted(tokens, key=lambda token: str(token.cell_name))
            if token.used_at is None and token.expires_at > now_s
        ]

    def _name(self, cell_id: str) -> str:
        entry = self._context.node.topology.find(cell_id)
        return cell_id if entry is None else entry.name


def from_the_top(topology: Topology) -> list[CellEntry]:
    """Order cells so that each comes after all its parents, and otherwise as in the document."""
    left = list(topology.cells)
    done: set[CellId] = set()
    ordered: list[CellEntry] = []
    while left:
        level = [entry for entry in left if done.issuperset(entry.parents)]
        assert level, "a topology that was checked has no loop"
        ordered += level
        done |= {entry.id for entry in level}
        left = [entry for entry in left if entry.id not in done]
    return ordered


def _written(topology: Topology, entry: CellEntry) -> dict[str, Any]:
    """Give what the topology says of a cell."""
    successor = None if entry.successor is None else topology.find(entry.successor)
    return {
        "id": entry.id,
        "name": entry.name,
        "path": topology.path(entry.id),
        "parents": [parent.name for parent in topology.parents(entry.id)],
        "children": [child.name for child in topology.children(entry.id)],
        "state": entry.state,
        "successor": None if successor is None else successor.name,
        "weight": entry.weight,
        "weight_offset": entry.weight_offset,
        "projects": list(entry.projects),
        "flavor_classes": list(entry.flavor_classes),
        "broker": entry.broker,
        "key": entry.key.fingerprint(),
        "is_revoked": topology.is_revoked(entry.id),
    }


def _said(known: _Known, free: dict[str, int]) -> dict[str, Any]:
    """Give what a cell says of itself, or that it says nothing."""
    status = known.status
    if status is None:
        return {"is_dark": True, "silence": known.silence, "free": None}
    return {
        "is_dark": False,
        "silence": "",
        "has_hosts": status.has_hosts,
        "free": free,
        "topology": status.topology,
        "epoch": status.epoch,
        "number": status.number,
        "decisions": status.decisions,
        "undecided": status.open_intents.get("", 0),
        "open_intents": sum(status.open_intents.values()),
        "counts": status.counts,
    }


def _free(status: CellStatus, sizes: list[Row]) -> dict[str, int]:
    """Count the servers of each flavor that the cell has room for."""
    free = {}
    for flavor in sizes:
        of_class = (flavor.extra_specs or {}).get(FLAVOR_CLASS)
        classes = [
            each
            for each in status.classes
            if not each.key.flavor_classes or of_class in each.key.flavor_classes
        ]
        disk_gib = flavor.root_gib + flavor.ephemeral_gib + -(-flavor.swap_mib // 1024)
        free[flavor.name] = slots(classes, flavor.ram_mib, flavor.vcpus, disk_gib)
    return free


def _amounts(status: CellStatus | None) -> _Amounts:
    """Give what a cell itself has; what is below it tells its own."""
    if status is None or not status.has_hosts:
        return _Amounts()
    return _Amounts(status.host_count, status.hosts_up_count, status.server_count)


def _seen_before(tx: Tx, cell_id: CellId) -> _Amounts:
    """Give what came up from a cell that is dark now. Transaction function."""
    known = tx.list(hosts, cell_id=cell_id, is_removed=False)
    # Whether they are up is nobody's to say now.
    return _Amounts(len(known), 0, count_living(tx, cell_id))


def _sums(amounts: dict[CellId, _Amounts], cells: Iterable[CellId]) -> dict[str, int]:
    """Add up what cells have, each once: by two parents, a digest counts a leaf twice."""
    found = [amounts[cell_id] for cell_id in cells if cell_id in amounts]
    return {
        "hosts": sum(each.hosts for each in found),
        "hosts_up": sum(each.hosts_up for each in found),
        "servers": sum(each.servers for each in found),
    }


_LIVING = (
    sa.select(sa.func.count())
    .select_from(servers)
    .where(servers.c.cell_id == sa.bindparam("cell_id"), servers.c.deleted_at.is_(None))
)


def count_living(tx: Tx, cell_id: CellId) -> int:
    """Count the servers that a cell has and that are not deleted. Transaction function."""
    return int(tx.scalar(_LIVING, cell_id=cell_id))


def _links(
    topology: Topology, entry: CellEntry, known: dict[CellId, _Known]
) -> list[dict[str, Any]]:
    """Tell of a cell's links to its parents, as both ends see them."""
    own = known[entry.id].status
    below = {} if own is None else {each.peer: each for each in own.parents}
    shown = []
    for parent in topology.parents(entry.id):
        # Of a cell whose parent was not asked, or is dark itself, one end is all there is.
        asked = known.get(parent.id)
        told = None if asked is None else asked.status
        above = {} if told is None else {each.peer: each for each in told.children}
        shown.append(
            {
                "parent": parent.name,
                **_link(above.get(entry.id), below.get(parent.id)),
                "age_s": _rounded(None if told is None else told.ages.get(entry.id)),
                "open_intents": 0 if told is None else told.open_intents.get(entry.id, 0),
            }
        )
    return shown


def _link(above: LinkStatus | None, below: LinkStatus | None) -> dict[str, Any]:
    ends = [end for end in (above, below) if end is not None]
    return {
        "is_open": bool(ends) and all(end.is_open for end in ends),
        "is_alive": bool(ends) and all(end.is_alive for end in ends),
        "refused_by_parent": {} if above is None else above.refused,
        "refused_by_cell": {} if below is None else below.refused,
        "unsent": sum(end.unsent for end in ends),
        "dropped": sum(end.dropped for end in ends),
        "sent_down": None if above is None else above.sent,
        "sent_up": None if below is None else below.sent,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(max(seconds, 0.0), 2)
