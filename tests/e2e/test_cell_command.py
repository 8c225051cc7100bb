"""``xenith cell`` and ``xenith explain`` against a region that runs in a process of its own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from xenith.cells.joining import parse
from xenith.cli import run
from xenith.dev.client import ApiClient

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

Command = Callable[..., str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data directory of a region: two regions of two cells with a host each."""
    home = tmp_path_factory.mktemp("region")
    command = [sys.executable, "-m", "xenith.cli", "lab", "up", "--tree", "1x2x2"]
    command += ["--hosts-per-cell", "1", "--listen", "127.0.0.1:0", "--data", str(home / "d")]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        assert any(line.startswith("ready ") for line in process.stdout), (home / "log").read_text()
        yield home / "d"
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture
def command(data: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``xenith`` with these arguments and give what it printed, its errors too."""

    def call(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        found = run([*arguments, "--data", str(data)])
        said = capsys.readouterr()
        assert found == code, said
        return said.out + said.err

    return call


@pytest.fixture(scope="module")
def image(data: Path) -> str:
    """A raw image of a MiB."""

    async def upload() -> str:
        async def chunks() -> AsyncIterator[bytes]:
            yield bytes(2**20)

        async with ApiClient.of_directory(data) as api:
            made = await api.post(
                "/image/v2/images",
                {
                    "name": "raw",
                    "disk_format": "raw",
                    "container_format": "bare",
                    "visibility": "public",
                },
            )
            await api.upload(f"/image/v2/images/{made['id']}/file", chunks(), 2**20)
            return str(made["id"])

    return asyncio.run(upload())


def ask(data: Path, work: Callable[[ApiClient], Any], *, cloud: str = "xenith") -> Any:
    async def call() -> Any:
        async with ApiClient.of_directory(data, cloud=cloud) as api:
            return await work(api)

    return asyncio.run(call())


def test_a_cell_is_not_opened_untested_where_there_is_no_image(command: Command):
    said = command("cell", "open", "r1-c1", code=2)
    assert "there is no image" in said
    assert "--untested" in said
    assert "open" in command("cell", "open", "r1-c1", "--untested")


def test_the_tree_is_drawn_and_told_to_programs(command: Command):
    drawn = command("cell", "tree", "--flavor", "m1.large").splitlines()
    assert drawn[0].split() == [
        *("CELL", "STATE", "HOSTS", "SERVERS", "AGE", "LINK", "INTENTS", "M1.LARGE")
    ]
    assert [line.lstrip("│├└─ ").split()[0] for line in drawn[1:]] == [
        *("api", "r1", "r1-c1", "r1-c2", "r2", "r2-c1", "r2-c2")
    ]
    told = json.loads(command("cell", "tree", "-o", "json"))
    assert {cell["hosts"] for cell in told["cells"]} == {1, 2, 4}
    assert not any(cell["is_dark"] for cell in told["cells"])


def test_a_cell_is_expected_by_a_token_that_is_shown_with_what_to_do(command: Command):
    said = command("cell", "add", "new", "--parent", "r1", "--weight", "2")
    token = next(line.split()[-1] for line in said.splitlines() if "cell run --join" in line)
    assert parse(token).name == "new"
    assert "new is expected below r1" in command("cell", "tree")
    assert "cell new is removed" in command("cell", "remove", "new")
    told = json.loads(command("cell", "add", "new", "-o", "json"))
    assert parse(told["token"]).secret != parse(token).secret
    command("cell", "remove", "new")


def test_a_cell_is_tested_opened_closed_weighed_and_drained(command: Command, image: str):
    assert "cell r1-c1 passes: a m1.micro on host r1-c1-host-1" in command(
        "cell", "test", "r1-c1", "--image", image
    )
    assert "closed" in command("cell", "close", "r1-c1")
    opened = command("cell", "open", "r1-c1")
    assert "passes" in opened
    assert "open" in opened.splitlines()[-5]
    weighed = json.loads(command("cell", "weight", "r1-c1", "0.5", "--offset", "-1", "-o", "json"))
    assert (weighed["weight"], weighed["weight_offset"]) == (0.5, -1)
    kept = json.loads(command("cell", "weight", "r1-c1", "3", "-o", "json"))
    assert (kept["weight"], kept["weight_offset"]) == (3, -1)
    assert "r1-c2" in command("cell", "drain", "r1-c1", "--to", "r1-c2")
    assert "is draining" in command("cell", "test", "r1-c1", code=4)
    command("cell", "open", "r1-c1", "--untested")


def test_a_projection_is_rebuilt(command: Command):
    lines = command("cell", "rebuild", "r2-c2").splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["r2", "r2-c2"], ["api", "r2-c2"]]


def test_a_cell_is_shown_with_its_links(command: Command):
    shown = command("cell", "show", "r2-c1")
    assert "api!r2!r2-c1" in shown
    assert "REFUSED_BY_PARENT" in shown


def test_what_is_wrong_ends_with_a_reason_and_a_code(command: Command):
    assert "no cell 'nowhere'" in command("cell", "show", "nowhere", code=3)
    assert "the name 'Bad Name'" in command("cell", "add", "Bad Name", code=2)
    assert "is not a number of 0 or more" in command("cell", "weight", "r1", "-1", code=2)
    assert "the children r1-c1, r1-c2" in command("cell", "remove", "r1", code=4)


def test_the_choice_of_cells_is_explained_to_the_operator_and_counted_for_the_tenant(
    command: Command, data: Path, image: str
):
    async def build(api: ApiClient) -> str:
        server = {"name": "web", "imageRef": image, "flavorRef": "64", "networks": "none"}
        hints = {"target_cell": ["r2-c2"]}
        made = await api.post(
            "/compute/v2.1/servers", {"server": server, "os:scheduler_hints": hints}
        )
        await api.wait_server(made["server"]["id"], status="ACTIVE", timeout_s=60)
        return str(made["server"]["id"])

    server_id = ask(data, build, cloud="xenith-demo")
    said = command("explain", "server", server_id)
    assert "choice of a cell, 1: 2 cells" in said
    assert "drawn r2-c2: weight" in said
    assert said.index("choice of a cell, 2") < said.index("attempt 1")
    path = f"/xenith/v1/servers/{server_id}/explanation"
    told = ask(data, lambda api: api.get(path), cloud="xenith-demo")["explanation"]
    assert [step["cell_count"] for step in told["cells"]] == [2, 2]
    assert "r2-c2" not in json.dumps(told)


def test_a_cell_with_servers_goes_only_by_force_and_what_stays_is_said(command: Command):
    assert "1 living server:" in command("cell", "remove", "r2-c2", code=4)
    gone = command("cell", "remove", "r2-c2", "--force")
    assert "stays: 1 server:" in gone
    assert "r2-c2" not in command("cell", "tree")
