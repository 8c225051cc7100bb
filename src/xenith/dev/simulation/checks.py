"""What must hold in a simulated region: at any time, and when it has settled.

``Watch.look`` is cheap and knows nothing of what is on its way, so it holds what no fault may ever
break. ``find_unsettled`` is for the end: nothing is open anywhere, every cell above an origin knows
what it knows, and rows, hosts and memory say the same. All is read from outside, past whatever is
away or dead; each thing wrong is one sentence.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from xenith.cells.changes import Changes, Place, cursors, root_of
from xenith.cells.intents import count_open
from xenith.compute.origin import TABLES
from xenith.compute.records.hosts import hosts as host_rows
from xenith.compute.records.instances import allocations, instances
from xenith.compute.records.servers import servers
from xenith.core.ids import CellId
from xenith.db import Database, Row, Tx
from xenith.dev.invariants import find_in_rows, find_in_table, join_rows, read_cell, read_rows
from xenith.dev.simulation.region import CellPlace, Region
from xenith.dev.simulation.workload import Workload
from xenith.saga.definition import OPEN_STATES
from xenith.saga.records import SAGAS

#: Virtual seconds between two looks.
LOOK_PERIOD_S = 2.0
#: Seconds after its deletion in which a VM may still be started: a call that was sent before may
#: wait at its host for so long. Source: the driver's deadline for a call, and a machine that hangs.
LATE_START_S = 150.0

_CHANGES = Changes(TABLES)
_HELD = (
    sa.select(
        allocations.c.host_id,
        sa.func.sum(allocations.c.ram_mib).label("ram_mib"),
        sa.func.sum(allocations.c.disk_gib).label("disk_gib"),
    )
    .group_by(allocations.c.host_id)
    .order_by(allocations.c.host_id)
)


class Broken(Exception):
    """What must hold at any time does not."""


class Watch:
    """Looks at a region all along."""

    def __init__(self, region: Region, workload: Workload) -> None:
        self._region = region
        self._workload = workload
        self._gone: set[str] = set()
        #: In which cell each server was begun, and when that cell had deleted it.
        self._begun: dict[str, str] = {}
        self._deleted_at_s: dict[str, float] = {}
        self.look_count = 0
        region.on_start = self._hear_start

    async def watch(self) -> None:
        """Look again and again.

        Raises:
            Broken: something is wrong.
        """
        while True:
            await asyncio.sleep(LOOK_PERIOD_S)
            await self.look()

    async def look(self) -> None:
        """Look once.

        Raises:
            Broken: something is wrong.
        """
        self.look_count += 1
        self._region.check_tasks()
        found = [
            *self._look_at_machines(),
            *self._region.events.mistakes,
            *await self._look_at_root(),
        ]
        for place in (*self._region.leaves, *self._region.removed):
            found += await self._look_at_leaf(place)
        found += await self._look_at_cursors()
        if found:
            raise Broken("\n".join(found))

    def _hear_start(self, instance_id: str) -> None:
        deleted_at_s = self._deleted_at_s.get(instance_id)
        now_s = self._region.simulation.loop.time()
        if deleted_at_s is not None and now_s - deleted_at_s > LATE_START_S:
            self._region.events.mistakes.append(
                f"server {instance_id} was started {now_s - deleted_at_s:.0f} s after its deletion"
            )

    def _look_at_machines(self) -> Iterator[str]:
        where: dict[str, list[str]] = {}
        gone = [host for place in self._region.removed for host in place.hosts]
        for host in (*self._region.hosts, *gone):
            for instance_id in sorted(host.machine.instances()):
                where.setdefault(instance_id, []).append(host.name)
        for instance_id, names in where.items():
            if len(names) > 1:
                yield f"server {instance_id} runs on {' and on '.join(names)}"

    async def _look_at_root(self) -> list[str]:
        rows = await self._region.root.observer.read(_read_servers)
        gone = {row.id for row in rows if row.deleted_at is not None}
        known = {row.id for row in rows}
        back, self._gone = self._gone - gone, gone
        return [
            *(f"server {one} was deleted and is back" for one in sorted(back)),
            *(
                f"server {one} was accepted and nobody knows it"
                for one in sorted(self._workload.accepted - known)
            ),
        ]

    async def _look_at_leaf(self, place: CellPlace) -> list[str]:
        found: list[str] = []
        rows, held, hosts = await place.observer.read(_read_leaf)
        for row in rows:
            other = self._begun.setdefault(row.id, place.name)
            if other != place.name:
                found.append(f"server {row.id} was begun in {other} and in {place.name}")
            if row.vm_state == "deleted":
                self._deleted_at_s.setdefault(row.id, self._region.simulation.loop.time())
            elif row.id in self._deleted_at_s:
                found.append(f"{place.name} had deleted server {row.id}, and has it again")
        for claim in held:
            facts: dict[str, Any] = hosts[claim.host_id].facts or {}
            for name in ("memory_mib", "disk_gib"):
                claimed = claim.ram_mib if name == "memory_mib" else claim.disk_gib
                if claimed > facts.get(name, 0):
                    found.append(
                        f"host {hosts[claim.host_id].name} has {facts.get(name, 0)} {name}, and "
                        f"{claimed} are claimed"
                    )
        return found

    async def _look_at_cursors(self) -> list[str]:
        found = []
        own: dict[str, Place] = {}
        for place in (*self._region.cells.values(), *self._region.removed):
            own[place.id] = await place.observer.read(_CHANGES.place, place.id)
        for place in self._region.cells.values():
            rows = await place.observer.read(lambda tx: tx.list(cursors))
            found += [
                f"{place.name} knows changes up to {row.epoch}/{row.number} of "
                f"{row.origin}, which is at {own[row.origin]}"
                for row in rows
                if (row.epoch, row.number) > (own[row.origin].epoch, own[row.origin].number)
            ]
        return found


async def find_unsettled(region: Region, workload: Workload) -> list[str]:
    """Find all that is not yet as it must be in the end."""
    dead = [place.name for place in region.cells.values() if place.cell is None]
    dead += [
        place.second.name
        for place in region.leaves
        if place.second is not None and place.scheduler is None
    ]
    dead += [host.name for host in region.hosts if host.server is None]
    if dead:
        return [f"{name} has not started" for name in dead]
    found = [f"nobody took care of {each}" for each in region.simulation.loop.complaints]
    for place in region.cells.values():
        found += await place.observer.read(_find_open, place.name)
        found += _find_in_memory(place)
    if found:
        # What follows cannot hold yet, and takes a hundred times as long to look at.
        return found
    found += await _find_untold(region)
    found += await _find_removed(region)
    found += await _find_wrong_rows(region)
    found += await region.root.observer.read(_find_broken_promises, workload)
    return found


def _find_open(tx: Tx, name: str) -> list[str]:
    intents = [
        f"{name} has {count} intents open at {next_hop or 'itself'}"
        for next_hop, count in count_open(tx).items()
    ]
    sagas = [
        f"{name}: saga {row.kind} of {row.subject} is {row.state} at step {row.step}: {row.error}"
        for row in tx.all(sa.select(SAGAS).where(SAGAS.c.state.in_(OPEN_STATES)))
    ]
    return [*intents, *sagas]


def _find_in_memory(place: CellPlace) -> Iterator[str]:
    """Find reservations that nobody let go."""
    cell = place.cell
    assert cell is not None, "only those that live are looked at"
    node = cell.node
    if node.routing._reservations:  # noqa: SLF001 - what must be empty
        yield f"{place.name} has reservations of {sorted(node.routing._reservations)}"  # noqa: SLF001
    node.chooser._expire(node.world.clock.monotonic())  # noqa: SLF001 - as the next choice would
    held = len(node.chooser._reservations)  # noqa: SLF001
    if held:
        yield f"the chooser of {place.name} holds {held} reservations"
    schedulers = (cell.compute, place.scheduler)
    if any(each is not None and each.hosts._unwritten for each in schedulers):  # noqa: SLF001
        yield f"{place.name} has claims that it never wrote"
    for child, link in node.children.items():
        if link.open_count:
            yield f"{place.name} waits for {link.open_count} answers of {child}"


async def _find_untold(region: Region) -> list[str]:
    """Find where a cell above an origin does not have its rows, byte for byte."""
    found = []
    seen: dict[str, tuple[Place, bytes]] = {}
    for place in region.cells.values():
        seen[place.id] = await _read_seen(place.observer, place.id)
    for place in region.cells.values():
        for origin in sorted(region.topology.descendants(place.id)):
            told = await _read_seen(place.observer, origin)
            if told != seen[origin]:
                found.append(
                    f"{place.name} has {told[0]} of {region.events.names[origin]}, which is at "
                    f"{seen[origin][0]}; their rows {_alike(told[1], seen[origin][1])}"
                )
    return found


async def _find_removed(region: Region) -> list[str]:
    """Find what is still listed of cells that were taken out."""
    found = []
    for place in region.removed:
        living, hosts, left = await region.root.observer.read(_read_listed, place.id)
        if living:
            found.append(f"{place.name} was removed, and servers are still its: {living}")
        if hosts:
            found.append(f"{place.name} was removed, and its hosts are listed: {hosts}")
        if left:
            found.append(f"{place.name} was removed, and the root still has of it: {left}")
        if region.topology.find(place.id) is not None:
            found.append(f"{place.name} was removed, and is in the tree again")
    return found


def _read_listed(tx: Tx, cell_id: CellId) -> tuple[list[str], list[str], list[str]]:
    """Read what a root would list as a cell's: servers, hosts, and instances that live."""
    living = sa.select(servers.c.id).where(
        servers.c.cell_id == cell_id, servers.c.deleted_at.is_(None)
    )
    left = sa.select(instances.c.id).where(
        instances.c.cell_id == cell_id, instances.c.vm_state != "deleted"
    )
    return (
        sorted(row.id for row in tx.all(living)),
        sorted(row.name for row in tx.list(host_rows, cell_id=cell_id, is_removed=False)),
        sorted(row.id for row in tx.all(left)),
    )


