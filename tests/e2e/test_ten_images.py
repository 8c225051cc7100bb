"""A guest that writes all the time is imaged ten times; each image boots and is checked inside.

The guest writes blocks of random bytes behind its own files, each first, then a line with its
number and checksum. A guest of an image reads them all back, and says how many were right.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from xenith.dev.client import ApiClient
from xenith.dev.demo import _chunks
from xenith.dev.tiny_image import find_or_build

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

COUNT = 10
SERVERS = "/compute/v2.1/servers"
#: 64 MiB into the disk, in blocks of 4 KiB: the image itself ends before.
FIRST_BLOCK = 16384
WRITER = f"""#!/bin/sh
i=0
while [ $i -lt 4000 ]; do
  dd if=/dev/urandom of=/tmp/block bs=4096 count=1 2>/dev/null
  at=$(({FIRST_BLOCK} + i * 2))
  dd if=/tmp/block of=/dev/vda bs=4096 seek=$((at + 1)) conv=notrunc,fsync 2>/dev/null
  set -- $(md5sum < /tmp/block)
  printf '%08d %s ' $i $1 | dd of=/dev/vda bs=4096 seek=$at conv=notrunc,fsync 2>/dev/null
  i=$((i + 1))
  [ $((i % 5)) = 0 ] && echo "wrote $i" > /dev/console
done
"""
CHECKER = f"""#!/bin/sh
i=0
while :; do
  at=$(({FIRST_BLOCK} + i * 2))
  set -- $(dd if=/dev/vda bs=4096 skip=$at count=1 2>/dev/null | head -c 42 | tr -d '\\0')
  [ "$1" = "$(printf '%08d' $i)" ] || break
  want=$2
  set -- $(dd if=/dev/vda bs=4096 skip=$((at + 1)) count=1 2>/dev/null | md5sum)
  [ "$1" = "$want" ] || echo "wrong $i" > /dev/console
  i=$((i + 1))
done
echo "checked $i blocks" > /dev/console
"""


async def build(api: ApiClient, image_id: str, script: str, **hints: Any) -> str:
    server = {
        "name": "one",
        "imageRef": image_id,
        "flavorRef": "1",
        "networks": "none",
        "config_drive": True,
        "user_data": base64.b64encode(script.encode()).decode(),
    }
    made = await api.post(SERVERS, {"server": server, "os:scheduler_hints": hints})
    server_id: str = made["server"]["id"]
    await api.wait_server(server_id, status="ACTIVE", timeout_s=300)
    return server_id


async def said(api: ApiClient, server_id: str, word: str) -> int:
    """Give the number after the last such word on a guest's console; 0 while there is none."""
    answer: Any = await api.post(f"{SERVERS}/{server_id}/action", {"os-getConsoleOutput": {}})
    found = [line.split() for line in answer["output"].splitlines()]
    assert not [words for words in found if words[:1] == ["wrong"]], found[-5:]
    return max([0, *(int(words[1]) for words in found if words[:1] == [word])])


async def more(api: ApiClient, server_id: str, word: str, than: int) -> int:
    deadline = time.monotonic() + 400
    while (now := await said(api, server_id, word)) <= than:
        assert time.monotonic() < deadline, f"the guest has {word} {now}"
        await asyncio.sleep(0.3)
    return now


async def imaged(api: ApiClient, server_id: str, name: str) -> str:
    action = {"createImage": {"name": name}}
    await api.post(f"{SERVERS}/{server_id}/action", action)
    image_id: str = (await api.get(f"/image/v2/images?name={name}"))["images"][0]["id"]
    deadline = time.monotonic() + 200
    while (image := await api.get(f"/image/v2/images/{image_id}"))["status"] != "active":
        assert time.monotonic() < deadline, image
        await asyncio.sleep(0.2)
    # The image is there a moment before its server has let go of the snapshot.
    while await busy(api, server_id):
        assert time.monotonic() < deadline, "the server is still being imaged"
        await asyncio.sleep(0.2)
    return image_id


async def busy(api: ApiClient, server_id: str) -> bool:
    server = (await api.get(f"{SERVERS}/{server_id}"))["server"]
    return server["OS-EXT-STS:task_state"] is not None


def layers(directory: Path) -> list[int]:
    """List what images take in the store, in bytes."""
    return sorted(layer.stat().st_size for layer in directory.glob("**/*.layer"))


async def check(api: ApiClient, todo: Iterator[tuple[str, int]], writer: str) -> None:
    """Boot images on the other host, and have each guest check what it has."""
    for image_id, least in todo:
        checker = await build(api, image_id, CHECKER, different_host=[writer])
        assert await more(api, checker, "checked", 0) >= least
        await api.delete(f"{SERVERS}/{checker}")
        await api.wait_server(checker, status=None, timeout_s=120)


def test_ten_images_of_a_guest_that_writes_all_the_time_are_each_whole(qemu_cloud: Path) -> None:
    async def walk() -> None:
        async with ApiClient.of_directory(qemu_cloud) as api:
            path = find_or_build()
            described = {"name": "tiny", "disk_format": "raw", "container_format": "bare"}
            made = await api.post("/image/v2/images", described)
            file = f"/image/v2/images/{made['id']}/file"
            await api.upload(file, _chunks(path), path.stat().st_size)
            writer = await build(api, made["id"], WRITER)
            written, images = 0, {}
            for number in range(COUNT):
                written = await more(api, writer, "wrote", written)
                images[await imaged(api, writer, f"image {number}")] = written
            sizes = layers(qemu_cloud)
            assert len(sizes) == COUNT
            assert sizes[-2] <= 2**24 < sizes[-1], "all but one have what was new"
            todo = iter(images.items())
            # Two at a time: each is a guest that is emulated.
            await asyncio.gather(*(check(api, todo, writer) for _ in range(2)))
            assert await said(api, writer, "wrote") > written, "it writes on"
            await api.delete(f"{SERVERS}/{writer}")
            await api.wait_server(writer, status=None, timeout_s=120)

    asyncio.run(walk())
