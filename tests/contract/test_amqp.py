"""What a bus over a real broker does beyond the contract: when that is away, hostile or strict."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aio_pika
import msgspec
import pytest
from aiormq.exceptions import AMQPError, ChannelAccessRefused

from xenith.bus import Priority
from xenith.bus.address import AmqpAddress, exchange_name, queue_name
from xenith.bus.amqp import AmqpBus
from xenith.bus.broker import BrokerAdmin, make_tls
from xenith.core.clock import SystemClock
from xenith.core.errors import Unavailable
from xenith.core.world import World
from xenith.dev.rabbitmq import Rabbit

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CLOCK = SystemClock()
PASSWORD = "a/pass word:%@"


@pytest.fixture(scope="module")
def fragile() -> Iterator[Rabbit]:
    """A broker that these tests stop, kill and freeze; it runs between them."""
    home = Path(tempfile.mkdtemp(prefix="xenith-rabbitmq-"))
    broker = Rabbit(home, World())
    asyncio.run(broker.start())
    yield broker
    broker.kill()
    shutil.rmtree(home)


@pytest.fixture
async def admin(rabbitmq) -> AsyncIterator[BrokerAdmin]:
    admin = rabbitmq.admin()
    yield admin
    await admin.close()


@pytest.fixture
async def place(admin) -> str:
    """A virtual host with nothing in it."""
    name = secrets.token_hex(8)
    await admin.add_virtual_host(name)
    return name


@pytest.fixture
async def buses() -> AsyncIterator[list[AmqpBus]]:
    """Whatever is put in here is closed at the end."""
    made: list[AmqpBus] = []
    yield made
    for bus in made:
        await bus.close()


@pytest.fixture
def bus(rabbitmq, place, buses) -> AmqpBus:
    """The owner's bus."""
    buses.append(AmqpBus(rabbitmq.address(virtual_host=place), CLOCK))
    return buses[0]


@pytest.fixture
async def link(rabbitmq, admin, place, bus, buses) -> AmqpBus:
    """A neighbour's bus: it may publish to `up`, read `down` of itself, and declare nothing."""
    await admin.add_link_account(
        "neighbour", PASSWORD, publishes=["up"], reads=[("down", "me")], virtual_host=place
    )
    queues = [("up", "owner"), ("down", "me"), ("down", "other")]
    await asyncio.gather(*(bus.declare(topic, name=name) for topic, name in queues))
    address = rabbitmq.address("neighbour", PASSWORD, virtual_host=place)
    buses.append(AmqpBus(address, CLOCK, declares=False))
    return buses[-1]


async def take(bus: AmqpBus, topic: str, name: str, count: int, *, ack: bool = True) -> list[bytes]:
    taken: list[bytes] = []
    async with asyncio.timeout(30), bus.subscribe(topic, name=name) as deliveries:
        async for delivery in deliveries:
            taken.append(delivery.message)
            if ack:
                await delivery.ack()
            if len(taken) == count:
                break
    return taken


def raw(address: AmqpAddress) -> asyncio.Future:
    """Connect past our own bus, as a neighbour might."""
    import ssl

    return aio_pika.connect(
        host=address.host,
        port=address.port,
        login=address.user,
        password=address.password,
        virtualhost=address.virtual_host,
        ssl=True,
        ssl_context=ssl.create_default_context(cadata=address.tls_ca.decode()),
    )


@pytest.mark.parametrize("way", ["stopped", "killed", "frozen"])
async def test_nothing_confirmed_is_lost_while_the_broker_is_away_for_a_time(
    fragile, buses, tmp_path, way
):
    buses += [AmqpBus(fragile.address(), CLOCK), AmqpBus(fragile.address(), CLOCK)]
    publisher, reader = buses
    topic = secrets.token_hex(4)
    await reader.declare(topic, name="q")
    confirmed: set[bytes] = set()
    seen: set[bytes] = set()
    is_over, came = asyncio.Event(), asyncio.Event()

    async def publish(worker: int) -> None:
        number = 0
        while not is_over.is_set():
            message = b"%d-%d" % (worker, number)
            with contextlib.suppress(Unavailable):
                await publisher.publish(topic, message, priority=Priority.INTENT, timeout_s=1.0)
                confirmed.add(message)
                number += 1

    async def read() -> None:
        async with reader.subscribe(topic, name="q") as deliveries:
            async for delivery in deliveries:
                seen.add(delivery.message)
                came.set()
                await delivery.ack()

    async def until(is_enough: Callable[[], bool]) -> None:
        while not is_enough():
            came.clear()
            await came.wait()

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(read())
        publishing = [tasks.create_task(publish(worker)) for worker in range(8)]
        await until(lambda: len(seen) >= 200)
        if way == "frozen":
            os.kill(fragile.process_id, signal.SIGSTOP)
            await CLOCK.sleep(2.0)
            os.kill(fragile.process_id, signal.SIGCONT)
        else:
            if way == "stopped":
                await fragile.stop()
            else:
                fragile.kill()
            await fragile.start()
        enough = len(seen) + 200
        await until(lambda: len(seen) >= enough)
        is_over.set()
        await asyncio.wait(publishing)
        await until(lambda: confirmed <= seen)
        reading.cancel()


