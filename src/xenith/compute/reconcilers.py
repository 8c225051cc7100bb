"""What makes hosts and rows agree again, whatever happened between them.

Both look at the host first and at the rows after: a build writes its claim before it touches the
host, so what a host has and the later read of the rows does not know is nobody's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import sqlalchemy as sa

from xenith import saga
from xenith.compute.records.instances import change_instance, instances
from xenith.compute.records.quotas import recount_usage
from xenith.compute.states import NOSTATE, POWER_NUMBERS
from xenith.core.errors import Unavailable, XenithError
from xenith.core.log import logger
from xenith.db import Database, Row, Tx

if TYPE_CHECKING:
    from xenith.compute.cell import ComputeCell
    from xenith.driver import HostDriver

_log = logger("compute.reconcile")

#: Seconds for which a cached image that no disk stands on is kept for whoever asks next.
#: Source: nova, image_cache.remove_unused_original_minimum_age_seconds.
IMAGE_IDLE_S = 86400.0
#: Share of a host's repository that is kept free of images that nobody uses.
IMAGE_FREE_SHARE = 0.1

#: vm_states in which a host must have the VM.
_SETTLED = frozenset(("active", "stopped", "paused", "suspended", "rescued", "resized"))

_ON_HOST = sa.select(
    instances.c.id,
    instances.c.host_id,
    instances.c.task_state,
    instances.c.vm_state,
    instances.c.power_state,
    instances.c.launched_at,
).where(instances.c.host_id == sa.bindparam("host_id"), instances.c.vm_state != "deleted")


class LeftoverReconciler:
    """Removes from hosts what no row knows: of builds that moved on, and of deleted servers."""

    name = "compute.leftovers"
    period_s = 300.0

    def __init__(self, cell: ComputeCell) -> None:
        self._cell = cell

    async def activate(self) -> Mapping[str, int]:
        """Clean every host that is up.

        Raises:
            Unavailable: something stays on a host that is up; it is tried again soon.
        """
        counts = await asyncio.gather(*(self._clean(driver) for driver in _up(self._cell)))
        left_count = sum(left for _, left in counts)
        if left_count:
            raise Unavailable(f"{left_count} leftovers stay on hosts that are up")
        return {"removed": sum(removed for removed, _ in counts)}

    async def _clean(self, driver: HostDriver) -> tuple[int, int]:
        """Clean one host; tell how many were removed and how many stay."""
        try:
            found = await driver.owned_instances()
        except XenithError as error:
            _log.warning("host not looked at", host=driver.address.name, error=str(error))
            return 0, 0
        loose = driver.loose_rescue_disks
        rows = await self._cell.db.read(lambda tx: tx.all(_ON_HOST, host_id=driver.address.id))
        chosen = plan_leftovers(found, rows)
        # What may yet be somebody's is looked at again soon.
        left_count = driver.strays_left
        for refs in plan_loose(loose, rows):
            try:
                await driver.delete_disks(refs)
            except XenithError as error:
                left_count += 1
                _log.warning("rescue disk stays", host=driver.address.name, error=str(error))
        stuck_count = 0
        for instance_id in chosen:
            try:
                await driver.destroy_instance(instance_id)
            except XenithError as error:
                stuck_count += 1
                _log.warning("leftover stays", host=driver.address.name, error=str(error))
        return len(chosen) - stuck_count, left_count + stuck_count


class ImageCacheReconciler:
    """Removes images from hosts that no disk stands on: idle ones, and more where room is short."""

    name = "compute.image_cache"
    #: Source: nova, image_cache.manager_interval.
    period_s = 2400.0

    def __init__(self, cell: ComputeCell) -> None:
        self._cell = cell

    async def activate(self) -> Mapping[str, int]:
        """Look at every host that is up."""
        return {"removed": sum(await asyncio.gather(*map(self._trim, _up(self._cell))))}

    async def _trim(self, driver: HostDriver) -> int:
        try:
            return await driver.trim_images(idle_max_s=IMAGE_IDLE_S, free_share=IMAGE_FREE_SHARE)
        except XenithError as error:
            _log.warning("cache not looked at", host=driver.address.name, error=str(error))
            return 0


class PowerReconciler:
    """Writes the power states that events did not bring, and finds servers that are gone."""

    name = "compute.power"
    period_s = 600.0

    def __init__(self, cell: ComputeCell) -> None:
        self._cell = cell

    async def activate(self) -> Mapping[str, int]:
        """Compare every host that is up.

        Raises:
            Unavailable: the database is away; it is tried again soon.
        """
        counts = await asyncio.gather(*(self._compare(driver) for driver in _up(self._cell)))
        return {"written": sum(counts)}

    async def _compare(self, driver: HostDriver) -> int:
        host_id = driver.address.id
        try:
            found = await driver.list_instances()
        except XenithError as error:
            _log.warning("host not compared", host=driver.address.name, error=str(error))
            return 0
        rows = await self._cell.db.read(lambda tx: tx.all(_ON_HOST, host_id=host_id))
        changed, missing = plan_power(found, rows)
        for instance_id, power in changed.items():
            await self._cell.keep_power(host_id, instance_id, power)
        for instance_id in plan_runs(found, rows):
            await self._cell.db.run(_begin_run, instance_id, host_id)
        for instance_id in missing:
            if await self._is_gone(driver, instance_id):
                await self._cell.db.run(_write_missing, instance_id, host_id)
        return len(changed) + len(missing)

    async def _is_gone(self, driver: HostDriver, instance_id: str) -> bool:
        """Ask again: it may have come since the list was made."""
        try:
            return await driver.power_state(instance_id) is None
        except XenithError as error:
            _log.warning("host not compared", host=driver.address.name, error=str(error))
            return False


class ClaimReconciler:
    """Takes over what other schedulers of the cell claimed and gave back."""

    name = "compute.claims"
    period_s = 30.0

    def __init__(self, cell: ComputeCell) -> None:
        self._cell = cell

    async def activate(self) -> Mapping[str, int]:
        """Compare every host's count of claims."""
        return {"hosts": await self._cell.hosts.compare_claims()}


