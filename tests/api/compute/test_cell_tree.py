"""The operators' API of the tree of cells, on real trees in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

import httpx2
import pytest

from xenith.http import Site

pytestmark = pytest.mark.slow


class Cells:
    """The API of a tree's root, asked as a caller named by token."""

    def __init__(self, tree: Any, callers: Any) -> None:
        self.tree = tree
        self.site = Site(tree.services(), world=tree.world, authenticator=callers)

    async def ask(
        self, method: str, path: str = "", *, by: str | None = "admin", **kwargs: Any
    ) -> httpx2.Response:
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=self.site),
            base_url="http://cloud/xenith/v1",
            headers={"X-Auth-Token": by} if by else {},
        ) as client:
            return await client.request(method, path, **kwargs)

    async def done(self, method: str, path: str, *, status: int = 200, **kwargs: Any) -> Any:
        answer = await self.ask(method, path, **kwargs)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def refused(self, code: int, method: str, path: str, **kwargs: Any) -> str:
        """Ask for what is refused with this code, and give the message."""
        answer = await self.ask(method, path, **kwargs)
        assert answer.status_code == code, answer.text
        return str(next(iter(answer.json().values()))["message"])

    async def cells(self) -> dict[str, dict[str, Any]]:
        found = await self.done("GET", "/cells")
        return {cell["name"]: cell for cell in found["cells"]}

    async def cell(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.done("GET", f"/cells/{name}"))["cell"]
        return found


@pytest.fixture
async def cells(tree_of_cells: ModuleType, callers: Any) -> AsyncIterator[Cells]:
    """Two regions of two leaves with a host each."""
    async with tree_of_cells.small_tree("1x2x2") as tree:
        yield Cells(tree, callers)


async def test_a_cloud_of_one_cell_is_a_tree_of_one(tree_of_cells: ModuleType, callers: Any):
    async with tree_of_cells.small_tree("1") as tree:
        cells = await Cells(tree, callers).cells()
    assert list(cells) == ["api"]
    only = cells["api"]
    assert (only["parents"], only["links"], only["age_s"], only["is_dark"]) == ([], [], 0, False)
    assert only["has_hosts"]


async def test_the_tree_tells_of_each_cell_what_it_has(cells: Cells):
    server_id = await cells.tree.build()
    found = await cells.cells()
    assert list(found) == ["api", "r1", "r2", "r1-c1", "r1-c2", "r2-c1", "r2-c2"]
    assert [cell["hosts_up"] for cell in found.values()] == [4, 2, 2, 1, 1, 1, 1]
    row = await cells.tree.instance(server_id)
    mine = next(cell for cell in found.values() if cell["id"] == row.cell_id)
    assert mine["servers"] == 1
    assert mine["path"] == f"api!{mine['parents'][0]}!{mine['name']}"
    assert mine["free"]["m1.micro"] == 127
    assert list(mine["free"])[:2] == ["m1.micro", "m1.tiny"]
    [link] = mine["links"]
    assert link["parent"] == mine["parents"][0]
    assert link["is_open"]
    assert link["is_alive"]
    assert mine["age_s"] < 60


async def test_one_cell_is_found_by_its_name_or_id(cells: Cells):
    by_name = await cells.cell("r1-c1")
    by_id = await cells.cell(by_name["id"])
    assert by_id["name"] == "r1-c1"
    assert by_id["links"][0]["is_open"]
    assert "no cell 'nowhere'" in await cells.refused(404, "GET", "/cells/nowhere")


async def test_a_cell_that_does_not_answer_is_dark_with_its_last_known_age(cells: Cells):
    await cells.tree.stop_cell("r1-c1")
    found = await cells.cells()
    dark = found["r1-c1"]
    assert dark["is_dark"]
    assert "did not answer within 2 s" in dark["silence"]
    assert dark["hosts"] == 1
    assert dark["hosts_up"] is None
    assert dark["age_s"] >= 2
    assert not any(cell["is_dark"] for name, cell in found.items() if name != "r1-c1")


async def test_what_is_below_a_dark_cell_is_dark_too_and_the_rest_is_shown(cells: Cells):
    await cells.tree.stop_cell("r2")
    found = await cells.cells()
    assert {name for name, cell in found.items() if cell["is_dark"]} == {"r2", "r2-c1", "r2-c2"}
    assert found["r2-c1"]["links"][0]["is_open"] is False


@pytest.mark.parametrize("who", ["reader", "member", "manager", "service", "unscoped"])
async def test_only_an_admin_sees_the_tree(tree_of_cells: ModuleType, callers: Any, who: str):
    async with tree_of_cells.small_tree("1") as tree:
        cells = Cells(tree, callers)
        for path in ("/cells", "/cells/api"):
            await cells.refused(403, "GET", path, by=who)
        answer = await cells.ask("GET", "/cells", by=None)
        assert answer.status_code == 401
