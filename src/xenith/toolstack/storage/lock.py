"""The lock that keeps a repository to one process, given back by the kernel when that one dies."""

from __future__ import annotations

import fcntl
import os

from xenith.toolstack.backends import BackendError

#: Not a name that a disk or a note of a repository can have.
LOCK_NAME = ".xenith-lock"


class RepositoryLock:
    """A repository held by this process until ``release``, or until the process is no more."""

    def __init__(self, directory: str) -> None:
        """Take the lock.

        Raises:
            BackendError: SR_BACKEND_FAILURE_16, another holds it.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(os.path.join(directory, LOCK_NAME), flags, 0o600)  # noqa: PTH118 - with flags that Path.open has not
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            text = f"{directory} is held by another process."
            raise BackendError("SR_BACKEND_FAILURE_16", "", text, "") from None

    def release(self) -> None:
        """Give the lock back. Safe to repeat.

        The file stays: were it removed, two processes could each hold a lock on one of that name.
        """
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1
