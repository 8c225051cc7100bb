"""A link: one neighbour, one session at a time, messages by class in signed frames.

    post ─► class buffers ─► frame ─► bus ─► frame ─► checks ─► class queues ─► handlers

A link may lose, repeat or reorder what it carries, and says nothing of it: whoever must not lose
something sends it again from rows. Every buffer has a limit, and what does not fit is dropped and
counted. Messages wait a little for others, so that a busy link sends few frames and not many.

A session begins when each side has heard the other's hello; a frame names both sessions, so those
of an earlier run are refused. A hello of an earlier run may come late and take the session with it:
who is spoken to in another session than its own says hello again, and the one that lives is heard.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from xenith.bus import CREDITS, Bus, Priority
from xenith.cells import messages
from xenith.cells.frames import BODY_BYTES_MAX, FrameRefused, Header, decode, encode
from xenith.cells.keys import CellKey
from xenith.cells.messages import PRIORITIES, VERSION_LEAST, VERSION_MOST, Hello
from xenith.cells.topology import Topology
from xenith.core.errors import XenithError
from xenith.core.ids import CellId
from xenith.core.log import logger
from xenith.core.tasks import TaskOwner
from xenith.core.world import World

_log = logger("cells.link")

#: Seconds that a message waits for others before its frame goes.
FLUSH_DELAY_S = 0.01
#: Seconds between hellos until they are answered.
HELLO_PERIOD_S = 1.0
#: Seconds for the bus to take a frame.
SEND_TIMEOUT_S = 5.0
#: Bytes of messages in one frame; what msgpack adds to each is a few bytes.
MESSAGES_BYTES_MAX = BODY_BYTES_MAX - 4096

#: What msgspec raises for bytes that are no message: also too deep a nest, and text that is none.
UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)

Handler = Callable[[list[Any]], Awaitable[None]]


def topic_of(sender: str, receiver: str) -> str:
    """Name the bus's topic of one direction of a link."""
    return f"{sender}>{receiver}"


