"""An asyncio client of any xenstored, by its socket or by the kernel's device.

    client = await connect()
    await client.write("/local/domain/3/vm-data/hostname", b"web-1")
    async with contextlib.aclosing(client.events("/local/domain/3/data")) as events:
        async for path in events: ...

Source: xen, docs/misc/xenstore.txt.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Self

from xenith.core.unix_sockets import open_unix
from xenith.xenstore.errors import ProtocolError, XenstoreError
from xenith.xenstore.nodes import Permission, parse_permission
from xenith.xenstore.wire import (
    HEADER,
    PAYLOAD_BYTES_MAX,
    Frame,
    Op,
    decode_header,
    join,
    texts,
)

#: Where there may be one: the daemon's socket in the control domain, then the kernel's device.
PLACES = (
    "/run/xenstored/socket",
    "/var/run/xenstored/socket",
    "/dev/xen/xenbus",
    "/proc/xen/xenbus",
)
#: An answer takes milliseconds unless the store is stuck.
CALL_TIMEOUT_S = 30.0
#: Paths of one watch that nobody has taken yet; from then on only that something has changed.
PATHS_WAITING_MAX = 1000
#: How often a transaction is begun again before its conflict is told.
ATTEMPTS_MAX = 100


class Client:
    """A connection to a store."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Frame]] = {}
        self._watches: dict[bytes, _Events] = {}
        self._ended: BaseException | None = None
        self._reading = asyncio.create_task(self._read_all(), name="xenstore client")

    async def close(self) -> None:
        """End it; who still waits is told."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def __aenter__(self) -> Self:
        """Give itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """End it."""
        await self.close()

    async def call(self, op: Op, payload: bytes, *, transaction_id: int = 0) -> bytes:
        """Ask for an operation and give the payload of its answer.

        Raises:
            XenstoreError: it is refused.
            ConnectionError: the store is gone.
            TimeoutError: no answer in time.
        """
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise XenstoreError("E2BIG")  # the store would drop us
        if self._ended is not None:
            raise ConnectionError(f"xenstore is gone: {self._ended!r}")
        number = next(self._numbers) % (1 << 32)
        answered: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answered
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                self._writer.write(Frame(op, number, transaction_id, payload).encode())
                await self._writer.drain()
                frame = await answered
        finally:
            self._waiting.pop(number, None)
        if frame.op == Op.ERROR:
            raise XenstoreError(frame.payload.rstrip(b"\0").decode("ascii", "replace"))
        return frame.payload

    # -- nodes

    async def read(self, path: str, *, transaction_id: int = 0) -> bytes:
        """Give a node's value."""
        return await self.call(Op.READ, join(path.encode()), transaction_id=transaction_id)

    async def write(self, path: str, value: bytes, *, transaction_id: int = 0) -> None:
        """Set a node's value; make it, and what is missing above it."""
        payload = join(path.encode()) + value
        await self.call(Op.WRITE, payload, transaction_id=transaction_id)

    async def mkdir(self, path: str, *, transaction_id: int = 0) -> None:
        """Have a node be there."""
        await self.call(Op.MKDIR, join(path.encode()), transaction_id=transaction_id)

    async def rm(self, path: str, *, transaction_id: int = 0) -> None:
        """Have a node, and those below it, not be there."""
        await self.call(Op.RM, join(path.encode()), transaction_id=transaction_id)

    async def directory(self, path: str, *, transaction_id: int = 0) -> list[str]:
        """List a node's children, also where they do not fit into one answer."""
        try:
            listed = await self.call(
                Op.DIRECTORY, join(path.encode()), transaction_id=transaction_id
            )
        except XenstoreError as error:
            if error.name != "E2BIG":
                raise
            listed = await self._directory_in_parts(path, transaction_id)
        return [name.decode() for name in texts(listed)]

    async def _directory_in_parts(self, path: str, transaction_id: int) -> bytes:
        """Read a long list, from its beginning again when it changes meanwhile."""
        for _ in range(ATTEMPTS_MAX):
            listed, of = b"", b""
            while True:
                payload = join(path.encode(), str(len(listed)).encode())
                part = await self.call(Op.DIRECTORY_PART, payload, transaction_id=transaction_id)
                generation, _, names = part.partition(b"\0")
                if listed and generation != of:
                    break
                of = generation
                # The last part ends in an empty name.
                if names.endswith(b"\0\0") or names == b"\0":
                    return listed + names[:-1]
                listed += names
        raise XenstoreError("EAGAIN")

    async def get_perms(self, path: str, *, transaction_id: int = 0) -> list[Permission]:
        """Give a node's permissions, its owner's first."""
        held = await self.call(Op.GET_PERMS, join(path.encode()), transaction_id=transaction_id)
        return [parse_permission(text) for text in texts(held)]

    async def set_perms(
        self, path: str, permissions: Sequence[Permission], *, transaction_id: int = 0
    ) -> None:
        """Set a node's permissions."""
        words = (str(permission).encode() for permission in permissions)
        payload = join(path.encode(), *words)
        await self.call(Op.SET_PERMS, payload, transaction_id=transaction_id)

    # -- watches and transactions

    async def events(self, path: str) -> AsyncGenerator[str]:
        """Give the paths that change below one, the path itself at once; spurious ones too."""
        token = b"%d" % next(self._numbers)
        waiting = self._watches[token] = _Events(path)
        try:
            if self._ended is None:
                await self.call(Op.WATCH, join(path.encode(), token))
            while True:
                yield await waiting.next()
        finally:
            del self._watches[token]
            with contextlib.suppress(XenstoreError, ConnectionError, TimeoutError):
                await self.call(Op.UNWATCH, join(path.encode(), token))

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Begin a transaction; commit it at the end, or drop it if that raises.

        Raises:
            XenstoreError: EAGAIN, when others changed what it looked at: begin again.
        """
        begun = await self.call(Op.TRANSACTION_START, b"\0")
        number = int(begun.rstrip(b"\0"))
        try:
            yield Transaction(self, number)
        except BaseException:
            with contextlib.suppress(XenstoreError, ConnectionError, TimeoutError):
                await self.call(Op.TRANSACTION_END, join(b"F"), transaction_id=number)
            raise
        await self.call(Op.TRANSACTION_END, join(b"T"), transaction_id=number)

    # -- within

    async def _read_all(self) -> None:
        try:
            while True:
                self._take(await self._read_frame())
        except BaseException as error:
            self._ended = error
            for answered in self._waiting.values():
                if not answered.done():
                    answered.set_exception(ConnectionError(f"xenstore is gone: {error!r}"))
            for events in self._watches.values():
                events.end(error)
            if not isinstance(error, (OSError, EOFError, ProtocolError)):
                raise

    async def _read_frame(self) -> Frame:
        header = decode_header(await self._reader.readexactly(HEADER.size))
        payload = await self._reader.readexactly(header.size_bytes)
        return Frame(header.op, header.request_id, header.transaction_id, payload)

    def _take(self, frame: Frame) -> None:
        if frame.op == Op.WATCH_EVENT:
            found = texts(frame.payload)
            if len(found) == 2 and found[1] in self._watches:
                self._watches[found[1]].put(found[0].decode("latin-1"))
            return
        answered = self._waiting.get(frame.request_id)
        # What was asked too long ago has nobody who waits for its answer.
        if answered is not None and not answered.done():
            answered.set_result(frame)


class Transaction:
    """A transaction's hold on the store; the same calls, within it."""

    def __init__(self, client: Client, number: int) -> None:
        self._client = client
        self.number = number

    async def read(self, path: str) -> bytes:
        """Give a node's value."""
        return await self._client.read(path, transaction_id=self.number)

    async def write(self, path: str, value: bytes) -> None:
        """Set a node's value."""
        await self._client.write(path, value, transaction_id=self.number)

    async def mkdir(self, path: str) -> None:
        """Have a node be there."""
        await self._client.mkdir(path, transaction_id=self.number)

    async def rm(self, path: str) -> None:
        """Have a node not be there."""
        await self._client.rm(path, transaction_id=self.number)

    async def directory(self, path: str) -> list[str]:
        """List a node's children."""
        return await self._client.directory(path, transaction_id=self.number)


