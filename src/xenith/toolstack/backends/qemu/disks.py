"""Disks as files: made, cloned copy-on-write, grown, filled from a stream, removed.

Each way of making a disk writes a ``.part`` file and renames it, so that a disk is there whole or
not at all. The format is always told to qemu-img and QEMU, never probed: a tenant who writes
another format's header into a raw disk has written data, no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import IO

from xenith.core.limits import IMAGE_BYTES_MAX
from xenith.toolstack.backends import BackendError
from xenith.toolstack.backends.qemu import chain
from xenith.toolstack.backends.qemu.chain import DiskFile
from xenith.toolstack.backends.qemu.processes import run_tool
from xenith.toolstack.backends.qemu.vhd_footer import (
    FIXED,
    FOOTER_BYTES,
    SECTOR_BYTES,
    Footer,
    FooterError,
    parse_footer,
)

#: Zeros are looked for in pieces of this size; a file system's block is a sixteenth of it.
_HOLE_BYTES = 64 * 1024
_ZEROS = bytes(_HOLE_BYTES)


class Disks:
    """The disks of one host, in one directory.

    ``is_in_use`` tells whether a living domain holds a disk's file.
    """

    def __init__(self, directory: Path, *, is_in_use: Callable[[str], bool]) -> None:
        self.directory = directory
        self._is_in_use = is_in_use

    def start(self) -> None:
        """Make the directory and clear away what a crash left half-made."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for part in self.directory.glob("*.part"):
            part.unlink(missing_ok=True)
        files = {file.marker for file in chain.list_files(self.directory)}
        for marker in self.directory.glob("*.hidden"):
            if marker not in files:
                marker.unlink()
        chain.collect(self.directory)

    def sizes(self) -> dict[str, int]:
        """Tell the disks there are and their virtual sizes in bytes."""
        files = chain.current_files(self.directory)
        return {vdi: file.header()[0] for vdi, file in files.items()}

    def get(self, vdi_uuid: str) -> DiskFile:
        """Give a disk's file.

        Raises:
            BackendError: VDI_MISSING.
        """
        file = chain.find_file(self.directory, vdi_uuid)
        if file is None:
            raise BackendError("VDI_MISSING", "", vdi_uuid)
        return file

    def is_parent(self, file: DiskFile) -> bool:
        """Tell whether other disks stand on this file, so that nothing may write to it."""
        return file.path.name in chain.parents(self.directory)

    def used_bytes(self, vdi_uuid: str) -> int:
        """Tell what a disk's own file takes."""
        return self.get(vdi_uuid).path.stat().st_blocks * 512

    async def create(self, vdi_uuid: str, size_bytes: int) -> None:
        """Make an empty disk; one that is there is left alone."""
        if chain.find_file(self.directory, vdi_uuid) is not None:
            return
        with self._part(vdi_uuid) as part:
            size = str(whole_sectors(size_bytes))
            await self._qemu_img("create", "-q", "-f", "qcow2", part.name, size)
            self._finish(part, vdi_uuid, "qcow2")

    async def clone(self, vdi_uuid: str, parent_uuid: str) -> None:
        """Make a disk that stands on another's file, which is only read from then on."""
        if chain.find_file(self.directory, vdi_uuid) is not None:
            return
        parent = self.get(parent_uuid)
        if self._is_in_use(parent_uuid):
            raise BackendError("VDI_IN_USE", parent_uuid, "clone")
        with self._part(vdi_uuid) as part:
            # The backing file is named without a directory, so that the disks can be moved.
            backing = ["-F", parent.format, "-b", parent.path.name]
            await self._qemu_img("create", "-q", "-f", "qcow2", *backing, part.name)
            self._finish(part, vdi_uuid, "qcow2")

    async def resize(self, vdi_uuid: str, size_bytes: int) -> None:
        """Grow a disk that no domain holds."""
        file = self.get(vdi_uuid)
        size, now = whole_sectors(size_bytes), file.header()[0]
        if size == now:
            return
        if size < now:
            raise BackendError("VDI_TOO_SMALL", vdi_uuid, str(now))
        if self._is_in_use(vdi_uuid):
            raise BackendError("VDI_IN_USE", vdi_uuid, "resize")
        if self.is_parent(file):
            raise BackendError("VDI_READONLY", vdi_uuid)
        await self._qemu_img("resize", "-q", "-f", file.format, file.path.name, str(size))

    async def destroy(self, vdi_uuid: str) -> None:
        """Remove a disk; its file stays, hidden, as long as others stand on it."""
        if self._is_in_use(vdi_uuid):
            raise BackendError("VDI_IN_USE", vdi_uuid, "destroy")
        # The newest last: without it an older one, kept for its clones, would be the disk again.
        for file in chain.versions(self.directory, vdi_uuid):
            file.marker.touch()
        chain.collect(self.directory)

    async def fill(self, vdi_uuid: str, disk_format: str, chunks: AsyncIterator[bytes]) -> int:
        """Replace a disk's contents by a raw or VHD stream; tell the virtual size.

        A disk that was larger keeps its size, as a write into its first part would have left it.
        """
        if disk_format not in ("raw", "vhd"):
            raise BackendError("IMPORT_ERROR_GENERIC", f"format {disk_format} is not taken")
        if self._is_in_use(vdi_uuid):
            raise BackendError("VDI_IN_USE", vdi_uuid, "import")
        old = chain.find_file(self.directory, vdi_uuid)
        least = old.header()[0] if old is not None else 0
        with self._part(vdi_uuid) as part:
            try:
                await _write_sparse(part, chunks)
                if disk_format == "raw":
                    final = "raw"
                    os.truncate(part, max(least, whole_sectors(part.stat().st_size)))
                else:
                    final = await self._take_vhd(part, vdi_uuid, least)
                await asyncio.to_thread(_sync, part)
            except OSError as error:
                raise _as_backend_error(error) from error
            size = self._finish(part, vdi_uuid, final).header()[0]
        chain.collect(self.directory)
        return size

    async def _take_vhd(self, part: Path, vdi_uuid: str, least: int) -> str:
        """Turn a VHD file into a disk under the same name; give its format."""
        try:
            footer = _check_vhd(part)
        except FooterError as error:
            raise BackendError("IMPORT_ERROR_GENERIC", str(error)) from error
        size = max(least, footer.size_bytes)
        if footer.disk_type == FIXED:
            os.truncate(part, footer.size_bytes)
            os.truncate(part, size)
            return "raw"
        with self._part(f"{vdi_uuid}.vhd") as source:
            os.rename(part, source)  # noqa: PTH104 - a rename is quick, as all of ours here
            # Left to itself, qemu-img takes the size from the geometry when it does not know
            # the program that wrote the file, and loses the disk's last sectors.
            options = "driver=vpc,force_size_calc=current_size,file.driver=file,file.filename="
            options += source.name
            await self._qemu_img("convert", "--image-opts", options, "-O", "qcow2", part.name)
        if size > footer.size_bytes:
            await self._qemu_img("resize", "-q", "-f", "qcow2", part.name, str(size))
        return "qcow2"

    async def _qemu_img(self, verb: str, *arguments: str) -> None:
        await run_tool("qemu-img", verb, *arguments, directory=self.directory)

    @contextlib.contextmanager
    def _part(self, name: str) -> Iterator[Path]:
        part = self.directory / f"{name}.part"
        part.unlink(missing_ok=True)
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)

    def _finish(self, part: Path, vdi_uuid: str, disk_format: str) -> DiskFile:
        """Make a part the disk, under the next number."""
        files = chain.versions(self.directory, vdi_uuid)
        number = files[-1].number + 1 if files else 1
        path = self.directory / f"{vdi_uuid}.{number}.{disk_format}"
        part.rename(path)
        return DiskFile(path, vdi_uuid, number, disk_format)


