"""One client over a stream of bytes: frames in, answers and events out, within bounds.

Nothing that a client sends, or fails to take, holds more of us than its quotas: it is not listened
to while it has answers to take, its events are joined and then dropped, and how often it is
answered is limited. One that breaks the protocol is dropped, and the reason is said.

Source of the bounds: xenstored 4.17, which stops listening in the same cases.
"""

from __future__ import annotations

import asyncio
from collections import deque

from xenith.core.clock import Clock
from xenith.xenstore.connection import Connection
from xenith.xenstore.errors import ProtocolError, XenstoreError
from xenith.xenstore.requests import answer
from xenith.xenstore.store import Domain, Store
from xenith.xenstore.wire import HEADER, PAYLOAD_BYTES_MAX, Frame, Op, decode_header, join

#: From the first byte of a frame to its last; a kernel sends them at once.
FRAME_TIMEOUT_S = 30.0
#: What a guest may ask, over time and at once. Each costs us some 50 µs, so one that asks without
#: end has a fortieth of a processor; a guest that boots asks a few hundred times.
REQUESTS_PER_S = 500.0
REQUESTS_AT_ONCE = 200.0
#: Frames that wait for a tool of the control domain, which has no quota.
FRAMES_WAITING_MAX = 100_000
_PAUSE_S = 0.05


class Session:
    """A client of a store, over a stream."""

    def __init__(
        self,
        store: Store,
        domain: Domain,
        *,
        clock: Clock,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.connection = Connection(store, domain, self._queue_event)
        self.connection.on_close = self._end
        self._store = store
        self._domain = domain
        self._clock = clock
        self._reader = reader
        self._writer = writer
        self._waiting: deque[Frame] = deque()
        #: Events among those that wait, so that one is not told twice.
        self._events: set[bytes] = set()
        self._has_news = asyncio.Event()
        self._has_room = asyncio.Event()
        self._is_over = False
        self._fault = ""
        self._credit = REQUESTS_AT_ONCE
        self._credited_at = clock.monotonic()

    async def run(self) -> str:
        """Serve until either side ends it; tell what was wrong, nothing if it just ended."""
        # Whatever was written counts as taken once the kernel has it.
        self._writer.transport.set_write_buffer_limits(high=0)
        writing = asyncio.create_task(self._write(), name="xenstore session writes")
        reading = asyncio.create_task(self._read(), name="xenstore session reads")
        try:
            done, _ = await asyncio.wait([reading, writing], return_when=asyncio.FIRST_COMPLETED)
            failures = [task.exception() for task in done]
            was_let_go = self._is_over
        finally:
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)
            self.connection.close()
            self._drop_waiting()
            self._writer.transport.abort()
        if was_let_go:
            return self._fault
        return _fault(next((failure for failure in failures if failure is not None), None))

    # -- in

    async def _read(self) -> None:
        while not self._is_over:
            frame = await self._read_frame()
            await self._wait_for_room()
            if self._is_over:
                return  # the store let it go meanwhile
            reply, afterwards = answer(self.connection, frame)
            self.connection.outstanding_count += 1
            self._queue(reply)
            afterwards()

    async def _read_frame(self) -> Frame:
        first = await self._reader.readexactly(1)
        try:
            async with asyncio.timeout(FRAME_TIMEOUT_S):
                rest = await self._reader.readexactly(HEADER.size - 1)
                header = decode_header(first + rest)
                payload = await self._reader.readexactly(header.size_bytes)
        except TimeoutError:
            raise ProtocolError("a frame was begun and not ended") from None
        return Frame(header.op, header.request_id, header.transaction_id, payload)

    async def _wait_for_room(self) -> None:
        if self._domain.is_privileged:
            return
        quotas = self._store.quotas
        while (
            self.connection.outstanding_count >= quotas.outstanding_count
            or self._domain.memory_bytes >= quotas.memory_bytes
        ) and self._waiting:
            self._has_room.clear()
            await self._has_room.wait()
        self._credit = min(REQUESTS_AT_ONCE, self._credit + self._since_credited())
        while self._credit < 1:
            await self._clock.sleep(_PAUSE_S)
            self._credit = min(REQUESTS_AT_ONCE, self._credit + self._since_credited())
        self._credit -= 1

    def _since_credited(self) -> float:
        now = self._clock.monotonic()
        earned = (now - self._credited_at) * REQUESTS_PER_S
        self._credited_at = now
        return earned

    # -- out

    async def _write(self) -> None:
        while not self._is_over:
            while self._waiting:
                frame = self._waiting[0]
                self._writer.write(frame.encode())
                await self._writer.drain()
                if self._waiting and self._waiting[0] is frame:
                    self._taken(self._waiting.popleft())
            self._has_news.clear()
            await self._has_news.wait()

    def _queue_event(self, path: str, token: bytes) -> None:
        payload = join(path.encode("latin-1"), token)
        is_special = path.startswith("@")
        if len(payload) > PAYLOAD_BYTES_MAX or (payload in self._events and not is_special):
            return
        try:
            self._store.check_memory(self._domain, HEADER.size + len(payload))
        except XenstoreError:
            return
        self._events.add(payload)
        self._queue(Frame(Op.WATCH_EVENT, 0, 0, payload))

    def _queue(self, frame: Frame) -> None:
        if len(self._waiting) >= FRAMES_WAITING_MAX:
            self._fault = "it does not take what it is told"
            self._end()
            return
        self._domain.memory_bytes += HEADER.size + len(frame.payload)
        self._waiting.append(frame)
        self._has_news.set()

    def _taken(self, frame: Frame) -> None:
        self._domain.memory_bytes -= HEADER.size + len(frame.payload)
        if frame.op == Op.WATCH_EVENT:
            self._events.discard(frame.payload)
        else:
            self.connection.outstanding_count -= 1
        self._has_room.set()

    def _drop_waiting(self) -> None:
        while self._waiting:
            self._taken(self._waiting.popleft())

    def _end(self) -> None:
        self._is_over = True
        # Wakes what reads and what writes, however much the client has not taken.
        self._writer.transport.abort()
        self._has_news.set()


def _fault(failure: BaseException | None) -> str:
    if isinstance(failure, ProtocolError):
        return str(failure)
    if isinstance(failure, asyncio.IncompleteReadError):
        return "it ended in the middle of a frame" if failure.partial else ""
    if isinstance(failure, OSError):
        return repr(failure)
    assert failure is not None, "neither side ends without a reason"
    raise failure
