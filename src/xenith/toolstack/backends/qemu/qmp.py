"""QMP, the line of JSON between us and one QEMU process.

One reader task feeds two kinds of lines: answers, matched to their commands by id, and events,
given to a callback. Every wait has a deadline. It speaks over a plain non-blocking socket, not
over asyncio's streams, because migration hands QEMU an open file along with a command.

Source: QEMU, "QEMU Machine Protocol Specification".
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from xenith.core.unix_sockets import short_path

#: One line from QEMU; query-qmp-schema, which we never ask for, is the longest at about 200 KiB.
LINE_BYTES_MAX = 1024 * 1024
#: A command that does not wait for the guest. A busy machine under emulation can be slow.
COMMAND_TIMEOUT_S = 30.0

EventListener = Callable[[str, dict[str, Any]], None]


class QmpError(Exception):
    """QEMU said no, went away or was silent for too long."""


class QmpAbsentError(QmpError):
    """Nobody listens: QEMU is not up yet, or is gone."""


class Qmp:
    """A connection to one QEMU's monitor."""

    def __init__(self, on_event: EventListener) -> None:
        self._on_event = on_event
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._socket: socket.socket | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether commands can be sent."""
        return self._reader is not None and not self._reader.done()

    async def connect(self, path: Path, *, timeout_s: float = COMMAND_TIMEOUT_S) -> None:
        """Connect and agree on capabilities.

        Raises:
            QmpAbsentError: nobody listens there.
            QmpError: they do not speak QMP in time. QEMU serves one
                connection at a time, so another process of ours may hold it.
        """
        await self.close()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._socket = connection
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                with short_path(path) as name:
                    # It connects at once or, with a full backlog, says EAGAIN.
                    connection.connect(name)
                buffer = bytearray()
                while b"\n" not in buffer:
                    buffer += await self._receive(loop)
                line, _, rest = bytes(buffer).partition(b"\n")
                if b'"QMP"' not in line:
                    raise QmpError(f"{path} does not speak QMP")
                self._reader = asyncio.create_task(self._read(bytearray(rest)), name="qmp")
                await self.command("qmp_capabilities")
        except (FileNotFoundError, ConnectionRefusedError) as error:
            await self.close()
            raise QmpAbsentError(f"no QMP at {path}: {error!r}") from error
        except (OSError, TimeoutError, QmpError) as error:
            await self.close()
            raise QmpError(f"no QMP at {path}: {error!r}") from error
        except asyncio.CancelledError:
            await self.close()
            raise

    async def drain(self) -> None:
        """Wait until QEMU, which has ended, has been heard out."""
        if self._reader is not None:
            await asyncio.wait([self._reader], timeout=COMMAND_TIMEOUT_S)

    async def close(self) -> None:
        """Let go of the connection; QEMU runs on."""
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def command(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        *,
        files: Sequence[int] = (),
        timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> Any:
        """Send a command, with open files if any, and give what it returns.

        Raises:
            QmpError: it was refused, the connection ended, or no answer came in time.
        """
        if self._socket is None or not self.is_connected:
            raise QmpError(f"{name}: not connected")
        number = next(self._numbers)
        message: dict[str, Any] = {"execute": name, "id": number}
        if arguments is not None:
            message["arguments"] = arguments
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            # A command is far smaller than a socket's buffer, so it goes whole or not at all.
            socket.send_fds(self._socket, [msgspec.json.encode(message) + b"\n"], list(files))
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError as error:
            raise QmpError(f"{name}: no answer in {timeout_s} s") from error
        except OSError as error:
            raise QmpError(f"{name}: {error}") from error
        finally:
            self._waiting.pop(number, None)

    async def _receive(self, loop: asyncio.AbstractEventLoop) -> bytes:
        assert self._socket is not None, "reads only while connected"
        data = await loop.sock_recv(self._socket, 65536)
        if not data:
            raise QmpError("QEMU closed the connection")
        return data

    async def _read(self, buffer: bytearray) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                while (end := buffer.find(b"\n")) >= 0:
                    line = bytes(buffer[:end])
                    del buffer[: end + 1]
                    self._take(msgspec.json.decode(line))
                if len(buffer) > LINE_BYTES_MAX:
                    raise QmpError("a line of QMP is too long")
                buffer += await self._receive(loop)
        except (OSError, QmpError, msgspec.DecodeError):
            return
        finally:
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(QmpError("QEMU closed the connection"))

    def _take(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self._on_event(message["event"], message.get("data") or {})
            return
        answer = self._waiting.get(message.get("id", 0))
        if answer is None or answer.done():
            return
        if "error" in message:
            answer.set_exception(QmpError(str(message["error"].get("desc", "refused"))))
        else:
            answer.set_result(message.get("return"))
