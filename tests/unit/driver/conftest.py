"""A host that speaks XenAPI on loopback, simulated below it, and a driver for it."""

import asyncio
import contextlib
import struct
import time
from dataclasses import dataclass, field

import pytest

from xenith.core.ids import Ids
from xenith.core.world import World
from xenith.driver import HostAddress, HostDriver, VmNic, VmSpec
from xenith.toolstack.backends.sim import SimBackend
from xenith.toolstack.fleet import Fleet
from xenith.xapi import XapiSession

IMAGE_ID = "11111111-0000-4000-8000-000000000001"
INSTANCE_ID = "22222222-0000-4000-8000-000000000001"
GIB = 1024**3


class QuickClock:
    """The machine's clock, on which waiting takes a thousandth of the time."""

    def now(self):
        return 1_700_000_000.0 + time.monotonic() * 1000

    def monotonic(self):
        return asyncio.get_running_loop().time() * 1000

    async def sleep(self, delay_s):
        await asyncio.sleep(delay_s / 1000)


@dataclass
class Bench:
    """One host and what a driver of it told."""

    world: World
    fleet: Fleet
    backend: SimBackend
    endpoint: object
    images: dict = field(default_factory=dict)
    opened: list = field(default_factory=list)
    powers: list = field(default_factory=list)
    states: list = field(default_factory=list)
    drivers: list = field(default_factory=list)
    operators: list = field(default_factory=list)

    @property
    def host(self):
        return self.fleet.hosts["h1"]

    def records(self, class_name):
        found = self.host.objects.all(class_name).values()
        # The parents of clones are the storage's own.
        return [record for record in found if record.get("managed", True)]

    async def open_image(self, image_id):
        self.opened.append(image_id)
        for piece in self.images[image_id]:
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, asyncio.Event):
                await piece.wait()
                continue
            yield piece

    def make_driver(self, **changes):
        address = {
            "id": "host-1",
            "name": "h1",
            "url": self.endpoint.url,
            "user": "root",
            "password": "pw",
        }
        driver = HostDriver(
            self.world,
            HostAddress(**{**address, **changes}),
            on_power=lambda *heard: self.powers.append(heard),
            on_state=lambda *heard: self.states.append(heard),
            open_image=self.open_image,
        )
        self.drivers.append(driver)
        return driver

    async def connect(self, **changes):
        driver = self.make_driver(**changes)
        await driver.start()
        async with asyncio.timeout(5):
            await driver.answered()
        return driver

    @contextlib.contextmanager
    def counted(self, driver):
        """Count the calls that a driver makes, by name."""
        calls = []
        inner = driver._line.session.call

        async def call(method, *params, **options):
            calls.append(method)
            return await inner(method, *params, **options)

        driver._line.session.call = call
        try:
            yield calls
        finally:
            driver._line.session.call = inner

    async def operator(self):
        """Give the session of somebody else who works on the host."""
        session = await XapiSession.login(
            self.endpoint.url, user="root", password="pw", originator="operator"
        )
        self.operators.append(session)
        return session

    def names(self, class_name="VDI"):
        return sorted(record["name_label"] for record in self.records(class_name))


@pytest.fixture
async def bench():
    world = World(clock=QuickClock(), ids=Ids(seed=7))
    fleet = Fleet(world, event_batch_s=0.0)
    backend = SimBackend(
        world, memory_bytes=8 * GIB, cpu_count=8, disk_bytes=200 * GIB, latency_s=0.0
    )
    endpoint = await fleet.add_host("h1", backend, password="pw")
    bench = Bench(world, fleet, backend, endpoint, images={IMAGE_ID: [b"\x00" * 1024 * 1024]})
    yield bench
    for session in bench.operators:
        await session.logout()
    for driver in bench.drivers:
        await driver.stop()
    await fleet.stop()


@pytest.fixture
async def driver(bench):
    return await bench.connect()


def make_spec(instance_id=INSTANCE_ID, **changes):
    values = {
        "instance_id": instance_id,
        "name": "web",
        "hostname": "web",
        "ram_mib": 64,
        "vcpus": 1,
        "root_gib": 1,
        "image_id": IMAGE_ID,
        "image_format": "raw",
        "image_size_bytes": 1024 * 1024,
        "nics": (
            VmNic(
                port_id="p1",
                network_id="n1",
                mac="fa:16:3e:00:00:01",
                mtu=1450,
                device=0,
                ipv4=("10.0.0.5",),
            ),
        ),
        "xenstore": {"vm-data/hostname": "web"},
    }
    return VmSpec(**{**values, **changes})


@pytest.fixture
def spec():
    return make_spec()


@pytest.fixture
def make():
    return make_spec


async def build(driver, spec):
    """Do the steps of a build."""
    await driver.ensure_image(
        spec.image_id, disk_format=spec.image_format, size_bytes=spec.image_size_bytes
    )
    await driver.create_root_disk(spec)
    await driver.create_config_drive(spec)
    await driver.create_vm(spec)
    await driver.start_vm(spec.instance_id)
    return await driver.run_vm(spec.instance_id)


@pytest.fixture(name="build")
def build_fixture():
    return build


async def until(holds):
    """Let the loop run until something holds."""
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


@pytest.fixture(name="until")
def until_fixture():
    return until


def make_vhd_footer(size, kind=3):
    footer = bytearray(512)
    footer[:8] = b"conectix"
    struct.pack_into(">QQ", footer, 40, size, size)
    struct.pack_into(">I", footer, 60, kind)
    struct.pack_into(">I", footer, 64, ~sum(footer) & 0xFFFFFFFF)
    return bytes(footer)


@pytest.fixture
def vhd_footer():
    return make_vhd_footer
