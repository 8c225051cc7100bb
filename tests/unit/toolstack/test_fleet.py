"""Many simulated hosts in one process: apart from each other, slow, failing or dead at will."""

import asyncio
import resource

import pytest

from xenith.core.clock import ManualClock, SystemClock
from xenith.core.errors import Conflict, Unavailable
from xenith.core.ids import Ids
from xenith.core.units import GIB
from xenith.core.world import World
from xenith.toolstack.backends import BackendError, DiskSpec, DomainSpec
from xenith.toolstack.backends.sim import SimBackend
from xenith.toolstack.fleet import Fleet
from xenith.xapi import XapiFault, XapiSession

PASSWORD = "pass-the-salt"
SPEC = DomainSpec(vm_uuid="v", name="n", memory_bytes=GIB, vcpu_count=1)


def sim(world, **choices):
    return SimBackend(world, memory_bytes=2 * GIB, cpu_count=4, disk_bytes=100 * GIB, **choices)


@pytest.fixture
async def fleet():
    fleet = Fleet(World(SystemClock(), Ids(1)), event_batch_s=0)
    yield fleet
    await fleet.stop()


async def test_hosts_share_nothing(fleet):
    world = World(SystemClock(), Ids(2))
    ends = [await fleet.add_host(name, sim(world), password=name) for name in ("a", "b")]
    assert ends[0].host_uuid != ends[1].host_uuid
    sessions = [await XapiSession.login(end.url, user="root", password=end.name) for end in ends]
    vm = await sessions[0].call("VM.create", {"name_label": "x", "memory_static_max": GIB})
    with pytest.raises(XapiFault, match="HANDLE_INVALID"):
        await sessions[1].call("VM.get_record", vm)
    with pytest.raises(XapiFault, match="SESSION_AUTHENTICATION_FAILED"):
        await XapiSession.login(ends[1].url, user="root", password="a")
    for session in sessions:
        await session.close()


async def test_a_name_is_given_once(fleet):
    world = World(SystemClock(), Ids(2))
    await fleet.add_host("a", sim(world), password=PASSWORD)
    with pytest.raises(Conflict):
        await fleet.add_host("a", sim(world), password=PASSWORD)


async def test_a_host_that_dies_breaks_its_calls_and_answers_no_more(fleet):
    world = World(SystemClock(), Ids(2))
    reached = asyncio.Event()

    async def hang(_operation, _subject):
        reached.set()
        await asyncio.Event().wait()

    backend = sim(world)
    end = await fleet.add_host("a", backend, password=PASSWORD)
    session = await XapiSession.login(end.url, user="root", password=PASSWORD)
    vm = await session.call("VM.create", {"name_label": "x", "memory_static_max": GIB})
    backend.script = hang
    starting = asyncio.ensure_future(session.call("VM.start", vm, False, False))
    await reached.wait()
    fleet.hosts["a"].die()
    with pytest.raises(Unavailable):
        await starting
    with pytest.raises(Unavailable):
        await session.call("VM.get_all")
    await session.close()


@pytest.mark.slow
async def test_a_thousand_hosts_live_in_one_process(tmp_path):
    world = World(SystemClock(), Ids(3))
    fleet = Fleet(world, tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == hard
    ends = [
        await fleet.add_host(f"host-{number}", sim(world), password=PASSWORD)
        for number in range(1000)
    ]
    await fleet.start()
    assert len({end.url for end in ends}) == 1000
    session = await XapiSession.login(ends[-1].url, user="root", password=PASSWORD)
    assert len(await session.call("host.get_all")) == 1
    await session.close()
    await fleet.stop()


# -- the simulation


async def test_an_operation_takes_the_time_that_it_is_given():
    clock = ManualClock()
    backend = sim(World(clock, Ids(1)), latency_s={"domain_start": 3.0})
    await (await backend.attach_sr("sr", "file", {})).create("d", GIB)
    starting = asyncio.ensure_future(backend.domain_start(SPEC))
    await asyncio.sleep(0)
    await clock.advance(2.9)
    assert not starting.done()
    await clock.advance(0.2)
    assert await starting > 0


async def outcomes(seed: int) -> list[bool]:
    backend = sim(World(ManualClock(), Ids(seed)), failure_rate=0.3)
    repository = await backend.attach_sr("sr", "file", {})
    found = []
    for number in range(100):
        try:
            await repository.create(str(number), GIB)
        except BackendError:
            found.append(False)
        else:
            found.append(True)
    return found


async def test_failures_come_at_their_rate_and_the_same_for_a_seed():
    first = await outcomes(1)
    assert 10 < first.count(False) < 50
    assert first == await outcomes(1)
    assert first != await outcomes(2)


async def test_a_domain_without_its_disk_does_not_start():
    backend = sim(World(ManualClock(), Ids(1)))
    spec = DomainSpec("v", "n", GIB, 1, disks=(DiskSpec("gone", "0"),))
    with pytest.raises(BackendError, match="VDI_MISSING"):
        await backend.domain_start(spec)
    assert await backend.running() == {}
