"""A cloud in a process of its own, for measuring: start, read its counters, stop."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xenith.core.errors import Unavailable

START_TIMEOUT_S = 120.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class MeasuredCloud:
    """A running cloud: where it is, and when it was ready."""

    directory: Path
    pid: int
    #: From the start of the process to the line ``ready``.
    ready_s: float

    def cpu_s(self) -> float:
        """Give the processor seconds that the process has used, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def memory_mib(self) -> float:
        """Give the memory that is resident now."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise Unavailable(f"process {self.pid} is gone")


@contextlib.contextmanager
def cloud(*arguments: str, hosts: int, directory: Path | None = None) -> Iterator[MeasuredCloud]:
    """Run ``xenith up`` on simulated hosts with a free port, and stop it after."""
    with contextlib.ExitStack() as stack:
        place = directory or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="xenith-bench-"))
        )
        command = [
            sys.executable,
            "-m",
            "xenith.cli",
            "up",
            "--data",
            str(place),
            "--listen",
            "127.0.0.1:0",
            "--backend",
            "sim",
            "--hosts",
            str(hosts),
            "--log-level",
            "warning",
            *arguments,
        ]
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
            process.wait(timeout=30)


def _wait_ready(process: subprocess.Popen[bytes], place: Path, began: float) -> None:
    while not (place / "ready").exists():
        if process.poll() is not None:
            raise Unavailable(
                f"the cloud did not start: {(place / 'bench.log').read_text()[-500:]}"
            )
        if time.monotonic() - began > START_TIMEOUT_S:
            raise Unavailable(f"the cloud was not ready in {START_TIMEOUT_S:.0f} s")
        time.sleep(0.002)


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Give the median, 99th percentile and worst of times, in milliseconds."""
    ordered = sorted(seconds)
    return {
        "p50_ms": round(statistics.median(ordered) * 1000, 3),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000, 3),
        "max_ms": round(ordered[-1] * 1000, 3),
    }
