"""The lock of a data directory: one process at a time works in it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from xenith.core.errors import Conflict


def take_lock(directory: Path) -> IO[str]:
    """Take a data directory for this process; it is let go when the file is closed, or with us.

    Raises:
        Conflict: another process has it.
    """
    file = (directory / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise Conflict(
            f"{directory} is in use: the cloud there already runs (process {owner}); stop it with "
            f"`xenith down --data {directory}`, or choose another --data"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