def whole_sectors(size_bytes: int) -> int:
    """Round a size up to whole sectors.

    >>> whole_sectors(1), whole_sectors(512)
    (512, 512)
    """
    return -(-size_bytes // SECTOR_BYTES) * SECTOR_BYTES


async def _write_sparse(path: Path, chunks: AsyncIterator[bytes]) -> None:
    """Write a stream to a file, leaving holes where it is zero."""
    size = 0
    with path.open("wb", buffering=0) as file:
        async for chunk in chunks:
            size += len(chunk)
            if size > IMAGE_BYTES_MAX:
                raise BackendError("VDI_TOO_LARGE", "", str(IMAGE_BYTES_MAX))
            _write_pieces(file, memoryview(chunk))
        file.truncate(size)


def _write_pieces(file: IO[bytes], chunk: memoryview) -> None:
    for at in range(0, len(chunk), _HOLE_BYTES):
        piece = chunk[at : at + _HOLE_BYTES]
        if piece == _ZEROS[: len(piece)]:
            file.seek(len(piece), os.SEEK_CUR)
        else:
            while piece:
                piece = piece[file.write(piece) :]


def _check_vhd(path: Path) -> Footer:
    """Hold a whole VHD file to the specification.

    Raises:
        FooterError: it does not hold.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(FOOTER_BYTES)
        file.seek(max(0, length - FOOTER_BYTES))
        footer = parse_footer(file.read(FOOTER_BYTES))
    if footer.disk_type == FIXED:
        if length != footer.size_bytes + FOOTER_BYTES:
            raise FooterError("a fixed VHD's length is not its size and a footer")
    elif parse_footer(first) != footer:
        # qemu-img believes the copy at the beginning, so it has to say the same.
        raise FooterError("the two footers of the VHD differ")
    return footer


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _as_backend_error(error: OSError) -> BackendError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BackendError("SR_FULL", "", "")
    return BackendError("VDI_IO_ERROR", error.strerror or str(error))
