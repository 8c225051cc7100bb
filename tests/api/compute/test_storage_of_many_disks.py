"""What a host with thousands of disks tells to the root of a tree, over a real link."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import httpx2
import pytest

from xenith.cells.link import MESSAGES_BYTES_MAX
from xenith.compute.operations import storage
from xenith.http import Site

pytestmark = pytest.mark.slow

DISK_COUNT = 5000


async def test_a_host_of_another_cell_tells_of_five_thousand_disks(
    tree_of_cells: ModuleType, callers: Any, monkeypatch: pytest.MonkeyPatch
):
    # The tree's clock is quick, and reading so much takes what it takes.
    monkeypatch.setattr(storage, "READ_TIMEOUT_S", 280.0)
    async with tree_of_cells.small_tree("1x2") as tree:
        host = next(iter(tree.fleet.hosts.values()))
        (sr,) = host.objects.all("SR")
        for number in range(DISK_COUNT):
            host.objects.create(
                "VDI",
                uuid=f"44444444-0000-4000-8000-{number:012d}",
                name_label=f"somebody's disk {number}",
                SR=sr,
                virtual_size=2**30,
                managed=True,
            )
        site = Site(tree.services(), world=tree.world, authenticator=callers)
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=site),
            base_url="http://cloud/xenith/v1",
            headers={"X-Auth-Token": "admin"},
        ) as client:
            answer = await client.get("/storage", timeout=280)
    assert answer.status_code == 200
    assert len(answer.content) > MESSAGES_BYTES_MAX
    told = answer.json()["hosts"]
    assert [host["error"] for host in told] == ["", ""]
    counts = [sum(len(one["disks"]) for one in host["repositories"]) for host in told]
    assert sorted(counts) == [0, DISK_COUNT]
    disks = [disk for host in told for one in host["repositories"] for disk in one["disks"]]
    assert len({disk["uuid"] for disk in disks}) == DISK_COUNT
    assert all(disk["proof"] for disk in disks)
