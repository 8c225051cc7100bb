"""The files of the disks, and which of them stand on which.

    <vdi>.<number>.raw|qcow2     the disk; the highest number is the one that counts
    <vdi>.<number>.hidden        that file is nobody's disk, but others still stand on it
    <anything>.part              being made; worthless after a crash

A disk that is filled anew gets a new number, so a file that others stand on never changes. What
stands on what is read from the files' own headers, so there is no record that could disagree.
These are our own files: a tenant's bytes are only ever inside of them, never their header.

Source: QEMU, docs/interop/qcow2: magic at 0, backing file's offset at 8 and length at 16, virtual
size at 24, big-endian.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_NAME = re.compile(r"(?P<vdi>[0-9a-f-]{36})\.(?P<number>\d{1,9})\.(?P<format>raw|qcow2)")
#: Clones of clones. Each level costs a look-up for each block not written above it.
DEPTH_MAX = 64


class DiskFile(NamedTuple):
    """One file of a disk."""

    path: Path
    vdi_uuid: str
    number: int
    format: str

    @property
    def marker(self) -> Path:
        """What says that this file is kept only for those that stand on it."""
        return self.path.with_suffix(".hidden")

    def header(self) -> tuple[int, str]:
        """Tell the virtual size in bytes and the file that this one stands on, if any."""
        if self.format == "raw":
            return self.path.stat().st_size, ""
        with self.path.open("rb") as file:
            magic, _, offset, length, _, size = struct.unpack(">4sIQIIQ", file.read(32))
            assert magic == b"QFI\xfb", f"{self.path.name} is no qcow2 file"
            file.seek(offset)
            return size, file.read(length).decode() if offset else ""


def list_files(directory: Path) -> Iterator[DiskFile]:
    """List all disks' files, hidden ones too."""
    for path in directory.iterdir():
        if (match := _NAME.fullmatch(path.name)) is not None:
            yield DiskFile(path, match["vdi"], int(match["number"]), match["format"])


def current_files(directory: Path) -> dict[str, DiskFile]:
    """Tell the file of each disk that there is."""
    current: dict[str, DiskFile] = {}
    for file in list_files(directory):
        other = current.get(file.vdi_uuid)
        if other is None or other.number < file.number:
            current[file.vdi_uuid] = file
    return {vdi: file for vdi, file in current.items() if not file.marker.exists()}


def find_file(directory: Path, vdi_uuid: str) -> DiskFile | None:
    """Find the file of one disk."""
    files = versions(directory, vdi_uuid)
    return None if not files or files[-1].marker.exists() else files[-1]


def versions(directory: Path, vdi_uuid: str) -> list[DiskFile]:
    """List the files of one disk, oldest first."""
    files = [
        DiskFile(path, match["vdi"], int(match["number"]), match["format"])
        for path in directory.glob(f"{vdi_uuid}.*")
        if (match := _NAME.fullmatch(path.name)) is not None
    ]
    return sorted(files, key=lambda file: file.number)


def parents(directory: Path) -> set[str]:
    """Tell the names of all files that others stand on."""
    return {backing for file in list_files(directory) if (backing := file.header()[1])}


def collect(directory: Path) -> None:
    """Remove files that are nobody's disk and that nobody stands on; safe at any time."""
    for _ in range(DEPTH_MAX):
        current = {file.path for file in current_files(directory).values()}
        held = parents(directory)
        unneeded = [
            file
            for file in list_files(directory)
            if file.path not in current and file.path.name not in held
        ]
        for file in unneeded:
            # The marker goes last: without it the file would be somebody's disk again.
            file.path.unlink(missing_ok=True)
            file.marker.unlink(missing_ok=True)
        if not unneeded:
            return