async def _read_seen(db: Database, origin: CellId) -> tuple[Place, bytes]:
    def read(tx: Tx) -> tuple[Place, bytes]:
        return _CHANGES.place(tx, origin), root_of(_CHANGES.hashes(tx, origin))

    return await db.read(read)


def _alike(ours: bytes, theirs: bytes) -> str:
    return "are alike" if ours == theirs else "differ"


async def _find_wrong_rows(region: Region) -> list[str]:
    root = await region.root.observer.read(read_rows)
    leaves: dict[str, tuple[list[Row], dict[str, Any]]] = {}
    for place in region.leaves:
        leaves[place.id] = await place.observer.read(_read_whole_leaf, place.id)
    rows = join_rows(root, leaves)
    found = find_in_rows(rows, [host.records() for host in region.hosts])
    for place in region.leaves:
        assert place.cell is not None, "only those that live are looked at"
        compute = place.cell.compute
        assert compute is not None, "a leaf has hosts"
        _, own = leaves[place.id]
        found += find_in_table(own["hosts"], own["allocations"], compute.hosts.table)
        if place.scheduler is not None:
            table = place.scheduler.hosts.table
            wrong = find_in_table(own["hosts"], own["allocations"], table)
            found += [f"second scheduler of {place.name}: {each}" for each in wrong]
        found += [
            f"host {row.name} is {_up(row.is_up)} in the rows, and {_up(driver.is_up)}"
            for host_id, driver in compute.hosts.drivers.items()
            if (row := own["hosts"][host_id]).is_up != driver.is_up
        ]
    return found


