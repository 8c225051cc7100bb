"""Operating-system processes: programs that are waited for, and QEMUs that outlive us.

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

from xenith.toolstack.backends import BackendError

#: What qemu-img may take of the machine while it reads a tenant's bytes. Source: nova gives it
#: 1 GiB and 30 s for looking; converting takes longer.
TOOL_MEMORY_BYTES_MAX = 1024 * 1024 * 1024
TOOL_CPU_S_MAX = 3600
#: One run of a tool. A convert of the largest image at 100 MB/s stays within this.
TOOL_TIMEOUT_S = 6 * 3600.0
#: How much of a program's complaint goes into an error.
COMPLAINT_BYTES_MAX = 2000
_SECONDS_TO_DIE = 10.0


async def run_tool(*command: str, directory: Path, timeout_s: float = TOOL_TIMEOUT_S) -> bytes:
    """Run a program within limits of time and memory and give its output.

    Raises:
        BackendError: INTERNAL_ERROR with what it said, or SR_FULL when the disk is full.
    """
    limits = ["--core=0", f"--as={TOOL_MEMORY_BYTES_MAX}", f"--cpu={TOOL_CPU_S_MAX}"]
    try:
        process = await asyncio.create_subprocess_exec(
            "prlimit",
            *limits,
            "--",
            *command,
            cwd=directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise BackendError("INTERNAL_ERROR", f"{command[0]} does not start: {error}") from error
    try:
        async with asyncio.timeout(timeout_s):
            output, complaint = await process.communicate()
    except TimeoutError as error:
        raise BackendError("INTERNAL_ERROR", f"{command[0]} took over {timeout_s} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        said = complaint[-COMPLAINT_BYTES_MAX:].decode(errors="replace").strip()
        if "No space left" in said:
            raise BackendError("SR_FULL", "", "")
        raise BackendError("INTERNAL_ERROR", f"{command[0]}: {said or process.returncode}")
    return output


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
