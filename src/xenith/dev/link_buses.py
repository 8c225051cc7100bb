"""The buses of a cell that runs in a process of its own: RabbitMQ, one broker a cell.

A link is on the child's broker, where its two topics are: the child reaches it as the broker's
owner, the parent with an account that may publish to one of them and read the other, and no more.
The account's password follows from the keys of both cells, so it is sent nowhere and kept nowhere.
What goes wrong at one broker is felt by its cell alone. Each side has one connection: the child one
to its own broker for all its parents, a parent one to the broker of each child.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import msgspec

from xenith.bus import Bus, MemoryBus
from xenith.bus.address import PORTS, AmqpAddress, read_place
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
    from xenith.bus.amqp import AmqpBus
    from xenith.bus.broker import BrokerAdmin

#: A child, and the address and the certificate of its broker.
_Place = tuple[CellId, str, bytes]

_log = logger("dev.links")

#: Seconds between looks at the accounts: a broker that was made anew has none.
ACCOUNTS_PERIOD_S = 60.0
ACCOUNTS_RETRY_S = 3.0
#: Seconds for which the connection to a former child is kept, so that it can be told: its parent
#: tries for ten minutes.
UNUSED_S = 660.0
#: Where nothing goes over a wire.
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


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
    try:
        parts = urlsplit(url)
        port = parts.port
        is_address = parts.scheme in PORTS and parts.password is None
    except ValueError:
        is_address = False
    if not is_address or not parts.hostname:
        raise Invalid(
            "the broker's address is not amqps://USER@HOST[:PORT][/VHOST]; its password belongs "
            "in XENITH_BROKER_PASSWORD"
        )
    is_secret = parts.scheme == "amqps"
    if is_secret and not ca:
        raise Invalid("of a broker with TLS the certificate is needed: give --broker-ca FILE")
    if not is_secret and parts.hostname not in LOOPBACK_NAMES:
        raise Invalid("a broker on another machine is reached with TLS: amqps://")
    address = AmqpAddress(
        host=parts.hostname,
        port=port or PORTS[parts.scheme],
        user=unquote(parts.username or "xenith"),
        password=password,
        virtual_host=unquote(parts.path.lstrip("/")) or "/",
        tls_ca=ca if is_secret else None,
    )
    return OwnBroker(address=address, admin_url=admin_url)


def own_broker(settings: Settings) -> OwnBroker | None:
    """Read the settings of the cell's own broker; None when it has none.

    Raises:
        Invalid: they are no address, the certificate cannot be read, or something is left out.
    """
    if not settings.broker:
        return None
    if not settings.broker_admin:
        raise Invalid(
            "the broker's management is not known, and the accounts of parents are made there: "
            "give --broker-admin https://HOST:PORT"
        )
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
        self._upward: AmqpBus | None = None
        #: By child and the address of its broker.
        self._downward: dict[_Place, Bus] = {}
        #: Since when, by the monotonic clock, the child has not been one, or not there.
        self._unused: dict[_Place, float] = {}
        #: Why the accounts could not be kept the last time.
        self._reason = ""
        self._wake = asyncio.Event()
        self._tasks = TaskOwner("links", world.clock)

    def __call__(self, _parent: CellId, child: CellId) -> Bus:
        """Give the bus of the link between a parent and a child, one of which is this cell."""
        if child == self._own:
            self._wake.set()
            return self._own_bus()
        return self._bus_of(self._topology().get(child))

    def start(self) -> None:
        """Begin to keep accounts and connections; brokers may be away."""
        self._tasks.keep("keep", self._keep)

    async def close(self) -> None:
        """Let go of every connection."""
        await self._tasks.stop()
        for bus in (*self._downward.values(), *([self._upward] if self._upward else [])):
            await bus.close()

    def _own_bus(self) -> AmqpBus:
        if self._upward is None:
            if self._broker is None:
                raise Invalid("a cell below another needs a broker: give --broker")
            self._upward = _open(self._world, self._broker.address, declares=True)
        return self._upward

    def _bus_of(self, child: CellEntry) -> Bus:
        place = _place_of(child)
        self._unused.pop(place, None)
        if place not in self._downward:
            self._downward[place] = self._open_downward(child)
        return self._downward[place]

    def _open_downward(self, child: CellEntry) -> Bus:
        address = _parents_address(self._own, self._key, child)
        if address is None:
            # Nothing will come of it until the child says where its broker is.
            _log.warning("no broker to reach a child at", child=child.id, broker=child.broker)
            return MemoryBus(self._world.clock)
        return _open(self._world, address, declares=False)

    async def _keep(self) -> None:
        while True:
            self._wake.clear()
            await self._let_go_of_unused()
            await self._wait(await self._keep_accounts())

    async def _wait(self, seconds: float) -> None:
        """Wait, but not for what a new parent wants."""
        waking = asyncio.ensure_future(self._wake.wait())
        sleeping = asyncio.ensure_future(self._world.clock.sleep(seconds))
        try:
            await asyncio.wait({sleeping, waking}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            waking.cancel()

    # -- the parents' accounts at this cell's broker

    async def _keep_accounts(self) -> float:
        """Have the account and the queues of every parent; tell when to look again."""
        if self._broker is None:
            return ACCOUNTS_PERIOD_S
        try:
            await self._grant_all(self._broker)
        except XenithError as error:
            if str(error) != self._reason:
                _log.warning("accounts not kept, trying again", error=str(error))
            self._reason = str(error)
            return ACCOUNTS_RETRY_S
        if self._reason:
            _log.info("accounts kept")
        self._reason = ""
        return ACCOUNTS_PERIOD_S

    async def _grant_all(self, broker: OwnBroker) -> None:
        from xenith.bus.broker import BrokerAdmin  # noqa: PLC0415 - as below

        parents = self._topology().parents(self._own)
        place = broker.address
        admin = BrokerAdmin(
            broker.admin_url, user=place.user, password=place.password, tls_ca=place.tls_ca or b""
        )
        try:
            await self._revoke_others(admin, {account_of(each.id, self._own) for each in parents})
            await asyncio.gather(*(self._grant(admin, place, parent) for parent in parents))
        finally:
            await admin.close()

    async def _grant(self, admin: BrokerAdmin, place: AmqpAddress, parent: CellEntry) -> None:
        down, up = topic_of(parent.id, self._own), topic_of(self._own, parent.id)
        bus = self._own_bus()
        # Side by side, since a new queue is given time to settle.
        await asyncio.gather(
            admin.add_link_account(
                account_of(parent.id, self._own),
                _password(self._key, parent.key, parent=parent.id, child=self._own),
                publishes=[down],
                reads=[(up, parent.id)],
                virtual_host=place.virtual_host,
            ),
            bus.declare(down, name=self._own),
            bus.declare(up, name=parent.id),
        )

    async def _revoke_others(self, admin: BrokerAdmin, wanted: set[str]) -> None:
        """Remove the accounts of cells that are no parents any more, and end their connections."""
        for account in await admin.list_accounts():
            if is_account_at(account, self._own) and account not in wanted:
                await admin.remove_account(account)
                _log.info("account removed", account=account)

    # -- connections to the brokers of children

    async def _let_go_of_unused(self) -> None:
        topology, now = self._topology(), self._world.clock.monotonic()
        wanted = {_place_of(each) for each in topology.children(self._own)}
        for place in [each for each in self._downward if each not in wanted]:
            if now - self._unused.setdefault(place, now) >= UNUSED_S:
                del self._unused[place]
                await self._downward.pop(place).close()


def account_of(parent: CellId, child: CellId) -> str:
    """Name the account of a parent at its child's broker."""
    return f"link-{parent}-{child}"


