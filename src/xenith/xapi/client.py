"""HTTP/1.1 as a XenAPI client needs it: a few kept connections to one address, each with one call.

Every wait has a deadline. What goes wrong on the way is ``Unavailable``; whether the host has
heard the call is then unknown, so calls are repeated by those who know that they may be.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import ssl as ssl_module
from collections.abc import AsyncIterator, Mapping
from typing import cast
from urllib.parse import urlsplit

import httptools

from xenith.core.errors import Invalid, Unavailable
from xenith.core.limits import XAPI_ANSWER_BYTES_MAX
from xenith.xapi.wire import Reply, StreamedBody

#: Seconds that a connection is kept without a call: fifty thousand hosts are not always in use.
IDLE_S = 3.0

#: Seconds that a host may let pass between two pieces of a body.
STALL_S = 120.0

#: A body whole, or its bytes as they come.
Body = bytes | AsyncIterator[bytes]


class _Connection(asyncio.Protocol):
    """One connection of a client, used by one call at a time."""

    def __init__(self) -> None:
        self._transport = cast("asyncio.Transport", None)
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Reply] | None = None
        self._is_streamed = False
        self._body: StreamedBody | None = None
        self._has_ended = False
        self._writable = asyncio.Event()
        self._writable.set()
        self.is_usable = True
        #: When its last call ended, in seconds of the loop's clock.
        self.idle_since_s = 0.0
        self.on_message_begin()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def eof_received(self) -> None:
        self._has_ended = True

    def connection_lost(self, error: Exception | None) -> None:
        if self._body is not None and not self._body.is_done:
            # A body without a length ends with the connection, unless that is broken.
            is_whole = self._has_ended and error is None and not self._has_length
            self._body.finish(None if is_whole else ConnectionResetError("the host hung up"))
        self._fail(ConnectionResetError("the host hung up"))

    def data_received(self, data: bytes) -> None:
        if self._body is None and (self._answer is None or self._answer.done()):
            # Bytes that nobody asked for: the next answer could not be told from them.
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(ConnectionError("the host wants another protocol"))
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"the host's answer is no HTTP: {error}"))

    # -- httptools calls these

    def on_message_begin(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._media = ""
        self._has_length = False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-type":
            self._media = value.decode("latin-1")
        elif name in (b"content-length", b"transfer-encoding"):
            self._has_length = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._is_streamed and status == 200 and self._answer is not None:
            self._body = StreamedBody(self._transport)
            if not self._answer.done():
                reply = Reply(status, media_type=self._media, pieces=self._body.chunks())
                self._answer.set_result(reply)

    def on_body(self, body: bytes) -> None:
        if self._body is not None:
            self._body.feed(body)
            return
        self._size += len(body)
        if self._size > XAPI_ANSWER_BYTES_MAX:
            self._pieces.clear()
            self._fail(ConnectionError("the host's answer is larger than the limit"))
        else:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # "100 Continue" comes before the answer
            return
        if not self._parser.should_keep_alive():
            self.is_usable = False
        if self._body is not None:
            self._body.finish()
            return
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Reply(status, b"".join(self._pieces), self._media))

    # -- one call

    def _fail(self, error: Exception) -> None:
        self.close()
        if self._body is not None and not self._body.is_done:
            self._body.finish(error)
        self._writable.set()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def close(self) -> None:
        self.is_usable = False
        if self._transport is not None:
            self._transport.abort()

    async def exchange(
        self, head: bytes, body: Body, size_bytes: int | None, *, is_streamed: bool = False
    ) -> Reply:
        self._is_streamed = is_streamed
        self._answer = asyncio.get_running_loop().create_future()
        try:
            if isinstance(body, bytes):
                self._transport.write(head + body)
            else:
                self._transport.write(head)
                await self._stream(body, size_bytes)
            return await self._answer
        finally:
            # An error that came while the stream was being read has been told by now.
            if self._answer.done() and not self._answer.cancelled():
                self._answer.exception()
            self._answer = None

    async def _stream(self, chunks: AsyncIterator[bytes], size_bytes: int | None) -> None:
        assert self._answer is not None, "a stream is part of a call"
        sent = 0
        async for piece in chunks:
            if self._answer.done():
                # The host has answered early: what is left of the body is of no use to it.
                self.is_usable = False
                return
            sent += len(piece)
            if size_bytes is not None and sent > size_bytes:
                raise Invalid(f"the stream is longer than the {size_bytes} bytes it should be")
            if size_bytes is not None:
                self._transport.write(piece)
            elif piece:
                self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await self._writable.wait()
        if self._answer.done():
            self.is_usable = False
        elif size_bytes is None:
            self._transport.write(b"0\r\n\r\n")
        elif sent < size_bytes:
            raise Invalid(f"the stream ended after {sent} bytes of {size_bytes}")


class HttpClient:
    """Calls to one address over a bounded number of kept connections."""

    def __init__(
        self,
        url: str,
        *,
        connections_max: int,
        ssl: ssl_module.SSLContext | None = None,
        pin: str = "",
    ) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise Invalid(f"this is no address of a host: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise Invalid("a host's address is http://HOST:PORT or https://HOST:PORT")
        self._host = parts.hostname
        self._port = port or (443 if parts.scheme == "https" else 80)
        self._ssl: ssl_module.SSLContext | None = None
        #: SHA-256 of the only certificate that is the host's; then no CA is asked.
        self._pin = pin.replace(":", "").lower()
        if self._pin and parts.scheme != "https":
            raise Invalid("a host without TLS cannot be known by its certificate")
        if self._pin:
            self._ssl = ssl_module.SSLContext(ssl_module.PROTOCOL_TLS_CLIENT)
            self._ssl.check_hostname = False
            self._ssl.verify_mode = ssl_module.CERT_NONE
        elif parts.scheme == "https":
            self._ssl = ssl or ssl_module.create_default_context()
        self._authority = parts.netloc
        # The longest idle first.
        self._idle: list[_Connection] = []
        self._sweep_timer: asyncio.TimerHandle | None = None
        # Ordered, so that they are broken in the same order in each run of a simulation.
        self._all: dict[_Connection, None] = {}
        self._places = asyncio.Semaphore(connections_max)
        self._is_closed = False

    async def request(
        self,
        method: str,
        target: str,
        body: Body,
        *,
        timeout_s: float,
        media_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        size_bytes: int | None = None,
    ) -> Reply:
        """Send one request and give the reply.

        Raises:
            Unavailable: the host does not answer, or not in time.
            Invalid: a stream is not of ``size_bytes``.
        """
        size = len(body) if isinstance(body, bytes) else size_bytes
        length = "transfer-encoding: chunked" if size is None else f"content-length: {size}"
        fields = {"content-type": media_type, **(headers or {})}
        head = self._head(method, target, fields, length)
        try:
            async with asyncio.timeout(timeout_s), self._places:
                return await self._exchange(head, body, size)
        except TimeoutError as error:
            raise Unavailable(f"the host did not answer in {timeout_s:g} s") from error
        except OSError as error:
            raise Unavailable(f"the host cannot be reached: {error}") from error

    @contextlib.asynccontextmanager
    async def stream(
        self, target: str, *, timeout_s: float, headers: Mapping[str, str]
    ) -> AsyncIterator[Reply]:
        """Get something whose body comes piece by piece; whole where the status is not 200.

        ``timeout_s`` is what the host has to begin; then it has ``STALL_S`` for each piece.

        Raises:
            Unavailable: the host does not answer, not in time, or not to the end.
        """
        head = self._head("GET", target, headers, "content-length: 0")
        async with self._places:
            connection: _Connection | None = None
            try:
                async with asyncio.timeout(timeout_s):
                    connection = await self._take()
                    reply = await connection.exchange(head, b"", 0, is_streamed=True)
                if reply.pieces is not None:
                    reply.pieces = _timely(reply.pieces)
                yield reply
            except TimeoutError as error:
                raise Unavailable(f"the host did not answer in {timeout_s:g} s") from error
            except OSError as error:
                raise Unavailable(f"the host cannot be reached: {error}") from error
            finally:
                # What is left of the body belongs to nobody.
                if connection is not None:
                    connection.close()
                    self._all.pop(connection, None)

    def _head(self, method: str, target: str, fields: Mapping[str, str], length: str) -> bytes:
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return (
            f"{method} {target} HTTP/1.1\r\nhost: {self._authority}\r\n{length}\r\n{lines}\r\n"
        ).encode("latin-1")

    async def _exchange(self, head: bytes, body: Body, size_bytes: int | None) -> Reply:
        connection = await self._take()
        is_kept = False
        try:
            reply = await connection.exchange(head, body, size_bytes)
            is_kept = connection.is_usable and not self._is_closed
        finally:
            if is_kept:
                self._keep(connection)
            else:
                connection.close()
                self._all.pop(connection, None)
        return reply

    def _keep(self, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()
        connection.idle_since_s = loop.time()
        self._idle.append(connection)
        if self._sweep_timer is None:
            self._sweep_timer = loop.call_later(IDLE_S, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close what has had no call for long, and come back when the next will have had none."""
        self._sweep_timer = None
        # A timer may be called a little early.
        too_long_s = loop.time() - IDLE_S + 0.01
        while self._idle and self._idle[0].idle_since_s <= too_long_s:
            connection = self._idle.pop(0)
            connection.close()
            self._all.pop(connection, None)
        if self._idle:
            due_s = self._idle[0].idle_since_s + IDLE_S
            self._sweep_timer = loop.call_at(due_s, self._sweep, loop)

    async def _take(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
            self._all.pop(connection, None)
        if self._is_closed:
            raise ConnectionError("the session is closed")
        loop = asyncio.get_running_loop()
        transport, connection = await loop.create_connection(
            _Connection, self._host, self._port, ssl=self._ssl
        )
        if self._pin and not _shows(transport, self._pin):
            # Nothing has been sent to it yet.
            connection.close()
            raise ConnectionError("the host's certificate is not the one it is known by")
        self._all[connection] = None
        return connection

    def close(self) -> None:
        """Break all connections; no more are made."""
        self._is_closed = True
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        for connection in tuple(self._all):
            connection.close()
        self._all.clear()
        self._idle.clear()


async def _timely(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while True:
        try:
            async with asyncio.timeout(STALL_S):
                piece = await anext(pieces, None)
        except TimeoutError as error:
            raise Unavailable(f"the host sent nothing for {STALL_S:g} s") from error
        except OSError as error:
            raise Unavailable(f"the host broke off: {error}") from error
        if piece is None:
            return
        yield piece


def _shows(transport: asyncio.BaseTransport, pin: str) -> bool:
    """Tell whether the other side's certificate has a SHA-256."""
    tls = transport.get_extra_info("ssl_object")
    shown = None if tls is None else tls.getpeercert(binary_form=True)
    return shown is not None and hmac.compare_digest(hashlib.sha256(shown).hexdigest(), pin)
