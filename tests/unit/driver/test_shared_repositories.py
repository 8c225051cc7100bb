"""An image comes to a repository once, however many drivers have it and ask at one moment.

Several processes of a cell, or cells, have a pool of three hosts with one SR: each has a driver.
"""

import asyncio

import pytest

from xenith.core.clock import SystemClock
from xenith.core.errors import Invalid
from xenith.core.ids import Ids
from xenith.core.units import GIB, MIB
from xenith.core.world import World
from xenith.driver import HostAddress, HostDriver, image_cache, image_claims
from xenith.driver.image_claims import ImageClaims
from xenith.driver.names import claims_by_image
from xenith.toolstack.backends.sim import SimBackend
from xenith.toolstack.fleet import Fleet
from xenith.xapi import XapiSession

IMAGE = "11111111-0000-4000-8000-000000000001"
#: How long anything may take on a machine that is busy with other things.
PATIENCE_S = 60.0
ROOT = "xenith-root-22222222-0000-4000-8000-000000000001"


class Place:
    """A pool with a shared SR, and a service of images that counts who reads."""

    def __init__(self):
        self.world = World(SystemClock(), Ids(5))
        self.fleet = Fleet(self.world, event_batch_s=0)
        self.drivers = []
        self.gets = []
        self.pieces = [b"a" * MIB, b"b" * MIB]

    async def start(self, names, config):
        for name in names:
            backend = SimBackend(
                self.world, memory_bytes=2 * GIB, cpu_count=4, disk_bytes=100 * GIB
            )
            await self.fleet.add_host(name, backend, password="pw")
        await self.fleet.start()
        first = self.fleet.hosts["a"]
        for name in names[1:]:
            host = self.fleet.hosts[name]
            joining = await XapiSession.login(host.url, user="root", password="pw")
            await joining.call("pool.join", first.address, "root", "pw", timeout_s=30)
            await joining.close()
        self.session = await XapiSession.login(first.url, user="root", password="pw")
        params = (first.ref, config, 0, "shared", "", "nfs", "user", True, {})
        self.sr = await self.call("SR.create", *params)
        (pool,) = await self.call("pool.get_all")
        await self.call("pool.set_default_SR", pool, self.sr)

    async def stop(self):
        for driver in self.drivers:
            await driver.stop()
        await self.session.close()
        await self.fleet.stop()

    async def call(self, method, *params):
        return await self.session.call(method, *params, timeout_s=30)

    async def connect(self, name, *, owner=None):
        """Give a driver of its own, as each process has one; ``name`` says who reads an image.

        ``owner`` is the host's row that it is of, by default one of its own.
        """

        async def open_image(image_id):
            self.gets.append((name, image_id))
            for piece in list(self.pieces):
                if isinstance(piece, Exception):
                    raise piece
                if isinstance(piece, asyncio.Event):
                    await piece.wait()
                    continue
                yield piece

        driver = HostDriver(
            World(SystemClock(), Ids(len(self.drivers) + 100)),
            HostAddress(
                owner or f"host-{len(self.drivers)}",
                "pool",
                self.fleet.hosts["a"].url,
                "root",
                "pw",
            ),
            on_power=lambda *_: None,
            on_state=lambda *_: None,
            open_image=open_image,
        )
        self.drivers.append(driver)
        await driver.start()
        async with asyncio.timeout(PATIENCE_S):
            await driver.answered()
        assert driver.is_up
        return driver

    async def images(self):
        vdis = await self.call("VDI.get_all_records")
        return [vdi for vdi in vdis.values() if vdi["name_label"] == f"xenith-image-{IMAGE}"]

    async def claims(self):
        return claims_by_image(await self.call("SR.get_other_config", self.sr))

    async def begun(self, count=1):
        """Wait until so many have begun to read the image, and have a disk for it."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.gets) < count or not await self.images():  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.02)


def ask(driver):
    return driver.ensure_image(IMAGE, disk_format="raw", size_bytes=2 * MIB)


async def die(driver):
    """End a driver as kill -9 does: what it was doing ends, and nothing is told to the host."""

    async def silence(*_params, **_options):
        await asyncio.Event().wait()

    driver._line._session.call = silence
    tasks = set(driver._tasks._tasks)
    # Those that wait for the host in their clean-up are cut off there as well.
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=0.05)
    driver._line._session.abort()


@pytest.fixture(params=["sim", "file"])
async def place(request, tmp_path, monkeypatch):
    monkeypatch.setattr(image_cache, "WATCH_S", 0.05)
    place = Place()
    path = tmp_path / "nfs"
    await place.start(["a", "b", "c"], {"location": str(path)} if request.param == "file" else {})
    yield place
    await place.stop()


async def test_many_drivers_of_one_repository_bring_an_image_once(place):
    drivers = [await place.connect(str(number)) for number in range(6)]
    gate = asyncio.Event()
    place.pieces.insert(1, gate)
    asking = [asyncio.create_task(ask(driver)) for driver in drivers for _ in range(3)]
    await place.begun()
    assert len(await place.claims()) == 1
    gate.set()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*asking)
    assert len(place.gets) == 1
    assert len(await place.images()) == 1
    assert sorted(driver.image_counts.shared for driver in drivers) == [0, 1, 1, 1, 1, 1]
    # Nothing of the claim stays.
    assert await place.claims() == {}
    assert await place.call("task.get_all") == []


async def test_where_the_one_who_brings_it_is_killed_another_takes_over(place, monkeypatch):
    monkeypatch.setattr(image_claims, "BEAT_S", 0.1)
    monkeypatch.setattr(image_claims, "SILENCE_MAX_S", 3.0)
    first = await place.connect("first")
    place.pieces.insert(1, asyncio.Event())
    dying = asyncio.create_task(ask(first))
    await place.begun()
    (half,) = await place.images()
    others = [await place.connect(f"other {number}") for number in range(3)]
    place.pieces = [b"a" * MIB, b"b" * MIB]
    asking = [asyncio.create_task(ask(driver)) for driver in others]
    await die(first)
    await asyncio.gather(dying, return_exceptions=True)
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*asking)
    assert [name.partition(" ")[0] for name, _ in place.gets] == ["first", "other"]
    (image,) = await place.images()
    assert image["uuid"] != half["uuid"]
    assert image["other_config"]["xenith-image-complete"] == image["uuid"]
    assert await place.claims() == {}


async def test_who_is_killed_and_begins_again_waits_for_no_claim_of_its_own(place, monkeypatch):
    # By silence it would never be dead.
    monkeypatch.setattr(image_claims, "SILENCE_MAX_S", 1e9)
    first = await place.connect("first", owner="h")
    place.pieces.insert(1, asyncio.Event())
    dying = asyncio.create_task(ask(first))
    await place.begun()
    await die(first)
    await asyncio.gather(dying, return_exceptions=True)
    assert len(await place.claims()) == 1
    place.pieces = [b"a" * MIB, b"b" * MIB]
    again = await place.connect("again", owner="h")
    assert await place.images() == [], "the half is swept up as it begins"
    assert await place.claims() == {}
    async with asyncio.timeout(PATIENCE_S):
        await ask(again)
    assert len(await place.images()) == 1


async def test_where_an_import_fails_the_next_who_waits_brings_it(place):
    first, second = await place.connect("first"), await place.connect("second")
    gate = asyncio.Event()
    place.pieces = [b"a" * MIB, gate, Invalid("the store has lost it")]
    failing = asyncio.create_task(ask(first))
    await place.begun()
    place.pieces = [b"a" * MIB, b"b" * MIB]
    waiting = asyncio.create_task(ask(second))
    gate.set()
    with pytest.raises(Invalid, match="lost it"):
        await failing
    async with asyncio.timeout(PATIENCE_S):
        await waiting
    assert [name for name, _ in place.gets] == ["first", "second"]
    assert len(await place.images()) == 1


async def test_what_another_driver_is_making_is_not_swept_up(place):
    first, second = await place.connect("first"), await place.connect("second")
    gate = asyncio.Event()
    place.pieces.insert(1, gate)
    asking = asyncio.create_task(ask(first))
    await place.begun()
    # A clone that has no name yet, and an import on its way, as who comes and who cleans sees them.
    await second.owned_instances()
    third = await place.connect("third")
    assert len(await place.images()) == 1
    gate.set()
    async with asyncio.timeout(PATIENCE_S):
        await asking
    (cached,) = await place.call("VDI.get_by_name_label", f"xenith-image-{IMAGE}")
    clone = await place.call("VDI.clone", cached, {})
    await second.owned_instances()
    await third.owned_instances()
    await place.connect("fourth")
    await place.call("VDI.set_name_label", clone, ROOT)


async def test_an_image_that_another_driver_s_build_asked_for_is_not_trimmed(place, monkeypatch):
    builder, trimmer = await place.connect("builder"), await place.connect("trimmer")
    await ask(trimmer)
    await ask(builder)
    # The trimmer is one that knows nothing of either.
    trimmer = await place.connect("trimmer again")
    assert await trimmer.trim_images(idle_max_s=0.0, free_share=1.0) == 0
    assert len(await place.images()) == 1
    monkeypatch.setattr(image_cache, "ASKED_HOLDS_S", 0.0)
    assert await trimmer.trim_images(idle_max_s=3600.0, free_share=0.0) == 0
    assert await trimmer.trim_images(idle_max_s=-1.0, free_share=0.0) == 1
    assert await place.images() == []
    # The other is told so by the host when it is asked again.
    monkeypatch.setattr(image_cache, "ASKED_MARK_S", 0.0)
    await ask(builder)
    assert len(await place.images()) == 1


async def test_two_that_trim_at_once_remove_an_image_once(place, monkeypatch):
    monkeypatch.setattr(image_cache, "ASKED_HOLDS_S", 0.0)
    drivers = [await place.connect(str(number)) for number in range(2)]
    for driver in drivers:
        await ask(driver)
    removed = await asyncio.gather(
        *(driver.trim_images(idle_max_s=-1.0, free_share=0.0) for driver in drivers)
    )
    assert sum(removed) == 1
    # Who found the disk in use by the other sees at the next look that it is gone.
    for driver in drivers:
        assert await driver.trim_images(idle_max_s=-1.0, free_share=0.0) == 0
    assert [driver.images for driver in drivers] == [[], []]


async def test_of_two_who_take_over_a_dead_claim_one_has_it(place):
    driver = await place.connect("d")
    dead = f"xenith-bringing-{IMAGE}-1"
    await place.call("SR.add_to_other_config", place.sr, dead, "OpaqueRef:gone")
    claims = [ImageClaims(place.world, driver._line, owner=str(n)) for n in range(4)]
    async with asyncio.timeout(PATIENCE_S):
        while not (taken := [one for one in await _take(claims) if one is not None]):
            pass
    assert len(taken) == 1
    assert [list(each.values()) for each in (await place.claims()).values()] == [taken]
    assert await _take(claims) == [None] * 4
    await claims[0].release(IMAGE, taken[0])
    assert await place.claims() == {}


async def test_a_claim_of_ones_own_that_could_not_be_given_back_is_not_waited_for(place):
    driver = await place.connect("d")
    claims = ImageClaims(place.world, driver._line, owner="host-0")
    first = await claims.take(IMAGE)
    assert await claims.take(IMAGE) is None
    session, driver._line._session = driver._line._session, None
    await claims.release(IMAGE, first)
    driver._line._session = session
    assert len(await place.claims()) == 1
    second = await claims.take(IMAGE)
    assert second not in (None, first)
    await claims.release(IMAGE, second)
    assert await place.claims() == {}


async def test_a_dead_claim_on_an_image_that_nobody_wants_is_forgotten(place, monkeypatch):
    monkeypatch.setattr(image_claims, "SILENCE_MAX_S", 0.0)
    task = await place.call("task.create", f"xenith image {IMAGE}", "")
    await place.call("SR.add_to_other_config", place.sr, f"xenith-bringing-{IMAGE}-3", task)
    driver = await place.connect("d")
    async with asyncio.timeout(PATIENCE_S):
        while await place.claims():
            await driver.owned_instances()
    assert await place.call("task.get_all") == []


async def _take(claims):
    return await asyncio.gather(*(each.take(IMAGE) for each in claims))