def is_account_at(account: str, child: CellId) -> bool:
    """Tell whether this is the account of some parent of a child."""
    return account.startswith("link-") and account.endswith(f"-{child}")


def _place_of(child: CellEntry) -> _Place:
    return child.id, child.broker, child.broker_ca


def _parents_address(own: CellId, key: CellKey, child: CellEntry) -> AmqpAddress | None:
    """Say how a parent reaches its child's broker; None where the child told of none that is one.

    A child says that of itself, so what it says may be anything.
    """
    try:
        place = read_place(child.broker, has_certificate=bool(child.broker_ca))
    except Invalid:
        return None
    ca = None
    if child.broker_ca:
        import ssl  # noqa: PLC0415 - as above

        ca = ssl.DER_cert_to_PEM_cert(child.broker_ca).encode()
    return AmqpAddress(
        host=place.host,
        port=place.port,
        user=account_of(own, child.id),
        password=_password(key, child.key, parent=own, child=child.id),
        virtual_host=place.virtual_host,
        tls_ca=ca,
    )


def _password(key: CellKey, other: PublicKey, *, parent: CellId, child: CellId) -> str:
    return key.shared_with(other, f"link broker {parent} {child}".encode()).hex()


def _open(world: World, address: AmqpAddress, *, declares: bool) -> AmqpBus:
    from xenith.bus.amqp import AmqpBus  # noqa: PLC0415 - as above

    return AmqpBus(address, world.clock, declares=declares)
