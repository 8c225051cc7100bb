"""A real guest, rescued and brought back by the official client, finds its own disk beside."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xenith.dev.client import ApiClient
from xenith.dev.tiny_image import find_or_build
from xenith.driver.ext4 import find_tool

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

Guests = Callable[[Path], list[int]]
SERVERS = "/compute/v2.1/servers"
#: Tells what is on the disks, and marks the first one if it is as large as the flavor says.
SCRIPT = """#!/bin/sh
for disk in vda vdb; do
    echo "mark of $disk: $(dd if=/dev/$disk bs=512 skip=204800 count=1 2>/dev/null | head -c 4)."
done
for disk in vdb vdc; do
    echo "swap on $disk: $(dd if=/dev/$disk bs=1 skip=4086 count=10 2>/dev/null | tr -d '\\0')."
    swapon /dev/$disk 2>/dev/null && echo "swapping: $(tail -n 1 /proc/swaps)"
done
for disk in vdd vde; do
    echo "label of $disk: $(dd if=/dev/$disk bs=1 skip=1144 count=10 2>/dev/null | tr -d '\\0')."
done
if [ "$(cat /sys/block/vda/size)" -gt 204800 ]; then
    echo mine | dd of=/dev/vda bs=512 seek=204800 conv=fsync 2>/dev/null
fi
echo "said all"
"""


def run(*command: str | Path, data: Path, cloud: str = "xenith-demo") -> str:
    environment = {key: value for key, value in os.environ.items() if key[:3] != "OS_"}
    environment |= {"OS_CLIENT_CONFIG_FILE": str(data / "clouds.yaml"), "OS_CLOUD": cloud}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def openstack(data: Path, *words: str, cloud: str = "xenith-demo") -> str:
    return run(Path(sys.executable).with_name("openstack"), *words, data=data, cloud=cloud)


async def said(api: ApiClient, server_id: str, *words: str) -> str:
    """Wait until a guest has said all, these words among it."""
    deadline = time.monotonic() + 300
    output = ""
    while time.monotonic() < deadline:
        answer: Any = await api.post(f"{SERVERS}/{server_id}/action", {"os-getConsoleOutput": {}})
        output = answer["output"]
        if all(word in output for word in ("said all", *words)):
            return output
        await asyncio.sleep(0.5)
    raise AssertionError(f"the guest never said {words}:\n{output}")


def test_a_guest_is_rescued_with_its_own_disk_beside_and_brought_back(
    qemu_cloud: Path, guests: Guests
) -> None:
    script = qemu_cloud.parent / "script"
    script.write_text(SCRIPT)
    file = str(find_or_build())
    openstack(qemu_cloud, "image", "create", "--disk-format", "raw", "--file", file, "tiny")
    sizes = ("--ram", "256", "--disk", "1", "--swap", "16", "--ephemeral", "1")
    openstack(qemu_cloud, "flavor", "create", *sizes, "rich", cloud="xenith")
    given = ("--flavor", "rich", "--image", "tiny", "--nic", "none", "--use-config-drive")
    shown = ("-f", "value", "-c", "id")
    server_id = openstack(
        qemu_cloud,
        "server",
        "create",
        *given,
        "--user-data",
        str(script),
        "--wait",
        *shown,
        "guest",
    )

    async def walk() -> None:
        async with ApiClient.of_directory(qemu_cloud) as api:
            output = await said(api, server_id, "mark of vda: .", "swap on vdb: SWAPSPACE2.")
            for disk in ("vda 1024 MiB", "vdb 16 MiB", "vdd 1024 MiB"):
                assert f"disk: {disk}" in output
            assert ("label of vdd: ephemeral0." in output) is (find_tool() is not None)
            openstack(qemu_cloud, "server", "rescue", "--password", "other", "guest")
            await api.wait_server(server_id, status="RESCUE", timeout_s=120)
            output = await said(api, server_id, "mark of vdb: mine.", "swap on vdc: SWAPSPACE2.")
            assert "disk: vda 28 MiB" in output
            openstack(qemu_cloud, "server", "unrescue", "guest")
            await api.wait_server(server_id, status="ACTIVE", timeout_s=120)
            await said(api, server_id, "mark of vda: mine.")
            openstack(qemu_cloud, "server", "delete", "--wait", "guest")
            assert guests(qemu_cloud.parent) == []

    asyncio.run(walk())
