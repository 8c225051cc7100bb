"""A server of the wire with a handler that the test writes, on a port of the system's choice."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from xenith.xapi.wire import ServerConnection, never_streams, protocol_factory


@dataclass
class Served:
    port: int
    connections: dict[ServerConnection, None]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def becomes(self, connection_count: int) -> None:
        """Let the loop turn until the server has so many connections."""
        for _ in range(1000):
            if len(self.connections) == connection_count:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"{len(self.connections)} connections, not {connection_count}")


@asynccontextmanager
async def serving(handler, streams=never_streams):
    connections: dict[ServerConnection, None] = {}
    server = await asyncio.get_running_loop().create_server(
        protocol_factory(handler, connections, streams), "127.0.0.1", 0
    )
    try:
        yield Served(server.sockets[0].getsockname()[1], connections)
    finally:
        server.close()
        for connection in tuple(connections):
            connection.abort()
        await asyncio.sleep(0)


@pytest.fixture
def serve():
    return serving
