"""Simulated disks: the rules of a repository of VHD chains, and no bytes.

A disk takes what was imported into it. Snapshots and clones make a hidden parent as real ones do,
chains have the same longest length, and garbage collection shortens them in the same three ways.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from uuid import UUID

from xenith.core.world import World
from xenith.toolstack.backends import BackendError, Contents, Repository
from xenith.toolstack.storage.faults import CHAIN_TOO_LONG
from xenith.toolstack.storage.garbage import Collected
from xenith.toolstack.storage.inventory import Vdi, file_of
from xenith.toolstack.storage.space import SrUse
from xenith.vhd.chain import DEPTH_MAX
from xenith.vhd.encoder import Parent, layout, write_blocks
from xenith.vhd.pipe import PipeSink

_FOOTER_BYTES = 512
#: Source: VHD specification 1.0, Disk Type.
_VHD_FIXED, _VHD_DYNAMIC, _VHD_DIFFERENCING = 2, 3, 4
_PIECE_BYTES = 1024 * 1024

#: Waits, or refuses, before an operation is done to a disk: (operation, disk).
Act = Callable[[str, str], Awaitable[None]]


@dataclass(slots=True)
class SimDisk:
    """One disk of a simulated host."""

    size_bytes: int
    used_bytes: int = 0
    parent: str | None = None
    is_hidden: bool = False
    #: Of whichever SR; a host's disks all lie together until their SRs are attached.
    sr_uuid: str = ""


class SimRepository:
    """The disks of one SR; ``disks`` are those of the whole host, which outlive it."""

    def __init__(
        self,
        sr_uuid: str,
        disks: dict[str, SimDisk],
        *,
        act: Act,
        world: World,
        capacity_bytes: int,
        is_in_use: Callable[[str], bool],
    ) -> None:
        self._sr_uuid = sr_uuid
        self._disks = disks
        self._act = act
        self._world = world
        self._capacity_bytes = capacity_bytes
        self._users = [is_in_use]

    def share(self, is_in_use: Callable[[str], bool]) -> SimRepository:
        """Let another host have these disks too."""
        self._users.append(is_in_use)
        return self

    def has(self, vdi_uuid: str) -> bool:
        """Tell whether a disk lies here."""
        disk = self._disks.get(vdi_uuid)
        return disk is not None and disk.sr_uuid == self._sr_uuid

    async def take(self, vdi_uuid: str, source: SimRepository) -> None:
        """Take a disk over from another SR, of this host or another, with what its chain takes."""
        await self._act("disk_receive", vdi_uuid)
        size = source._get(vdi_uuid).size_bytes
        used = sum(source._disks[one].used_bytes for one in source._chain(vdi_uuid))
        self._disks[vdi_uuid] = SimDisk(size, used, sr_uuid=self._sr_uuid)

    def _is_in_use(self, vdi_uuid: str) -> bool:
        return any(is_in_use(vdi_uuid) for is_in_use in self._users)

    async def create(self, vdi_uuid: str, size_bytes: int) -> None:
        """Make an empty disk."""
        await self._act("disk_create", vdi_uuid)
        self._disks.setdefault(vdi_uuid, SimDisk(size_bytes, sr_uuid=self._sr_uuid))

    async def clone(self, vdi_uuid: str, source_uuid: str) -> None:
        """Make a disk that begins as another is; a chain is not made longer without need."""
        await self._act("disk_clone", vdi_uuid)
        if vdi_uuid in self._disks:
            return
        source = self._get(source_uuid)
        parent = self._disks.get(source.parent or "")
        if parent is None or source.used_bytes or parent.size_bytes != source.size_bytes:
            self._fork(source_uuid, vdi_uuid)
            return
        self._add_leaf(vdi_uuid, source)

    async def snapshot(self, vdi_uuid: str, source_uuid: str) -> None:
        """Make a disk that keeps what another holds now."""
        await self._act("disk_snapshot", vdi_uuid)
        if vdi_uuid not in self._disks:
            self._fork(source_uuid, vdi_uuid)

    async def copy(self, vdi_uuid: str, source_uuid: str, into: Repository) -> None:
        """Make a disk that takes what another's chain does."""
        await self._act("disk_copy", vdi_uuid)
        source = self._get(source_uuid)
        await into.create(vdi_uuid, source.size_bytes)
        if isinstance(into, SimRepository):
            used = sum(self._disks[one].used_bytes for one in self._chain(source_uuid))
            self._disks[vdi_uuid].used_bytes = used

    async def resize(self, vdi_uuid: str, size_bytes: int) -> None:
        """Grow a disk."""
        await self._act("disk_resize", vdi_uuid)
        self._get(vdi_uuid).size_bytes = size_bytes

    async def destroy(self, vdi_uuid: str) -> None:
        """Remove a disk; what it stood on is left to ``collect``."""
        await self._act("disk_destroy", vdi_uuid)
        if not self.has(vdi_uuid):
            return
        if self._children(vdi_uuid):
            self._disks[vdi_uuid].is_hidden = True
        else:
            self._disks.pop(vdi_uuid, None)

    async def introduce(self, vdi_uuid: str) -> list[Vdi]:
        """Look at a disk and what it stands on."""
        self._get(vdi_uuid)
        _, children = self._own()
        return [
            self._told(one, self._disks[one], tuple(children.get(one, ())))
            for one in self._chain(vdi_uuid)
        ]

    async def fill(self, vdi_uuid: str, disk_format: str, chunks: AsyncIterator[bytes]) -> int:
        """Count a stream; of a VHD only the footer is looked at, and no parent is followed."""
        await self._act("disk_import", vdi_uuid)
        disk = self._get(vdi_uuid)
        count, tail = 0, b""
        async for piece in chunks:
            count += len(piece)
            tail = (tail + piece)[-_FOOTER_BYTES:]
        if sum(one.used_bytes for one in self._disks.values()) + count > self._capacity_bytes:
            raise BackendError("SR_BACKEND_FAILURE_44", "", "There is insufficient space", "")
        size = count if disk_format == "raw" else _vhd_size(tail)
        is_delta = disk_format == "vhd" and _vhd_kind(tail) == _VHD_DIFFERENCING
        disk.used_bytes = count + (disk.used_bytes if is_delta else 0)
        disk.size_bytes = max(size, disk.size_bytes)
        return size

    async def read(
        self, vdi_uuid: str, disk_format: str, *, base_uuid: str = ""
    ) -> AsyncGenerator[bytes]:
        """Give zeros of the disk's size, or a VHD of that size that holds nothing."""
        await self._act("disk_export", vdi_uuid)
        left = self._get(vdi_uuid).size_bytes
        if disk_format == "vhd":
            if base_uuid:
                self._get(base_uuid)
            yield _empty_vhd(left, base_uuid, self._world)
            return
        while left:
            piece = bytes(min(left, _PIECE_BYTES))
            left -= len(piece)
            yield piece

    async def scan(self) -> Contents:
        """Tell what there is now."""
        own, children = self._own()
        vdis = {
            uuid: self._told(uuid, disk, tuple(children.get(uuid, ())))
            for uuid, disk in own.items()
            if uuid in children or not disk.is_hidden
        }
        return Contents(vdis, self._use(own))

    async def look(self, *vdi_uuids: str) -> Contents:
        """Tell of some disks and what they stand on."""
        links = dict.fromkeys(
            link for uuid in vdi_uuids if uuid in self._disks for link in self._chain(uuid)
        )
        vdis = {uuid: self._told(uuid, self._disks[uuid], ()) for uuid in links}
        # A host is asked this at each change: one pass, and nothing made for it.
        own = self._sr_uuid
        used = sum([disk.used_bytes for disk in self._disks.values() if disk.sr_uuid == own])
        use = SrUse(
            physical_size_bytes=self._capacity_bytes,
            physical_utilisation_bytes=used,
            virtual_allocation_bytes=0,
        )
        return Contents(vdis, use)

    def _use(self, own: Mapping[str, SimDisk]) -> SrUse:
        return SrUse(
            physical_size_bytes=self._capacity_bytes,
            physical_utilisation_bytes=sum(disk.used_bytes for disk in own.values()),
            virtual_allocation_bytes=sum(
                disk.size_bytes for disk in own.values() if not disk.is_hidden
            ),
        )

    async def collect(self) -> Collected:
        """Remove garbage and shorten chains of disks that no domain has."""
        done = Collected(is_done=True)
        while self._collect_one(done):
            pass
        return done

    def _collect_one(self, done: Collected) -> bool:
        own, standing = self._own()
        for uuid, disk in own.items():
            children = standing.get(uuid, [])
            if disk.is_hidden and not children:
                del self._disks[uuid]
                done.deleted.append(uuid)
                return True
            if disk.is_hidden and self._merges_in_the_middle(uuid, disk, own, standing):
                done.coalesced.append(uuid)
                return True
            if not disk.is_hidden or len(children) != 1 or children[0] in done.left:
                continue
            child = children[0]
            if any(map(self._is_in_use, self._subtree(uuid))):
                done.left[child] = f"what stands on {uuid} is in use"
                continue
            # What the child holds goes into the parent, and the child's name stays.
            merged = self._disks[child]
            merged.used_bytes += disk.used_bytes
            merged.parent = disk.parent
            del self._disks[uuid]
            done.coalesced.append(child)
            return True
        return False

    def _merges_in_the_middle(
        self,
        uuid: str,
        disk: SimDisk,
        own: dict[str, SimDisk],
        standing: dict[str, list[str]],
    ) -> bool:
        """Merge a hidden disk into its hidden parent if it is the only child; domains go on."""
        parent = own.get(disk.parent or "")
        if parent is None or not parent.is_hidden or len(standing[disk.parent or ""]) > 1:
            return False
        parent.used_bytes += disk.used_bytes
        for child in standing[uuid]:
            own[child].parent = disk.parent
        del self._disks[uuid]
        return True

    def _own(self) -> tuple[dict[str, SimDisk], dict[str, list[str]]]:
        own = {uuid: disk for uuid, disk in self._disks.items() if disk.sr_uuid == self._sr_uuid}
        children: dict[str, list[str]] = {}
        for uuid, disk in own.items():
            if disk.parent is not None:
                children.setdefault(disk.parent, []).append(uuid)
        return own, children

    def _fork(self, uuid: str, new_uuid: str) -> None:
        disk = self._get(uuid)
        if len(self._chain(uuid)) >= DEPTH_MAX:
            raise BackendError(
                CHAIN_TOO_LONG, "", f"The chain of {uuid} has {DEPTH_MAX} files.", ""
            )
        base = self._world.ids.uuid()
        self._disks[base] = SimDisk(
            disk.size_bytes, disk.used_bytes, disk.parent, is_hidden=True, sr_uuid=disk.sr_uuid
        )
        disk.used_bytes, disk.parent = 0, base
        self._add_leaf(new_uuid, disk)

    def _add_leaf(self, uuid: str, sibling: SimDisk) -> None:
        self._disks[uuid] = SimDisk(
            sibling.size_bytes, parent=sibling.parent, sr_uuid=sibling.sr_uuid
        )

    def _get(self, uuid: str) -> SimDisk:
        disk = self._disks.get(uuid)
        if disk is None or disk.sr_uuid != self._sr_uuid:
            raise BackendError("VDI_MISSING", "", uuid)
        return disk

    def _chain(self, uuid: str) -> list[str]:
        chain, at = [uuid], self._disks[uuid].parent
        # What a client wrote into a record may have led in a circle.
        while at is not None and at in self._disks and at not in chain:
            chain.append(at)
            at = self._disks[at].parent
        return chain

    def _children(self, uuid: str) -> list[str]:
        return [one for one, disk in self._disks.items() if disk.parent == uuid]

    def _subtree(self, uuid: str) -> list[str]:
        found = [uuid]
        for one in found:
            found.extend(self._children(one))
        return found

    def _told(self, uuid: str, disk: SimDisk, children: tuple[str, ...]) -> Vdi:
        chain = self._chain(uuid)
        return Vdi(
            uuid=uuid,
            size_bytes=disk.size_bytes,
            used_bytes=disk.used_bytes,
            chain_bytes=sum(self._disks[one].used_bytes for one in chain),
            depth=len(chain),
            is_hidden=disk.is_hidden,
            parent=disk.parent,
            children=children,
        )


