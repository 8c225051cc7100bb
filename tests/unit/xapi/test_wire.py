"""The two ends of the wire against each other, and the server against callers who break it."""

import asyncio
import random

import pytest
import uvloop

from xenith.core.errors import Invalid, Unavailable
from xenith.core.limits import XAPI_BODY_BYTES_MAX
from xenith.xapi import client as client_module
from xenith.xapi.client import HttpClient
from xenith.xapi.wire import HEADER_BYTES_MAX, CutError, Reply


def echo(request):
    return Reply(200, request.body)


async def echo_later(request):
    await asyncio.sleep(0)
    return Reply(200, request.body)


def call(path: str, body: bytes) -> bytes:
    return b"POST %s HTTP/1.1\r\ncontent-length: %d\r\n\r\n%s" % (path.encode(), len(body), body)


@pytest.mark.parametrize("handler", [echo, echo_later])
async def test_calls_share_a_kept_connection(serve, handler):
    async with serve(handler) as served:
        client = HttpClient(served.url, connections_max=4)
        bodies = [
            (await client.request("POST", "/", b"%d" % n, timeout_s=5)).body for n in range(3)
        ]
        assert bodies == [b"0", b"1", b"2"]
        assert len(served.connections) == 1
        client.close()


async def test_no_more_connections_are_made_than_allowed(serve):
    async with serve(echo_later) as served:
        client = HttpClient(served.url, connections_max=3)
        replies = await asyncio.gather(
            *(client.request("POST", "/", b"%d" % n, timeout_s=5) for n in range(20))
        )
        assert [reply.body for reply in replies] == [b"%d" % n for n in range(20)]
        assert len(served.connections) == 3
        client.close()


def test_both_ends_run_on_uvloop(serve):
    async def main():
        async with serve(echo_later) as served:
            client = HttpClient(served.url, connections_max=1)
            reply = await client.request("POST", "/", b"x", timeout_s=5)
            client.close()
            return reply.body

    assert uvloop.run(main()) == b"x"


@pytest.mark.parametrize("handler", [echo, echo_later])
async def test_pipelined_calls_are_answered_in_order(serve, handler):
    async with serve(handler) as served:
        reader, writer = await served.raw()
        writer.write(call("/a", b"first") + call("/b", b"second") + call("/c", b"third"))
        data = await asyncio.wait_for(reader.readuntil(b"third"), 5)
        assert data.index(b"first") < data.index(b"second") < data.index(b"third")
        writer.close()


async def test_a_call_in_pieces_is_put_together(serve):
    async with serve(echo) as served:
        reader, writer = await served.raw()
        for byte in call("/", b"slowly"):
            writer.write(bytes([byte]))
            await writer.drain()
        assert (await asyncio.wait_for(reader.read(1000), 5)).endswith(b"slowly")
        writer.close()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00 this is no HTTP\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: minus\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * (HEADER_BYTES_MAX + 1) + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * (HEADER_BYTES_MAX + 1) + b" HTTP/1.1\r\n\r\n", 431),
        (call("/", b"z" * (XAPI_BODY_BYTES_MAX + 1)), 413),
    ],
)
async def test_what_is_no_call_is_refused_and_the_next_caller_served(serve, sent, status):
    async with serve(echo) as served:
        reader, writer = await served.raw()
        writer.write(sent)
        head = await asyncio.wait_for(reader.readline(), 5)
        assert head.split()[1] == b"%d" % status
        writer.close()
        client = HttpClient(served.url, connections_max=1)
        assert (await client.request("POST", "/", b"still here", timeout_s=5)).status == 200
        client.close()


async def test_nothing_that_follows_a_refusal_is_run(serve):
    seen = []

    def handler(request):
        seen.append(request.path)
        return Reply(200)

    async with serve(handler) as served:
        reader, writer = await served.raw()
        writer.write(call("/large", b"z" * (XAPI_BODY_BYTES_MAX + 1)) + call("/hidden", b""))
        writer.write(call("/later", b""))
        assert (await asyncio.wait_for(reader.readline(), 5)).split()[1] == b"413"
        await asyncio.sleep(0)
        writer.close()
        assert seen == []


@pytest.mark.slow
async def test_noise_never_stops_the_server(serve):
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    pristine = call("/a", b"x" * 20) + call("/b", b"")
    async with serve(echo_later, lambda method, _path: method == "PUT") as served:
        for _ in range(300):
            noise = bytearray(pristine)
            for _ in range(chance.randrange(1, 6)):
                noise[chance.randrange(len(noise))] = chance.randrange(256)
            _, writer = await served.raw()
            writer.write(bytes(noise[: chance.randrange(1, len(noise) + 1)]))
            await writer.drain()
            writer.close()
        client = HttpClient(served.url, connections_max=1)
        assert (await client.request("POST", "/", b"alive", timeout_s=5)).body == b"alive", (
            f"seed {seed}"
        )
        client.close()


async def test_a_call_runs_to_its_end_when_its_client_hangs_up(serve):
    begun, go, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handler(_request):
        begun.set()
        await go.wait()
        ended.set()
        return Reply(200)

    async with serve(handler) as served:
        _, writer = await served.raw()
        writer.write(call("/", b""))
        await begun.wait()
        writer.transport.abort()
        await served.becomes(0)
        go.set()
        await asyncio.wait_for(ended.wait(), 5)


