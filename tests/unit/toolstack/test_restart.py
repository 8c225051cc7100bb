"""What a host answered is there after the process has died, wherever the journal was cut."""

import socket

import pytest

from xenith.core.clock import SystemClock
from xenith.core.errors import Unavailable
from xenith.core.ids import Ids
from xenith.core.units import GIB, MIB
from xenith.core.world import World
from xenith.toolstack.backends.sim import SimBackend
from xenith.toolstack.fleet import Fleet
from xenith.toolstack.journal import Journal
from xenith.xapi import XapiFault, XapiSession

PASSWORD = "pass-the-salt"


def sim(world, **choices):
    return SimBackend(world, memory_bytes=2 * GIB, cpu_count=4, disk_bytes=100 * GIB, **choices)


class Host:
    """A fleet of one host that a test can kill: no stop, no close, as after kill -9."""

    def __init__(self, directory, seed=1):
        self.directory = directory
        self.seed = seed

    async def start(self):
        self.world = World(SystemClock(), Ids(self.seed))
        self.seed += 1
        self.backend = sim(self.world)
        self.fleet = Fleet(self.world, self.directory, event_batch_s=0)
        self.endpoint = await self.fleet.add_host("h", self.backend, password=PASSWORD)
        await self.fleet.start()
        self.session = await XapiSession.login(self.endpoint.url, user="root", password=PASSWORD)
        return self.session

    async def kill(self):
        for host in self.fleet.hosts.values():
            host.die()
        await self.session.close()

    async def restart(self):
        await self.kill()
        return await self.start()


@pytest.fixture
async def host(tmp_path):
    host = Host(tmp_path)
    await host.start()
    yield host
    await host.kill()
    await host.fleet.stop()


async def make_server(call, name="s"):
    sr = (await call("SR.get_all"))[0]
    network = (await call("network.get_all"))[0]
    vdi = await call("VDI.create", {"SR": sr, "virtual_size": 8 * MIB, "name_label": name})
    vm = await call(
        "VM.create",
        {
            "name_label": name,
            "memory_static_max": 256 * MIB,
            "xenstore_data": {"vm-data/hostname": "web-1", "other": "dropped"},
        },
    )
    await call("VBD.create", {"VM": vm, "VDI": vdi, "userdevice": "0"})
    await call("VIF.create", {"VM": vm, "network": network, "device": "0"})
    await call("VM.start", vm, False, False)
    return vm, vdi


async def now(session):
    return (await session.events(["pool"], "", 0.0)).token


async def everything(call):
    return {
        name: await call(f"{name}.get_all_records")
        for name in ("VM", "VDI", "VBD", "VIF", "SR", "PBD", "network", "PIF", "console", "pool")
    }


async def test_all_records_are_as_they_were(host):
    await make_server(host.session.call)
    before = await everything(host.session.call)
    session = await host.restart()
    assert await everything(session.call) == before


async def test_a_host_keeps_its_port_and_uuid(host):
    before = host.endpoint
    await host.restart()
    assert host.endpoint == before


async def test_a_port_that_another_has_taken_is_a_clear_error(host):
    port = int(host.endpoint.url.rpartition(":")[2])
    await host.kill()
    with socket.create_server(("127.0.0.1", port)):
        fleet = Fleet(host.world, host.directory)
        with pytest.raises(Unavailable, match=str(port)):
            await fleet.add_host("h", sim(host.world), password=PASSWORD)
        assert fleet.hosts == {}
    # It can be tried again, and nothing that was known of the host has gone.
    endpoint = await fleet.add_host("h", sim(host.world), password=PASSWORD)
    assert endpoint == host.endpoint
    await fleet.stop()


async def test_a_running_simulated_guest_runs_on_and_its_memory_counts(host):
    vm, _ = await make_server(host.session.call)
    own = (await host.session.call("host.get_all"))[0]
    free = await host.session.call("host.compute_free_memory", own)
    session = await host.restart()
    assert await session.call("VM.get_power_state", vm) == "Running"
    assert await session.call("host.compute_free_memory", own) == free == 2 * GIB - 256 * MIB
    await session.call("VM.hard_shutdown", vm)
    assert await session.call("host.compute_free_memory", own) == 2 * GIB


async def test_a_guest_that_ended_while_we_were_away_is_halted(host):
    vm, _ = await make_server(host.session.call)
    await host.kill()
    host.world = World(SystemClock(), Ids(99))
    fleet = Fleet(host.world, host.directory, event_batch_s=0)
    backend = sim(host.world)
    backend.adopt = lambda *_args, **_named: None  # the machine was switched off and on
    endpoint = await fleet.add_host("h", backend, password=PASSWORD)
    session = await XapiSession.login(endpoint.url, user="root", password=PASSWORD)
    assert await session.call("VM.get_power_state", vm) == "Halted"
    assert await session.call("VM.get_domid", vm) == -1
    await session.close()
    await fleet.stop()
    await host.start()


