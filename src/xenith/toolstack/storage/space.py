"""Room of a repository: what its files take, what is free, and what of that is kept back.

VHDs grow as they are written, so a disk that fills up breaks every guest on it at once. Some room
is therefore never given to callers. Garbage collection may use it, because that is how there will
be more.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from xenith.toolstack.backends import BackendError
from xenith.vhd.header import BLOCK_BYTES

#: Room kept back: what two hundred running guests write in some seconds, and what a merge needs.
RESERVE_BYTES = 1024 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class SrUse:
    """An SR's three figures. ``physical_size`` less the utilisation is what may be written.

    Source: XenAPI SR.physical_size, SR.physical_utilisation, SR.virtual_allocation.
    """

    physical_size_bytes: int
    physical_utilisation_bytes: int
    virtual_allocation_bytes: int


def measure_free(directory: str) -> int:
    """Give the bytes that a file system has for us."""
    told = os.statvfs(directory)
    return told.f_bavail * told.f_frsize


def empty_disk_bytes(size_bytes: int) -> int:
    """Tell what an empty disk takes: headers, a table, a batmap and locators, each in pages."""
    return 4 * 4096 + size_bytes // BLOCK_BYTES * 5


class Space:
    """The room of one directory."""

    def __init__(
        self, directory: str, *, reserve_bytes: int, measure: Callable[[str], int] = measure_free
    ) -> None:
        self._directory = directory
        self._reserve_bytes = reserve_bytes
        self._measure = measure

    def free_bytes(self) -> int:
        """Tell what is free, with what is kept back."""
        return self._measure(self._directory)

    def spare_bytes(self) -> int:
        """Tell what callers may still have."""
        return max(0, self.free_bytes() - self._reserve_bytes)

    def need(self, length_bytes: int) -> None:
        """Refuse what would reach into what is kept back.

        Raises:
            BackendError: SR_FULL with what was asked for and what there is, in bytes.
        """
        spare = self.spare_bytes()
        if length_bytes > spare:
            raise BackendError("SR_FULL", str(length_bytes), str(spare))

    def used_bytes(self) -> dict[str, int]:
        """Tell what each file takes, holes not counted."""
        with os.scandir(self._directory) as entries:
            return {
                entry.name: entry.stat(follow_symlinks=False).st_blocks * 512
                for entry in entries
                if entry.is_file(follow_symlinks=False)
            }
