"""HTTP/1.1 as XenAPI needs it, on asyncio protocols and httptools: both ends, little per call.

A server handles one request at a time on a connection and keeps it open; a client holds a few
connections and gives each call one of its own. Bodies that stream (`/import_raw_vdi`) go through
a bounded queue, so that a slow disk holds the sender up and not the memory.
"""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from xenith.core.errors import Unavailable
from xenith.core.limits import XAPI_ANSWER_BYTES_MAX, XAPI_BODY_BYTES_MAX

#: Bytes of a streamed body that wait in memory before the sender is held up.
STREAM_WAITING_BYTES_MAX = 1024 * 1024
#: Header bytes of one message.
HEADER_BYTES_MAX = 64 * 1024


@dataclass(slots=True)
class Request:
    """A request as a server's handler sees it."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes = b""
    #: The body as it comes, for methods and paths that stream.
    chunks: AsyncIterator[bytes] | None = None


@dataclass(slots=True)
class Reply:
    """What a handler answers, or a client got."""

    status: int
    body: bytes = b""
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    is_closing: bool = False


Handler = Callable[[Request], Awaitable[Reply]]


class _Body:
    """A streamed body between the parser and the handler."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._ready = asyncio.Event()
        self._is_paused = False
        self.is_done = False
        self.error: Exception | None = None

    def feed(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > STREAM_WAITING_BYTES_MAX and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        self._ready.set()

    def finish(self, error: Exception | None = None) -> None:
        self.is_done = True
        self.error = self.error or error
        self._ready.set()

    async def chunks(self) -> AsyncIterator[bytes]:
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self._size -= len(piece)
                if self._is_paused and self._size < STREAM_WAITING_BYTES_MAX // 2:
                    self._is_paused = False
                    self._transport.resume_reading()
                yield piece
            if self.error is not None:
                raise self.error
            if self.is_done:
                return
            self._ready.clear()
            await self._ready.wait()


class ServerConnection(asyncio.Protocol):
    """One client's connection to a server."""

    def __init__(
        self,
        handler: Handler,
        *,
        streams: Callable[[str, str], bool],
        connections: set[ServerConnection],
    ) -> None:
        self._handler = handler
        self._streams = streams
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: deque[tuple[Request, bool]] = deque()
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: dict[str, str] = {}
        self._header_bytes = 0
        self._pieces: list[bytes] = []
        self._size = 0
        self._stream: _Body | None = None
        self._is_too_large = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        """End; a body that was coming ends with an error."""
        self._connections.discard(self)
        if self._stream is not None and not self._stream.is_done:
            self._stream.finish(ConnectionResetError("the sender hung up"))
        elif self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.abort()
        except httptools.HttpParserError:
            self._send(Reply(400, b"", is_closing=True))

    def abort(self) -> None:
        """Break the connection."""
        if self._transport is not None:
            self._transport.abort()

    # -- httptools calls these

    def on_url(self, url: bytes) -> None:
        """Keep the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > HEADER_BYTES_MAX:
            self._send(Reply(431, is_closing=True))
            return
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Hand a request that streams over before its body has come."""
        request = self._request()
        if self._streams(request.method, request.path):
            assert self._transport is not None
            self._stream = _Body(self._transport)
            request.chunks = self._stream.chunks()
            self._start(request)
        if self._headers.get("expect", "").lower() == "100-continue" and self._transport:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if self._stream is not None:
            self._stream.feed(body)
            return
        self._size += len(body)
        if self._size > XAPI_BODY_BYTES_MAX:
            self._is_too_large = True
            self._pieces.clear()
        else:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        """Hand the request over, or end its stream."""
        if self._stream is not None:
            self._stream.finish()
        elif self._is_too_large:
            self._send(Reply(413, b"request too large", "text/plain", is_closing=True))
        else:
            request = self._request()
            request.body = b"".join(self._pieces)
            self._start(request)
        self._reset()

    def _request(self) -> Request:
        target = self._url.decode("latin-1")
        path, _, query = target.partition("?")
        method = self._parser.get_method().decode("latin-1")
        return Request(method, path, query, self._headers)

    def _start(self, request: Request) -> None:
        keeps = self._parser.should_keep_alive()
        if self._task is not None:
            self._waiting.append((request, keeps))
            return
        self._task = asyncio.ensure_future(self._serve(request, keeps))

    async def _serve(self, request: Request, keeps: bool) -> None:
        while True:
            reply = await self._handler(request)
            reply.is_closing = reply.is_closing or not keeps
            self._send(reply)
            if not self._waiting:
                self._task = None
                return
            request, keeps = self._waiting.popleft()

    def _send(self, reply: Reply) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        extra = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
        head = (
            f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\n"
            f"content-type: {reply.media_type}\r\ncontent-length: {len(reply.body)}\r\n"
            f"{extra}connection: {'close' if reply.is_closing else 'keep-alive'}\r\n\r\n"
        )
        transport.write(head.encode("latin-1") + reply.body)
        if reply.is_closing:
            transport.close()


class _ClientConnection(asyncio.Protocol):
    """One connection of a client, used by one call at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.is_usable = True
        self._answer: asyncio.Future[Reply] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._size = 0
        self._media = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, _error: Exception | None) -> None:
        self.is_usable = False
        self._writable.set()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the host hung up"))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"the host's answer is no HTTP: {error}"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self._media = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > XAPI_ANSWER_BYTES_MAX:
            self._fail(ConnectionError("the host's answer is larger than the limit"))
        else:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.is_usable = False
        reply = Reply(self._parser.get_status_code(), b"".join(self._pieces), self._media)
        self._reset()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(reply)

    def _fail(self, error: Exception) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def close(self) -> None:
        self.is_usable = False
        if self.transport is not None:
            self.transport.abort()

    async def exchange(self, head: bytes, body: bytes | AsyncIterator[bytes]) -> Reply:
        assert self.transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        if isinstance(body, bytes):
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            await self._stream(body)
        return await self._answer

    async def _stream(self, chunks: AsyncIterator[bytes]) -> None:
        assert self.transport is not None
        assert self._answer is not None
        async for piece in chunks:
            if self._answer.done():
                # The host has refused; what is left of the body is of no use.
                self.is_usable = False
                return
            if piece:
                self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await self._writable.wait()
            if not self.is_usable:
                return
        self.transport.write(b"0\r\n\r\n")


class HttpClient:
    """Calls to one address over a bounded number of kept connections."""

    def __init__(
        self, url: str, *, connections_max: int, ssl: ssl_module.SSLContext | None = None
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Unavailable(f"{url} is no address of a host")
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._ssl: ssl_module.SSLContext | None = None
        if parts.scheme == "https":
            self._ssl = ssl or ssl_module.create_default_context()
        self._authority = parts.netloc.rpartition("@")[2]
        self._idle: list[_ClientConnection] = []
        self._places = asyncio.Semaphore(connections_max)
        self._all: set[_ClientConnection] = set()

    async def request(
        self,
        method: str,
        target: str,
        body: bytes | AsyncIterator[bytes],
        *,
        timeout_s: float,
        media_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send one request and give the reply.

        Raises:
            Unavailable: the host does not answer, or not in time.
        """
        length = (
            f"content-length: {len(body)}"
            if isinstance(body, bytes)
            else "transfer-encoding: chunked"
        )
        extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = (
            f"{method} {target} HTTP/1.1\r\nhost: {self._authority}\r\n"
            f"content-type: {media_type}\r\n{length}\r\n{extra}\r\n"
        ).encode("latin-1")
        try:
            async with asyncio.timeout(timeout_s), self._places:
                return await self._exchange(head, body)
        except TimeoutError as error:
            raise Unavailable(f"the host did not answer in {timeout_s:g} s") from error
        except (OSError, ssl_module.SSLError) as error:
            raise Unavailable(f"the host cannot be reached: {error}") from error

    async def _exchange(self, head: bytes, body: bytes | AsyncIterator[bytes]) -> Reply:
        connection = await self._take()
        is_kept = False
        try:
            reply = await connection.exchange(head, body)
            is_kept = connection.is_usable
        finally:
            if is_kept:
                self._idle.append(connection)
            else:
                connection.close()
                self._all.discard(connection)
        return reply

    async def _take(self) -> _ClientConnection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
            self._all.discard(connection)
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            _ClientConnection, self._host, self._port, ssl=self._ssl
        )
        self._all.add(connection)
        return connection

    def close(self) -> None:
        """Break all connections."""
        for connection in tuple(self._all):
            connection.close()
        self._all.clear()
        self._idle.clear()


def never_streams(_method: str, _path: str) -> bool:
    """Tell that no request streams."""
    return False


def protocol_factory(
    handler: Handler, connections: set[Any], streams: Callable[[str, str], bool] = never_streams
) -> Callable[[], ServerConnection]:
    """Make what ``loop.create_server`` asks for."""
    return lambda: ServerConnection(handler, streams=streams, connections=connections)
