"""A link over a real broker: what both sides say arrives, and the parent can do nothing else."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import aio_pika
import msgspec
import pytest
from aiormq.exceptions import AMQPError, ChannelAccessRefused
from region import until

from xenith.bus import Bus, Priority
from xenith.bus.address import AmqpAddress, exchange_name, queue_name
from xenith.bus.broker import BrokerAdmin
from xenith.cells.keys import CellKey
from xenith.cells.link import Link, topic_of
from xenith.cells.messages import Heads, Hello, Ping, Pong, Reply
from xenith.cells.topology import Topology
from xenith.core.ids import CellId
from xenith.core.world import World
from xenith.dev import link_buses
from xenith.dev.cells import entry
from xenith.dev.link_buses import LinkBuses, OwnBroker, account_of
from xenith.dev.rabbitmq import Rabbit

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

KEYS = {name: CellKey.derive(name.encode()) for name in ("up", "other", "down")}
UP, OTHER, DOWN = CellId("up"), CellId("other"), CellId("down")
MESSAGES = 300


class Side:
    """One cell's end of the link, with buses as its process would have them."""

    def __init__(self, own: CellId, peer: CellId, tree: Tree, broker: OwnBroker | None) -> None:
        self.heard: list[Any] = []
        world = World()
        self.buses = LinkBuses(
            world, own=own, key=KEYS[own], topology=lambda: tree.topology, broker=broker
        )
        bus: Bus = self.buses(UP, DOWN)
        self.link = Link(
            world,
            bus,
            key=KEYS[own],
            own=own,
            peer=peer,
            topology=lambda: tree.topology,
            hello=self._hello,
            on_open=self._on_open,
            handlers=dict.fromkeys((Ping, Pong, Reply, Heads), self._hear),
        )

    async def start(self) -> None:
        self.buses.start()
        await self.link.start()

    async def stop(self) -> None:
        await self.link.stop()
        await self.buses.close()

    async def _hello(self) -> Hello:
        return Hello()

    async def _on_open(self, _hello: Hello) -> None:
        return None

    async def _hear(self, group: list[Any]) -> None:
        self.heard += group


class Tree:
    """Two cells with a link, on a virtual host of the broker that nothing else is in."""

    def __init__(self, rabbit: Rabbit, virtual_host: str) -> None:
        address = rabbit.address(virtual_host=virtual_host)
        self.broker = OwnBroker(address=address, admin_url=rabbit.admin_url)
        self.topology = self.below(UP)
        self.up = Side(UP, DOWN, self, None)
        self.down = Side(DOWN, UP, self, self.broker)

    def below(self, *parents: CellId) -> Topology:
        """Give the topology in which the child has these parents."""
        child = msgspec.structs.replace(
            entry(DOWN, "down", KEYS["down"], parents),
            broker=self.broker.public_url,
            broker_ca=self.broker.public_ca,
        )
        root = entry(UP, "up", KEYS["up"])
        return Topology(
            region="test",
            version=1,
            cells=(root, entry(OTHER, "other", KEYS["other"], [UP]), child),
        )

    def parents_address(self) -> AmqpAddress:
        """How the parent reaches the broker."""
        found = link_buses._parents_address(UP, KEYS["up"], self.topology.get(DOWN))
        assert found is not None
        return found

    async def accounts(self, admin: BrokerAdmin) -> set[str]:
        """The accounts of links of this child."""
        return {each for each in await admin.list_accounts() if each.endswith(f"-{DOWN}")}


@pytest.fixture
async def admin(rabbitmq: Rabbit) -> AsyncIterator[BrokerAdmin]:
    admin = rabbitmq.admin()
    yield admin
    await admin.close()


@pytest.fixture
async def tree(rabbitmq: Rabbit, admin: BrokerAdmin) -> AsyncIterator[Tree]:
    place = secrets.token_hex(8)
    await admin.add_virtual_host(place)
    tree = Tree(rabbitmq, place)
    await tree.up.start()
    await tree.down.start()
    yield tree
    await tree.up.stop()
    await tree.down.stop()
    await admin.remove_account(account_of(UP, DOWN))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_buses, "ACCOUNTS_PERIOD_S", 0.2)


async def is_open(tree: Tree) -> bool:
    return tree.up.link.is_open and tree.down.link.is_open


