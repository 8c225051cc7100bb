"""A network in memory: ``asyncio.Protocol`` on both sides, and a line between them that may fail.

A connection is two sides; what one writes is due at the other after a small seeded latency, in
order. A port may be *cut*: what is under way is held, as by a switch that lost its power, and comes
through when it is *healed*; or *reset*: its connections break on both sides.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import random
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from xenith.dev.simulation.owner import OWNER, Owner

if TYPE_CHECKING:
    from xenith.dev.simulation.loop import SimulatedLoop

#: The only address there is.
ADDRESS = "127.0.0.1"
_NAMES = frozenset({ADDRESS, "localhost", "0.0.0.0"})  # noqa: S104 - nothing is bound
#: The first port that is given to who asks for any.
FIRST_PORT = 20_000
#: The first port of a client's side.
FIRST_CLIENT_PORT = 100_000
#: Seconds that bytes are under way, at least and at most: a data centre's network.
LATENCY_MIN_S = 0.0001
LATENCY_MAX_S = 0.001
#: Bytes that a protocol is given at once at most. Source: asyncio's selector transport, 256 KiB.
CHUNK_BYTES_MAX = 256 * 1024
#: Bytes under way above which a writer is asked to pause. Source: asyncio's default.
HIGH_WATER_BYTES = 64 * 1024

ProtocolFactory = Callable[[], asyncio.Protocol]


class _Mark(Enum):
    """What comes over a line besides bytes."""

    BEGIN = 1
    END = 2
    RESET = 3


class SimulatedNetwork:
    """All ports and connections of one loop."""

    def __init__(self, loop: SimulatedLoop, chance: random.Random) -> None:
        self._loop = loop
        self._chance = chance
        self._listeners: dict[int, SimulatedServer] = {}
        self._sides: dict[SimulatedTransport, None] = {}
        self._next_port = FIRST_PORT
        self._next_client_port = FIRST_CLIENT_PORT
        self._cut: dict[int, list[asyncio.Future[None]]] = {}
        self.latency_min_s = LATENCY_MIN_S
        self.latency_max_s = LATENCY_MAX_S

    # -- faults

    def cut(self, port: int) -> None:
        """Hold all that goes to or from a port, new connections too, until it is healed."""
        self._cut.setdefault(port, [])

    def heal(self, port: int) -> None:
        """Let through what was held."""
        for waiting in self._cut.pop(port, ()):
            if not waiting.done():
                waiting.set_result(None)
        for side in tuple(self._sides):
            if side.port == port:
                side.resume()

    def reset(self, port: int) -> None:
        """Break the connections of a port; each side hears of it, cut or not."""
        for side in tuple(self._sides):
            if side.port == port:
                side.lose(ConnectionResetError(errno.ECONNRESET, "the connection was reset"))

    def is_cut(self, port: int) -> bool:
        """Tell whether a port is cut."""
        return port in self._cut

    def drop_owner(self, owner: Owner, *, is_silent: bool) -> None:
        """End the listeners and connections of a process that died.

        Its peers hear of it, as its kernel tells them; ``is_silent`` when the machine died too.
        """
        for port, server in tuple(self._listeners.items()):
            if server.owner is owner:
                del self._listeners[port]
        for side in tuple(self._sides):
            if side.owner is owner:
                side.vanish(is_silent=is_silent)

    # -- connecting

    def listen(self, factory: ProtocolFactory, host: str, port: int) -> SimulatedServer:
        """Take connections at a port; 0 is the next that is free.

        Raises:
            OSError: it is taken, or the address is not this machine's.
        """
        if host not in _NAMES:
            raise OSError(errno.EADDRNOTAVAIL, f"{host} is no address of this machine")
        if port == 0:
            port = self._next_port
            while port in self._listeners:
                port += 1
            self._next_port = port + 1
        if port in self._listeners:
            raise OSError(errno.EADDRINUSE, f"port {port} is taken")
        server = SimulatedServer(self, factory, port)
        self._listeners[port] = server
        return server

    def unlisten(self, server: SimulatedServer) -> None:
        """Take no more connections for a server."""
        if self._listeners.get(server.port) is server:
            del self._listeners[server.port]

    async def connect(
        self, factory: ProtocolFactory, host: str, port: int
    ) -> tuple[SimulatedTransport, asyncio.Protocol]:
        """Connect to a port.

        Raises:
            OSError: nobody listens there.
        """
        if host not in _NAMES:
            raise OSError(errno.EHOSTUNREACH, f"there is no way to {host}")
        await asyncio.sleep(self.latency())
        while (held := self._cut.get(port)) is not None:
            waiting: asyncio.Future[None] = self._loop.create_future()
            held.append(waiting)
            try:
                await waiting
            finally:
                if waiting in held:
                    held.remove(waiting)
        server = self._listeners.get(port)
        if server is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"nobody listens at port {port}")
        self._next_client_port += 1
        near, far = (ADDRESS, self._next_client_port), (ADDRESS, port)
        client = SimulatedTransport(self, port, contextvars.copy_context(), sock=near, peer=far)
        remote = SimulatedTransport(self, port, server.context, sock=far, peer=near)
        client.pair(remote)
        protocol = factory()
        client.set_protocol(protocol)
        remote.await_connection(server)
        client.send(_Mark.BEGIN)
        protocol.connection_made(client)
        return client, protocol

    # -- for the sides

    def latency(self) -> float:
        """Draw how long something is under way, in seconds."""
        return self._chance.uniform(self.latency_min_s, self.latency_max_s)

    def add(self, side: SimulatedTransport) -> None:
        """Count a side as connected."""
        self._sides[side] = None

    def discard(self, side: SimulatedTransport) -> None:
        """Forget a side."""
        self._sides.pop(side, None)

    @property
    def loop(self) -> SimulatedLoop:
        """The loop that all this is on."""
        return self._loop


class SimulatedServer(asyncio.AbstractServer):
    """What ``create_server`` gives."""

    def __init__(self, network: SimulatedNetwork, factory: ProtocolFactory, port: int) -> None:
        self._network = network
        self.factory = factory
        self.port = port
        self.context = contextvars.copy_context()
        self.owner = self.context.get(OWNER)
        self._is_serving = True

    @property
    def sockets(self) -> tuple[_Name, ...]:
        """What tells the address; empty when closed."""
        return (_Name(self.port),) if self._is_serving else ()

    def close(self) -> None:
        """Take no more connections."""
        self._is_serving = False
        self._network.unlisten(self)

    def is_serving(self) -> bool:
        """Tell whether connections are taken."""
        return self._is_serving

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Give the loop."""
        return self._network.loop

    async def start_serving(self) -> None:
        """Do nothing: it serves from the start."""

    async def serve_forever(self) -> None:
        """Wait for good."""
        await self._network.loop.create_future()

    async def wait_closed(self) -> None:
        """Come back at once."""


