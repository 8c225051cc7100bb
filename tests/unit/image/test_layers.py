"""Images of one server share blocks: each is given as it came, and what is shared is kept once."""

from __future__ import annotations

import io
import random
import struct
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from xenith.blob import FileStore
from xenith.core.clock import ManualClock
from xenith.core.errors import Invalid, NotFound, Unavailable
from xenith.core.ids import Ids
from xenith.core.world import World
from xenith.db import open_database
from xenith.db.migrate import prepare
from xenith.image.layers import LAYER, MAP, STRIDE_BYTES, Layers, image_layers
from xenith.image.operations import Images
from xenith.image.records import images
from xenith.vhd.disk import RawDisk
from xenith.vhd.encoder import encode_dynamic
from xenith.vhd.pipe import PipeSink

MIB = 2**20
BLOCK = 2 * MIB
WORLD = World(clock=ManualClock(), ids=Ids(seed=1))
CHUNK = 300_001


def vhd_of(path, data):
    """Make the stream that a host gives of a disk with these blocks, of 40 MiB."""
    with path.open("w+b") as file:
        file.truncate(20 * BLOCK)
        for number, fill in data.items():
            file.seek(number * BLOCK)
            file.write(fill)
        file.flush()
        sink = io.BytesIO()
        encode_dynamic(RawDisk(file.fileno()), PipeSink(sink), world=WORLD, find_zeros=True)
    return sink.getvalue()


@pytest.fixture
def vhd(tmp_path):
    return lambda data: vhd_of(tmp_path / "disk.raw", data)


async def pieces(data, *, size=CHUNK, trouble_at=None):
    for start in range(0, len(data), size):
        if trouble_at is not None and start >= trouble_at:
            raise Unavailable("the host went away")
        yield data[start : start + size]


async def whole(chunks):
    return b"".join([piece async for piece in chunks])


class House:
    """The image service with its store, and images of one server."""

    def __init__(self, path):
        self.store = FileStore(path)
        self.db = open_database("sqlite://", ids=WORLD.ids, clock=WORLD.clock)
        prepare(self.db)
        self.images = Images(self.db, WORLD, self.store)

    async def add(self, *, owner="p", server="s"):
        await WORLD.clock.advance(1.0)
        return await self.db.run(
            lambda tx: self.images.add_snapshot(
                tx,
                name="i",
                owner=owner,
                disk_format="vhd",
                min_disk_gib=0,
                min_ram_mib=0,
                properties={"instance_uuid": server},
            )
        )

    async def make(self, data, **fields):
        image_id = await self.add(**fields)
        await self.images.store_image(image_id, pieces(data))
        return image_id

    async def read(self, image_id):
        return await whole(self.images.open_image(image_id))

    async def delete(self, image_id):
        admin = SimpleNamespace(is_admin=True, project_id=None)
        await self.images.delete(admin, image_id)

    async def sizes(self):
        return {name: await self.store.size(name) for name in await self.store.list()}


@pytest.fixture
async def house(tmp_path):
    made = House(tmp_path / "store")
    yield made
    await made.db.close()


def blocks(*numbers, seed=0):
    return {number: random.Random(f"{seed} {number}").randbytes(BLOCK) for number in numbers}


async def test_an_image_keeps_only_what_the_one_before_it_did_not_have(house, vhd):
    first, second = blocks(0, 3, 7), blocks(0, 3, 7) | blocks(3, 9, seed=1)
    one, two = await house.make(vhd(first)), await house.make(vhd(second))
    sizes = await house.sizes()
    assert sizes[one + LAYER] == 3 * STRIDE_BYTES
    assert sizes[two + LAYER] == 2 * STRIDE_BYTES, "one block changed and one is new"
    assert sizes[two + MAP] < 8192
    row = await house.db.read(lambda tx: tx.all(_rows()))
    assert {(each.image_id, each.layer_id) for each in row} == {(one, one), (two, one), (two, two)}


def _rows():
    return sa.select(image_layers)


async def test_an_image_is_given_byte_for_byte_as_it_came(house, vhd):
    streams = [vhd(blocks(0, 3)), vhd(blocks(0, 3) | blocks(4)), vhd({}), vhd(blocks(4, seed=5))]
    made = [await house.make(stream) for stream in streams]
    for image_id, stream in zip(made, streams, strict=True):
        assert await house.read(image_id) == stream


async def test_any_range_of_an_image_is_what_lies_there(house, vhd):
    await house.make(vhd(blocks(1, 5)))
    stream = vhd(blocks(1, 5) | blocks(5, 6, seed=2))
    image_id = await house.make(stream)
    layers, chance = Layers(house.store), random.Random(3)
    cuts = [(0, 1), (0, len(stream) + 5), (len(stream) - 512, 512), (len(stream), 1)]
    cuts += [(chance.randrange(len(stream)), chance.randrange(3 * BLOCK)) for _ in range(60)]
    for offset, length in cuts:
        found = await whole(layers.read(image_id, offset=offset, length=length))
        assert found == stream[offset : offset + length], (offset, length)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
async def test_an_image_stands_whatever_became_of_the_others(house, vhd, order):
    streams = [
        vhd(blocks(0, 1, 2)),
        vhd(blocks(0, 1, 2) | blocks(1, seed=1)),
        vhd(blocks(0, 1, 2) | blocks(1, 2, seed=1)),
    ]
    made = [await house.make(stream) for stream in streams]
    left = dict(zip(made, streams, strict=True))
    for index in order:
        await house.delete(made[index])
        del left[made[index]]
        for image_id, stream in left.items():
            assert await house.read(image_id) == stream
    assert await house.store.list() == []
    assert await house.db.read(lambda tx: tx.all(_rows())) == []


