"""The one directory that a repository's disks lie in, and its files, read and written at offsets.

No name with a slash is taken, no symbolic link followed and nothing but plain files opened, so
that whatever a hostile header calls its parent, no file outside is. ``File`` and ``Files`` are
the port: a test puts a disk behind them that loses power at any moment.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from typing import Protocol

from xenith.core.errors import Conflict, Exhausted, Invalid, NotFound
from xenith.vhd.footer import refuse
from xenith.vhd.locator import is_name

Bytes = bytes | bytearray | memoryview


class File(Protocol):
    """An open file. What ``sync`` has not seen may be lost, in part and in any order."""

    def size(self) -> int:
        """Give its length in bytes."""

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill the view from the offset on; bytes behind the end are an error."""

    def write(self, offset: int, data: Bytes) -> None:
        """Write all of the bytes at the offset, with a hole before them if need be."""

    def truncate(self, size_bytes: int) -> None:
        """Cut it off, or lengthen it by a hole."""

    def sync(self) -> None:
        """Return when all that was written is on the disk."""

    def close(self) -> None:
        """Close it."""


class Files(Protocol):
    """A directory. What ``sync`` has not seen may be lost, latest first."""

    path: str

    def open(self, name: str, *, writable: bool = False, create: bool = False) -> File:
        """Open a file; ``create`` makes a new one."""

    def names(self) -> list[str]:
        """List the names in it, in order."""

    def modified_s(self, name: str) -> float:
        """Give the time when a file was last written, in seconds since the epoch."""

    def is_same(self, one: str, other: str) -> bool:
        """Tell whether two names are of one file."""

    def link(self, old: str, new: str) -> None:
        """Give a file a second name."""

    def rename(self, old: str, new: str) -> None:
        """Rename a file, over another if there is one."""

    def unlink(self, name: str) -> None:
        """Remove a name."""

    def sync(self) -> None:
        """Return when all changes of names are on the disk."""


class DiskFile:
    """A file of the operating system; one that is writable is locked to its one writer."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._failed: OSError | None = None

    def size(self) -> int:
        """Give its length in bytes."""
        return os.fstat(self._descriptor).st_size

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill the view from the offset on."""
        while view:
            count = os.preadv(self._descriptor, [view], offset)
            if not count:
                raise refuse(f"it ends at {offset}, and more of it was asked for")
            offset, view = offset + count, view[count:]

    def write(self, offset: int, data: Bytes) -> None:
        """Write all of the bytes at the offset.

        Raises:
            Exhausted: there is no room for them.
        """
        view = memoryview(data)
        while view:
            try:
                count = os.pwrite(self._descriptor, view, offset)
            except OSError as error:
                if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                    raise
                told = f"The repository has no room for {len(view)} bytes more."
                raise Exhausted(told, kind="VhdNoSpace") from error
            offset, view = offset + count, view[count:]

    def truncate(self, size_bytes: int) -> None:
        """Cut it off, or lengthen it by a hole."""
        os.ftruncate(self._descriptor, size_bytes)

    def sync(self) -> None:
        """Return when its bytes and its length are on the disk."""
        # Linux reports a failed write-back once and then forgets the pages: a second sync that
        # succeeds would say nothing of them.
        if self._failed:
            raise self._failed
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            self._failed = error
            raise

    def close(self) -> None:
        """Close it, which gives the lock back. Safe to repeat."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        # The number may soon be another file's, which a late write must not reach.
        self._descriptor = -1


class Directory:
    """A directory of the operating system, held open so that it cannot be exchanged."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)  # noqa: PTH100 - a text that headers' texts are held to
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._descriptor = os.open(self.path, flags)

    def open(self, name: str, *, writable: bool = False, create: bool = False) -> DiskFile:
        """Open a file; ``create`` makes a new one.

        Raises:
            Invalid: the name is a path, or what it names is no plain file.
            NotFound: there is no such file.
            Conflict: another writes to it, or it exists and was to be made.
        """
        _check_name(name)
        # Without O_NONBLOCK a pipe laid here by a stranger would be waited for.
        flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        flags |= os.O_RDWR if writable or create else os.O_RDONLY
        flags |= os.O_CREAT | os.O_EXCL if create else 0
        with _named(name):
            descriptor = os.open(name, flags, 0o600, dir_fd=self._descriptor)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Invalid(f"{name} is no plain file.", kind="VhdInvalid")
            if writable or create:
                _lock(descriptor, name)
        except BaseException:
            os.close(descriptor)
            raise
        return DiskFile(descriptor)

    def names(self) -> list[str]:
        """List the names in it, in order."""
        return sorted(os.listdir(self._descriptor))  # noqa: PTH208 - of a descriptor, no path

    def modified_s(self, name: str) -> float:
        """Give the time when a file was last written, in seconds since the epoch."""
        return self._stat(name).st_mtime

    def is_same(self, one: str, other: str) -> bool:
        """Tell whether two names are of one file."""
        return os.path.samestat(self._stat(one), self._stat(other))

    def link(self, old: str, new: str) -> None:
        """Give a file a second name."""
        _check_name(new)
        with _named(new):
            here = self._descriptor
            os.link(old, new, src_dir_fd=here, dst_dir_fd=here, follow_symlinks=False)

    def rename(self, old: str, new: str) -> None:
        """Rename a file, over another if there is one."""
        _check_name(new)
        with _named(old):
            os.rename(old, new, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def unlink(self, name: str) -> None:
        """Remove a name."""
        _check_name(name)
        with _named(name):
            os.unlink(name, dir_fd=self._descriptor)

    def sync(self) -> None:
        """Return when all changes of names are on the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close it; files that are open stay so."""
        os.close(self._descriptor)

    def _stat(self, name: str) -> os.stat_result:
        _check_name(name)
        with _named(name):
            return os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)


def read(file: File, offset: int, length_bytes: int) -> bytes:
    """Read bytes that must be there."""
    data = bytearray(length_bytes)
    file.read_into(offset, memoryview(data))
    return bytes(data)


def _check_name(name: str) -> None:
    if not is_name(name):
        raise Invalid(f"{name!r} is not the name of a file in a repository.", kind="VhdInvalid")


def _lock(descriptor: int, name: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Conflict(f"{name} is being written to by another.", kind="VhdInUse") from error


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Say in our own errors what the system says of a name."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"{name} is not in the repository.", kind="VhdNotFound") from error
    except FileExistsError as error:
        raise Conflict(f"{name} exists already.", kind="VhdExists") from error
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV}:
            raise Invalid(f"{name} is no plain file.", kind="VhdInvalid") from error
        raise