class Link:
    """See the module. ``hello`` gives what this side says of itself; ``handlers`` are by type."""

    def __init__(
        self,
        world: World,
        bus: Bus,
        *,
        key: CellKey,
        own: CellId,
        peer: CellId,
        topology: Callable[[], Topology],
        hello: Callable[[], Awaitable[Hello]],
        on_open: Callable[[Hello], Awaitable[None]],
        handlers: Mapping[type, Handler],
    ) -> None:
        self.peer = peer
        self._log = _log.bind(cell=own, peer=peer)
        #: What was sent, received, dropped and refused, by name.
        self.counts: Counter[str] = Counter()
        #: The form of the protocol that both sides speak; 0 until they have agreed.
        self.version = 0
        self._world = world
        self._bus = bus
        self._key = key
        self._own = own
        self._topology = topology
        self._hello = hello
        self._on_open = on_open
        self._handlers = {**handlers, Hello: self._greet}
        self._session = world.ids.hex()
        self._peer_session = ""
        self._sequence = 0
        self._is_open = False
        #: Whether the peer speaks in another session than this side does.
        self._is_astray = False
        self._outgoing: dict[Priority, deque[bytes]] = {each: deque() for each in Priority}
        self._incoming: dict[Priority, deque[Any]] = {each: deque() for each in Priority}
        self._has_outgoing = asyncio.Event()
        self._has_incoming = {each: asyncio.Event() for each in Priority}
        self._tasks = TaskOwner(f"link {own}>{peer}", world.clock)

    @property
    def is_open(self) -> bool:
        """Whether both sides have heard each other in this session."""
        return self._is_open

    async def start(self) -> None:
        """Begin to read, and to say hello."""
        self._tasks.keep("read", self._read)
        self._tasks.keep("send", self._send)
        self._tasks.keep("hello", self._greet_until_answered)
        for priority in Priority:
            self._tasks.keep(f"handle {priority.name}", lambda p=priority: self._handle(p))  # type: ignore[misc]

    async def stop(self) -> None:
        """Stop; nothing that matters is lost."""
        await self._tasks.stop()

    def post(self, message: messages.Message) -> bool:
        """Send a message soon; False when the link is not open or the class has no credit left."""
        if not self._is_open:
            return False
        priority = PRIORITIES[type(message)]
        waiting = self._outgoing[priority]
        if len(waiting) >= CREDITS[priority]:
            self.counts["no_credit"] += 1
            return False
        encoded = messages.encode(message)
        if len(encoded) > MESSAGES_BYTES_MAX:
            self._log.error("message too long", kind=type(message).__name__, bytes=len(encoded))
            self.counts["too_long"] += 1
            return False
        waiting.append(encoded)
        self._has_outgoing.set()
        return True

    # -- out

    async def _send(self) -> None:
        while True:
            await self._has_outgoing.wait()
            await self._world.clock.sleep(FLUSH_DELAY_S)
            self._has_outgoing.clear()
            for priority, waiting in self._outgoing.items():
                while waiting:
                    await self._publish(_take_body(waiting), priority, self._peer_session)

    async def _publish(self, body: bytes, priority: Priority, to_session: str) -> None:
        self._sequence += 1
        header = Header(
            sender=self._own,
            receiver=self.peer,
            session=self._session,
            to_session=to_session,
            sequence=self._sequence,
            kind="messages",
            sent_at=self._world.clock.now(),
        )
        frame = encode(self._key, header, body)
        try:
            await self._bus.publish(
                topic_of(self._own, self.peer), frame, priority=priority, timeout_s=SEND_TIMEOUT_S
            )
        except XenithError as error:
            self.counts["unsent"] += 1
            self._log.warning("frame not sent", error=str(error))
        else:
            self.counts["sent"] += 1

    async def _say_hello(self) -> None:
        hello = msgspec.structs.replace(
            await self._hello(), heard=self._peer_session, is_open=self._is_open
        )
        body = msgspec.msgpack.encode([msgspec.Raw(messages.encode(hello))])
        await self._publish(body, Priority.INTENT, "")

    async def _greet_until_answered(self) -> None:
        while True:
            if not self._is_open or self._is_astray:
                self._is_astray = False
                try:
                    await self._say_hello()
                except XenithError as error:
                    self._log.warning("no hello", error=str(error))
            await self._world.clock.sleep(HELLO_PERIOD_S)

    # -- in

    async def _read(self) -> None:
        topic = topic_of(self.peer, self._own)
        async with self._bus.subscribe(topic, name=self._own) as deliveries:
            async for delivery in deliveries:
                # Acknowledged before it is handled: what is lost here is sent again from rows.
                await delivery.ack()
                try:
                    self._take(delivery.message)
                except FrameRefused as error:
                    self.refuse(error.reason)

    def refuse(self, reason: str, **fields: Any) -> None:
        """Count and log what a neighbour sent and this cell will not have."""
        self.counts["refused_" + reason] += 1
        self._log.warning("refused", reason=reason, **fields)

    def _take(self, data: bytes) -> None:
        topology = self._topology()
        frame = decode(
            data,
            receiver=self._own,
            public_key_of=topology.public_key_of,
            is_revoked=topology.is_revoked,
        )
        header = frame.header
        if header.sender != self.peer:
            self.refuse("not_the_neighbour", sender=header.sender)
            return
        self.counts["received"] += 1
        is_hello = not header.to_session
        if not is_hello and (header.to_session, header.session) != (
            self._session,
            self._peer_session,
        ):
            # Of an earlier run of either side, or before this one was heard.
            self.counts["old_session"] += 1
            self._is_astray = True
            return
        try:
            bodies = _decode_body(frame.body)
        except UNREADABLE:
            self.refuse("not_messages")
            return
        for body in bodies:
            try:
                message = messages.decode(body)
            except UNREADABLE as error:
                self.refuse("unknown_message", error=str(error)[:200])
                continue
            if is_hello is not isinstance(message, Hello):
                self.refuse("out_of_session")
                continue
            self._queue(message, header)

    def _queue(self, message: messages.Message, header: Header) -> None:
        priority = PRIORITIES[type(message)]
        waiting = self._incoming[priority]
        if len(waiting) >= CREDITS[priority]:
            self.counts["overflow"] += 1
            return
        waiting.append((header.session, message) if isinstance(message, Hello) else message)
        self._has_incoming[priority].set()

    async def _handle(self, priority: Priority) -> None:
        waiting, event = self._incoming[priority], self._has_incoming[priority]
        while True:
            await event.wait()
            event.clear()
            while waiting:
                group = _take_alike(waiting)
                kind = Hello if isinstance(group[0], tuple) else type(group[0])
                handler = self._handlers.get(kind)
                if handler is None:
                    self.refuse("unexpected_message", kind=kind.__name__)
                    continue
                try:
                    await handler(group)
                except XenithError as error:
                    # The neighbour sends it again; what is away may be back by then.
                    self.counts["failed"] += 1
                    self._log.warning("message failed", kind=kind.__name__, error=str(error))
                except Exception:  # noqa: BLE001 - the message edge
                    self.counts["failed"] += 1
                    self._log.exception("message failed", kind=kind.__name__)

    # -- the session

    async def _greet(self, group: list[tuple[str, Hello]]) -> None:
        for session, hello in group:
            version = min(hello.most, VERSION_MOST)
            if version < max(hello.least, VERSION_LEAST):
                self.refuse("version", least=hello.least, most=hello.most)
                if session != self._peer_session:
                    # It was heard before its program was changed for another.
                    self._is_open = False
                continue
            if session != self._peer_session:
                self._is_open = False
                self._peer_session = session
                self._forget_waiting()
            if hello.heard == self._session and not self._is_open:
                self._is_open = True
                self.version = version
                self._log.info("link open", version=version)
                try:
                    await self._on_open(hello)
                except BaseException:
                    # Half begun is not begun: the next hello begins again.
                    self._is_open = False
                    raise
            if not hello.is_open or hello.heard != self._session:
                await self._say_hello()

    def _forget_waiting(self) -> None:
        """Drop what waits of the session that has ended.

        What came in of it would be handled after this side has told, in its hello, how far it is.
        """
        for outgoing in self._outgoing.values():
            outgoing.clear()
        for incoming in self._incoming.values():
            hellos = [each for each in incoming if isinstance(each, tuple)]
            self.counts["old_session"] += len(incoming) - len(hellos)
            incoming.clear()
            incoming.extend(hellos)


_decode_body = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


def _take_body(waiting: deque[bytes]) -> bytes:
    """Take as many messages as one frame holds."""
    taken: list[msgspec.Raw] = []
    room = MESSAGES_BYTES_MAX
    while waiting and len(waiting[0]) <= room:
        room -= len(waiting[0])
        taken.append(msgspec.Raw(waiting.popleft()))
    return msgspec.msgpack.encode(taken)


def _take_alike(waiting: deque[Any]) -> list[Any]:
    """Take the first message and those after it that are of its type."""
    group = [waiting.popleft()]
    while waiting and type(waiting[0]) is type(group[0]):
        group.append(waiting.popleft())
    return group
