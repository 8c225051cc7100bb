"""The buses of a cell that runs in a process of its own: RabbitMQ, one broker a cell.

A link is on the child's broker, where its two topics are: the child reaches it as the broker's
owner, the parent with an account that may publish to one of them and read the other, and no more.
The account's password follows from the keys of both cells, so it is sent nowhere and kept nowhere.
What goes wrong at one broker is felt by its cell alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import msgspec

from xenith.bus import Bus, MemoryBus
from xenith.bus.address import AmqpAddress
from xenith.cells.keys import CellKey, PublicKey
from xenith.cells.link import topic_of
from xenith.cells.topology import CellEntry, Topology
from xenith.core.errors import Invalid, XenithError
from xenith.core.ids import CellId
from xenith.core.log import logger
from xenith.core.settings import Settings
from xenith.core.tasks import TaskOwner
from xenith.core.world import World

if TYPE_CHECKING:
    from xenith.bus.broker import BrokerAdmin

_log = logger("dev.links")

#: Seconds between looks whether the accounts of all parents are there.
ACCOUNTS_PERIOD_S = 60.0
ACCOUNTS_RETRY_S = 3.0
#: Source: RFC 5672's registration; TLS is the rule.
_PORTS = {"amqp": 5672, "amqps": 5671}


class OwnBroker(msgspec.Struct, frozen=True, kw_only=True):
    """The broker of this cell, as its owner reaches it. Shows no password."""

    address: AmqpAddress
    admin_url: str

    @property
    def public_url(self) -> str:
        """Its address as the topology says it."""
        place = self.address
        scheme = "amqp" if place.tls_ca is None else "amqps"
        return f"{scheme}://{place.host}:{place.port}/{place.virtual_host.strip('/')}".rstrip("/")

    @property
    def public_ca(self) -> bytes:
        """The certificate that its own comes from, in DER."""
        pem = self.address.tls_ca
        if pem is None:
            return b""
        import ssl  # noqa: PLC0415 - a cloud without a broker pays nothing

        return ssl.PEM_cert_to_DER_cert(pem.decode())


def read_broker(url: str, *, password: str, ca: bytes | None, admin_url: str) -> OwnBroker:
    """Read a broker's address, ``amqps://user@host:port/vhost``.

    Raises:
        Invalid: it is no such address.
    """
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname or parts.password is not None:
        raise Invalid(
            "the broker's address is not amqps://USER@HOST[:PORT][/VHOST]; its password belongs "
            "in XENITH_BROKER_PASSWORD"
        )
    address = AmqpAddress(
        host=parts.hostname,
        port=parts.port or _PORTS[parts.scheme],
        user=unquote(parts.username or "xenith"),
        password=password,
        virtual_host=unquote(parts.path.lstrip("/")) or "/",
        tls_ca=ca if parts.scheme == "amqps" else None,
    )
    return OwnBroker(address=address, admin_url=admin_url)


def own_broker(settings: Settings) -> OwnBroker | None:
    """Read the settings of the cell's own broker; None when it has none.

    Raises:
        Invalid: they are no address, or the certificate cannot be read.
    """
    if not settings.broker:
        return None
    ca = None
    if settings.broker_ca:
        try:
            ca = Path(settings.broker_ca).read_bytes()
        except OSError as error:
            raise Invalid(f"the broker's certificate cannot be read: {error}") from error
    return read_broker(
        settings.broker,
        password=settings.broker_password,
        ca=ca,
        admin_url=settings.broker_admin,
    )


class LinkBuses:
    """Gives a process's node the bus of each link, and keeps the accounts of its parents."""

    def __init__(
        self,
        world: World,
        *,
        own: CellId,
        key: CellKey,
        topology: Callable[[], Topology],
        broker: OwnBroker | None,
    ) -> None:
        self._world = world
        self._own = own
        self._key = key
        self._topology = topology
        self._broker = broker
        self._upward: Bus | None = None
        #: By child and the address of its broker.
        self._downward: dict[tuple[CellId, str, bytes], Bus] = {}
        self._granted: set[tuple[CellId, bytes]] = set()
        self._wake = asyncio.Event()
        self._tasks = TaskOwner("links", world.clock)

    def __call__(self, _parent: CellId, child: CellId) -> Bus:
        """Give the bus of the link between a parent and a child, one of which is this cell."""
        if child == self._own:
            self._wake.set()
            return self._own_bus()
        return self._bus_of(self._topology().get(child))

    def start(self) -> None:
        """Begin to keep the accounts; the broker may be away."""
        if self._broker is not None:
            self._tasks.keep("accounts", self._keep_accounts)

    async def close(self) -> None:
        """Let go of every connection."""
        await self._tasks.stop()
        for bus in (*self._downward.values(), *([self._upward] if self._upward else [])):
            await bus.close()

    def _own_bus(self) -> Bus:
        if self._upward is None:
            if self._broker is None:
                raise Invalid("a cell below another needs a broker: give --broker")
            self._upward = _open(self._world, self._broker.address, declares=True)
        return self._upward

    def _bus_of(self, child: CellEntry) -> Bus:
        place = (child.id, child.broker, child.broker_ca)
        bus = self._downward.get(place)
        if bus is None:
            bus = self._downward[place] = self._open_downward(child)
        return bus

    def _open_downward(self, child: CellEntry) -> Bus:
        if not child.broker:
            # Nothing will come of it until the child says where its broker is.
            return MemoryBus(self._world.clock)
        import ssl  # noqa: PLC0415 - as above

        parts = urlsplit(child.broker)
        ca = ssl.DER_cert_to_PEM_cert(child.broker_ca).encode() if child.broker_ca else None
        address = AmqpAddress(
            host=parts.hostname or "",
            port=parts.port or _PORTS.get(parts.scheme, 5671),
            user=account_of(self._own),
            password=_password(self._key, child.key, parent=self._own, child=child.id),
            virtual_host=unquote(parts.path.lstrip("/")) or "/",
            tls_ca=ca,
        )
        return _open(self._world, address, declares=False)

    async def _keep_accounts(self) -> None:
        """Have the account and the queues of every parent at this cell's broker."""
        while True:
            self._wake.clear()
            try:
                await self._grant_all()
                wait_s = ACCOUNTS_PERIOD_S
            except XenithError as error:
                _log.warning("accounts not kept", error=str(error))
                wait_s = ACCOUNTS_RETRY_S
            sleeping = asyncio.ensure_future(self._world.clock.sleep(wait_s))
            waking = asyncio.ensure_future(self._wake.wait())
            try:
                await asyncio.wait({sleeping, waking}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                sleeping.cancel()
                waking.cancel()

    async def _grant_all(self) -> None:
        assert self._broker is not None, "there is a broker to keep"
        from xenith.bus.broker import BrokerAdmin  # noqa: PLC0415 - as below

        parents = self._topology().parents(self._own)
        wanted = [each for each in parents if (each.id, each.key.sealing) not in self._granted]
        if not wanted:
            return
        place = self._broker.address
        admin = BrokerAdmin(
            self._broker.admin_url,
            user=place.user,
            password=place.password,
            tls_ca=place.tls_ca or b"",
        )
        try:
            for parent in wanted:
                await self._grant(admin, parent)
                self._granted.add((parent.id, parent.key.sealing))
        finally:
            await admin.close()

    async def _grant(self, admin: BrokerAdmin, parent: CellEntry) -> None:
        from xenith.bus.amqp import AmqpBus  # noqa: PLC0415 - a cloud without a broker pays nothing

        down, up = topic_of(parent.id, self._own), topic_of(self._own, parent.id)
        bus = self._own_bus()
        assert isinstance(bus, AmqpBus), "a broker is reached over AMQP"
        await bus.declare(down, name=self._own)
        await bus.declare(up, name=parent.id)
        await admin.add_link_account(
            account_of(parent.id),
            _password(self._key, parent.key, parent=parent.id, child=self._own),
            publishes=[down],
            reads=[(up, parent.id)],
            virtual_host=self._broker.address.virtual_host if self._broker else "/",
        )
        _log.info("account kept", parent=parent.id)


def account_of(parent: CellId) -> str:
    """Name the account of a parent at its child's broker."""
    return f"link-{parent}"


def _password(key: CellKey, other: PublicKey, *, parent: CellId, child: CellId) -> str:
    return key.shared_with(other, f"link broker {parent} {child}".encode()).hex()


def _open(world: World, address: AmqpAddress, *, declares: bool) -> Bus:
    from xenith.bus.amqp import AmqpBus  # noqa: PLC0415 - as above

    return AmqpBus(address, world.clock, declares=declares)
