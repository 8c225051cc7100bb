"""Stores that are served over sockets, and what speaks to them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from xenith.core.clock import ManualClock, SystemClock
from xenith.xenstore import Permission, Quotas, Server, Store
from xenith.xenstore.connection import control_connection
from xenith.xenstore.nodes import READ
from xenith.xenstore.wire import HEADER, Frame, Op, decode_header

DOMID = 3


class Raw:
    """Bytes to and from a server, without a client's manners."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, op: int, payload: bytes, *, number: int = 1, transaction: int = 0) -> None:
        """Send a request."""
        self.writer.write(Frame(op, number, transaction, payload).encode())
        await self.writer.drain()

    async def receive(self) -> Frame:
        """Give the next frame."""
        header = decode_header(await self.reader.readexactly(HEADER.size))
        payload = await self.reader.readexactly(header.size_bytes)
        return Frame(header.op, header.request_id, header.transaction_id, payload)

    async def ask(self, op: int, payload: bytes) -> bytes:
        """Send a request; give its answer, whatever events come before."""
        await self.send(op, payload)
        while (frame := await self.receive()).op == Op.WATCH_EVENT:
            pass
        return frame.payload


class Served:
    """A store, with a guest that has a tree of its own."""

    def __init__(self, clock: SystemClock | ManualClock) -> None:
        self.store = Store(Quotas())
        self.server = Server(self.store, clock)
        self.tool = control_connection(self.store)
        self.store.create_domain(DOMID)
        home = f"/local/domain/{DOMID}"
        self.tool.mkdir(home)
        self.tool.set_perms(home, [Permission(0, 0), Permission(DOMID, READ)])
        self.tool.mkdir(f"{home}/data")
        self.tool.set_perms(f"{home}/data", [Permission(DOMID, 0)])
        self.store.introduce(DOMID)
        self.ended: list[asyncio.Task[str]] = []

    async def guest(self) -> Raw:
        """Connect the guest."""
        ours, theirs = socket.socketpair()
        session = self.server.serve_guest(DOMID, *await asyncio.open_unix_connection(sock=ours))
        self.ended.append(asyncio.create_task(session))
        return Raw(*await asyncio.open_unix_connection(sock=theirs))

    async def stop(self) -> None:
        """End all."""
        await self.server.stop()
        for task in self.ended:
            task.cancel()
        await asyncio.gather(*self.ended, return_exceptions=True)
        assert self.store.check_whole() == []


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A store that a guest may connect to."""
    made = Served(SystemClock())
    yield made
    await made.stop()


@pytest.fixture
async def served_in_still_time() -> AsyncIterator[Served]:
    """The same, where no time passes but what the test lets pass."""
    clock = ManualClock()
    made = Served(clock)
    made.clock = clock
    yield made
    await made.stop()
