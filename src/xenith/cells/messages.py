"""What neighbours say to each other, as msgpack with names.

Unknown fields pass, and unknown kinds are counted and left alone, so that two versions can talk.
"""

from __future__ import annotations

from typing import Any

import msgspec

from xenith.bus import Priority
from xenith.cells.capacity import Digest, DigestDelta
from xenith.cells.changes import Batch, Place
from xenith.cells.intents import Intent, Verdict

#: The oldest and the newest form of this protocol that this version speaks.
VERSION_LEAST, VERSION_MOST = 1, 1


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """The first word of a session, said again until it is answered."""

    least: int = VERSION_LEAST
    most: int = VERSION_MOST
    #: The other's session as last heard; empty when it was not heard yet.
    heard: str = ""
    #: Whether the sender holds the session to have begun; if not, it wants an answer.
    is_open: bool = False
    #: The version of the topology that the sender has.
    topology: int = 0
    #: A parent says how far it knows each origin below this child.
    places: dict[str, Place] = {}


class Intents(msgspec.Struct, frozen=True, tag="intents"):
    """Down: what is asked."""

    items: list[Intent]


class Verdicts(msgspec.Struct, frozen=True, tag="verdicts"):
    """Up: what became of it."""

    items: list[Verdict]


class ChangesAck(msgspec.Struct, frozen=True, tag="changes_ack"):
    """Down: how far a parent knows an origin now."""

    origin: str
    place: Place


class Heads(msgspec.Struct, frozen=True, tag="heads"):
    """Up: how far the sender knows each origin, and how many seconds ago that was so at most."""

    heads: dict[str, tuple[Place, float]]


class Roots(msgspec.Struct, frozen=True, tag="roots"):
    """Up: the hashes of an origin's rows as they are at a place."""

    origin: str
    place: Place
    hashes: list[bytes]


class BucketsWanted(msgspec.Struct, frozen=True, tag="buckets_wanted"):
    """Down: buckets of an origin that differ here."""

    origin: str
    buckets: list[int]


class Bucket(msgspec.Struct, frozen=True, tag="bucket"):
    """Up: all rows of one bucket as they are at a place."""

    origin: str
    place: Place
    bucket: int
    rows: list[tuple[str, dict[str, Any]]]


class Capacity(msgspec.Struct, frozen=True, tag="capacity"):
    """Up: what is free, in whole."""

    digest: Digest


class CapacityDelta(msgspec.Struct, frozen=True, tag="capacity_delta"):
    """Up: what has changed in it."""

    delta: DigestDelta


class CapacityWanted(msgspec.Struct, frozen=True, tag="capacity_wanted"):
    """Down: a delta did not fit; send it in whole."""


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Down: do a piece of work and say so."""

    number: int
    #: The version of the topology that the sender has, as news of a newer one may have been lost.
    topology: int = 0


class Pong(msgspec.Struct, frozen=True, tag="pong"):
    """Up: it was done."""

    number: int
    #: The digest of what is free that the sender has told last before this; 0 before any.
    told: int = 0
    topology: int = 0


class Ask(msgspec.Struct, frozen=True, kw_only=True, tag="ask"):
    """Down: a question to one cell, which is not written down anywhere."""

    id: str
    target: str
    method: str
    body: bytes
    #: Seconds that the asker still waits.
    timeout_s: float
    request_id: str = ""


class Reply(msgspec.Struct, frozen=True, kw_only=True, tag="reply"):
    """Up: the answer, or the class and the words of what went wrong.

    What is too long for one message comes in ``parts``, in any order.
    """

    id: str
    body: bytes = b""
    part: int = 0
    parts: int = 1
    error: str = ""
    message: str = ""


class TopologyNews(msgspec.Struct, frozen=True, tag="topology"):
    """The signed document, from who has a newer one."""

    document: bytes


class TopologyWanted(msgspec.Struct, frozen=True, tag="topology_wanted"):
    """The sender's document is older than the other's."""


Message = (
    Hello
    | Intents
    | Verdicts
    | Batch
    | ChangesAck
    | Heads
    | Roots
    | BucketsWanted
    | Bucket
    | Capacity
    | CapacityDelta
    | CapacityWanted
    | Ping
    | Pong
    | Ask
    | Reply
    | TopologyNews
    | TopologyWanted
)

#: The class of each kind; in it a message waits for its turn and for credit.
PRIORITIES: dict[type, Priority] = {
    Hello: Priority.INTENT,
    Intents: Priority.INTENT,
    Verdicts: Priority.INTENT,
    Ping: Priority.INTENT,
    Pong: Priority.INTENT,
    Ask: Priority.INTENT,
    Reply: Priority.INTENT,
    TopologyWanted: Priority.INTENT,
    TopologyNews: Priority.INTENT,
    Batch: Priority.LIFECYCLE,
    ChangesAck: Priority.LIFECYCLE,
    Heads: Priority.STATISTICS,
    Capacity: Priority.STATISTICS,
    CapacityDelta: Priority.STATISTICS,
    CapacityWanted: Priority.STATISTICS,
    Roots: Priority.BULK,
    BucketsWanted: Priority.BULK,
    Bucket: Priority.BULK,
}

encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


def decode(data: bytes | msgspec.Raw) -> Message:
    """Read a message.

    Raises:
        msgspec.ValidationError: it is of a kind, or in a form, that this version does not know.
    """
    message: Message = _decode(data)
    return message