async def test_what_waits_in_a_queue_outlives_the_broker_being_killed(fragile, buses):
    buses.append(AmqpBus(fragile.address(), CLOCK))
    topic = secrets.token_hex(4)
    await buses[0].declare(topic, name="q")
    for number in range(50):
        await buses[0].publish(topic, b"%d" % number, priority=Priority.LIFECYCLE)
    fragile.kill()
    await fragile.start()
    assert await take(buses[0], topic, "q", 50) == [b"%d" % number for number in range(50)]


async def test_a_publisher_is_told_within_its_deadline_while_the_broker_is_away(fragile, buses):
    buses.append(AmqpBus(fragile.address(), CLOCK))
    await buses[0].declare("t", name="q")
    os.kill(fragile.process_id, signal.SIGSTOP)
    try:
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable):
                await buses[0].publish("t", b"1", priority=Priority.INTENT, timeout_s=0.5)
    finally:
        os.kill(fragile.process_id, signal.SIGCONT)
    await buses[0].publish("t", b"2", priority=Priority.INTENT, timeout_s=20.0)


async def test_a_bus_starts_while_its_broker_is_away_and_goes_on_when_it_comes(fragile, buses):
    fragile.kill()
    buses.append(AmqpBus(fragile.address(), CLOCK))
    topic = secrets.token_hex(4)
    with pytest.raises(Unavailable, match="Connect call failed"):
        await buses[0].publish(topic, b"1", priority=Priority.INTENT, timeout_s=0.5)
    reading = asyncio.create_task(take(buses[0], topic, "q", 1))
    await fragile.start()
    async with asyncio.timeout(30):
        # Nobody's until the reader's queue is there, so it is published until it is read.
        while not reading.done():
            await buses[0].publish(topic, b"2", priority=Priority.INTENT, timeout_s=20.0)
            await asyncio.sleep(0.05)
    assert await reading == [b"2"]


async def test_a_port_where_nobody_speaks_amqp_is_a_broker_that_is_away(buses):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        address = AmqpAddress(host="127.0.0.1", port=port, user="u", password="p")
        buses.append(AmqpBus(address, CLOCK))
        with pytest.raises(Unavailable):
            await buses[0].publish("t", b"1", priority=Priority.INTENT, timeout_s=0.3)
        async with asyncio.timeout(5):
            await buses[0].close()


async def test_a_wrong_password_is_refused_and_not_repeated_to_anybody(
    rabbitmq, place, buses, capfd
):
    address = rabbitmq.address(password="not-the-password", virtual_host=place)
    buses.append(AmqpBus(address, CLOCK))
    with pytest.raises(Unavailable, match="ACCESS_REFUSED") as refused:
        await buses[0].publish("t", b"1", priority=Priority.INTENT, timeout_s=3.0)
    told = f"{refused.value} {refused.value.__cause__} {address!r} {capfd.readouterr()}"
    assert "not-the-password" not in told


async def test_a_broker_that_another_authority_vouches_for_is_refused(
    rabbitmq, place, buses, tmp_path
):
    stranger = make_tls(tmp_path, CLOCK)
    address = msgspec.structs.replace(rabbitmq.address(virtual_host=place), tls_ca=stranger.ca)
    buses.append(AmqpBus(address, CLOCK))
    with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        await buses[0].publish("t", b"1", priority=Priority.INTENT, timeout_s=1.0)


async def test_a_broker_does_not_listen_in_the_clear(rabbitmq, place, buses):
    address = msgspec.structs.replace(rabbitmq.address(virtual_host=place), tls_ca=None)
    buses.append(AmqpBus(address, CLOCK))
    with pytest.raises(Unavailable):
        await buses[0].publish("t", b"1", priority=Priority.INTENT, timeout_s=1.0)


async def test_a_link_publishes_and_reads_what_it_was_given(bus, link):
    await link.publish("up", b"up", priority=Priority.INTENT)
    await bus.publish("down", b"down", priority=Priority.BULK)
    assert await take(bus, "up", "owner", 1) == [b"up"]
    assert await take(link, "down", "me", 1) == [b"down"]


