"""What lies in a host's storage repositories: chains of disks, and what each of them is.

Read by public XenAPI alone, so that it is the same for XenServer, XCP-ng and our own toolstack. A
disk that nobody accounts for is an orphan; it is put into quarantine by a mark of ours in its
``other_config``, and removed only from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from xenith.core.errors import Conflict, NotFound
from xenith.driver.connection import HostConnection
from xenith.driver.names import IMAGE_KEY, is_complete_image, is_stray, part_of

#: Key of a VDI's ``sm_config`` that names the one below it. Source: sm, VDI.py.
PARENT_KEY = "vhd-parent"
#: The disk's own uuid, and since when it is in quarantine, in epoch seconds. A clone or a snapshot
#: has the key of its source and not the uuid: whoever saved a disk by copying it keeps the copy.
QUARANTINE_KEY = "xenith-quarantined"
#: Types of SR that hold no disks of servers.
_NO_DISKS = frozenset({"iso", "udev", "lvmohba_metadata"})
#: Types of VDI that hold what a user has. Source: XenAPI, enum vdi_type.
_OF_USERS = frozenset({"user", "system"})

Record = Mapping[str, Any]


class Disk(msgspec.Struct, frozen=True):
    """One VDI. Sizes are in bytes, times in ISO 8601 as the host tells them."""

    uuid: str
    name: str
    #: A part of a server (root, config, snapshot, …), image, half (of an import or clone), base,
    #: other; or XenAPI's type.
    kind: str
    size: int
    used: int
    parent: str = ""
    #: The server or the image that it is of.
    of: str = ""
    #: How many files a reader of it opens.
    depth: int = 1
    is_attached: bool = False
    is_hidden: bool = False
    is_snapshot: bool = False
    snapshot_of: str = ""
    snapshot_time: str = ""
    quarantined_at: float | None = None


class Repository(msgspec.Struct, frozen=True):
    """One SR with its disks."""

    uuid: str
    name: str
    type: str
    size: int
    used: int
    disks: list[Disk]
    #: Bytes of hidden disks with at most one child: what garbage collection merges or removes.
    debt: int


def read_repositories(srs: Mapping[str, Record], vdis: Mapping[str, Record]) -> list[Repository]:
    """Tell of all SRs that hold disks, from the records of a host."""
    found = []
    for ref, sr in srs.items():
        if sr["content_type"] == "iso" or sr["type"] in _NO_DISKS:
            continue
        own = [record for record in vdis.values() if record["SR"] == ref]
        by_uuid = {record["uuid"]: record for record in own}
        refs = {ref: record["uuid"] for ref, record in vdis.items()}
        disks = [_disk(record, by_uuid, refs) for record in own]
        children = Counter(disk.parent for disk in disks)
        found.append(
            Repository(
                uuid=sr["uuid"],
                name=sr["name_label"],
                type=sr["type"],
                size=int(sr["physical_size"]),
                used=int(sr["physical_utilisation"]),
                disks=sorted(disks, key=lambda disk: (disk.name, disk.uuid)),
                debt=sum(
                    disk.used for disk in disks if disk.is_hidden and children[disk.uuid] <= 1
                ),
            )
        )
    return sorted(found, key=lambda repository: (repository.name, repository.uuid))


def chain_of(record: Record, by_uuid: Mapping[str, Record]) -> Iterator[Record]:
    """Give a disk and all that it stands on, as far as the host tells."""
    # Hosts are not believed to have no circles.
    met: set[str] = set()
    found: Record | None = record
    while found is not None and found["uuid"] not in met:
        met.add(found["uuid"])
        yield found
        found = by_uuid.get(found["sm_config"].get(PARENT_KEY, ""))


def _disk(record: Record, by_uuid: Mapping[str, Record], refs: Mapping[str, str]) -> Disk:
    kind, of = _kind(record)
    return Disk(
        uuid=record["uuid"],
        name=record["name_label"],
        kind=kind,
        of=of,
        size=int(record["virtual_size"]),
        used=int(record["physical_utilisation"]),
        parent=record["sm_config"].get(PARENT_KEY, ""),
        depth=sum(1 for _ in chain_of(record, by_uuid)),
        is_attached=bool(record["VBDs"]),
        is_hidden=not record["managed"],
        is_snapshot=record["is_a_snapshot"],
        snapshot_of=refs.get(record["snapshot_of"], ""),
        snapshot_time=record["snapshot_time"] if record["is_a_snapshot"] else "",
        quarantined_at=_marked_at(record),
    )


def _kind(record: Record) -> tuple[str, str]:
    part, instance_id = part_of(record["name_label"])
    if not record["managed"]:
        return "base", ""
    if is_complete_image(record):
        return "image", record["other_config"][IMAGE_KEY]
    if is_stray(record):
        return "half", record["other_config"][IMAGE_KEY]
    if instance_id is None:
        # Memory of a suspended VM, a pool's own state, and the like.
        return ("other", "") if record["type"] in _OF_USERS else (record["type"], "")
    return part, instance_id


def _marked_at(record: Record) -> float | None:
    uuid, _, moment = record["other_config"].get(QUARANTINE_KEY, "").partition(" ")
    # ASCII digits alone: what is no number, or none that ends, is no mark of ours.
    is_ours = uuid == record["uuid"] and moment.isascii() and moment.isdigit()
    return float(moment) if is_ours else None


class Storage:
    """The storage repositories of one host, for its operator."""

    def __init__(self, line: HostConnection) -> None:
        self._line = line

    async def read(self) -> list[Repository]:
        """Ask the host for all of it."""
        srs = await self._line.call("SR.get_all_records")
        return read_repositories(srs, await self._line.call("VDI.get_all_records"))

    async def quarantine(self, uuid: str, *, now_s: float) -> None:
        """Mark a disk that nobody accounts for. Safe to repeat: the first time counts.

        Raises:
            Conflict: it is in use, or is known to be somebody's.
            NotFound: there is none.
        """
        ref, record = await self._look(uuid)
        if _marked_at(record) is not None:
            return
        # One that is no mark of this disk's would refuse the new one.
        await self._line.call("VDI.remove_from_other_config", ref, QUARANTINE_KEY)
        mark = f"{uuid} {now_s:.0f}"
        await self._line.call("VDI.add_to_other_config", ref, QUARANTINE_KEY, mark)

    async def release(self, uuid: str) -> None:
        """Take a disk's mark away. Safe to repeat.

        Raises:
            NotFound: there is none.
        """
        ref: str = await self._line.call("VDI.get_by_uuid", uuid)
        await self._line.call("VDI.remove_from_other_config", ref, QUARANTINE_KEY)

    async def remove(self, uuid: str, *, before_s: float) -> int:
        """Remove a disk that is in quarantine since before a moment; tell what it took in bytes.

        Raises:
            Conflict: it is not, or came to be in use.
            NotFound: there is none.
        """
        ref, record = await self._look(uuid)
        marked = _marked_at(record)
        if marked is None or marked > before_s:
            raise Conflict(f"disk {uuid} is not in quarantine for long enough")
        await self._line.call("VDI.destroy", ref)
        return int(record["physical_utilisation"])

    async def collect(self, sr_uuid: str) -> None:
        """Have an SR look at itself, after which it shortens its chains. Source: sm, SR.scan.

        Raises:
            NotFound: there is none.
        """
        await self._line.call("SR.scan", await self._line.call("SR.get_by_uuid", sr_uuid))

    async def _look(self, uuid: str) -> tuple[str, Record]:
        """Look at a disk once more just before something is done to it."""
        ref: str = await self._line.call("VDI.get_by_uuid", uuid)
        record: Record = await self._line.call("VDI.get_record", ref)
        if record["uuid"] != uuid:
            raise NotFound(f"there is no disk {uuid}")
        kind, of = _kind(record)
        if kind != "other":
            raise Conflict(f"disk {uuid} is no orphan: it is the {kind} of {of or 'others'}")
        if record["VBDs"] or record["current_operations"]:
            raise Conflict(f"disk {uuid} is in use")
        return ref, record
