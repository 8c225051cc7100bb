from __future__ import annotations

import asyncio

import pytest

from xenith.dev.simulation import run_simulation


class Recorder(asyncio.Protocol):
    """Notes what it hears; sends everything back if it echoes."""

    def __init__(self, *, echoes=False):
        self.heard = b""
        self.events = []
        self.error = None
        self.echoes = echoes
        self.hears = asyncio.Event()

    async def until(self, heard):
        while self.heard != heard:
            self.hears.clear()
            await self.hears.wait()

    def connection_made(self, transport):
        self.transport = transport
        self.events.append("made")

    def data_received(self, data):
        self.heard += data
        self.hears.set()
        if self.echoes:
            self.transport.write(data)

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")

    def connection_lost(self, error):
        self.error = error
        self.events.append("lost")


def run(function, *, seed=1):
    return run_simulation(function, seed=seed)


async def connected(simulation, *, echoes=False):
    """A client and a server's protocol, connected."""
    servers = []

    def accept():
        servers.append(Recorder(echoes=echoes))
        return servers[-1]

    server = await simulation.loop.create_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _, client = await simulation.loop.create_connection(Recorder, "127.0.0.1", port)
    await asyncio.sleep(0.1)
    return client, servers[0], server, port


def test_bytes_go_both_ways_in_order_and_take_a_little_time():
    async def talk(simulation):
        client, _, _, _ = await connected(simulation, echoes=True)
        began = simulation.loop.time()
        pieces = [b"%d," % number for number in range(200)]
        for piece in pieces:
            client.transport.write(piece)
        await client.until(b"".join(pieces))
        assert 0 < simulation.loop.time() - began < 0.01

    run(talk)


def test_nobody_listens_is_refused_and_a_taken_port_is_told():
    async def try_both(simulation):
        with pytest.raises(ConnectionRefusedError):
            await simulation.loop.create_connection(Recorder, "127.0.0.1", 5)
        with pytest.raises(OSError, match="no way"):
            await simulation.loop.create_connection(Recorder, "192.0.2.1", 5)
        server = await simulation.loop.create_server(Recorder, "127.0.0.1", 5)
        with pytest.raises(OSError, match="taken"):
            await simulation.loop.create_server(Recorder, "127.0.0.1", 5)
        server.close()
        assert server.sockets == ()
        await simulation.loop.create_server(Recorder, "127.0.0.1", 5)

    run(try_both)


def test_a_server_that_closed_before_the_connection_arrived_breaks_it():
    async def race(simulation):
        server = await simulation.loop.create_server(Recorder, "127.0.0.1", 5)
        _, client = await simulation.loop.create_connection(Recorder, "127.0.0.1", 5)
        server.close()
        await asyncio.sleep(1)
        assert isinstance(client.error, ConnectionResetError)

    run(race)


def test_closing_sends_what_was_written_and_ends_the_other_side_without_an_error():
    async def close(simulation):
        client, remote, _, _ = await connected(simulation)
        client.transport.write(b"last words")
        client.transport.close()
        client.transport.write(b"too late")
        await asyncio.sleep(1)
        assert remote.heard == b"last words"
        assert remote.events == client.events == ["made", "lost"]
        assert remote.error is client.error is None

    run(close)


def test_an_abort_is_a_reset_for_the_other_side():
    async def abort(simulation):
        client, remote, _, _ = await connected(simulation)
        client.transport.abort()
        await asyncio.sleep(1)
        assert client.error is None
        assert isinstance(remote.error, ConnectionResetError)

    run(abort)


def test_half_a_connection_may_end_before_the_other_half():
    async def half(simulation):
        client, remote, _, _ = await connected(simulation)
        remote.eof_received = lambda: True
        client.transport.write_eof()
        await asyncio.sleep(1)
        remote.transport.write(b"still here")
        await asyncio.sleep(1)
        assert client.heard == b"still here"
        assert client.events == ["made"]

    run(half)


def test_a_reader_that_pauses_holds_the_writer_up_and_loses_nothing():
    async def flood(simulation):
        client, remote, _, _ = await connected(simulation)
        remote.transport.pause_reading()
        for _ in range(10):
            client.transport.write(bytes(100_000))
        await asyncio.sleep(1)
        assert remote.heard == b""
        assert client.events == ["made", "pause"]
        assert client.transport.get_write_buffer_size() == 1_000_000
        remote.transport.resume_reading()
        await asyncio.sleep(1)
        assert len(remote.heard) == 1_000_000
        assert client.events == ["made", "pause", "resume"]

    run(flood)


def test_a_port_that_is_cut_holds_bytes_and_connections_until_it_is_healed():
    async def cut(simulation):
        client, remote, _, port = await connected(simulation)
        simulation.network.cut(port)
        client.transport.write(b"held")
        connecting = asyncio.ensure_future(
            simulation.loop.create_connection(Recorder, "127.0.0.1", port)
        )
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await simulation.loop.create_connection(Recorder, "127.0.0.1", port)
        await asyncio.sleep(3600)
        assert remote.heard == b""
        assert not connecting.done()
        simulation.network.heal(port)
        await asyncio.sleep(1)
        assert remote.heard == b"held"
        assert connecting.done()

    run(cut)


def test_a_reset_breaks_both_sides_even_when_they_are_cut():
    async def reset(simulation):
        client, remote, _, port = await connected(simulation)
        simulation.network.cut(port)
        simulation.network.reset(port)
        await asyncio.sleep(1)
        assert isinstance(client.error, ConnectionResetError)
        assert isinstance(remote.error, ConnectionResetError)

    run(reset)


def test_each_seed_has_latencies_of_its_own():
    async def exchange(simulation):
        client, _, _, _ = await connected(simulation, echoes=True)
        client.transport.write(b"x")
        await client.until(b"x")
        return simulation.loop.time()

    assert run(exchange, seed=1) == run(exchange, seed=1) != run(exchange, seed=2)
