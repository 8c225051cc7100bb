"""The taps of the living domains: started before their QEMUs, spoken to, and heard to end.

A tap is no child of ours either. Our connection to it says whether it lives, and after a restart
of ours there is a new one; what it held for us goes on when the old one breaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
from pathlib import Path
from typing import NamedTuple

from xenith.core.clock import Clock
from xenith.core.unix_sockets import open_unix
from xenith.toolstack.backends import BackendError
from xenith.toolstack.backends.qemu import console
from xenith.toolstack.backends.qemu.processes import (
    TAP_MODULE,
    find_taps,
    has_ended,
    spawn_detached,
)
from xenith.toolstack.tap.__main__ import CONTROL

#: From its start to its first answer: Python, numpy and the chains' tables.
_LAUNCH_TIMEOUT_S = 30.0
#: One order; the slowest is to flush what a guest wrote to a slow disk.
_ORDER_TIMEOUT_S = 60.0
#: From QEMU's end to the tap's, which brings all to the disk before it goes.
_END_TIMEOUT_S = 60.0


class TapDisk(NamedTuple):
    """One disk of a tap: the leaf's file, and the socket that QEMU comes to."""

    leaf: str
    socket: str
    is_read_only: bool


class Tap:
    """A hold on one living tap."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._turn = asyncio.Lock()
        self._answers: asyncio.Queue[str] = asyncio.Queue()
        self._numbers = itertools.count(1)
        #: Done when it has ended, and when we have let it go.
        self.ended = asyncio.create_task(self._listen(reader), name="tap")

    async def order(self, *words: str) -> None:
        """Have it do something, and wait until it has.

        Raises:
            BackendError: INTERNAL_ERROR, it cannot, or is gone.
        """
        async with self._turn:
            number = str(next(self._numbers))
            try:
                self._writer.write(f"{number} {' '.join(words)}\n".encode())
                async with asyncio.timeout(_ORDER_TIMEOUT_S):
                    answer = await self._answer(number)
            except (OSError, TimeoutError) as error:
                raise BackendError("INTERNAL_ERROR", f"tap: {words[0]}: {error!r}") from error
        if answer != "done":
            raise BackendError("INTERNAL_ERROR", f"tap: {words[0]}: {answer}")

    async def _answer(self, number: str) -> str:
        """Take the answer to an order; those to orders that were given up come before it."""
        while not self.ended.done():
            given, _, answer = (await self._answers.get()).partition(" ")
            if given in (number, ""):
                return answer
        return "it is gone"

    async def end(self) -> None:
        """Wait until it has ended, as it does when its QEMU has; then it holds no file."""
        await asyncio.wait([self.ended], timeout=_END_TIMEOUT_S)
        self.release()

    async def quit(self) -> None:
        """Have it end without its QEMU, and wait for that."""
        with contextlib.suppress(BackendError):
            await self.order("quit")
        await self.end()

    def release(self) -> None:
        """Let go; it serves on."""
        self.ended.cancel()
        self._writer.close()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                self._answers.put_nowait(line.decode().strip())
        # Whoever waits for an answer gets none.
        self._answers.put_nowait(" it is gone")


async def find_tap(directory: Path) -> Tap | None:
    """Take hold of a domain's tap, if it lives."""
    try:
        return Tap(*await open_unix(directory / CONTROL))
    except (FileNotFoundError, ConnectionRefusedError):
        return None


async def end_tap(directory: Path, *, clock: Clock) -> None:
    """End the tap of a domain without a QEMU: of a launch of ours that was killed, say.

    One that does not listen yet holds its files already, and is waited for.
    """
    deadline = clock.monotonic() + _LAUNCH_TIMEOUT_S
    while find_taps(directory.parent).get(directory.name) and clock.monotonic() < deadline:
        old = await find_tap(directory)
        if old is not None:
            await old.quit()
        await clock.sleep(0.02)


async def launch_tap(directory: Path, disks: list[TapDisk], *, clock: Clock) -> Tap:
    """Start a domain's tap and take hold of it.

    Raises:
        BackendError: SR_BACKEND_FAILURE_46, a chain cannot be opened.
    """
    await end_tap(directory, clock=clock)
    command = [sys.executable, "-m", TAP_MODULE]
    for disk in disks:
        command += [disk.leaf, "ro" if disk.is_read_only else "rw", disk.socket]
    log = directory / "tap.log"
    for name in (CONTROL, *(disk.socket for disk in disks)):
        (directory / name).unlink(missing_ok=True)
    alive = await spawn_detached(command, directory=directory, log=log)
    try:
        deadline = clock.monotonic() + _LAUNCH_TIMEOUT_S
        while not has_ended(alive) and clock.monotonic() < deadline:
            tap = await find_tap(directory)
            if tap is not None:
                return tap
            await clock.sleep(0.02)
    finally:
        os.close(alive)
    said = console.tail(log, 1000).decode(errors="replace").strip()
    raise BackendError("SR_BACKEND_FAILURE_46", "", f"The disks cannot be opened: {said}", "")