async def test_a_link_publishes_nowhere_else(bus, link):
    with pytest.raises(Unavailable, match="access to exchange 'xenith/down'"):
        await link.publish("down", b"forged", priority=Priority.INTENT, timeout_s=1.0)
    await link.publish("up", b"fine", priority=Priority.INTENT)


async def test_a_link_cannot_read_the_queue_of_another(bus, link):
    await bus.publish("down", b"secret", priority=Priority.INTENT)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0), link.subscribe("down", name="other") as deliveries:
            await anext(aiter(deliveries))
    assert await take(bus, "down", "other", 1) == [b"secret"]


@pytest.mark.parametrize(
    "attempt",
    [
        lambda channel: channel.declare_queue("mine"),
        lambda channel: channel.declare_queue(exclusive=True),
        lambda channel: channel.declare_exchange("mine"),
        lambda channel: channel.queue_delete(queue_name("down", "me", Priority.INTENT)),
        lambda channel: channel.exchange_delete(exchange_name("up")),
        lambda channel: _under(channel, "queue_purge", queue_name("down", "other", Priority.BULK)),
        lambda channel: _under(channel, "basic_get", queue_name("down", "other", Priority.BULK)),
        lambda channel: _bind(channel, exchange_name("up")),
        lambda channel: channel.default_exchange.publish(
            aio_pika.Message(b"forged"), queue_name("down", "other", Priority.INTENT)
        ),
    ],
    ids=["queue", "exclusive", "exchange", "unqueue", "unexchange", "purge", "get", "bind", "send"],
)
async def test_a_link_changes_nothing_in_the_broker(rabbitmq, place, link, attempt):
    async with await raw(rabbitmq.address("neighbour", PASSWORD, virtual_host=place)) as connection:
        channel = await connection.channel()
        with pytest.raises(ChannelAccessRefused):
            await attempt(channel)


async def _under(channel, name: str, queue: str) -> None:
    await getattr(await channel.get_underlay_channel(), name)(queue)


async def _bind(channel, exchange: str) -> None:
    queue = await channel.get_queue(queue_name("down", "me", Priority.INTENT), ensure=False)
    await queue.bind(exchange, "0")


async def test_a_link_has_no_place_in_other_virtual_hosts_nor_in_management(rabbitmq, link, place):
    with pytest.raises(AMQPError, match=r"Connection\.Close"):
        await raw(rabbitmq.address("neighbour", PASSWORD))
    owner = rabbitmq.admin()
    intruder = BrokerAdmin(
        str(owner._client.base_url),
        user="neighbour",
        password=PASSWORD,
        tls_ca=rabbitmq.address().tls_ca,
    )
    with pytest.raises(Unavailable, match="401"):
        await intruder.remove_queue("down", "other", virtual_host=place)
    with pytest.raises(Unavailable, match="401"):
        await intruder.add_link_account("friend", "p", publishes=["up"], virtual_host=place)
    await intruder.close()
    await owner.close()


async def test_a_removed_account_is_cut_off_at_once(admin, link):
    await link.publish("up", b"1", priority=Priority.INTENT)
    await admin.remove_account("neighbour")
    await admin.remove_account("neighbour")
    with pytest.raises(Unavailable, match=r"ACCESS_REFUSED|is deleted"):
        await link.publish("up", b"2", priority=Priority.INTENT, timeout_s=3.0)


async def test_a_link_may_come_before_what_it_is_given(rabbitmq, admin, place, bus, buses):
    await admin.add_link_account(
        "early", PASSWORD, publishes=["up"], reads=[("down", "me")], virtual_host=place
    )
    address = rabbitmq.address("early", PASSWORD, virtual_host=place)
    buses.append(AmqpBus(address, CLOCK, declares=False))
    with pytest.raises(Unavailable, match="no exchange 'xenith/up'"):
        await buses[-1].publish("up", b"1", priority=Priority.INTENT, timeout_s=0.5)
    reading = asyncio.create_task(take(buses[-1], "down", "me", 1))
    await bus.declare("up", name="owner")
    await bus.declare("down", name="me")
    await buses[-1].publish("up", b"1", priority=Priority.INTENT)
    await bus.publish("down", b"2", priority=Priority.INTENT)
    assert await reading == [b"2"]


async def test_a_reader_goes_on_when_its_queue_is_removed_under_it(bus, admin, place):
    reading = asyncio.create_task(take(bus, "t", "q", 2))
    await bus.declare("t", name="q")
    await bus.publish("t", b"1", priority=Priority.INTENT)
    await admin.remove_queue("t", "q", virtual_host=place)
    async with asyncio.timeout(20):
        while not reading.done():
            await bus.publish("t", b"2", priority=Priority.INTENT)
            await asyncio.sleep(0.05)
    assert (await reading)[-1] == b"2"


