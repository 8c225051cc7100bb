"""A host that speaks TLS: known by its pin or by a CA, and to nobody else."""

import ssl

import pytest

from xenith.core.clock import SystemClock
from xenith.core.errors import Invalid, Unavailable
from xenith.core.ids import Ids
from xenith.core.units import GIB
from xenith.core.world import World
from xenith.toolstack import tls
from xenith.toolstack.backends.sim import SimBackend
from xenith.toolstack.fleet import Fleet
from xenith.xapi import XapiFault, XapiSession

PASSWORD = "pass-the-salt"


class Host:
    def __init__(self, directory):
        self.directory = directory

    async def start(self, seed=1):
        world = World(SystemClock(), Ids(seed))
        self.fleet = Fleet(world, self.directory, event_batch_s=0)
        backend = SimBackend(world, memory_bytes=GIB, cpu_count=1, disk_bytes=GIB)
        self.end = await self.fleet.add_host("h", backend, password=PASSWORD, is_tls=True)
        await self.fleet.start()

    async def login(self, **choices):
        return await XapiSession.login(self.end.url, user="root", password=PASSWORD, **choices)

    async def call(self, method, *params, pin=""):
        session = await self.login(pin=pin or self.end.pin)
        try:
            return await session.call(method, *params, timeout_s=10)
        finally:
            await session.close()


@pytest.fixture
async def host(tmp_path):
    host = Host(tmp_path)
    await host.start()
    yield host
    await host.fleet.stop()


async def test_a_host_is_known_by_its_pin_and_keeps_it(host):
    assert host.end.url.startswith("https://")
    (ref,) = await host.call("host.get_all")
    (certificate,) = await host.call("host.get_certificates", ref)
    record = await host.call("Certificate.get_record", certificate)
    assert record["fingerprint_sha256"].replace(":", "").lower() == host.end.pin
    pin = host.end.pin
    await host.fleet.stop()
    await host.start(seed=2)
    assert host.end.pin == pin
    assert len(await host.call("Certificate.get_all")) == 1
    (kept,) = (host.directory / "tls").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600


async def test_another_pin_is_refused_before_anything_is_said(host):
    with pytest.raises(Unavailable, match="not the one it is known by"):
        await host.login(pin="00" * 32)
    with pytest.raises(Unavailable):
        await host.login()
    with pytest.raises(Invalid, match="without TLS"):
        await XapiSession.login("http://127.0.0.1:1", user="root", password="x", pin="00" * 32)


async def test_a_host_is_known_by_the_ca_of_its_certificate(host):
    (ref,) = await host.call("host.get_all")
    text = await host.call("host.get_server_certificate", ref)
    session = await host.login(ssl=ssl.create_default_context(cadata=text))
    assert await session.call("host.get_all") == [ref]
    await session.close()


async def test_an_operator_s_certificate_takes_the_place_of_the_first(host):
    (ref,) = await host.call("host.get_all")
    now_s = host.fleet.hosts["h"].world.clock.now()
    other = tls.make("other", "127.0.0.1", now_s=now_s)
    third = tls.make("third", "127.0.0.1", now_s=now_s)
    old = tls.make("old", "127.0.0.1", now_s=0.0)
    chain, key = other.chain.decode(), other.key.decode()
    for params, code in (
        (("no", key, ""), "SERVER_CERTIFICATE_INVALID"),
        ((chain, "no", ""), "SERVER_CERTIFICATE_KEY_INVALID"),
        ((chain, third.key.decode(), ""), "SERVER_CERTIFICATE_KEY_MISMATCH"),
        ((old.chain.decode(), old.key.decode(), ""), "SERVER_CERTIFICATE_EXPIRED"),
        ((chain, key, third.chain.decode()), "SERVER_CERTIFICATE_CHAIN_INVALID"),
    ):
        with pytest.raises(XapiFault, match=code):
            await host.call("host.install_server_certificate", ref, *params)
    await host.call("host.install_server_certificate", ref, chain, key, "")
    assert await host.call("host.get_all", pin=other.pin) == [ref]
    await host.call("host.refresh_server_certificate", ref, pin=other.pin)
    newest = host.fleet.hosts["h"].pin
    assert newest not in (other.pin, host.end.pin)
    assert await host.call("host.get_all", pin=newest) == [ref]


async def test_cas_of_a_pool_are_installed_listed_and_removed(host):
    text = tls.make("ca", "127.0.0.1", now_s=1e9).chain.decode()
    await host.call("pool.certificate_install", "ca.pem", text)
    assert await host.call("pool.certificate_list") == ["ca.pem"]
    for name, given, code in (
        ("ca.pem", text, "CERTIFICATE_ALREADY_EXISTS"),
        ("../x", text, "CERTIFICATE_NAME_INVALID"),
        ("b.pem", "no", "CERTIFICATE_CORRUPT"),
    ):
        with pytest.raises(XapiFault, match=code):
            await host.call("pool.certificate_install", name, given)
    await host.call("pool.certificate_uninstall", "ca.pem")
    with pytest.raises(XapiFault, match="CERTIFICATE_DOES_NOT_EXIST"):
        await host.call("pool.certificate_uninstall", "ca.pem")


async def test_a_vm_moves_between_hosts_that_speak_tls(tmp_path):
    ends = []
    world = World(SystemClock(), Ids(1))
    fleet = Fleet(world, tmp_path, event_batch_s=0)
    for name in ("a", "b"):
        backend = SimBackend(world, memory_bytes=GIB, cpu_count=1, disk_bytes=GIB)
        ends.append(await fleet.add_host(name, backend, password=PASSWORD, is_tls=True))
    a, b = [
        await XapiSession.login(end.url, user="root", password=PASSWORD, pin=end.pin)
        for end in ends
    ]
    vm = await a.call("VM.create", {"name_label": "x", "memory_static_max": GIB // 2})
    (there,), (network,) = await b.call("host.get_all"), await b.call("network.get_all")
    dest = await b.call("host.migrate_receive", there, network, {})
    made = await a.call("VM.migrate_send", vm, dest, True, {}, {}, {})
    assert await b.call("VM.get_name_label", made) == "x"
    await a.call("pool.join", fleet.hosts["b"].address, "root", PASSWORD)
    assert len(await b.call("host.get_all")) == 2
    for session in (a, b):
        await session.close()
    await fleet.stop()