async def test_a_wait_is_left_off_when_its_client_hangs_up(serve):
    begun, left = asyncio.Event(), asyncio.Event()

    async def handler(request):
        request.is_wait = True
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            left.set()
            raise
        return Reply(200)

    async with serve(handler) as served:
        _, writer = await served.raw()
        writer.write(call("/", b""))
        await begun.wait()
        writer.transport.abort()
        await asyncio.wait_for(left.wait(), 5)


async def test_a_server_has_a_bounded_number_of_connections(serve, monkeypatch):
    monkeypatch.setattr("xenith.xapi.wire.CONNECTIONS_MAX", 2)
    async with serve(echo) as served:
        kept = [await served.raw() for _ in range(2)]
        await served.becomes(2)
        reader, writer = await served.raw()
        assert await asyncio.wait_for(reader.read(), 5) == b""
        for _, other in [*kept, (reader, writer)]:
            other.close()


# -- streams


async def pieces(*parts: bytes):
    for part in parts:
        yield part


def streams(method: str, _path: str) -> bool:
    return method == "PUT"


@pytest.mark.parametrize("size_bytes", [None, 300_000])
async def test_a_stream_arrives_whole(serve, size_bytes):
    async def handler(request):
        got = [piece async for piece in request.chunks]
        return Reply(200, b"%d" % sum(map(len, got)))

    async with serve(handler, streams) as served:
        client = HttpClient(served.url, connections_max=1)
        for _ in range(2):
            reply = await client.request(
                "PUT",
                "/",
                pieces(b"a" * 100_000, b"", b"b" * 200_000),
                timeout_s=5,
                size_bytes=size_bytes,
            )
            assert reply.body == b"300000"
        assert len(served.connections) == 1
        client.close()


async def test_a_slow_reader_holds_the_sender_up(serve):
    go = asyncio.Event()
    sent = 0

    async def handler(request):
        await go.wait()
        got = [piece async for piece in request.chunks]
        return Reply(200, b"%d" % sum(map(len, got)))

    async def endless():
        nonlocal sent
        for _ in range(640):
            sent += 1
            yield b"x" * 100_000

    async with serve(handler, streams) as served:
        client = HttpClient(served.url, connections_max=1)
        sending = asyncio.ensure_future(client.request("PUT", "/", endless(), timeout_s=20))
        before = -1
        while sent != before:
            before = sent
            for _ in range(200):
                await asyncio.sleep(0)
        assert 0 < sent < 640, "64 MB went into memory while nobody read them"
        go.set()
        assert (await sending).body == b"64000000"
        client.close()


async def test_a_refused_stream_tells_its_sender_why(serve):
    async def handler(_request):
        return Reply(401, b"who are you", "text/plain", is_closing=True)

    async def endless():
        for _ in range(100):
            yield b"x" * 100_000

    async with serve(handler, streams) as served:
        client = HttpClient(served.url, connections_max=1)
        reply = await client.request("PUT", "/", endless(), timeout_s=10)
        assert (reply.status, reply.body) == (401, b"who are you")
        client.close()


async def test_a_stream_whose_sender_dies_ends_with_an_error(serve):
    outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def handler(request):
        try:
            async for _ in request.chunks:
                pass
        except ConnectionResetError as error:
            outcome.set_result(str(error))
        return Reply(400)

    async with serve(handler, streams) as served:
        _, writer = await served.raw()
        writer.write(b"PUT / HTTP/1.1\r\ncontent-length: 100\r\n\r\nhalf")
        await writer.drain()
        writer.transport.abort()
        assert "hung up" in await asyncio.wait_for(outcome, 5)


async def test_a_chunk_that_makes_no_sense_ends_the_stream(serve):
    outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def handler(request):
        try:
            async for _ in request.chunks:
                pass
        except ConnectionResetError as error:
            outcome.set_result(str(error))
        return Reply(400)

    async with serve(handler, streams) as served:
        _, writer = await served.raw()
        writer.write(b"PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n")
        assert "make no sense" in await asyncio.wait_for(outcome, 5)
        writer.close()


@pytest.mark.parametrize("size_bytes", [5, 50])
async def test_a_stream_of_another_size_than_told_is_not_kept(serve, size_bytes):
    async def handler(request):
        async for _ in request.chunks:
            pass
        return Reply(200)

    async with serve(handler, streams) as served:
        client = HttpClient(served.url, connections_max=1)
        with pytest.raises(Invalid):
            await client.request("PUT", "/", pieces(b"x" * 10), timeout_s=5, size_bytes=size_bytes)
        client.close()


# -- a host that fails


async def test_a_host_that_hangs_is_unavailable_at_the_deadline(serve):
    async def handler(_request):
        await asyncio.Event().wait()
        return Reply(200)

    async with serve(handler) as served:
        client = HttpClient(served.url, connections_max=1)
        with pytest.raises(Unavailable, match="did not answer"):
            await client.request("POST", "/", b"", timeout_s=0.01)
        client.close()


