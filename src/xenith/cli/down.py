"""``xenith down``: stop the cloud that runs in a data directory."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from xenith.core.errors import Unavailable
from xenith.core.settings import load

app = App(help="Stop the cloud that `up --detach` started.")

#: Seconds that it has to stop in order.
STOP_TIMEOUT_S = 30.0


@app.default
def down(*, data: Annotated[str | None, Parameter(help="Its data directory.")] = None) -> int:
    """Stop the control plane; servers on real hosts run on."""
    directory = Path(load(flags={"data": data}).data).absolute()
    pid = running_process(directory)
    if pid is None:
        print(f"no cloud runs in {directory}")
        return 0
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while running_process(directory) is not None:
        if time.monotonic() > deadline:
            raise Unavailable(f"process {pid} has not stopped in {STOP_TIMEOUT_S:.0f} s")
        time.sleep(0.02)
    print(f"stopped (process {pid})")
    return 0


def running_process(directory: Path) -> int | None:
    """Give the id of the process that runs the cloud, or None. The lock tells, not the file."""
    path = directory / "lock"
    if not path.exists():
        return None
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            text = file.read().strip()
            return int(text) if text.isdigit() else None
    return None
