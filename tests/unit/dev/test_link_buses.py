"""Where brokers are is read from settings and from what children say; neither may be anything."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import msgspec
import pytest

from xenith.bus import MemoryBus
from xenith.bus.amqp import AmqpBus
from xenith.bus.broker import make_tls
from xenith.cells.keys import CellKey
from xenith.cells.topology import CellEntry, Topology
from xenith.core.clock import ManualClock
from xenith.core.errors import Invalid
from xenith.core.ids import CellId, Ids
from xenith.core.settings import Settings
from xenith.core.world import World
from xenith.dev.cells import entry
from xenith.dev.link_buses import UNUSED_S, LinkBuses, account_of, own_broker

ROOT, CHILD = CellKey.derive(b"root"), CellKey.derive(b"child")
CHILD_ID = CellId("child")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(dt.datetime(2026, 1, 1, tzinfo=dt.UTC).timestamp())


@pytest.fixture
def ca(tmp_path: Path, clock: ManualClock) -> Path:
    return make_tls(tmp_path, clock).ca_path


def settings(**given: str) -> Settings:
    return Settings(broker_password="secret", **given)


def tree(*, broker: str = "", broker_ca: bytes = b"") -> Topology:
    child = entry(CHILD_ID, "child", CHILD, [CellId("root")])
    child = msgspec.structs.replace(child, broker=broker, broker_ca=broker_ca)
    return Topology(region="r", version=1, cells=(entry(CellId("root"), "api", ROOT), child))


class Parent:
    """The buses of a root, and the topology that they follow."""

    def __init__(self, clock: ManualClock, topology: Topology) -> None:
        self.topology = topology
        self.buses = LinkBuses(
            World(clock, Ids(1)),
            own=CellId("root"),
            key=ROOT,
            topology=lambda: self.topology,
            broker=None,
        )

    def bus(self) -> object:
        return self.buses(CellId("root"), CHILD_ID)


def test_a_broker_is_read_with_its_certificate_and_told_without_its_account(ca: Path):
    found = own_broker(
        settings(broker="amqps://me@b.example/x", broker_ca=str(ca), broker_admin="https://b:1")
    )
    assert found is not None
    assert found.public_url == "amqps://b.example:5671/x"
    assert found.address.user == "me"
    assert found.address.tls_ca == ca.read_bytes()
    assert found.public_ca
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"broker": "amqps://b:1", "broker_admin": "https://b:2"}, "--broker-ca"),
        ({"broker": "amqp://b.example:1", "broker_admin": "https://b:2"}, "with TLS"),
        ({"broker": "amqp://127.0.0.1:1"}, "--broker-admin"),
        ({"broker": "amqp://u:p@127.0.0.1:1", "broker_admin": "https://b:2"}, "BROKER_PASSWORD"),
        ({"broker": "amqps://b:99999", "broker_admin": "https://b:2"}, "is not amqps://"),
        ({"broker": "http://127.0.0.1:1", "broker_admin": "https://b:2"}, "is not amqps://"),
        ({"broker": "amqps://b", "broker_ca": "/nowhere", "broker_admin": "x"}, "cannot be read"),
    ],
)
def test_what_would_send_a_password_in_the_clear_or_make_no_accounts_is_refused(
    given: dict[str, str], said: str
):
    with pytest.raises(Invalid, match=said):
        own_broker(settings(**given))


@pytest.mark.parametrize(
    ("broker", "broker_ca"),
    [
        ("", b""),
        ("amqps://b:5671", b""),
        ("amqp://b:5672", b"certificate"),
        ("amqps://b:99999", b"certificate"),
        ("amqps://b:no", b"certificate"),
        ("amqps://[b", b"certificate"),
        ("http://b:80", b""),
        ("nonsense", b""),
    ],
)
def test_whatever_a_child_says_of_its_broker_the_parent_goes_on(
    clock: ManualClock, broker: str, broker_ca: bytes
):
    assert isinstance(Parent(clock, tree(broker=broker, broker_ca=broker_ca)).bus(), MemoryBus)


async def test_a_parent_has_one_bus_for_each_child_until_its_broker_is_elsewhere(
    clock: ManualClock,
):
    parent = Parent(clock, tree(broker="amqp://127.0.0.1:1"))
    first = parent.bus()
    assert isinstance(first, AmqpBus)
    assert parent.bus() is first
    parent.topology = tree(broker="amqp://127.0.0.1:2")
    second = parent.bus()
    assert second is not first
    await parent.buses.close()


async def test_the_connection_to_a_former_child_is_kept_until_it_must_have_been_told(
    clock: ManualClock,
):
    parent = Parent(clock, tree(broker="amqp://127.0.0.1:1"))
    bus = parent.bus()
    assert isinstance(bus, AmqpBus)
    parent.topology = tree(broker="amqp://127.0.0.1:2")
    await parent.buses._let_go_of_unused()
    await clock.advance(UNUSED_S - 1)
    await parent.buses._let_go_of_unused()
    assert not bus._is_closed
    await clock.advance(2)
    await parent.buses._let_go_of_unused()
    assert bus._is_closed
    await parent.buses.close()


def test_an_account_is_of_one_link():
    cells: list[CellEntry] = list(tree().cells)
    names = {account_of(a.id, b.id) for a in cells for b in cells if a is not b}
    assert len(names) == 2
