"""A chain of VHDs as the disk of a running domain: served, held still, and taken up again.

While it is held still its chain is closed, so that others may change what the names lead to; the
guest's requests wait, and find the same bytes after.
"""

from __future__ import annotations

import threading
from pathlib import Path

from xenith.vhd.chain import Chain, open_chain
from xenith.vhd.files import Directory
from xenith.vhd.footer import SECTOR_BYTES

#: Zeros that are written at a time, where a chain holds something.
_ZEROS = bytes(1024 * 1024)


class TapDisk:
    """One disk. Requests are served one after the other."""

    def __init__(self, path: Path, *, is_read_only: bool) -> None:
        """Open the chain of a leaf, with its parents beside it.

        Raises:
            XenithError: it is no sound chain, or another writes to it.
        """
        self.path = path
        self.is_read_only = is_read_only
        self._turn = threading.Lock()
        self._is_held = False
        self._files = Directory(path.parent)
        self._chain = self._open()

    @property
    def size_bytes(self) -> int:
        """Bytes of the disk."""
        return self._chain.size_bytes

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill the view with the disk's bytes."""
        with self._turn:
            self._chain.read_into(offset, view)

    def write(self, offset: int, data: memoryview) -> None:
        """Write whole sectors; they are on the host's disk after the next ``flush``."""
        with self._turn:
            self._chain.write(offset, data)

    def zero(self, offset: int, length_bytes: int) -> None:
        """Make whole sectors zero; those that are nowhere are so already."""
        with self._turn:
            self._chain.leaf.check_range(offset, length_bytes)
            first, count = offset // SECTOR_BYTES, length_bytes // SECTOR_BYTES
            for run in list(self._chain.runs(first, count)):
                at, left = run.sector * SECTOR_BYTES, run.length * SECTOR_BYTES
                while run.link is not None and left:
                    part = min(left, len(_ZEROS))
                    self._chain.write(at, memoryview(_ZEROS)[:part])
                    at, left = at + part, left - part

    def flush(self) -> None:
        """Bring all that was written to the host's disk."""
        with self._turn:
            self._flush()

    def hold(self) -> None:
        """Close the chain, with all that was written in it, until ``go_on``. Safe to repeat."""
        if self._is_held:
            return
        self._turn.acquire()
        try:
            self._flush()
            self._chain.close()
        except BaseException:
            self._turn.release()
            raise
        self._is_held = True

    def go_on(self) -> None:
        """Open the chain again, whatever files it is now. Safe to repeat."""
        if self._is_held:
            self._chain = self._open()
            self._is_held = False
            self._turn.release()

    def close(self) -> None:
        """Bring all to the host's disk and close the chain."""
        self.hold()
        self._files.close()

    def _flush(self) -> None:
        if not self.is_read_only:
            self._chain.flush()

    def _open(self) -> Chain:
        return open_chain(self._files, self.path.name, writable=not self.is_read_only)
