"""Logs of serial consoles: bounded, since a guest may write to its console for ever."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from xenith.core.limits import CONSOLE_LOG_BYTES_MAX

#: A living domain's log is cut back to what getConsoleOutput can show when it outgrows this.
LOG_BYTES_MAX = 4 * 1024 * 1024
#: Logs kept of domains that have ended; the oldest go first.
ENDED_LOGS_MAX = 64


def tail(path: Path, byte_count: int) -> bytes:
    """Read the end of a log; one that is not there is empty."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - byte_count))
            return file.read(byte_count)
    except FileNotFoundError:
        return b""


def trim(path: Path) -> None:
    """Cut a log that has grown too long back to its end.

    QEMU appends, so it goes on behind whatever is there; bytes that it writes between the two
    calls are lost.
    """
    if not path.exists() or path.stat().st_size <= LOG_BYTES_MAX:
        return
    kept = tail(path, CONSOLE_LOG_BYTES_MAX)
    with path.open("ab") as file:
        file.truncate(0)
        file.write(kept)


def keep_newest(domains: Path) -> None:
    """Remove the oldest of what is left of domains that have ended."""
    ended = [
        path for path in domains.iterdir() if path.is_dir() and not (path / "domain.json").exists()
    ]
    ended.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in ended[ENDED_LOGS_MAX:]:
        shutil.rmtree(path, ignore_errors=True)