class UsageRecount:
    """Makes quota usage equal to the rows that it counts; it should find nothing, ever."""

    name = "compute.usage"
    period_s = 3600.0

    def __init__(self, db: Database) -> None:
        self._db = db

    async def activate(self) -> Mapping[str, int]:
        """Count anew."""
        return {"corrected": await self._db.run(recount_usage)}


def plan_leftovers(found: Iterable[str], rows: Iterable[Row]) -> list[str]:
    """Choose what a host has and no row puts there. Pure."""
    known = {row.id for row in rows}
    return sorted(instance_id for instance_id in found if instance_id not in known)


def plan_loose(loose: Mapping[str, list[str]], rows: Iterable[Row]) -> list[list[str]]:
    """Choose the rescue disks of servers that are at rest and not rescued. Pure.

    They are of calls that the host came to after they had been given up. What a rescue made that
    has begun since is not among them: it came after its task was written.
    """
    at_rest = _SETTLED - {"rescued"}
    return [
        loose[row.id]
        for row in rows
        if row.id in loose and row.task_state is None and row.vm_state in at_rest
    ]


def plan_power(found: Mapping[str, str], rows: Iterable[Row]) -> tuple[dict[str, str], list[str]]:
    """Choose which power states to write, and which servers the host does not have. Pure."""
    changed: dict[str, str] = {}
    missing: list[str] = []
    for row in rows:
        if row.task_state is not None or row.vm_state not in _SETTLED:
            continue
        power = found.get(row.id)
        if power is None:
            missing.append(row.id)
        elif POWER_NUMBERS.get(power, NOSTATE) != row.power_state:
            changed[row.id] = power
    return changed, missing


def plan_runs(found: Mapping[str, str], rows: Iterable[Row]) -> list[str]:
    """Choose the servers whose host went away as they began to run, and has them. Pure."""
    return [row.id for row in rows if _is_unknown(row) and row.id in found]


def _is_unknown(row: Row) -> bool:
    """Tell whether nobody knows if a server ran: on a host, never launched, in ERROR, at rest."""
    return bool(row.vm_state == "error" and row.launched_at is None and row.task_state is None)


def _begin_run(tx: Tx, instance_id: str, host_id: str) -> None:
    row = tx.find(instances, id=instance_id)
    if row is None or row.host_id != host_id or not _is_unknown(row):
        return
    change_instance(tx, instance_id, now_s=tx.world.clock.now(), task_state="spawning")
    saga.start(tx, "run", subject=instance_id)


def _up(cell: ComputeCell) -> list[HostDriver]:
    return [driver for driver in cell.hosts.drivers.values() if driver.is_up]


def _write_missing(tx: Tx, instance_id: str, host_id: str) -> None:
    row = tx.find(instances, id=instance_id)
    if (
        row is None
        or row.host_id != host_id
        or row.task_state is not None
        or row.vm_state not in _SETTLED
    ):
        return
    now = tx.world.clock.now()
    change_instance(
        tx,
        instance_id,
        now_s=now,
        vm_state="error",
        power_state=NOSTATE,
        fault={
            "code": 500,
            "created": now,
            "message": "The server is no longer on its host.",
            "details": f"host {host_id} has no VM of this server",
        },
    )
