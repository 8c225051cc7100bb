"""A cell's answers to its operators about the disks on its hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from xenith.compute.records.instances import instances
from xenith.core.errors import XenithError
from xenith.db import Tx
from xenith.driver.chains import Disk, Repository

if TYPE_CHECKING:
    from xenith.compute.cell import ComputeCell
    from xenith.driver import HostDriver

#: Seconds between two looks at chains that are to get shorter; looks without a change after which
#: they are held to be as short as they get, and looks after which who asked may ask again.
LOOK_S = 0.5
STILL_LOOKS = 20
LOOKS_MAX = 30


class HostStorage:
    """What a cell knows and does of its hosts' disks."""

    def __init__(self, cell: ComputeCell) -> None:
        self._cell = cell

    async def answer(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one question about one host: ``do`` says which.

        Raises:
            NotFound: the cell has no such host.
            Unavailable: the host does not answer.
        """
        driver = self._cell.hosts.up_driver(params["host_id"])
        match params["do"]:
            case "collect":
                return await self._collect(driver, params["sr"])
            case "quarantine" | "release" | "remove" as act:
                done = [await self._act(driver, act, uuid, params) for uuid in params["disks"]]
                return {"disks": done}
        return {"repositories": await self._read(driver)}

    async def _read(self, driver: HostDriver) -> list[dict[str, Any]]:
        found = await driver.storage.read()
        known = {disk.of for one in found for disk in one.disks if disk.of}
        living = await self._cell.db.read(_find_living, sorted(known))
        return [
            {
                **_plain(one, without="disks"),
                "disks": [{**_plain(disk), "proof": prove(disk, living)} for disk in one.disks],
            }
            for one in found
        ]

    async def _act(
        self, driver: HostDriver, act: str, uuid: str, params: Mapping[str, Any]
    ) -> dict[str, Any]:
        now, storage = self._cell.world.clock.now(), driver.storage
        freed = 0
        try:
            with driver.spoken(f"{act} disk {uuid[:64]}"):
                match act:
                    case "quarantine":
                        await storage.quarantine(uuid, now_s=now)
                    case "release":
                        await storage.release(uuid)
                    case _:
                        before = now - params["older_than_s"]
                        freed = await storage.remove(uuid, before_s=before)
        except XenithError as error:
            return {"uuid": uuid, "done": "refused", "why": error.message, "freed": 0}
        done = {"quarantine": "in quarantine", "release": "released", "remove": "removed"}[act]
        return {"uuid": uuid, "done": done, "why": "", "freed": freed}

    async def _collect(self, driver: HostDriver, sr_uuid: str) -> dict[str, Any]:
        before = await self._measure(driver, sr_uuid)
        with driver.spoken(f"collect repository {sr_uuid[:64]}"):
            await driver.storage.collect(sr_uuid)
        after, still = before, 0
        for _ in range(LOOKS_MAX):
            if still >= STILL_LOOKS or not after["debt"]:
                break
            await self._cell.world.clock.sleep(LOOK_S)
            now = await self._measure(driver, sr_uuid)
            still = still + 1 if now == after else 0
            after = now
        is_done = still >= STILL_LOOKS or not after["debt"]
        return {"before": before, "after": after, "is_done": is_done}

    async def _measure(self, driver: HostDriver, sr_uuid: str) -> dict[str, int]:
        with driver.spoken("tell of its disks"):
            found = await driver.storage.read()
        for one in found:
            if one.uuid == sr_uuid:
                depths = [disk.depth for disk in one.disks if not disk.is_hidden]
                return {
                    "used": sum(disk.used for disk in one.disks),
                    "debt": one.debt,
                    "disks": len(one.disks),
                    "deepest": max(depths, default=0),
                }
        return {"used": 0, "debt": 0, "disks": 0, "deepest": 0}


def prove(disk: Disk, living: Mapping[str, bool]) -> list[str]:
    """Say why a disk is nobody's, as far as that can be seen; nothing where it is somebody's.

    ``living`` has the servers of the cell that disks are of, and whether they are there.

    >>> prove(Disk(uuid="u", name="old", kind="other", size=1, used=1), {})
    ['no VM has it', 'its name is none that Xenith gives', 'it is no base copy']
    """
    if disk.kind == "half":
        return ["an import or a clone that did not end", "the cell removes it by itself"]
    if disk.of and disk.kind != "image":
        if living.get(disk.of):
            return []
        return [f"server {disk.of} is not in this cell", "the cell removes it by itself"]
    if disk.kind != "other" or disk.is_attached:
        return []
    said = ["no VM has it", "its name is none that Xenith gives", "it is no base copy"]
    if disk.is_snapshot:
        said.append(f"it is a snapshot of {disk.snapshot_of or 'a disk that is gone'}")
    return said


def _find_living(tx: Tx, ids: Sequence[str]) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for first in range(0, len(ids), 500):
        part = ids[first : first + 500]
        statement = sa.select(instances.c.id, instances.c.vm_state).where(instances.c.id.in_(part))
        found |= {row.id: row.vm_state != "deleted" for row in tx.all(statement)}
    return found


def _plain(told: Disk | Repository, *, without: str = "") -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(told)
    plain.pop(without, None)
    return plain
