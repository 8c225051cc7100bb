"""A cell's answers to its operators about the disks on its hosts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from xenith import saga
from xenith.compute.records.instances import instances
from xenith.core.errors import XenithError
from xenith.db import Tx
from xenith.driver.chains import Disk, Repository
from xenith.saga.definition import OPEN_STATES

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
        parts = [disk for one in found for disk in one.disks if _is_part(disk)]
        # After the host: a saga and a row are there before what they make.
        living, busy = await self._cell.db.read(_find_owners, driver.address.id, parts)
        return [
            {
                **_plain(one, without="disks"),
                "disks": [
                    {**_plain(disk), "proof": prove(disk, living, busy)} for disk in one.disks
                ],
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


def prove(disk: Disk, living: Collection[str], busy: Collection[str]) -> list[str]:
    """Say why a disk is nobody's, as far as that can be seen; nothing where it is somebody's.

    ``living`` are the servers that the cell's rows put on the host, ``busy`` those that a saga
    has not ended for.

    >>> prove(Disk(uuid="u", name="old", kind="other", size=1, used=1), (), ())
    ['no VM has it', 'its name is none that Xenith gives', 'it is no base copy']
    """
    if disk.kind == "half":
        return ["an import or a clone that did not end", "the cell removes it by itself"]
    if _is_part(disk):
        return _prove_part(disk, living, busy)
    if disk.kind != "other" or disk.is_attached:
        return []
    said = ["no VM has it", "its name is none that Xenith gives", "it is no base copy"]
    if disk.is_snapshot:
        said.append(f"it is a snapshot of {disk.snapshot_of or 'a disk that is gone'}")
    return said


def _is_part(disk: Disk) -> bool:
    return bool(disk.of) and disk.kind not in ("image", "half")


def _prove_part(disk: Disk, living: Collection[str], busy: Collection[str]) -> list[str]:
    if disk.of in busy:
        return []
    if disk.of not in living:
        return [f"server {disk.of} is not on this host", "the cell removes it by itself"]
    if disk.kind == "snapshot":
        # Such is left where the rows of a cell were put back from an older copy.
        return [
            f"nothing is being done to server {disk.of}",
            "its next image, or its end, removes it",
        ]
    return []


_LIVING = sa.select(instances.c.id).where(
    instances.c.host_id == sa.bindparam("host_id"), instances.c.vm_state != "deleted"
)


def _find_owners(tx: Tx, host_id: str, parts: Sequence[Disk]) -> tuple[set[str], set[str]]:
    """Find the servers that rows put on a host, and those that sagas are at work on."""
    living = {row.id for row in tx.all(_LIVING, host_id=host_id)}
    # Of all others it is enough that they live.
    asked = {disk.of for disk in parts if disk.of not in living or disk.kind == "snapshot"}
    busy = {
        instance_id
        for instance_id in asked
        if any(run.state in OPEN_STATES for run in saga.list_of_subject(tx, instance_id))
    }
    return living, busy


def _plain(told: Disk | Repository, *, without: str = "") -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(told)
    plain.pop(without, None)
    return plain
