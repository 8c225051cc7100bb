"""OVF tarballs of VHDs as images: read whole as they come, and given byte for byte as they came."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from xenith.core.units import MIB
from xenith.image import tarball

pytestmark = pytest.mark.slow

SIZE = 5 * MIB
LINKS = [{0: b"base" * 128}, {3 * MIB: b"leaf" * 128}]
TARBALL = {"disk_format": "vhd", "container_format": "ovf"}


@pytest.mark.parametrize("level", [None, 6], ids=["plain", "gzip"])
async def test_a_tarball_is_stored_as_it_is_and_its_disk_is_known(cloud, tarball_of, level):
    data = tarball_of(LINKS, SIZE, gzip_level=level)
    image = await cloud.make_active(data, **TARBALL)
    assert (image["status"], image["size"]) == ("active", len(data))
    assert image["virtual_size"] == SIZE
    assert image["os_hash_value"] == hashlib.sha512(data).hexdigest()
    assert (await cloud.ask("GET", image["file"])).content == data
    # In pieces, as a client that resumes has it.
    headers = {"Range": "bytes=700-1299"}
    assert (await cloud.ask("GET", image["file"], headers=headers)).content == data[700:1300]


async def refused(cloud, data):
    image = await cloud.make(**TARBALL)
    answer = await cloud.upload(image["id"], data)
    assert answer.status_code == 400, answer.text
    assert (await cloud.show(image["id"]))["status"] == "queued"
    assert await cloud.store.list() == []
    return answer.text


async def test_what_is_no_tarball_of_a_chain_is_refused_and_leaves_nothing(cloud, tarball_of):
    data = tarball_of(LINKS, SIZE)
    assert "no tar" in await refused(cloud, b"conectix" + bytes(4096))
    assert "ends" in await refused(cloud, data[: len(data) // 2])
    assert "tarball" in await refused(cloud, b"")
    alone = tarball_of(LINKS, SIZE, only=("0.vhd",))
    assert "stands on" in await refused(cloud, alone)


async def test_a_reader_that_gave_up_long_ago_ends_the_upload(cloud):
    sent = 0

    async def endless():
        nonlocal sent
        while sent < 2**34:
            sent += MIB
            yield b"x" * MIB

    assert "no tar" in await refused(cloud, endless())
    assert sent < 2**30


async def test_no_more_than_so_many_tarballs_are_read_at_a_time(cloud, tarball_of, monkeypatch):
    monkeypatch.setattr(tarball, "READERS_MAX", 1)
    data, begun, gate = tarball_of(LINKS, SIZE), asyncio.Event(), asyncio.Event()

    async def slow():
        yield data[:1000]
        begun.set()
        await gate.wait()
        yield data[1000:]

    first, second = [await cloud.make(**TARBALL) for _ in range(2)]
    uploading = asyncio.create_task(cloud.upload(first["id"], slow()))
    await asyncio.wait_for(begun.wait(), 60)
    answer = await cloud.upload(second["id"], data)
    assert answer.status_code == 503, answer.text
    assert (await cloud.show(second["id"]))["status"] == "queued"
    # Other images are none of it.
    assert (await cloud.make_active(b"anything"))["status"] == "active"
    gate.set()
    assert (await uploading).status_code == 204
    assert (await cloud.upload(second["id"], data)).status_code == 204


async def test_a_container_of_another_format_is_no_tarball(cloud):
    fields = {"disk_format": "raw", "container_format": "ovf"}
    assert (await cloud.make_active(b"anything", **fields))["status"] == "active"