async def test_queues_made_with_other_limits_are_used_as_they_are(rabbitmq, place, bus, buses):
    await bus.declare("t", name="q")
    fewer = dict.fromkeys(Priority, 2)
    address = rabbitmq.address(virtual_host=place)
    buses.append(AmqpBus(address, CLOCK, credits_by_class=fewer))
    for number in range(5):
        await buses[-1].publish("t", b"%d" % number, priority=Priority.INTENT)
    assert await take(buses[-1], "t", "q", 5) == [b"0", b"1", b"2", b"3", b"4"]


async def test_what_a_reader_leaves_comes_again_in_its_order(bus):
    messages = [b"%d" % number for number in range(300)]
    await bus.declare("t", name="q")
    for message in messages:
        await bus.publish("t", message, priority=Priority.INTENT)
    assert await take(bus, "t", "q", 20) == messages[:20]
    assert await take(bus, "t", "q", 100, ack=False) == messages[20:120]
    assert await take(bus, "t", "q", 280) == messages[20:]


async def test_no_topic_or_name_can_be_taken_for_another(bus):
    places = [("a", "b/c"), ("a/b", "c"), ("a:2Fb", "c"), ("a~b %\u00e9", "c")]
    await asyncio.gather(*(bus.declare(topic, name=name) for topic, name in places))
    for topic, _ in places:
        await bus.publish(topic, topic.encode(), priority=Priority.INTENT)
    for topic, name in places:
        assert await take(bus, topic, name, 1) == [topic.encode()]


async def test_connections_and_memory_stay_flat_over_twenty_thousand_messages(rabbitmq, place, bus):
    async def carry(count: int) -> None:
        reading = asyncio.create_task(_count(bus, count))
        await asyncio.gather(*(publish(count // 50) for _ in range(50)))
        await reading

    async def publish(count: int) -> None:
        for _ in range(count):
            await bus.publish("t", bytes(500), priority=Priority.LIFECYCLE, timeout_s=30.0)

    await bus.declare("t", name="q")
    async with asyncio.timeout(180):
        await carry(4000)
        ours, theirs = _resident_mib(os.getpid()), _resident_mib(rabbitmq.process_id)
        connection_count = _connection_count(rabbitmq)
        await carry(20_000)
    assert _connection_count(rabbitmq) == connection_count
    assert _resident_mib(os.getpid()) - ours < 16
    # Its write-ahead log, of 32 MiB, is in memory too, and the next one while that is written.
    assert _resident_mib(rabbitmq.process_id) - theirs < 128


async def _count(bus: AmqpBus, count: int) -> None:
    async with bus.subscribe("t", name="q") as deliveries:
        async for delivery in deliveries:
            await delivery.ack()
            count -= 1
            if count == 0:
                return


def _resident_mib(process_id: int) -> float:
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _connection_count(broker: Rabbit) -> int:
    port = f":{broker.address().port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[1].endswith(port) and line.split()[3] == "01" for line in lines)


def test_a_broker_listens_on_loopback_only(rabbitmq):
    process = Path(f"/proc/{rabbitmq.process_id}")
    inodes = set()
    for entry in (process / "fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(str(entry.readlink()).removeprefix("socket:[").removesuffix("]"))
    listening = [
        line.split()[1].split(":")[0]
        for name in ("tcp", "tcp6")
        for line in (process / "net" / name).read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[9] in inodes
    ]
    assert listening == ["0100007F"] * 3


async def test_a_killed_broker_leaves_no_process_behind(tmp_path):
    broker = Rabbit(tmp_path / "b", World())
    await broker.start()
    assert _processes_of(tmp_path / "b")
    broker.kill()
    async with asyncio.timeout(10):
        while _processes_of(tmp_path / "b"):
            await CLOCK.sleep(0.05)
    assert not broker.is_running


def _processes_of(directory: Path) -> list[str]:
    """Those with a word of the directory in their surroundings, children of children included."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if str(directory).encode() in entry.read_bytes():
                found.append(entry.parent.name)
    return found


def test_a_password_is_in_no_representation_of_an_address():
    from rich.pretty import pretty_repr

    address = AmqpAddress(host="127.0.0.1", port=1, user="u", password="hidden-thing")
    assert "hidden-thing" not in f"{address} {address!r} {pretty_repr(address)} {[address]}"
    assert "amqp://u@127.0.0.1:1/%2F" in repr(address)
