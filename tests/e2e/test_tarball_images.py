"""Tarballs of VHDs as images, with the official client and real guests."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xenith.dev.client import ApiClient
from xenith.dev.demo import BOOTED
from xenith.dev.tiny_image import find_or_build

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

SERVERS = "/compute/v2.1/servers"


def openstack(cloud: Path, *words: str) -> Any:
    """Run the official command, and give the object that it printed."""
    environment = {key: value for key, value in os.environ.items() if key[:3] != "OS_"}
    where = {"OS_CLIENT_CONFIG_FILE": str(cloud / "clouds.yaml"), "OS_CLOUD": "xenith"}
    done = subprocess.run(
        [Path(sys.executable).with_name("openstack"), *words, "-f", "json"],
        env=environment | where,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"openstack {' '.join(words)}\n{done.stdout}{done.stderr}"
    return json.loads(done.stdout)


async def built(cloud: Path, name: str, image: str) -> None:
    """Build a server and wait until its guest has come up."""
    async with ApiClient.of_directory(cloud) as api:
        image_id = (await api.get(f"/image/v2/images?name={image}"))["images"][0]["id"]
        body = {"name": name, "imageRef": image_id, "flavorRef": "1", "networks": "auto"}
        server = (await api.post(SERVERS, {"server": body}))["server"]
        await api.wait_server(server["id"], status="ACTIVE", timeout_s=300)
        deadline = time.monotonic() + 400
        action = f"{SERVERS}/{server['id']}/action"
        while BOOTED not in (await api.post(action, {"os-getConsoleOutput": {}}))["output"]:
            assert time.monotonic() < deadline, f"guest {name} never came up"
            await asyncio.sleep(0.5)


def halves(data: bytes) -> list[dict[int, bytes]]:
    """Cut a disk into a base that has its odd mebibytes and a leaf that has its even ones."""
    parts = [(at, data[at : at + 2**20]) for at in range(0, len(data), 2**20)]
    return [dict(parts[1::2]), dict(parts[::2])]


def test_a_guest_boots_of_a_chain_that_a_tenant_brings(
    qemu_cloud: Path, tmp_path: Path, tarball_of: Callable[..., bytes]
) -> None:
    data = find_or_build().read_bytes()
    for name, level in (("plain.tar", None), ("packed.tar.gz", 1)):
        file = tmp_path / name
        file.write_bytes(tarball_of(halves(data), len(data), gzip_level=level))
        described = ("--disk-format", "vhd", "--container-format", "ovf", "--file", str(file))
        image = openstack(qemu_cloud, "image", "create", name, *described)
        assert image["status"] == "active"
        assert openstack(qemu_cloud, "image", "show", name)["virtual_size"] == len(data)
        asyncio.run(built(qemu_cloud, f"of {name}", name))
        back = tmp_path / f"back-{name}"
        command = ("image", "save", name, "--file", str(back))
        environment = {"OS_CLIENT_CONFIG_FILE": str(qemu_cloud / "clouds.yaml")}
        environment |= {**os.environ, "OS_CLOUD": "xenith"}
        program = Path(sys.executable).with_name("openstack")
        subprocess.run([program, *command], env=environment, timeout=300, check=True)
        assert back.read_bytes() == file.read_bytes()
