"""A region of many cells in a process of its own, for measuring: start, read its counters, stop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from xenith.core.errors import Unavailable
from xenith.dev.bench.process import MeasuredCloud

#: A region of thousands of hosts connects to all of them first.
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 120.0


@contextlib.contextmanager
def region(
    tree: str, *, hosts_per_cell: int, directory: Path | None = None, without: Sequence[str] = ()
) -> Iterator[MeasuredCloud]:
    """Run ``xenith lab up`` with a free port, and stop it after."""
    with contextlib.ExitStack() as stack:
        place = directory or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="xenith-bench-"))
        )
        command = [sys.executable, "-m", "xenith.cli", "lab", "up", "--tree", tree]
        command += ["--hosts-per-cell", str(hosts_per_cell), "--data", str(place)]
        command += ["--listen", "127.0.0.1:0", "--log-level", "warning"]
        for name in without:
            command += ["--without", name]
        (place / "ready").unlink(missing_ok=True)
        log = stack.enter_context((place / "bench.log").open("ab"))
        began = time.monotonic()
        # As users run it: with its modules' compiled forms kept.
        environment = {
            name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
        }
        process = subprocess.Popen(  # noqa: S603 - our own command, no shell
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )
        try:
            _wait_ready(process, place, began)
            yield MeasuredCloud(place, process.pid, time.monotonic() - began)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_ready(process: subprocess.Popen[bytes], place: Path, began: float) -> None:
    while not (place / "ready").exists():
        if process.poll() is not None:
            said = (place / "bench.log").read_text(errors="replace")[-500:]
            raise Unavailable(f"the region did not start: {said}")
        if time.monotonic() - began > START_TIMEOUT_S:
            raise Unavailable(f"the region was not ready in {START_TIMEOUT_S:.0f} s")
        time.sleep(0.002)
