"""The management API of a broker that ends its connections when it pleases."""

import asyncio
import ssl

import pytest

from xenith.bus.broker import BrokerAdmin, make_tls
from xenith.core.clock import SystemClock
from xenith.core.errors import Unavailable

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]"


class Management:
    """A server that answers some requests of each connection and ends it at the next."""

    def __init__(self, *, answers_by_connection: int) -> None:
        self.asked = 0
        self._answers = answers_by_connection

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for number in range(self._answers + 1):
                await reader.readuntil(b"\r\n\r\n")
                self.asked += 1
                if number < self._answers:
                    writer.write(ANSWER)
        finally:
            writer.close()


@pytest.fixture
async def reach(tmp_path):
    """A function that starts a management and gives an owner who knows its address."""
    tls = make_tls(tmp_path, SystemClock())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls.certificate_path, tls.key_path)
    owners, servers = [], []

    async def start(management: Management) -> BrokerAdmin:
        server = await asyncio.start_server(management.serve, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        owner = BrokerAdmin(
            f"https://127.0.0.1:{port}",
            user="owner",
            password="a password",
            tls_ca=tls.ca,
        )
        servers.append(server)
        owners.append(owner)
        return owner

    yield start
    for owner in owners:
        await owner.close()
    for server in servers:
        server.close()


async def test_a_call_whose_kept_connection_ended_is_made_again(reach):
    management = Management(answers_by_connection=1)
    owner = await reach(management)
    assert await owner.list_accounts() == []
    assert await owner.list_accounts() == []
    assert management.asked == 3


async def test_a_broker_that_ends_every_connection_is_said_not_to_answer(reach):
    management = Management(answers_by_connection=0)
    owner = await reach(management)
    with pytest.raises(Unavailable, match="does not answer"):
        await owner.list_accounts()
    assert management.asked == 2
