"""The ``file`` storage repository: VHD chains in a directory, laid out as the ext and NFS SRs are.

``<uuid>.vhd`` is a disk, a hidden one a base copy that others stand on. The directory is the
whole state: what is done is done by one rename, or noted in a file first, so that a process killed
at any moment leaves what ``FileRepository`` puts in order when it is opened.

Every call may block on the disk: on the event loop it belongs into a thread. Changes of the tree
go one after the other (``Turns``); bytes are moved outside of them, the disks held by ``Pins``.
A call may be repeated with the same ids. Failures are ``BackendError`` with XenAPI's codes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Self

from xenith.core.errors import Conflict, XenithError
from xenith.core.world import World
from xenith.toolstack.backends import BackendError
from xenith.toolstack.storage.contents import (
    Writer,
    copy_chain,
    read_raw,
    rounded,
    write_raw,
)
from xenith.toolstack.storage.faults import UNAVAILABLE, WRONG_SIZE, answering
from xenith.toolstack.storage.garbage import ACTIVATION_BYTES, Collected, Collector
from xenith.toolstack.storage.inventory import (
    Inventory,
    Scan,
    Vdi,
    compare,
    file_of,
    is_disk,
    list_chain,
    take,
)
from xenith.toolstack.storage.lock import RepositoryLock
from xenith.toolstack.storage.pins import ATTACH, Pins
from xenith.toolstack.storage.space import (
    RESERVE_BYTES,
    Space,
    SrUse,
    empty_disk_bytes,
    measure_free,
)
from xenith.toolstack.storage.turns import Turns
from xenith.toolstack.storage.vhd_streams import read_vhd, write_vhd
from xenith.vhd.alter import resize, set_hidden
from xenith.vhd.chain import DEPTH_MAX, Chain, open_chain, open_parent
from xenith.vhd.coalesce import recover
from xenith.vhd.create import create_differencing, create_dynamic
from xenith.vhd.files import Bytes, Directory
from xenith.vhd.footer import SIZE_BYTES_MAX
from xenith.vhd.image import check_writable, open_image
from xenith.vhd.pipe import Readable, Writable
from xenith.vhd.snapshot import delete, snapshot
from xenith.vhd.tree import scan


class FileRepository:
    """One directory of disks, held by this process from the call until ``close``.

    After a restart whoever runs domains says with ``activate`` which disks they hold, before
    anything else is called.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        world: World,
        reserve_bytes: int = RESERVE_BYTES,
        depth_max: int = DEPTH_MAX,
        measure: Callable[[str], int] = measure_free,
    ) -> None:
        """Take hold of a directory and bring to its end what a crash left in the middle.

        Raises:
            BackendError: SR_BACKEND_FAILURE_16, another process has it; 47, a note of work in
                progress does not fit what lies there.
        """
        self._files = Directory(path)
        self._world = world
        self._depth_max = depth_max
        self._space = Space(self._files.path, reserve_bytes=reserve_bytes, measure=measure)
        self._turns = Turns()
        self._pins = Pins()
        self._arriving: set[str] = set()
        self._is_closed = False
        try:
            self._lock = RepositoryLock(self._files.path)
        except BaseException:
            self._files.close()
            raise
        try:
            recover(self._files)
        except BaseException as error:
            self._lock.release()
            self._files.close()
            if isinstance(error, XenithError):
                raise BackendError("SR_BACKEND_FAILURE_47", "", error.message, "") from error
            raise
        self._collector = Collector(
            self._files,
            turns=self._turns,
            pins=self._pins,
            space=self._space,
            depth_max=depth_max,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the directory go. A merge in progress is carried on by whoever opens it next.

        Safe to repeat; other calls are refused from then on.
        """
        with self._turns.call():
            if self._is_closed:
                return
            self._is_closed = True
            self._collector.close()
            self._lock.release()
            self._files.close()

    def create(self, uuid: str, size_bytes: int) -> None:
        """Make an empty disk of whole 2 MiB blocks.

        Raises:
            BackendError: SR_BACKEND_FAILURE_79, VDI_TOO_LARGE, SR_FULL.
        """
        size = _checked_size(rounded(size_bytes))
        with self._changing(uuid, "create"):
            if not self._is_there(uuid):
                self._space.need(empty_disk_bytes(size))
                create_dynamic(self._files, file_of(uuid), size_bytes=size, world=self._world)

    def resize(self, uuid: str, size_bytes: int) -> None:
        """Grow a disk that no one uses.

        Raises:
            BackendError: VDI_TOO_SMALL, VDI_TOO_LARGE, VDI_IN_USE, SR_FULL.
        """
        size = _checked_size(rounded(size_bytes))
        with self._changing(uuid, "resize"):
            self._pins.check_free(uuid, "resize")
            self._space.need(empty_disk_bytes(size))
            self._collector.give_way(file_of(uuid))
            image = open_image(self._files, file_of(uuid), writable=True)
            try:
                check_writable(image)
                if size < image.size_bytes:
                    raise BackendError("VDI_TOO_SMALL", uuid, str(image.size_bytes))
                resize(image, size)
            finally:
                image.close()

    def snapshot(self, uuid: str, new_uuid: str, *, is_quiet: bool = False) -> None:
        """Make a disk that keeps what this one holds now: both stand on a hidden parent then.

        ``is_quiet`` says that its writer has flushed and closed it, and opens it again after.

        Raises:
            BackendError: VDI_IN_USE, it is written to;
                SR_BACKEND_FAILURE_109, its chain is as long as chains may be; SR_FULL.
        """
        with self._changing(uuid, "snapshot"):
            if not is_quiet:
                self._pins.check_not_written(uuid, "snapshot")
            if not self._is_there(new_uuid):
                self._fork(uuid, new_uuid)

    def clone(self, uuid: str, new_uuid: str) -> None:
        """Make a disk that begins as this one is; a chain is not made longer without need.

        Raises:
            BackendError: as ``snapshot``.
        """
        with self._changing(uuid, "clone"):
            if self._is_there(new_uuid):
                return
            self._pins.check_not_written(uuid, "clone")
            parent, size = self._find_shared(uuid)
            if parent is None:
                self._fork(uuid, new_uuid)
                return
            self._space.need(empty_disk_bytes(size))
            create_differencing(self._files, file_of(new_uuid), parent=parent, world=self._world)

    def copy(self, uuid: str, new_uuid: str, to: FileRepository | None = None) -> None:
        """Make a disk with this one's bytes that stands on nothing, here or elsewhere.

        Raises:
            BackendError: VDI_IN_USE, VDI_MISSING, SR_FULL.
        """
        with self.reading(uuid) as chain:
            (to or self).receive(new_uuid, chain)

    def receive(self, uuid: str, chain: Chain) -> None:
        """Make a disk of all that an open chain of any repository holds, in one file.

        Raises:
            BackendError: SR_FULL; VDI_IN_USE, it is being made by another call.
        """
        with self._arrival(uuid) as is_there:
            if not is_there:
                self._space.need(empty_disk_bytes(chain.size_bytes))
                name, space = file_of(uuid), self._space
                copy_chain(chain, self._files, name, space=space, world=self._world)

    def delete(self, uuid: str) -> None:
        """Remove a disk; what it stood on is left to ``collect``. One that is gone is no error.

        Raises:
            BackendError: VDI_IN_USE; VDI_NOT_MANAGED, it is a base copy.
        """
        name = file_of(uuid)
        with self._changing(uuid, "destroy"):
            self._pins.check_free(uuid, "destroy")
            if name not in self._files.names():
                return
            self._collector.give_way(name)
            tree = scan(self._files)
            footer = tree[name].footer
            standing = [one.name for one in tree.values() if name in one.parent_names]
            if footer is None and standing:
                text = f"{name} cannot be read, and {', '.join(standing)} stand on it"
                raise BackendError(UNAVAILABLE, "", text, "")
            if footer is not None and footer.hidden:
                raise BackendError("VDI_NOT_MANAGED", uuid)
            try:
                delete(self._files, name)
            except Conflict:
                # Something stands on it, or may: it is garbage from when that is gone.
                self._hide(name)

    def free_bytes(self) -> int:
        """Tell what the file system has, with what is kept back from callers."""
        return self._space.free_bytes()

    def has(self, uuid: str) -> bool:
        """Tell whether a disk's file is there, whatever it is."""
        _check_uuid(uuid)
        with self._turn():
            return file_of(uuid) in self._files.names()

    def get(self, uuid: str) -> Vdi:
        """Tell of one disk.

        Raises:
            BackendError: VDI_MISSING.
        """
        with self._changing(uuid, "scan"):
            known = self._take()
        if uuid not in known.vdis:
            raise BackendError("VDI_MISSING", "", uuid)
        return known.vdis[uuid]

    def scan(self, known: Collection[str] = ()) -> Scan:
        """Tell of all disks, and which are new or gone beside those that are known."""
        with self._turn():
            return compare(self._take(), known)

    def introduce(self, uuid: str) -> list[Vdi]:
        """Adopt one disk that was laid here whole; give it and all that it stands on.

        Only these files are read, however many there are.

        Raises:
            BackendError: VDI_MISSING; VDI_NOT_MANAGED, it is hidden; SR_BACKEND_FAILURE_46 with
                what is damaged, and 109, its chain is too long.
        """
        with self._changing(uuid, "introduce"):
            chain = open_chain(self._files, file_of(uuid), depth_max=self._depth_max)
            try:
                check_writable(chain.leaf)
                return list_chain(chain, self._space.used_bytes())
            finally:
                chain.close()

    def usage(self) -> SrUse:
        """Tell what the repository holds and has room for."""
        with self._turn():
            return self._usage(self._take())

    def contents(self) -> tuple[dict[str, Vdi], SrUse]:
        """Tell of all disks, and what they take: ``scan`` and ``usage`` in one look."""
        with self._turn():
            found = self._take()
            return compare(found, ()).vdis, self._usage(found)

    def look(self, uuids: Iterable[str]) -> tuple[dict[str, Vdi], SrUse]:
        """Tell of some disks, all that they stand on, and what the repository holds in bytes.

        Damaged ones and those that are not there are left out; the others' heads are not read.
        """
        vdis: dict[str, Vdi] = {}
        with self._turn():
            used = self._space.used_bytes()
            for uuid in uuids:
                with contextlib.suppress(XenithError):
                    chain = self._open(uuid)
                    vdis.update({vdi.uuid: vdi for vdi in list_chain(chain, used)})
                    chain.close()
            return vdis, self._usage(Inventory(vdis=vdis))

    def _usage(self, found: Inventory) -> SrUse:
        used = sum(self._space.used_bytes().values())
        return SrUse(
            # What others have in the same file system is no room of ours.
            physical_size_bytes=used + self._space.spare_bytes(),
            physical_utilisation_bytes=used,
            virtual_allocation_bytes=sum(
                vdi.size_bytes for vdi in found.vdis.values() if not vdi.is_hidden
            ),
        )

    def activate(self, uuid: str, *, is_writable: bool) -> str:
        """Hold a disk for a domain, and tell its file's path; its chain is not touched then.

        Raises:
            BackendError: VDI_IN_USE, VDI_MISSING, VDI_NOT_MANAGED, SR_BACKEND_FAILURE_46.
        """
        with self._changing(uuid, ATTACH):
            self._pins.add(uuid, ATTACH, is_writer=is_writable)
            try:
                chain = self._open(uuid)
                chain.close()
                if is_writable:
                    check_writable(chain.leaf)
                # It is about to be opened by others, who know nothing of a merge.
                self._collector.give_way(*(image.name for image in chain.images))
            except BaseException:
                self._pins.remove(uuid, is_writer=is_writable)
                raise
        return os.path.join(self._files.path, file_of(uuid))  # noqa: PTH118 - a text

    def deactivate(self, uuid: str, *, is_writable: bool) -> None:
        """Let go of a disk that was activated so."""
        with self._turns.call():
            self._pins.remove(uuid, is_writer=is_writable)

    @contextlib.contextmanager
    def reading(self, uuid: str) -> Iterator[Chain]:
        """Open a disk to be read, as it is until the end of the block.

        Raises:
            BackendError: VDI_IN_USE, it is written to; VDI_MISSING; SR_BACKEND_FAILURE_46.
        """
        with self._changing(uuid, "read"):
            self._pins.add(uuid, "read", is_writer=False)
            try:
                chain = self._open(uuid)
            except BaseException:
                self._pins.remove(uuid, is_writer=False)
                raise
        try:
            with answering(uuid, "read"):
                yield chain
        finally:
            self._end(uuid, chain, is_writer=False)

    @contextlib.contextmanager
    def writing(self, uuid: str) -> Iterator[Writer]:
        """Open a disk to be written; all is on the disk after the block, but where it failed.

        Raises:
            BackendError: VDI_IN_USE, VDI_MISSING, VDI_NOT_MANAGED, SR_BACKEND_FAILURE_46.
        """
        with self._changing(uuid, "write"):
            self._pins.add(uuid, "write", is_writer=True)
            try:
                chain = self._open(uuid, writable=True)
                self._collector.give_way(*(image.name for image in chain.images))
            except BaseException:
                self._pins.remove(uuid, is_writer=True)
                raise
        try:
            with answering(uuid, "write"):
                yield Writer(chain, self._space)
                chain.flush()
        finally:
            self._end(uuid, chain, is_writer=True)

    def export_raw(self, uuid: str) -> Iterator[bytes]:
        """Give a disk's bytes in order; it is in use until the last one or ``close``."""
        with self.reading(uuid) as chain:
            yield from read_raw(chain)

    def import_raw(self, uuid: str, chunks: Iterable[Bytes]) -> int:
        """Write a stream over a disk's first bytes, growing it if need be; tell how many."""
        with self.writing(uuid) as disk:
            return write_raw(disk, chunks)

    def export_vhd(self, uuid: str, stream: Writable, *, base: str = "") -> None:
        """Write a disk as a VHD, or as the one that makes it of ``base``.

        Raises:
            BackendError: VDI_IN_USE, either is written to; SR_BACKEND_FAILURE_46, the base is the
                larger.
        """
        with self.reading(uuid) as chain:
            if not base:
                write_vhd(chain, None, stream, world=self._world)
                return
            with self.reading(base) as other:
                write_vhd(chain, other, stream, world=self._world)

    def import_vhd(self, uuid: str, stream: Readable) -> int:
        """Write a VHD stream onto a disk, growing it if need be; tell the stream's virtual size.

        Raises:
            BackendError: VDI_IO_ERROR, it is no sound VHD.
        """
        with self.writing(uuid) as disk:
            return read_vhd(disk, stream)

    def collect(self, *, bytes_max: int = ACTIVATION_BYTES) -> Collected:
        """Remove garbage and shorten chains, up to so many bytes; callers' work goes first.

        Where the disk itself fails, its ``OSError`` is raised.
        """
        return self._collector.collect(bytes_max=bytes_max)

    def end_merge(self, held: Collection[str]) -> Collected:
        """End the merge for which ``collect`` asked that these disks' writers be held still."""
        return self._collector.end(held)

    def _fork(self, uuid: str, new_uuid: str) -> None:
        image = open_image(self._files, file_of(uuid))
        image.close()
        self._space.need(2 * empty_disk_bytes(image.size_bytes))
        self._collector.give_way(file_of(uuid))
        snapshot(
            self._files,
            file_of(uuid),
            base=file_of(self._world.ids.uuid()),
            other=file_of(new_uuid),
            world=self._world,
            depth_max=self._depth_max,
        )

    def _find_shared(self, uuid: str) -> tuple[str | None, int]:
        """Give the parent of a disk that holds nothing of its own, as each clone's source does."""
        image = open_image(self._files, file_of(uuid))
        try:
            check_writable(image)
            if not image.has_parent or image.blocks():
                return None, 0
            parent = open_parent(self._files, image)
            parent.close()
        finally:
            image.close()
        is_same = parent.size_bytes == image.size_bytes and parent.footer.hidden
        if not is_same:
            return None, 0
        self._collector.give_way(file_of(uuid))
        return parent.name, image.size_bytes

    def _hide(self, name: str) -> None:
        image = open_image(self._files, name, writable=True)
        try:
            set_hidden(image, True)
        finally:
            image.close()

    def _open(self, uuid: str, *, writable: bool = False) -> Chain:
        return open_chain(self._files, file_of(uuid), writable=writable, depth_max=self._depth_max)

    def _end(self, uuid: str, chain: Chain, *, is_writer: bool) -> None:
        with self._turns.call():
            chain.close()
            self._pins.remove(uuid, is_writer=is_writer)

    def _take(self) -> Inventory:
        return take(self._files, self._space.used_bytes(), depth_max=self._depth_max)

    def _is_there(self, uuid: str) -> bool:
        """Tell whether a name is taken.

        Raises:
            BackendError: VDI_IN_USE, a copy is to have it and is being made.
        """
        _check_uuid(uuid)
        if uuid in self._arriving:
            raise BackendError("VDI_IN_USE", uuid, "copy")
        return file_of(uuid) in self._files.names()

    @contextlib.contextmanager
    def _arrival(self, uuid: str) -> Iterator[bool]:
        """Keep a name for what takes time to make; tell whether it is there already."""
        with self._changing(uuid, "copy"):
            is_there = self._is_there(uuid)
            if not is_there:
                self._arriving.add(uuid)
        try:
            with answering(uuid, "copy"):
                yield is_there
        finally:
            if not is_there:
                with self._turns.call():
                    self._arriving.discard(uuid)

    @contextlib.contextmanager
    def _changing(self, uuid: str, operation: str) -> Iterator[None]:
        _check_uuid(uuid)
        with answering(uuid, operation), self._turn():
            yield

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with self._turns.call():
            # The directory's number may be another's by now.
            if self._is_closed:
                raise BackendError("SR_NOT_ATTACHED", "")
            yield


def _check_uuid(uuid: str) -> None:
    # The name of a file: nothing but a UUID gets that far.
    if not is_disk(file_of(uuid)):
        raise BackendError("UUID_INVALID", "VDI", uuid)


def _checked_size(size_bytes: int) -> int:
    if size_bytes <= 0:
        raise BackendError(WRONG_SIZE, "", f"A disk has more than {size_bytes} bytes.", "")
    if size_bytes > SIZE_BYTES_MAX:
        raise BackendError("VDI_TOO_LARGE", "", str(SIZE_BYTES_MAX))
    return size_bytes
