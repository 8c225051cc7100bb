"""An image of a real guest while it runs, and another guest of it on another host."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xenith.dev.client import ApiClient
from xenith.dev.demo import BOOTED, _chunks
from xenith.dev.tiny_image import find_or_build

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

Guests = Callable[[Path], list[int]]
SERVERS = "/compute/v2.1/servers"


async def build(api: ApiClient, name: str, image_id: str, **hints: Any) -> str:
    body = {"name": name, "imageRef": image_id, "networks": "auto", "flavorRef": "1"}
    server = await api.post(SERVERS, {"server": body, "os:scheduler_hints": hints})
    server_id: str = server["server"]["id"]
    await api.wait_server(server_id, status="ACTIVE", timeout_s=300)
    return server_id


async def booted(api: ApiClient, server_id: str) -> None:
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        answer: Any = await api.post(f"{SERVERS}/{server_id}/action", {"os-getConsoleOutput": {}})
        if BOOTED in answer["output"]:
            return
        await asyncio.sleep(0.5)
    raise AssertionError(f"guest {server_id} never came up")


async def active(api: ApiClient, image_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        image: dict[str, Any] = await api.get(f"/image/v2/images/{image_id}")
        if image["status"] == "active":
            return image
        await asyncio.sleep(0.2)
    raise AssertionError(f"the image is {image['status']}")


def test_a_guest_is_imaged_as_it_runs_and_its_image_boots_elsewhere(
    qemu_cloud: Path, guests: Guests
) -> None:
    async def walk() -> None:
        async with ApiClient.of_directory(qemu_cloud) as api:
            path = find_or_build()
            made = await api.post(
                "/image/v2/images",
                {"name": "tiny", "disk_format": "raw", "container_format": "bare"},
            )
            file = f"/image/v2/images/{made['id']}/file"
            await api.upload(file, _chunks(path), path.stat().st_size)
            first = await build(api, "first", made["id"])
            await booted(api, first)
            before = guests(qemu_cloud)
            assert len(before) == 2, "a guest, and its disks' process"
            await api.post(f"{SERVERS}/{first}/action", {"createImage": {"name": "of first"}})
            images = (await api.get("/image/v2/images?name=of first"))["images"]
            image = await active(api, images[0]["id"])
            assert (image["disk_format"], image["instance_uuid"]) == ("vhd", first)
            assert image["virtual_size"] == 2**30
            assert image["size"] < 2**26, "what is empty is not sent"
            await api.wait_server(first, status="ACTIVE", timeout_s=60)
            assert guests(qemu_cloud) == before, "the guest runs on"
            second = await build(api, "second", image["id"], different_host=[first])
            await booted(api, second)
            hosts = {
                (await api.get(f"{SERVERS}/{each}"))["server"]["hostId"] for each in (first, second)
            }
            assert len(hosts) == 2
            for each in (first, second):
                await api.delete(f"{SERVERS}/{each}")
                await api.wait_server(each, status=None, timeout_s=120)
            # The image is the tenant's, and stands by itself.
            await active(api, image["id"])
            assert guests(qemu_cloud) == []

    asyncio.run(walk())