async def test_a_host_that_is_not_there_is_unavailable(serve):
    async with serve(echo) as served:
        url = served.url
    with pytest.raises(Unavailable, match="cannot be reached"):
        await HttpClient(url, connections_max=1).request("POST", "/", b"", timeout_s=5)


async def test_a_host_that_dies_in_a_call_is_unavailable_and_found_again_later(serve):
    lives = []

    async def handler(request):
        if not lives:
            lives.append(1)
            for connection in tuple(served.connections):
                connection.abort()
            await asyncio.sleep(0)
        return Reply(200, request.body)

    async with serve(handler) as served:
        client = HttpClient(served.url, connections_max=1)
        with pytest.raises(Unavailable):
            await client.request("POST", "/", b"", timeout_s=5)
        assert (await client.request("POST", "/", b"again", timeout_s=5)).body == b"again"
        client.close()


async def answering(data: bytes):
    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    "data",
    [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort"],
    ids=["nothing", "garbage", "cut short"],
)
async def test_an_answer_that_is_none_is_unavailable(data):
    server, url = await answering(data)
    client = HttpClient(url, connections_max=1)
    with pytest.raises(Unavailable):
        await client.request("POST", "/", b"", timeout_s=5)
    client.close()
    server.close()


async def test_an_answer_beyond_the_limit_is_not_read_on(monkeypatch):
    monkeypatch.setattr(client_module, "XAPI_ANSWER_BYTES_MAX", 10)
    server, url = await answering(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n" + b"x" * 20)
    client = HttpClient(url, connections_max=1)
    with pytest.raises(Unavailable, match="larger than the limit"):
        await client.request("POST", "/", b"", timeout_s=5)
    client.close()
    server.close()


async def test_a_continue_before_the_answer_is_passed_over():
    server, url = await answering(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    )
    client = HttpClient(url, connections_max=1)
    assert (await client.request("POST", "/", b"", timeout_s=5)).body == b"ok"
    client.close()
    server.close()


@pytest.mark.parametrize("url", ["host", "ftp://host", "http://", "http://h:x", "http://u:p@h"])
def test_what_is_no_address_is_refused_without_being_repeated(url):
    with pytest.raises(Invalid) as caught:
        HttpClient(url, connections_max=1)
    assert "u:p" not in str(caught.value)


# -- answers that stream


async def open_to(served):
    host, port = served.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


def streaming(pieces, length=None):
    async def answer(_request):
        return Reply(200, media_type="x/y", pieces=pieces(), length=length)

    return answer


async def test_a_stream_of_known_length_keeps_its_connection(serve):
    async def pieces():
        for piece in (b"ab", b"", b"cd"):
            yield piece

    async with serve(streaming(pieces, length=4)) as served:
        client = HttpClient(served.url, connections_max=1)
        for _ in range(2):
            assert (await client.request("POST", "/", b"", timeout_s=5)).body == b"abcd"
        assert len(served.connections) == 1
        client.close()


async def test_a_stream_of_unknown_length_comes_in_chunks_and_keeps_its_connection(serve):
    async def pieces():
        for piece in (b"x" * 300_000, b"", b"end"):
            yield piece

    async with serve(streaming(pieces)) as served:
        client = HttpClient(served.url, connections_max=1)
        for _ in range(2):
            reply = await client.request("POST", "/", b"", timeout_s=5)
            assert reply.body == b"x" * 300_000 + b"end"
        assert len(served.connections) == 1
        client.close()
        reader, writer = await open_to(served)
        writer.write(call("/", b""))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        assert b"content-length" not in head
        assert b"connection: keep-alive" in head
        writer.close()


async def test_a_stream_of_unknown_length_ends_with_the_connection_of_an_old_client(serve):
    async def pieces():
        yield b"x" * 300_000
        yield b"end"

    async with serve(streaming(pieces)) as served:
        reader, writer = await open_to(served)
        writer.write(call("/", b"").replace(b"HTTP/1.1", b"HTTP/1.0"))
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert b"connection: close" in head
        assert b"content-length" not in head
        assert body == b"x" * 300_000 + b"end"
        writer.close()


async def test_a_stream_that_cannot_go_on_breaks_its_connection(serve):
    async def pieces():
        yield b"begun"
        raise CutError("the disk broke")

    async with serve(streaming(pieces, length=100)) as served:
        reader, writer = await open_to(served)
        writer.write(call("/", b""))
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1000)
        writer.close()


async def test_a_receiver_that_is_slow_or_hangs_up_holds_the_pieces_up_or_ends_them(serve):
    given, ended = [], asyncio.Event()

    async def pieces():
        try:
            while True:
                given.append(1)
                yield bytes(1 << 20)
        finally:
            ended.set()

    async with serve(streaming(pieces)) as served:
        reader, writer = await open_to(served)
        writer.write(call("/", b""))
        await reader.readexactly(100)
        for _ in range(200):
            await asyncio.sleep(0)
        assert len(given) < 20, "what waits is a socket's buffers, and no more"
        writer.transport.abort()
        await asyncio.wait_for(ended.wait(), 5)
