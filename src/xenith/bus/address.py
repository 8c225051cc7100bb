"""Where a broker is, and what our exchanges and queues are called there.

A topic is a durable direct exchange; a queue of the port is one quorum queue for each class of
message, bound with the class as its routing key. Names are quoted, so that no topic or name can
be made to read as another's.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote, urlsplit

import msgspec

from xenith.bus.port import Priority
from xenith.core.errors import Invalid

#: Source: RFC 5672's registration; TLS is the rule.
PORTS = {"amqp": 5672, "amqps": 5671}


class Place(msgspec.Struct, frozen=True):
    """Where a broker is, without who asks."""

    host: str
    port: int
    virtual_host: str


class AmqpAddress(msgspec.Struct, frozen=True, kw_only=True):
    """How a bus reaches its broker; the password is in no representation of it."""

    host: str
    port: int
    user: str
    password: str
    virtual_host: str = "/"
    #: The certificates, in PEM, that the broker's must come from; without them nothing is hidden.
    tls_ca: bytes | None = None

    def __repr__(self) -> str:
        """Tell all but the password."""
        scheme = "amqp" if self.tls_ca is None else "amqps"
        place = quote(self.virtual_host, safe="")
        return f"<{scheme}://{quote(self.user, safe='')}@{self.host}:{self.port}/{place}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Tell rich the same; msgspec's own would tell it every field."""
        return [("at", repr(self))]


def read_place(url: str, *, has_certificate: bool) -> Place:
    """Read where a broker is said to be, by a cell that is not its owner.

    >>> read_place("amqps://b.example/x", has_certificate=True)
    Place(host='b.example', port=5671, virtual_host='x')

    Raises:
        Invalid: it is no such address, or goes without the certificate that its scheme wants.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Invalid(f"a broker's address is amqps://HOST[:PORT][/VHOST]: {error}") from None
    if parts.scheme not in PORTS or not parts.hostname:
        raise Invalid("a broker's address is amqps://HOST[:PORT][/VHOST]")
    if (parts.scheme == "amqps") is not has_certificate:
        raise Invalid(
            "amqps:// goes with the certificate that the broker's comes from, and amqp:// without"
        )
    return Place(
        parts.hostname, port or PORTS[parts.scheme], unquote(parts.path.lstrip("/")) or "/"
    )


def exchange_name(topic: str) -> str:
    """Name the exchange of a topic.

    >>> exchange_name("cell.7/up")
    'xenith/cell.7:2Fup'
    """
    return f"xenith/{_quoted(topic)}"


def queue_name(topic: str, name: str, priority: Priority) -> str:
    """Name the queue of one class.

    >>> queue_name("cell.7", "parent", Priority.INTENT)
    'xenith/cell.7/parent/0'
    """
    return f"{exchange_name(topic)}/{_quoted(name)}/{priority.value}"


def routing_key(priority: Priority) -> str:
    """Give the key that a class is published and bound with."""
    return str(priority.value)


def _quoted(text: str) -> str:
    """Write a text with letters, digits and the few signs that clients take in a name.

    Source: pamqp 4.0, the domains ``exchange-name`` and ``queue-name``.
    """
    return quote(text, safe="").replace("~", "%7E").replace("%", ":")
