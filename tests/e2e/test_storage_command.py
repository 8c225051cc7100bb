"""``xenith storage`` against a cloud that runs, as an operator types it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from xenith.dev.client import ApiClient
from xenith.xapi import XapiSession

pytestmark = [pytest.mark.slow, pytest.mark.e2e]


def xenith(*arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "xenith.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    data = tmp_path / "cloud"
    where = ("--data", str(data))
    xenith("up", "--detach", *where, "--listen", "127.0.0.1:0", "--backend", "sim", "--hosts", "2")
    yield data
    xenith("down", *where)


async def build(data: Path) -> str:
    async def bytes_of_image() -> Any:
        yield bytes(2**20)

    async with ApiClient.of_directory(data) as api:
        described = {"name": "raw", "disk_format": "raw", "container_format": "bare"}
        image = await api.post("/image/v2/images", described)
        await api.upload(f"/image/v2/images/{image['id']}/file", bytes_of_image(), 2**20)
        server = {"name": "one", "imageRef": image["id"], "flavorRef": "1", "networks": "auto"}
        made = await api.post("/compute/v2.1/servers", {"server": server})
        server_id: str = made["server"]["id"]
        await api.wait_server(server_id, status="ACTIVE", timeout_s=60)
        return server_id


def test_chains_are_drawn_orphans_listed_and_chains_made_shorter(data: Path) -> None:
    where = ("--data", str(data))
    server_id = asyncio.run(build(data))
    drawn = xenith("storage", "chains", *where)
    assert f"root of {server_id}" in drawn
    assert "28 snapshots to the limit" in drawn
    (host,) = json.loads(xenith("storage", "chains", "--server", server_id, "-o", "json", *where))
    (repository,) = host["repositories"]
    kinds = [disk["kind"] for disk in repository["disks"]]
    assert sorted(kinds) == ["base", "image", "root"]
    assert "(none)" in xenith("storage", "orphans", *where)
    rows = json.loads(xenith("storage", "coalesce", "-o", "json", *where))
    assert [row["host"] for row in rows] == ["host-1", "host-2"]
    assert "There is no host nobody" in xenith(
        "storage", "chains", "--host", "nobody", *where, code=3
    )
    both = ("--quarantine", "--remove")
    assert "one at a time" in xenith("storage", "orphans", *both, *where, code=2)


async def make_disk(data: Path, name: str) -> str:
    """Make a disk on the first host as a person with another tool would; its uuid."""
    async with ApiClient.of_directory(data) as api:
        hosts = (await api.get("/xenith/v1/hosts"))["hosts"]
    url = next(host["url"] for host in hosts if host["name"] == "host-1")
    password = (data / "hosts.password").read_text().strip()
    session = await XapiSession.login(url, user="root", password=password)
    try:
        (sr,) = await session.call("SR.get_all")
        record = {"name_label": name, "SR": sr, "virtual_size": 2**21, "type": "user"}
        ref = await session.call("VDI.create", record | {"sharable": False, "read_only": False})
        uuid: str = await session.call("VDI.get_uuid", ref)
        return uuid
    finally:
        await session.logout()


def test_a_disk_of_nobody_goes_by_way_of_the_quarantine_and_its_name_stays_a_name(
    data: Path,
) -> None:
    where = ("--data", str(data))
    uuid = asyncio.run(make_disk(data, "old\x1b[2J\nname"))
    for shown in (xenith("storage", "orphans", *where), xenith("storage", "chains", *where)):
        assert "\x1b" not in shown
        assert "old\\x1b[2J\\nname" in shown
    before = xenith("storage", "orphans", "--remove", "--older-than", "0", *where)
    assert "(none)" in before, "nothing is removed that is not in quarantine"
    assert "in quarantine" in xenith("storage", "orphans", "--quarantine", *where)
    assert "refused" in xenith("storage", "orphans", "--remove", *where), "a week is not over"
    assert "released" in xenith("storage", "orphans", "--release", uuid, *where)
    assert "not in quarantine" in xenith("storage", "orphans", "--release", uuid, *where, code=2)
    xenith("storage", "orphans", "--quarantine", *where)
    assert "removed" in xenith("storage", "orphans", "--remove", "--older-than", "0", *where)
    assert "(none)" in xenith("storage", "orphans", *where)
    nowhere = "00000000-0000-4000-8000-000000000000"
    assert f"has a repository {nowhere}" in xenith(
        "storage", "coalesce", "--sr", nowhere, *where, code=3
    )