class _Name:
    """The part of a socket that tells where it is."""

    def __init__(self, port: int) -> None:
        self._port = port

    def getsockname(self) -> tuple[str, int]:
        return ADDRESS, self._port


class SimulatedTransport(asyncio.Transport):
    """One side of a connection, in the context of who made it."""

    def __init__(
        self,
        network: SimulatedNetwork,
        port: int,
        context: contextvars.Context,
        *,
        sock: tuple[str, int],
        peer: tuple[str, int],
    ) -> None:
        super().__init__({"sockname": sock, "peername": peer})
        self._network = network
        self._loop = network.loop
        self.port = port
        self._context = context
        self.owner = context.get(OWNER)
        self._peer = cast("SimulatedTransport", None)
        self._protocol = cast("asyncio.Protocol", None)
        self._server: SimulatedServer | None = None
        # What was sent to this side and has not been given to its protocol; some of it is due.
        self._incoming: deque[bytes | _Mark] = deque()
        self._due_count = 0
        self._last_due_s = 0.0
        self._under_way_bytes = 0
        self._high_water_bytes = HIGH_WATER_BYTES
        self._low_water_bytes = HIGH_WATER_BYTES // 4
        self._is_paused = False
        self._is_writing_paused = False
        self._is_ended = False
        self._is_closing = False
        self._is_lost = False
        self._is_silent = False
        network.add(self)

    def pair(self, peer: SimulatedTransport) -> None:
        """Join two sides."""
        self._peer, peer._peer = peer, self

    def await_connection(self, server: SimulatedServer) -> None:
        """Have a server make the protocol when the connection reaches this side."""
        self._server = server

    # -- asyncio.Transport

    def is_closing(self) -> bool:
        """Tell whether this side is closed or about to be."""
        return self._is_closing

    def close(self) -> None:
        """End this side when what was written is on its way."""
        if self._is_closing:
            return
        self._is_closing = True
        if not self._is_ended:
            self.send(_Mark.END)
        self._loop.call_soon(self._finish, None, context=self._context)

    def abort(self) -> None:
        """Break the connection; the other side hears of a reset."""
        if self._is_lost:
            return
        if not self._is_closing:
            self.send(_Mark.RESET)
        self._is_closing = True
        self._loop.call_soon(self._finish, None, context=self._context)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give this side another protocol."""
        self._protocol = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Give the protocol."""
        return self._protocol

    def is_reading(self) -> bool:
        """Tell whether the protocol is given what comes."""
        return not self._is_paused and not self._is_closing

    def pause_reading(self) -> None:
        """Hold what comes."""
        self._is_paused = True

    def resume_reading(self) -> None:
        """Give on what was held."""
        self._is_paused = False
        self.resume()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when the writer is asked to pause and to go on, in bytes under way."""
        if high is None:
            high = HIGH_WATER_BYTES if low is None else 4 * low
        self._high_water_bytes = high
        self._low_water_bytes = high // 4 if low is None else low
        self._ask_to_pause()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Give those two."""
        return self._low_water_bytes, self._high_water_bytes

    def get_write_buffer_size(self) -> int:
        """Tell how many bytes are under way."""
        return self._under_way_bytes

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send bytes; those written to a closed side are nobody's."""
        if self._is_closing or not data:
            return
        assert not self._is_ended, "nothing can be written after write_eof"
        whole = bytes(data)
        for start in range(0, len(whole), CHUNK_BYTES_MAX):
            self.send(whole[start : start + CHUNK_BYTES_MAX])
        self._ask_to_pause()

    def can_write_eof(self) -> bool:
        """Tell that one direction may end before the other."""
        return True

    def write_eof(self) -> None:
        """End the direction from here."""
        if not (self._is_ended or self._is_closing):
            self._is_ended = True
            self.send(_Mark.END)

    # -- the line

    def send(self, item: bytes | _Mark) -> None:
        """Put something on its way to the other side, behind what is already there."""
        peer = self._peer
        if peer._is_lost:  # noqa: SLF001 - its own kind
            # A machine answers bytes for a connection that it no longer has with a reset.
            if isinstance(item, bytes) and not peer._is_silent:  # noqa: SLF001 - its own kind
                self._accept(_Mark.RESET)
            return
        if isinstance(item, bytes):
            self._under_way_bytes += len(item)
        peer._accept(item)  # noqa: SLF001 - its own kind

    def _accept(self, item: bytes | _Mark) -> None:
        self._incoming.append(item)
        now_s = self._loop.time()
        # Never before what was sent earlier: a connection keeps its order.
        self._last_due_s = max(self._last_due_s, now_s + self._network.latency())
        self._loop.call_at(self._last_due_s, self._arrive, context=self._context)

    def _arrive(self) -> None:
        self._due_count += 1
        self._give()

    def resume(self) -> None:
        """Give the protocol what is due and was held."""
        if self._due_count:
            self._loop.call_soon(self._give, context=self._context)

    def _give(self) -> None:
        while self._due_count and not self._is_lost and not self._network.is_cut(self.port):
            if self._is_paused and isinstance(self._incoming[0], bytes):
                return
            self._due_count -= 1
            self._give_one(self._incoming.popleft())

    def _give_one(self, item: bytes | _Mark) -> None:
        if isinstance(item, bytes):
            self._loop.note(item)
            self._peer._heard(len(item))  # noqa: SLF001 - its own kind
            if not self._is_closing:
                self._protocol.data_received(item)
        elif item is _Mark.BEGIN:
            assert self._server is not None, "a side that is connected to has a server"
            if not self._server.is_serving():
                self.abort()
                return
            self._protocol = self._server.factory()
            self._protocol.connection_made(self)
        elif item is _Mark.RESET:
            self.lose(ConnectionResetError(errno.ECONNRESET, "the connection was reset"))
        elif not self._is_closing and not self._protocol.eof_received():
            self.close()

    def _heard(self, byte_count: int) -> None:
        self._under_way_bytes -= byte_count
        if self._is_writing_paused and self._under_way_bytes <= self._low_water_bytes:
            self._is_writing_paused = False
            if not self._is_lost:
                self._loop.call_soon(self._resume_writing, context=self._context)

    def _resume_writing(self) -> None:
        if not self._is_lost and not self._is_writing_paused:
            self._protocol.resume_writing()

    def _ask_to_pause(self) -> None:
        if self._under_way_bytes > self._high_water_bytes and not self._is_writing_paused:
            self._is_writing_paused = True
            self._protocol.pause_writing()

    def lose(self, error: Exception | None) -> None:
        """End this side now, and tell its protocol why."""
        if not self._is_lost:
            self._is_closing = True
            self._loop.call_soon(self._finish, error, context=self._context)

    def vanish(self, *, is_silent: bool) -> None:
        """End this side without a word to its protocol, whose process is dead."""
        if not (self._is_closing or is_silent):
            self.send(_Mark.RESET)
        self._is_silent = is_silent
        self._is_closing = self._is_lost = True
        self._incoming.clear()
        self._network.discard(self)

    def _finish(self, error: Exception | None) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        self._incoming.clear()
        self._network.discard(self)
        if self._protocol is not None:
            self._protocol.connection_lost(error)
