"""Operating-system processes: QEMUs, and their taps, that outlive us.

A QEMU is known by the ``-pidfile`` argument on its command line, which names its domain's own
directory. A bare process id is never believed: it may have been given to another program.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path

#: What a tap runs: ``python -m``, in the directory of its domain.
TAP_MODULE = "xenith.toolstack.tap"
_SECONDS_TO_DIE = 10.0


async def spawn_detached(
    command: Sequence[str], *, directory: Path, log: Path, files: Sequence[int] = ()
) -> int:
    """Start a program in its own session, no child of ours; give a pipe that ends when it does.

    The write end of the pipe is held open by the program and never written, so it says that the
    program has died before anyone knows its process id.
    """
    alive, held = os.pipe()
    try:
        with log.open("wb") as complaint:
            process = await asyncio.create_subprocess_exec(
                "setsid",
                "--fork",
                *command,
                cwd=directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=complaint,
                pass_fds=(held, *files),
            )
            await process.wait()
    except BaseException:
        os.close(alive)
        raise
    finally:
        os.close(held)
    os.set_blocking(alive, False)
    return alive


def has_ended(alive: int) -> bool:
    """Tell whether the program that holds the other end of ``spawn_detached``'s pipe is gone."""
    try:
        return os.read(alive, 1) == b""
    except BlockingIOError:
        return False


def find_qemus(domains: Path) -> dict[str, list[int]]:
    """Find the living QEMUs of a directory of domains: domain's name to process ids.

    Reads every command line once; a zombie's is empty, so the dead are not found.
    """
    found: dict[str, list[int]] = {}
    for entry in os.scandir("/proc"):
        pid_file = _pid_file(int(entry.name)) if entry.name.isdigit() else None
        if pid_file is not None and pid_file.parent.parent == domains:
            found.setdefault(pid_file.parent.name, []).append(int(entry.name))
    return found


def find_taps(domains: Path) -> dict[str, list[int]]:
    """Find the taps of a directory of domains, those too that are on their way to being one."""
    found: dict[str, list[int]] = {}
    for entry in os.scandir("/proc"):
        room = _tap_room(Path(entry.path)) if entry.name.isdigit() else None
        if room is not None and room.parent == domains:
            found.setdefault(room.name, []).append(int(entry.name))
    return found


def _tap_room(process: Path) -> Path | None:
    """Give the directory that a process works in, if it is a tap of ours."""
    try:
        if process.stat().st_uid != os.getuid():
            return None
        words = (process / "cmdline").read_bytes().split(b"\0")
        return (process / "cwd").readlink() if TAP_MODULE.encode() in words else None
    except OSError:
        return None


def _pid_file(pid: int) -> Path | None:
    """Give the path after ``-pidfile`` on a process's command line, if the process is ours."""
    try:
        process = Path("/proc", str(pid))
        if process.stat().st_uid != os.getuid():
            return None
        words = (process / "cmdline").read_bytes().split(b"\0")
        # setsid is on its way to becoming QEMU.
        program = os.path.basename(words[0])  # noqa: PTH119 - bytes
        if b"qemu" not in program and program != b"setsid":
            return None
        return Path(os.fsdecode(words[words.index(b"-pidfile") + 1]))
    except (OSError, ValueError, IndexError):
        return None


class Process:
    """A hold on one living QEMU, immune to its process id being given away."""

    def __init__(self, pid: int, directory: Path) -> None:
        """Take hold.

        Raises:
            ProcessLookupError: the process is gone, or is not this domain's QEMU.
        """
        self.pid = pid
        self._handle = os.pidfd_open(pid)
        # Checked after the handle is held: from here on the pid cannot mean another process.
        pid_file = _pid_file(pid)
        if pid_file is None or pid_file.parent != directory:
            os.close(self._handle)
            raise ProcessLookupError(f"process {pid} is not the QEMU of {directory.name}")
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._handle, self._on_end)

    def kill(self) -> None:
        """Cut its power."""
        if self._handle >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    async def wait(self, timeout_s: float = _SECONDS_TO_DIE) -> bool:
        """Wait for its end; tell whether it came in time."""
        done, _ = await asyncio.wait([self.ended], timeout=timeout_s)
        return bool(done)

    def release(self) -> None:
        """Let go; the process runs on."""
        if self._handle >= 0:
            asyncio.get_running_loop().remove_reader(self._handle)
            os.close(self._handle)
            self._handle = -1

    def _on_end(self) -> None:
        self.release()
        if not self.ended.done():
            self.ended.set_result(None)