def _vhd_size(tail: bytes) -> int:
    """Read the virtual size from a VHD's footer. Source: VHD specification 1.0, Hard Disk Footer.

    Raises:
        BackendError: VDI_IO_ERROR, it is no sound footer.
    """
    if len(tail) != _FOOTER_BYTES or tail[:8] != b"conectix":
        raise BackendError("VDI_IO_ERROR", "the stream does not end with a VHD footer")
    size = int.from_bytes(tail[48:56], "big")
    checksum = int.from_bytes(tail[64:68], "big")
    if checksum != ~(sum(tail[:64]) + sum(tail[68:])) & 0xFFFFFFFF:
        raise BackendError("VDI_IO_ERROR", "the VHD footer's checksum is wrong")
    kind = _vhd_kind(tail)
    if kind not in (_VHD_FIXED, _VHD_DYNAMIC, _VHD_DIFFERENCING):
        raise BackendError("VDI_IO_ERROR", f"there is no VHD of type {kind}")
    return size


def _vhd_kind(tail: bytes) -> int:
    return int.from_bytes(tail[60:64], "big")


def _empty_vhd(size_bytes: int, base_uuid: str, world: World) -> bytes:
    stream = BytesIO()
    sink = PipeSink(stream)
    parent = Parent(uuid=UUID(base_uuid), name=file_of(base_uuid)) if base_uuid else None
    plan = layout(size_bytes, sink, world=world, parent=parent)
    write_blocks(plan, [], sink, lambda _block: [])
    return stream.getvalue()