async def test_domids_go_on_where_they_were_so_no_log_is_another_s(host):
    first, _ = await make_server(host.session.call, "first")
    domid = await host.session.call("VM.get_domid", first)
    session = await host.restart()
    second, _ = await make_server(session.call, "second")
    assert await session.call("VM.get_domid", second) > domid


async def test_the_library_of_names_is_found_again(host):
    vm, vdi = await make_server(host.session.call, "by this name")
    session = await host.restart()
    assert await session.call("VM.get_by_name_label", "by this name") == [vm]
    assert await session.call("VDI.get_by_name_label", "by this name") == [vdi]


async def test_what_was_deleted_stays_deleted(host):
    vm, vdi = await make_server(host.session.call)
    await host.session.call("VM.hard_shutdown", vm)
    await host.session.call("VM.destroy", vm)
    await host.session.call("VDI.destroy", vdi)
    session = await host.restart()
    found = await everything(session.call)
    assert [found[name] for name in ("VM", "VDI", "VBD", "VIF", "console")] == [{}] * 5


async def test_a_token_of_the_life_before_is_refused_and_never_passes_over_events(host):
    batch = await host.session.events(["vm"], "", 0.0)
    session = await host.restart()
    await make_server(session.call)
    old, new = (int(token.split(",")[0]) for token in (batch.token, await now(session)))
    assert new > old, "the new life has not yet passed the old one's count"
    with pytest.raises(XapiFault) as caught:
        await session.events(["vm"], batch.token, 0.0)
    assert caught.value.code == "EVENTS_LOST"


@pytest.mark.parametrize("cut_bytes", [1, 3, 7, 40])
async def test_a_torn_end_of_the_journal_costs_only_what_was_never_answered(host, cut_bytes):
    vm, _ = await make_server(host.session.call, "kept")
    before = await everything(host.session.call)
    await host.session.call("VM.set_name_description", vm, "torn" * 20)
    await host.kill()
    path = host.directory / "journal"
    path.write_bytes(path.read_bytes()[:-cut_bytes])
    session = await host.start()
    assert await everything(session.call) == before
    await session.call("VM.set_name_description", vm, "again")
    session = await host.restart()
    assert await session.call("VM.get_name_description", vm) == "again"


@pytest.mark.slow
async def test_wherever_the_journal_is_cut_the_host_starts_and_its_records_agree(tmp_path):
    made = Host(tmp_path)
    session = await made.start()
    start = (tmp_path / "journal").stat().st_size
    await make_server(session.call)
    await made.kill()
    whole = (tmp_path / "journal").read_bytes()
    await made.fleet.stop()
    for cut in range(start, len(whole), max(1, (len(whole) - start) // 25)):
        (tmp_path / "journal").write_bytes(whole[:cut])
        again = Host(tmp_path, seed=cut)
        session = await again.start()
        found = await everything(session.call)
        for vbd in found["VBD"].values():
            assert vbd["VM"] in found["VM"], f"cut at {cut}"
            assert vbd["VDI"] in found["VDI"], f"cut at {cut}"
        for vdi in found["VDI"].values():
            assert vdi["uuid"] in await again.backend.disks(), f"cut at {cut}"
        for ref, vm in found["VM"].items():
            assert vm["VBDs"] == [key for key, vbd in found["VBD"].items() if vbd["VM"] == ref]
            assert vm["VIFs"] == [key for key, vif in found["VIF"].items() if vif["VM"] == ref]
        await again.kill()
        await again.fleet.stop()


async def test_the_journal_is_written_anew_when_most_of_it_is_past(host, monkeypatch):
    monkeypatch.setattr("xenith.toolstack.journal.GROWTH_BYTES_MAX", 20_000)
    pool = (await host.session.call("pool.get_all"))[0]
    for number in range(200):
        await host.session.call("pool.set_name_label", pool, f"{number}-" + "x" * 500)
    assert (host.directory / "journal").stat().st_size < 60_000
    session = await host.restart()
    assert (await session.call("pool.get_name_label", pool)).startswith("199-")


async def test_hosts_that_are_not_added_this_time_keep_their_records(host):
    vm, _ = await make_server(host.session.call, "sleeping")
    await host.kill()
    await host.fleet.stop()
    other = Fleet(World(SystemClock(), Ids(7)), host.directory)
    await other.add_host("other", sim(host.world), password=PASSWORD)
    await other.start()
    await other.stop()
    session = await host.start()
    assert await session.call("VM.get_name_label", vm) == "sleeping"


async def test_the_journal_is_for_its_owner_alone(host):
    await host.restart()
    assert (host.directory / "journal").stat().st_mode & 0o077 == 0


def test_noise_in_place_of_a_journal_reads_as_nothing(tmp_path):
    path = tmp_path / "journal"
    for noise in (b"\xff" * 100, b"\x00" * 100, b"\x00\x00\x00\x05hello", b"x"):
        path.write_bytes(noise)
        assert list(Journal(path).read()) == []