async def test_a_layer_goes_with_the_last_image_that_needs_it(house, vhd):
    one = await house.make(vhd(blocks(0, 1)))
    two = await house.make(vhd(blocks(0) | blocks(1, seed=1)))
    three = await house.make(vhd(blocks(0, 1, seed=2)))
    await house.delete(one)
    assert set(await house.store.list()) >= {one + LAYER, two + LAYER}
    assert one + MAP not in await house.store.list()
    await house.delete(two)
    assert await house.store.list() == [three + LAYER, three + MAP]


async def test_what_is_not_of_the_same_owner_and_server_is_not_shared(house, vhd):
    stream = vhd(blocks(0, 1))
    await house.make(stream)
    for fields in ({"owner": "other"}, {"server": "other"}):
        image_id = await house.make(stream, **fields)
        assert (await house.sizes())[image_id + LAYER] == 2 * STRIDE_BYTES
    again = await house.make(stream)
    assert (await house.sizes())[again + LAYER] == 0


@pytest.mark.parametrize("at", range(0, 3 * STRIDE_BYTES, STRIDE_BYTES // 2))
async def test_one_that_breaks_off_anywhere_leaves_nothing(house, vhd, at):
    first = vhd(blocks(0, 1))
    one = await house.make(first)
    before = await house.sizes()
    two = await house.add()
    stream = vhd(blocks(0, 1, seed=1) | blocks(2))
    with pytest.raises(Unavailable):
        await house.images.store_image(two, pieces(stream, trouble_at=at))
    assert await house.sizes() == before
    await house.images.store_image(two, pieces(stream))
    assert await house.read(two) == stream
    assert await house.read(one) == first


async def test_when_what_it_stands_on_is_deleted_meanwhile_it_is_stored_anew(house, vhd):
    one = await house.make(vhd(blocks(0, 1)))
    two = await house.add()
    stream = vhd(blocks(0) | blocks(1, seed=1))

    async def deleting():
        yield stream[: len(stream) // 2]
        await house.delete(one)
        yield stream[len(stream) // 2 :]

    with pytest.raises(Unavailable):
        await house.images.store_image(two, deleting())
    assert await house.store.list() == []
    await house.images.store_image(two, pieces(stream))
    assert await house.read(two) == stream


async def test_what_a_process_left_that_died_is_removed_by_the_next(house, vhd):
    one = await house.make(vhd(blocks(0, 1)))
    two = await house.add()
    layers = Layers(house.store)
    # Its bytes are there, and it died before its row said so.
    await layers.write(two, pieces(vhd(blocks(0) | blocks(2))), base_id=one)
    await house.db.run(lambda tx: tx.update(images, {"id": two}, status="saving"))
    await house.images.recover()
    assert await house.store.list() == [one + LAYER, one + MAP]
    stream = vhd(blocks(0) | blocks(2))
    await house.images.store_image(two, pieces(stream))
    await house.images.recover()
    assert await house.read(two) == stream


async def test_what_is_no_dynamic_vhd_is_kept_whole(house):
    image_id = await house.add()
    layers = Layers(house.store)
    for data in (b"", b"short", bytes(10_000), b"conectix" + bytes(5_000)):
        assert await layers.write(image_id, pieces(data, size=777), base_id=None) == []
        assert await whole(house.store.read(image_id)) == data


def damaged(stream, **words):
    """Change big-endian words of a stream's table by entry."""
    table = int.from_bytes(stream[512 + 16 : 512 + 24], "big")
    data = bytearray(stream)
    for entry, value in words.items():
        struct.pack_into(">I", data, table + 4 * int(entry.removeprefix("e")), value)
    return bytes(data)


@pytest.mark.parametrize(
    "words", [{"e0": 0}, {"e0": 1}, {"e0": 0xFFFFFFFE}, {"e1": 8}, {"e5": 9}, {"e0": 2**31}]
)
async def test_tables_that_make_no_sense_are_refused_and_leave_nothing(house, vhd, words):
    image_id = await house.add()
    stream = damaged(vhd(blocks(0, 1)), **words)
    with pytest.raises(Invalid):
        await house.images.store_image(image_id, pieces(stream))
    assert await house.store.list() == []


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.999])
async def test_a_stream_that_is_cut_short_is_refused(house, vhd, share):
    image_id = await house.add()
    stream = vhd(blocks(0, 1))
    with pytest.raises(Invalid):
        await house.images.store_image(image_id, pieces(stream[: int(len(stream) * share)]))
    assert await house.store.list() == []


async def test_an_image_of_which_there_is_no_map_is_not_found(house):
    with pytest.raises(NotFound):
        await whole(Layers(house.store).read("nowhere"))


@pytest.mark.slow
async def test_random_lives_of_images_lose_nothing(house, vhd):
    chance = random.Random(11)
    disk, kept = {}, {}
    for step in range(12):
        for number in chance.sample(range(20), 3):
            disk[number] = random.Random(f"{step} {number}").randbytes(BLOCK)
        stream = vhd(disk)
        kept[await house.make(stream)] = stream
        while len(kept) > 4 or (kept and chance.random() < 0.3):
            gone = chance.choice(sorted(kept))
            await house.delete(gone)
            del kept[gone]
        for image_id, whole_stream in kept.items():
            assert await house.read(image_id) == whole_stream
        needed = {row.layer_id for row in await house.db.read(lambda tx: tx.all(_rows()))}
        names = {*(each + LAYER for each in needed), *(each + MAP for each in kept)}
        assert set(await house.store.list()) == names
