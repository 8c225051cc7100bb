"""Cells bring images of their servers to the root, and only those, on a word that they signed."""

from __future__ import annotations

import httpx2
import pytest

from xenith.blob import FileStore
from xenith.cells.keys import CellKey
from xenith.compute.endpoints.operator import service
from xenith.compute.operations.cell_images import HEADER, sign_word
from xenith.compute.operations.operator import Operator
from xenith.compute.records.servers import servers
from xenith.core.errors import NotFound, Unavailable
from xenith.core.ids import CellId
from xenith.dev.image_fetching import FetchedImages
from xenith.image.operations import Images

CELL, KEY = CellId("cell"), CellKey.derive(b"cell")


class House:
    """A root with its images in a directory, and a cell that knows it by its address."""

    def __init__(self, cloud, site, path):
        self.cloud = cloud
        self.images = Images(cloud.db, cloud.world, FileStore(path))
        cloud.context.__dict__["images"] = self.images
        self.operator = Operator(cloud.context)
        self.site = site([service(self.operator)])
        self.cell = self.leaf(CELL, KEY)

    def leaf(self, cell_id, key):
        made = FetchedImages(self.cloud.world, api_url="http://cloud", cell_id=cell_id, key=key)
        made._client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=self.site))
        return made

    async def snapshot(self, server_id, **properties):
        return await self.cloud.db.run(
            lambda tx: self.images.add_snapshot(
                tx,
                name="s",
                owner="p1",
                disk_format="raw",
                min_disk_gib=1,
                min_ram_mib=0,
                properties={"instance_uuid": server_id, **properties},
            )
        )

    async def read(self, image_id):
        return b"".join([chunk async for chunk in self.cell.open_image(image_id)])


@pytest.fixture
async def house(cloud, site_of, tmp_path):
    return House(cloud, site_of, tmp_path)


@pytest.fixture
async def server_id(cloud):
    return await cloud.add_server("s")


async def pieces(*data):
    for piece in data:
        yield piece


async def test_a_cell_brings_an_image_of_its_server_and_fetches_it_again(house, server_id):
    image_id = await house.snapshot(server_id)
    await house.cell.store_image(image_id, pieces(b"ab", b"", b"c"))
    assert await house.read(image_id) == b"abc"
    await house.cell.store_image(image_id, pieces(b"again"))
    assert await house.read(image_id) == b"abc"


async def test_how_many_backups_are_kept_goes_with_the_bytes(house, server_id):
    kind = {"image_type": "backup", "backup_type": "daily"}
    first = await house.snapshot(server_id, **kind)
    await house.cell.store_image(first, pieces(b"1"), rotation=1)
    await house.cloud.world.clock.advance(1.0)
    second = await house.snapshot(server_id, **kind)
    await house.cell.store_image(second, pieces(b"2"), rotation=1)
    with pytest.raises(NotFound):
        await house.read(first)
    assert await house.read(second) == b"2"


async def test_an_image_that_is_given_up_is_gone_and_may_be_given_up_again(house, server_id):
    image_id = await house.snapshot(server_id)
    await house.cell.drop_image(image_id)
    await house.cell.drop_image(image_id)
    with pytest.raises(NotFound):
        await house.cell.store_image(image_id, pieces(b"late"))


async def test_a_server_of_another_cell_is_none_of_its_business(house, cloud, server_id):
    image_id = await house.snapshot(server_id)
    await cloud.db.run(lambda tx: tx.update(servers, {"id": server_id}, cell_id="elsewhere"))
    with pytest.raises(Unavailable, match="403"):
        await house.cell.store_image(image_id, pieces(b"mine"))
    with pytest.raises(Unavailable, match="403"):
        await house.cell.drop_image(image_id)


async def test_who_is_no_cell_brings_nothing(house, server_id):
    image_id = await house.snapshot(server_id)
    stranger = house.leaf(CELL, CellKey.derive(b"stranger"))
    with pytest.raises(Unavailable, match="403"):
        await stranger.store_image(image_id, pieces(b"theirs"))
    with pytest.raises(Unavailable, match="403"):
        await stranger.drop_image(image_id)


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_a_word_to_fetch_is_no_word_to_bring(house, server_id, method):
    image_id = await house.snapshot(server_id)
    word = sign_word(CELL, KEY, image_id, now_s=house.cloud.world.clock.now())
    headers = {HEADER: word, "content-type": "application/octet-stream"}
    url = f"http://cloud/xenith/v1/cell-images/{image_id}"
    answer = await house.cell._client.request(method, url, headers=headers, content=b"x")
    assert answer.status_code == 403


async def test_an_image_of_no_server_is_not_written_over(house, cloud):
    image_id = await cloud.db.run(
        lambda tx: house.images.add_snapshot(
            tx,
            name="a tenant's",
            owner="p1",
            disk_format="raw",
            min_disk_gib=0,
            min_ram_mib=0,
            properties={},
        )
    )
    with pytest.raises(NotFound):
        await house.cell.store_image(image_id, pieces(b"x"))