class _Events:
    """Paths that a watch was told and nobody has taken yet, each once."""

    def __init__(self, watched: str) -> None:
        self._watched = watched
        self._paths: dict[str, None] = {}
        self._has_news = asyncio.Event()
        self._ended: BaseException | None = None

    def put(self, path: str) -> None:
        """Take note of a path."""
        if len(self._paths) >= PATHS_WAITING_MAX:
            self._paths = {self._watched: None}
        self._paths[path] = None
        self._has_news.set()

    def end(self, error: BaseException) -> None:
        """Tell that no more will come."""
        self._ended = error
        self._has_news.set()

    async def next(self) -> str:
        """Give the next path, in the order in which they came."""
        while not self._paths:
            if self._ended is not None:
                raise ConnectionError(f"xenstore is gone: {self._ended!r}")
            self._has_news.clear()
            await self._has_news.wait()
        path = next(iter(self._paths))
        del self._paths[path]
        return path


async def connect(place: str | Path | None = None) -> Client:
    """Connect to a store: at a place, else where XENSTORED_PATH says, else where there is one.

    Raises:
        ConnectionError: there is none.
    """
    given = place or os.environ.get("XENSTORED_PATH")
    for candidate in (given,) if given else PLACES:
        with contextlib.suppress(FileNotFoundError):
            kind = os.stat(candidate).st_mode  # noqa: PTH116 - a device, not a disk
            if stat.S_ISSOCK(kind):
                return Client(*await open_unix(Path(candidate)))
            return await _open_device(str(candidate))
    raise ConnectionError(f"no xenstore at {given or ', '.join(PLACES)}")


async def _open_device(path: str) -> Client:
    """Open a character device: the kernel's, or a port to the host."""
    loop = asyncio.get_running_loop()
    reading = os.fdopen(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY), "rb", buffering=0)
    writing = os.fdopen(os.dup(reading.fileno()), "wb", buffering=0)
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await loop.connect_read_pipe(lambda: protocol, reading)
    transport, writer_protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), writing
    )
    return Client(reader, asyncio.StreamWriter(transport, writer_protocol, reader, loop))