async def test_both_sides_open_and_hear_what_the_other_says_in_each_class(tree: Tree):
    await until(lambda: is_open(tree), lambda: (tree.up.link.counts, tree.down.link.counts))
    for number in range(MESSAGES):
        assert tree.up.link.post(Ping(number))
        assert tree.down.link.post(Pong(number))
        if number % 50 == 0:
            assert tree.down.link.post(Heads({}))
        await asyncio.sleep(0)

    async def have_heard() -> bool:
        return len(tree.down.heard) == MESSAGES and len(tree.up.heard) == MESSAGES + 6

    await until(have_heard, lambda: (len(tree.up.heard), len(tree.down.heard)))
    assert tree.down.heard == [Ping(number) for number in range(MESSAGES)]
    assert [each for each in tree.up.heard if isinstance(each, Pong)] == [
        Pong(number) for number in range(MESSAGES)
    ]


async def test_the_parents_account_makes_nothing_and_reads_and_writes_its_own_link_alone(
    tree: Tree, rabbitmq: Rabbit
):
    await until(lambda: is_open(tree), lambda: tree.up.link.counts)
    address = tree.parents_address()
    assert address.user == account_of(UP, DOWN)
    assert address.password not in (rabbitmq.address().password, "")
    down, up = topic_of(UP, DOWN), topic_of(DOWN, UP)
    own = queue_name(down, DOWN, Priority.INTENT)
    refused: list[Callable[[Any], Any]] = [
        lambda channel: channel.declare_queue("mine", durable=True),
        lambda channel: channel.declare_exchange("mine", durable=True),
        lambda channel: channel.declare_queue(own, durable=True),
        lambda channel: _read(channel, own),
        lambda channel: _publish(channel, exchange_name(up)),
        lambda channel: _publish(channel, ""),
        lambda channel: _bind(channel, own, exchange_name(up)),
        lambda channel: _delete(channel, own),
        lambda channel: _purge(channel, own),
    ]
    connection = await _connect(address)
    async with connection:
        for attempt in refused:
            channel = await connection.channel(publisher_confirms=True)
            with pytest.raises((ChannelAccessRefused, AMQPError)) as raised:
                await attempt(channel)
            assert "ACCESS_REFUSED" in str(raised.value), raised.value
    # Another virtual host is closed to it, and the management too.
    with pytest.raises(AMQPError):
        await _connect(msgspec.structs.replace(address, virtual_host="/"))
    stranger = BrokerAdmin(
        rabbitmq.admin_url, user=address.user, password=address.password, tls_ca=address.tls_ca
    )
    with pytest.raises(Exception, match="401"):
        await stranger.list_accounts()
    await stranger.close()


@pytest.mark.usefixtures("quick")
async def test_an_account_that_is_gone_comes_back(tree: Tree, admin: BrokerAdmin):
    await until(lambda: is_open(tree), lambda: tree.up.link.counts)
    await admin.remove_account(account_of(UP, DOWN))
    tree.down.link.post(Ping(0))
    tree.up.heard.clear()

    async def is_heard() -> bool:
        tree.down.link.post(Pong(7))
        return Pong(7) in tree.up.heard

    await until(is_heard, lambda: tree.up.link.counts)
    assert account_of(UP, DOWN) in await admin.list_accounts()


@pytest.mark.usefixtures("quick")
async def test_who_is_no_parent_any_more_has_no_account(tree: Tree, admin: BrokerAdmin):
    await until(lambda: is_open(tree), lambda: tree.up.link.counts)
    tree.topology = tree.below(OTHER)

    async def is_changed() -> bool:
        return await tree.accounts(admin) == {account_of(OTHER, DOWN)}

    await until(is_changed, lambda: tree.topology)
    with pytest.raises(AMQPError):
        await _connect(tree.parents_address())
    await admin.remove_account(account_of(OTHER, DOWN))


async def _connect(address: AmqpAddress) -> Any:
    assert address.tls_ca is not None
    return await aio_pika.connect(
        host=address.host,
        port=address.port,
        login=address.user,
        password=address.password,
        virtualhost=address.virtual_host,
        ssl=True,
        ssl_context=ssl.create_default_context(cadata=address.tls_ca.decode()),
    )


async def _read(channel: Any, queue: str) -> None:
    async def take(_message: Any) -> None:
        return None

    await (await channel.get_queue(queue, ensure=False)).consume(take)


async def _publish(channel: Any, exchange: str) -> None:
    found = (
        channel.default_exchange
        if not exchange
        else await channel.get_exchange(exchange, ensure=False)
    )
    await found.publish(aio_pika.Message(b"x"), routing_key="0")


async def _bind(channel: Any, queue: str, exchange: str) -> None:
    await (await channel.get_queue(queue, ensure=False)).bind(exchange, "0")


async def _delete(channel: Any, queue: str) -> None:
    await (await channel.get_queue(queue, ensure=False)).delete(if_unused=False, if_empty=False)


async def _purge(channel: Any, queue: str) -> None:
    await (await channel.get_queue(queue, ensure=False)).purge()
