"""The main job, as a newcomer sees it: one command, real guests, and they outlive us."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from xenith.dev.client import ApiClient
from xenith.dev.demo import BOOTED, _chunks
from xenith.dev.tiny_image import find_or_build

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

#: Seconds for a whole walk under emulation on a busy machine.
DEMO_TIMEOUT_S = 900


@pytest.fixture(autouse=True)
def needs_qemu() -> None:
    if shutil.which("qemu-system-x86_64") is None:
        reason = "qemu-system-x86 is not installed: real guests are left out"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def xenith(*arguments: str, timeout_s: float = 120) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "xenith.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "cloud"
    subprocess.run(
        [sys.executable, "-m", "xenith.cli", "down", "--data", str(tmp_path / "cloud")],
        check=False,
        capture_output=True,
    )
    for pid in guests(tmp_path):
        os.kill(pid, signal.SIGKILL)


def guests(place: Path) -> list[int]:
    """List the QEMU processes whose files lie below a directory of this test's."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        # A short link may stand for the directory where a socket's path would be too long.
        if "qemu-system" in command.split("\0")[0] and str(place) in command:
            found.append(int(entry.name))
    return found


def test_the_demo_boots_real_guests_and_walks_one_through_its_life(tmp_path: Path) -> None:
    data = tmp_path / "demo"
    shown = json.loads(
        xenith(
            "demo", "--servers", "2", "--data", str(data), "-o", "json", timeout_s=DEMO_TIMEOUT_S
        )
    )
    names = [step["step"].split(":")[0] for step in shown["steps"]]
    assert names == [
        "the image is at hand",
        "the cloud is up",
        "upload the image",
        "make a flavor and a key",
        "create 2 servers",
        "boot",
        "stop",
        "start",
        "reboot",
        "delete",
    ]
    address = next(s["note"] for s in shown["steps"] if s["step"].startswith("create"))
    first = address.split(",")[0].split()[1]
    assert "host name: demo-1" in shown["console"]
    assert first in shown["console"]
    assert "user data ran on demo-1" in shown["console"]
    assert shown["console"].count(BOOTED) == 3, "booted, started again, rebooted"
    assert guests(tmp_path) == [], "the demo left guests behind"


async def _create(api: ApiClient) -> str:
    image = find_or_build()
    made = await api.post(
        "/image/v2/images",
        {"name": "tiny", "disk_format": "raw", "container_format": "bare"},
    )
    await api.upload(f"/image/v2/images/{made['id']}/file", _chunks(image), image.stat().st_size)
    flavor = await api.post(
        "/compute/v2.1/flavors", {"flavor": {"name": "t", "ram": 128, "vcpus": 1, "disk": 1}}
    )
    server = await api.post(
        "/compute/v2.1/servers",
        {
            "server": {
                "name": "survivor",
                "imageRef": made["id"],
                "networks": "auto",
                "flavorRef": flavor["flavor"]["id"],
            }
        },
    )
    server_id: str = server["server"]["id"]
    await api.wait_server(server_id, status="ACTIVE", timeout_s=300)
    return server_id


async def _console(api: ApiClient, server_id: str, word: str) -> str:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        answer: Any = await api.post(
            f"/compute/v2.1/servers/{server_id}/action", {"os-getConsoleOutput": {}}
        )
        if word in answer["output"]:
            return str(answer["output"])
        await asyncio.sleep(0.5)
    raise AssertionError(f"the guest never said {word!r}")


def up(data: Path) -> int:
    said = xenith(
        "up",
        "--detach",
        "--data",
        str(data),
        "--listen",
        "127.0.0.1:0",
        "--backend",
        "qemu",
        "--hosts",
        "1",
    )
    return int(said.split("process ")[1].split(",")[0])


def test_a_guest_lives_on_while_xenith_is_down_and_is_found_again(data: Path) -> None:
    pid = up(data)

    async def begin() -> str:
        async with ApiClient.of_directory(data) as api:
            server_id = await _create(api)
            await _console(api, server_id, BOOTED)
            return server_id

    server_id = asyncio.run(begin())
    before = guests(data.parent)
    assert len(before) == 1
    os.kill(pid, signal.SIGKILL)
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    assert guests(data.parent) == before, "the guest died with the control plane"
    up(data)

    async def go_on() -> None:
        async with ApiClient.of_directory(data) as api:
            await api.wait_server(server_id, status="ACTIVE", timeout_s=60)
            assert guests(data.parent) == before, "the guest was started anew"
            path = f"/compute/v2.1/servers/{server_id}"
            await api.post(f"{path}/action", {"os-stop": None})
            await api.wait_server(server_id, status="SHUTOFF", timeout_s=120)
            assert guests(data.parent) == []
            await api.delete(path)
            await api.wait_server(server_id, status=None, timeout_s=60)

    asyncio.run(go_on())
