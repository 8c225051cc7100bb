"""HTTP/1.1 as a XenAPI server needs it, on asyncio protocols and httptools: little per call.

A connection carries one request at a time and stays open. A handler that has its answer at once
gives a ``Reply`` and costs no task; one that must wait gives an awaitable. A body that streams
(`/import_raw_vdi`) goes through a bounded queue, so that a slow disk holds the sender up and not
the memory; an answer that streams (`/export_raw_vdi`) waits for its receiver likewise.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, cast

import httptools

from xenith.core.limits import XAPI_BODY_BYTES_MAX

#: Bytes of a streamed body that wait in memory before the sender is held up.
STREAM_WAITING_BYTES_MAX = 1024 * 1024
#: Header bytes of one message, its target among them.
HEADER_BYTES_MAX = 64 * 1024
#: Connections of one server; xapi's own front door takes a few hundred.
CONNECTIONS_MAX = 512
#: Seconds that a refused body is read on and thrown away. A socket closed on unread bytes is
#: reset, and the sender would never see why it was refused.
LINGER_S = 2.0


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
    #: HTTP's, as the client said: only from 1.1 on may an answer come in chunks.
    version: str = "1.1"
    #: Set by the handler: it only waits, and may be left off when the client hangs up.
    #: Everything else runs to its end, for half a call is worse than one nobody hears of.
    is_wait: bool = False


@dataclass(slots=True)
class Reply:
    """What a handler answers, or a client got."""

    status: int
    body: bytes = b""
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    is_closing: bool = False
    #: A body that is given piece by piece instead; raises ``CutError`` when it cannot go on.
    pieces: AsyncIterator[bytes] | None = None
    #: How long that body is; None: it comes in chunks, or to an HTTP/1.0 client until the end of
    #: the connection.
    length: int | None = None


class CutError(Exception):
    """A streamed answer cannot go on; its connection is broken, so that none takes it as whole."""


Handler = Callable[[Request], Reply | Awaitable[Reply]]


class StreamedBody:
    """A body between the parser and whoever takes it piece by piece; the sender waits for it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._ready = asyncio.Event()
        self._is_paused = False
        self._is_unwanted = False
        self._error: Exception | None = None
        self.is_done = False
        # Of a sender that hangs up while it is held up, uvloop's TLS throws away what it has read
        # and not given yet; so it reads nothing then. Plain transports have no such buffer.
        limit = getattr(transport, "set_read_buffer_limits", None)
        if limit is not None:
            limit(high=1, low=0)

    def feed(self, piece: bytes) -> None:
        """Take a piece from the parser."""
        if self._is_unwanted:
            return
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > STREAM_WAITING_BYTES_MAX and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        self._ready.set()

    def finish(self, error: Exception | None = None) -> None:
        """End the body, or say why it has no end."""
        self.is_done = True
        self._error = self._error or error
        self._ready.set()

    def discard(self) -> None:
        """Let what is left of the body pass."""
        self._is_unwanted = True
        self._pieces.clear()
        self._resume()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give the pieces as they come; raises what the body ended with."""
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self._size -= len(piece)
                if self._size < STREAM_WAITING_BYTES_MAX // 2:
                    self._resume()
                yield piece
            if self._error is not None:
                raise self._error
            if self.is_done:
                return
            self._ready.clear()
            await self._ready.wait()

    def _resume(self) -> None:
        if self._is_paused and not self._transport.is_closing():
            self._is_paused = False
            self._transport.resume_reading()


class ServerConnection(asyncio.Protocol):
    """One client's connection to a server; owns the task of the call that runs on it."""

    def __init__(
        self,
        handler: Handler,
        *,
        streams: Callable[[str, str], bool],
        connections: dict[ServerConnection, None],
    ) -> None:
        self._handler = handler
        self._streams = streams
        self._connections = connections
        # uvloop's transports are no subclass of asyncio's; the type is a promise of theirs.
        self._transport = cast("asyncio.Transport", None)
        self._parser = httptools.HttpRequestParser(self)
        self._task: asyncio.Task[None] | None = None
        self._running: Request | None = None
        self._waiting: deque[tuple[Request | Reply, bool]] = deque()
        self._body: StreamedBody | None = None
        #: The connection has ended for us; what still comes is thrown away.
        self._is_refusing = False
        self._can_write = asyncio.Event()
        self._can_write.set()
        self.on_message_begin()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, if there is a place left."""
        self._transport = cast("asyncio.Transport", transport)
        if len(self._connections) >= CONNECTIONS_MAX:
            transport.close()
            return
        self._connections[self] = None

    def connection_lost(self, _error: Exception | None) -> None:
        """End; a body that was coming ends with an error."""
        self._connections.pop(self, None)
        self._waiting.clear()
        self._can_write.set()
        if self._body is not None and not self._body.is_done:
            self._body.finish(ConnectionResetError("the sender hung up"))
        elif self._task is not None and self._running is not None and self._running.is_wait:
            self._task.cancel()

    def pause_writing(self) -> None:
        """Hold a streamed answer up: its receiver is slower."""
        self._can_write.clear()

    def resume_writing(self) -> None:
        """Let a streamed answer go on."""
        self._can_write.set()

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._is_refusing and (self._body is None or self._body.is_done):
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.abort()
        except httptools.HttpParserError:
            if self._body is not None and not self._body.is_done:
                self._body.finish(ConnectionResetError("the sender's chunks make no sense"))
            if not self._is_refusing:
                self._refuse(400)

    def abort(self) -> None:
        """Break the connection and what runs on it, as a host that lost its power."""
        if self._task is not None:
            self._task.cancel()
        if self._transport is not None:
            self._transport.abort()

    # -- httptools calls these

    def on_message_begin(self) -> None:
        """Make room for a request."""
        self._url = b""
        self._headers: dict[str, str] = {}
        self._header_bytes = 0
        self._pieces: list[bytes] = []
        self._size = 0
        self._is_streamed = False

    def on_url(self, url: bytes) -> None:
        """Keep the target."""
        self._count(len(url))
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self._count(len(name) + len(value))
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def _count(self, byte_count: int) -> None:
        self._header_bytes += byte_count
        if self._header_bytes > HEADER_BYTES_MAX and not self._is_refusing:
            self._refuse(431)

    def on_headers_complete(self) -> None:
        """Hand a request that streams over before its body has come."""
        if self._is_refusing:
            return
        request = self._request()
        if self._streams(request.method, request.path):
            self._is_streamed = True
            self._body = StreamedBody(self._transport)
            request.chunks = self._body.chunks()
            self._take(request, self._parser.should_keep_alive())
        if self._headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if self._is_streamed:
            assert self._body is not None, "a request that streams has a body"
            self._body.feed(body)
            return
        self._size += len(body)
        if self._is_refusing:
            return
        if self._size > XAPI_BODY_BYTES_MAX:
            self._pieces.clear()
            self._refuse(413)
        else:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        """Hand the request over, or end its stream."""
        if self._is_streamed:
            assert self._body is not None, "a request that streams has a body"
            self._body.finish()
            if self._is_refusing:
                self._transport.close()
        elif not self._is_refusing:
            request = self._request()
            pieces = self._pieces
            request.body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self._take(request, self._parser.should_keep_alive())

    # -- answering

    def _request(self) -> Request:
        path, _, query = self._url.decode("latin-1").partition("?")
        method, version = self._parser.get_method(), self._parser.get_http_version()
        return Request(method.decode("latin-1"), path, query, self._headers, version=version)

    def _refuse(self, status: int) -> None:
        # Nothing that follows on this connection can be trusted to be a request.
        self._is_refusing = True
        self._take(Reply(status, media_type="text/plain"), False)

    def _take(self, item: Request | Reply, keeps: bool) -> None:
        if self._task is not None:
            self._waiting.append((item, keeps))
            return
        awaited = self._answer(item, keeps)
        if awaited is not None:
            self._task = asyncio.ensure_future(self._finish(awaited, keeps))

    def _answer(self, item: Request | Reply, keeps: bool) -> Awaitable[Reply] | None:
        self._running = None
        if isinstance(item, Reply):
            self._send(item, keeps)
            return None
        self._running = item
        result = self._handler(item)
        if isinstance(result, Reply):
            self._send(result, keeps)
            return None
        return result

    async def _finish(self, awaited: Awaitable[Reply] | None, keeps: bool) -> None:
        try:
            while True:
                if awaited is not None:
                    reply = await awaited
                    if reply.pieces is None:
                        self._send(reply, keeps)
                    else:
                        await self._stream(reply, reply.pieces, keeps)
                if not self._waiting:
                    return
                item, keeps = self._waiting.popleft()
                awaited = self._answer(item, keeps)
        except BaseException:
            self._transport.abort()
            raise
        finally:
            self._task = None

    async def _stream(self, reply: Reply, pieces: AsyncIterator[bytes], keeps: bool) -> None:
        """Send an answer piece by piece, as fast as its receiver takes it.

        One of unknown length comes in chunks: its end is told then, and cannot be taken for a
        connection that broke. A client that is slow may also not survive an end without that.
        Source: undici's issue 5360, which Xen Orchestra's client has.
        """
        transport, request = self._transport, self._running
        is_chunked = reply.length is None and request is not None and request.version != "1.0"
        is_closing = reply.is_closing or not keeps or (reply.length is None and not is_chunked)
        # A connection that was lost already ends the pieces too.
        if not transport.is_closing():
            head = _head(reply, length=reply.length, is_closing=is_closing, is_chunked=is_chunked)
            transport.write(head)
        async with contextlib.aclosing(cast("AsyncGenerator[bytes]", pieces)) as given:
            try:
                async for piece in given:
                    await self._can_write.wait()
                    if transport.is_closing():
                        return
                    if not is_chunked:
                        transport.write(piece)
                    elif piece:
                        transport.writelines((b"%x\r\n" % len(piece), piece, b"\r\n"))
            except CutError:
                transport.abort()
                return
        if is_chunked and not transport.is_closing():
            transport.write(b"0\r\n\r\n")
        if is_closing:
            transport.close()

    def _send(self, reply: Reply, keeps: bool) -> None:
        transport = self._transport
        if transport.is_closing():
            return
        is_closing = reply.is_closing or not keeps
        head = _head(reply, length=len(reply.body), is_closing=is_closing)
        transport.write(head + reply.body)
        streams = self._running is not None and self._running.chunks is not None
        if streams and self._body is not None and not self._body.is_done:
            # What the handler left of the body cannot be told from a next request.
            self._is_refusing = True
            self._body.discard()
        elif not is_closing and not self._is_refusing:
            return
        elif not self._is_refusing:
            transport.close()
            return
        asyncio.get_running_loop().call_later(LINGER_S, transport.close)


def _head(reply: Reply, *, length: int | None, is_closing: bool, is_chunked: bool = False) -> bytes:
    extra = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
    phrase = "OK" if reply.status == 200 else HTTPStatus(reply.status).phrase
    told = "" if length is None else f"content-length: {length}\r\n"
    if is_chunked:
        told = "transfer-encoding: chunked\r\n"
    head = (
        f"HTTP/1.1 {reply.status} {phrase}\r\ncontent-type: {reply.media_type}\r\n{told}"
        f"{extra}connection: {'close' if is_closing else 'keep-alive'}\r\n\r\n"
    )
    return head.encode("latin-1")


def never_streams(_method: str, _path: str) -> bool:
    """Tell that no request streams."""
    return False


def protocol_factory(
    handler: Handler,
    connections: dict[Any, None],
    streams: Callable[[str, str], bool] = never_streams,
) -> Callable[[], ServerConnection]:
    """Make what ``loop.create_server`` asks for."""
    return lambda: ServerConnection(handler, streams=streams, connections=connections)