def _up(is_up: bool) -> str:
    return "up" if is_up else "down"


def _find_broken_promises(tx: Tx, workload: Workload) -> list[str]:
    rows = {row.id: row for row in tx.list(servers)}
    return [
        f"server {server_id} is there, and its deletion was accepted"
        for server_id in sorted(workload.deleted)
        if rows[server_id].deleted_at is None
    ]


def _read_servers(tx: Tx) -> list[Row]:
    return tx.all(sa.select(servers.c.id, servers.c.deleted_at))


def _read_leaf(tx: Tx) -> tuple[list[Row], list[Row], dict[str, Row]]:
    """Read what was begun in a leaf, what is claimed on its hosts, and the hosts."""
    begun = sa.select(instances.c.id, instances.c.vm_state).where(instances.c.is_confirmed)
    return tx.all(begun), tx.all(_HELD), {row.id: row for row in tx.list(host_rows)}


def _read_whole_leaf(tx: Tx, cell_id: CellId) -> tuple[list[Row], dict[str, Any]]:
    return tx.list(instances, cell_id=cell_id), read_cell(tx)


def count_states(tx: Tx) -> dict[str, int]:
    """Count what became of all servers. Transaction function."""
    found: Counter[str] = Counter()
    for row in tx.list(servers):
        instance = tx.find(instances, id=row.id, cell_id=row.cell_id or "")
        if row.deleted_at is not None:
            found["deleted"] += 1
        elif instance is None:
            found["in no cell"] += 1
        else:
            found[instance.vm_state] += 1
    return dict(sorted(found.items()))
