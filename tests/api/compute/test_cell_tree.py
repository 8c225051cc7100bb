"""The operators' API of the tree of cells, on real trees in one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

import httpx2
import msgspec
import pytest

from xenith.bus import Priority
from xenith.cells.changes import Batch
from xenith.cells.frames import Header
from xenith.cells.frames import encode as encode_frame
from xenith.cells.joining import parse
from xenith.cells.keys import CellKey
from xenith.cells.link import topic_of
from xenith.cells.messages import Hello
from xenith.cells.messages import encode as encode_message
from xenith.cells.topology import without_key
from xenith.cli.explain import lines
from xenith.compute.records.hosts import hosts
from xenith.compute.records.servers import servers
from xenith.core.ids import CellId
from xenith.http import Site

IMAGE_ID = "11111111-0000-4000-8000-000000000001"

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

    async def until_dark(self, *names: str) -> dict[str, dict[str, Any]]:
        """Wait until these cells and no others are dark, and give all."""
        found: dict[str, dict[str, Any]] = {}

        async def are_dark() -> bool:
            found.update(await self.cells())
            return {name for name, cell in found.items() if cell["is_dark"]} == set(names)

        await self.tree.until(are_dark)
        return found

    async def cell(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.done("GET", f"/cells/{name}"))["cell"]
        return found


@pytest.fixture
async def few(tree_of_cells: ModuleType, callers: Any) -> AsyncIterator[Cells]:
    """A root without hosts, and two leaves."""
    async with tree_of_cells.small_tree("1x2") as tree:
        yield Cells(tree, callers)


@pytest.fixture
async def cells(tree_of_cells: ModuleType, callers: Any) -> AsyncIterator[Cells]:
    """Two regions of two leaves with a host each."""
    async with tree_of_cells.small_tree("1x2x2") as tree:
        yield Cells(tree, callers)


async def test_a_cloud_of_one_cell_is_a_tree_of_one(tree_of_cells: ModuleType, callers: Any):
    async with tree_of_cells.small_tree("1") as tree:
        cells = await Cells(tree, callers).until_dark()
    assert list(cells) == ["api"]
    only = cells["api"]
    assert (only["parents"], only["links"], only["age_s"], only["is_dark"]) == ([], [], 0, False)
    assert only["has_hosts"]


async def test_the_tree_tells_of_each_cell_what_it_has(cells: Cells):
    server_id = await cells.tree.build()
    found = await cells.until_dark()
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
    dark = (await cells.until_dark("r1-c1"))["r1-c1"]
    assert "did not answer within 2 s" in dark["silence"]
    assert dark["hosts"] == 1
    assert dark["hosts_up"] == 0
    assert dark["age_s"] >= 2


async def test_what_is_below_a_dark_cell_is_dark_too_and_the_rest_is_shown(cells: Cells):
    await cells.tree.stop_cell("r2")
    found = await cells.until_dark("r2", "r2-c1", "r2-c2")
    assert found["r2-c1"]["links"][0]["is_open"] is False


@pytest.mark.parametrize("who", ["reader", "member", "manager", "service", "unscoped"])
async def test_only_an_admin_sees_the_tree(tree_of_cells: ModuleType, callers: Any, who: str):
    async with tree_of_cells.small_tree("1") as tree:
        cells = Cells(tree, callers)
        for path in ("/cells", "/cells/api"):
            await cells.refused(403, "GET", path, by=who)
        answer = await cells.ask("GET", "/cells", by=None)
        assert answer.status_code == 401


# -- joining


def keys_of(key: CellKey) -> dict[str, str]:
    return {"signing_key": key.public.signing.hex(), "sealing_key": key.public.sealing.hex()}


def secret_of(added: dict[str, Any]) -> str:
    return parse(added["token"]).secret


async def joined(cells: Cells, name: str = "new", seed: bytes = b"new", **fields: Any) -> Any:
    """Have a new cell join; give what the root told it."""
    added = await cells.done("POST", "/cells", status=201, json={"name": name, **fields})
    body = {"secret": secret_of(added), **keys_of(CellKey.derive(seed))}
    return await cells.done("POST", "/join", by=None, json=body)


async def test_a_cell_joins_with_its_token_closed_and_is_tested_and_opened(cells: Cells):
    wish = {"parents": ["r1"], "weight": 2.5, "weight_offset": -1, "broker": "amqp://one:5672"}
    added = await cells.done("POST", "/cells", status=201, json={"name": "new", **wish})
    token = parse(added["token"])
    assert (token.name, token.api_url) == ("new", "http://cloud")
    assert token.root == cells.tree.root.node.root
    found = await cells.done("GET", "/cells")
    assert [(each["name"], each["parents"]) for each in found["expected"]] == [("new", ["r1"])]
    assert "new" not in {cell["name"] for cell in found["cells"]}

    key = CellKey.derive(b"new")
    body = {"secret": token.secret, **keys_of(key), "broker": "amqp://two:5672"}
    told = await cells.done("POST", "/join", by=None, json=body)
    assert told["region"] == "r"
    entry = cells.tree.root.node.topology.get(told["cell_id"])
    assert (entry.state, entry.weight, entry.weight_offset) == ("closed", 2.5, -1)
    assert (entry.key, entry.broker) == (key.public, "amqp://two:5672")
    assert (await cells.done("GET", "/cells"))["expected"] == []

    await cells.tree.run_joined(told, key)
    await cells.tree.settle()
    tested = await cells.done("POST", "/cells/new/test", json={"image": IMAGE_ID})
    assert tested["test"]["host"] == "new-host-1"
    assert tested["test"]["built_in"] == "api!r1!new"
    assert tested["test"]["flavor"] == "m1.micro"
    assert 0 <= tested["test"]["accepted_s"] <= tested["test"]["active_s"]
    changed = await cells.done("PATCH", "/cells/new", json={"state": "open"})
    assert changed["cell"]["state"] == "open"
    assert (await cells.cell("new"))["servers"] == 0


async def test_a_lost_answer_is_given_again_to_the_same_cell_and_to_no_other(few: Cells):
    added = await few.done("POST", "/cells", status=201, json={"name": "new"})
    body = {"secret": secret_of(added), **keys_of(CellKey.derive(b"new"))}
    first = await few.done("POST", "/join", by=None, json=body)
    version = few.tree.root.node.topology.version
    assert await few.done("POST", "/join", by=None, json=body) == first
    assert few.tree.root.node.topology.version == version
    other = {**body, **keys_of(CellKey.derive(b"other"))}
    await few.refused(403, "POST", "/join", by=None, json=other)


async def test_every_bad_secret_is_refused_in_the_same_words(few: Cells):
    used, late, voided = [
        secret_of(
            await few.done("POST", "/cells", status=201, json={"name": name, "life_s": life_s})
        )
        for name, life_s in (("used", 600), ("late", 0.5), ("voided", 600))
    ]
    body = {"secret": used, **keys_of(CellKey.derive(b"used"))}
    await few.done("POST", "/join", by=None, json=body)
    await few.done("DELETE", "/cells/voided")
    await few.tree.world.clock.sleep(1.0)
    said = {
        await few.refused(
            403,
            "POST",
            "/join",
            by=None,
            json={"secret": secret, **keys_of(CellKey.derive(b"x"))},
        )
        for secret in (used, late, voided, "", "never-issued", "\u2028" * 100)
    }
    assert len(said) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"signing_key": "zz" * 32},
        {"signing_key": "00"},
        {"sealing_key": " " * 64},
        {"broker": "amqp://user:password@host"},
        {"broker_ca": "xyz"},
        {"secret": "s" * 200},
        {"secret": 5},
    ],
)
async def test_a_join_that_cannot_be_leaves_the_token_good(few: Cells, fields: dict[str, Any]):
    added = await few.done("POST", "/cells", status=201, json={"name": "new"})
    body = {"secret": secret_of(added), **keys_of(CellKey.derive(b"new"))}
    said = await few.refused(400, "POST", "/join", by=None, json={**body, **fields})
    assert "password" not in said
    assert body["secret"] not in said
    await few.done("POST", "/join", by=None, json=body)


async def test_a_second_token_for_a_name_voids_the_first(few: Cells):
    first = await few.done("POST", "/cells", status=201, json={"name": "new"})
    await few.done("POST", "/cells", status=201, json={"name": "new"})
    body = {"secret": secret_of(first), **keys_of(CellKey.derive(b"new"))}
    await few.refused(403, "POST", "/join", by=None, json=body)


# -- what is refused


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"name": "Bad Name"}, "the name 'Bad Name' is not"),
        ({"name": ""}, "the name '' is not"),
        ({"name": "n", "parents": ["nowhere"]}, "no cell 'nowhere'"),
        ({"name": "n", "parents": ["n"]}, "no cell 'n'"),
        ({"name": "n", "parents": ["c1", "c1"]}, "has the parent"),
        ({"name": "n", "weight": -1}, "the weight -1.0 is not"),
        ({"name": "n", "weight": "much"}, "weight"),
        ({"name": "n", "projects": [""]}, "is empty"),
        ({"name": "n", "broker": "amqp://a:b@c"}, "carries an account"),
        ({"name": "n", "life_s": 0}, "lives up to"),
        ({"name": "n", "life_s": 1e9}, "lives up to"),
        ({"name": "n", "api_url": "ftp://x"}, "API address"),
        ({"name": "n", "colour": "red"}, "'colour' was unexpected"),
        ({}, "name"),
    ],
)
async def test_a_cell_that_cannot_be_is_refused_with_the_reason(
    few: Cells, body: dict[str, Any], words: str
):
    assert words in await few.refused(400, "POST", "/cells", json=body)
    assert (await few.done("GET", "/cells"))["expected"] == []


async def test_a_weight_that_is_no_finite_number_is_refused(few: Cells):
    for text in ("1e999", "-1e999", "NaN"):
        body = f'{{"name": "n", "weight": {text}}}'
        answer = await few.ask("POST", "/cells", content=body)
        assert answer.status_code == 400, answer.text


async def test_a_cell_with_hosts_takes_no_children(cells: Cells):
    body = {"name": "new", "parents": ["r1-c1"]}
    assert "has hosts of its own" in await cells.refused(409, "POST", "/cells", json=body)
    changed = {"parents": ["r1-c1"]}
    said = await cells.refused(409, "PATCH", "/cells/r2-c1", json=changed)
    assert "has hosts of its own" in said


async def test_a_cloud_of_one_cell_takes_no_children_until_it_is_a_root(
    tree_of_cells: ModuleType, callers: Any
):
    async with tree_of_cells.small_tree("1") as tree:
        said = await Cells(tree, callers).refused(409, "POST", "/cells", json={"name": "new"})
    assert "role = root" in said


async def test_a_name_that_is_taken_is_refused(cells: Cells):
    said = await cells.refused(409, "POST", "/cells", json={"name": "r1"})
    assert "there is a cell r1" in said


@pytest.mark.parametrize(
    ("cell", "body", "words"),
    [
        ("c1", {"parents": ["c1"]}, "is its own parent"),
        ("c1", {"parents": ["nowhere"]}, "no cell 'nowhere'"),
        ("c1", {"parents": []}, "needs a parent"),
        ("c1", {"weight": -0.5}, "the weight -0.5 is not"),
        ("c1", {"state": "ajar"}, "state"),
        ("c1", {"state": "open", "successor": "c2"}, "only a draining cell has a successor"),
        ("c1", {"state": "draining", "successor": "c1"}, "its own successor"),
        ("c1", {"state": "draining", "successor": "nowhere"}, "no cell 'nowhere'"),
        ("c1", {"key": "0" * 64}, "'key' was unexpected"),
    ],
)
async def test_a_change_that_cannot_be_is_refused_with_the_reason(
    few: Cells, cell: str, body: dict[str, Any], words: str
):
    version = few.tree.root.node.topology.version
    assert words in await few.refused(400, "PATCH", f"/cells/{cell}", json=body)
    assert few.tree.root.node.topology.version == version


async def test_parents_in_a_loop_are_refused_with_the_loop(tree_of_cells: Any, callers: Any):
    async with tree_of_cells.small_tree("1x1x1x1") as tree:
        cells = Cells(tree, callers)
        body = {"parents": ["r1-r1"]}
        said = await cells.refused(400, "PATCH", "/cells/r1", json=body)
        assert "loop" in said
        assert "r1-r1" in said
        assert "r1-r1-c1" not in said


async def test_the_root_is_neither_moved_nor_drained_nor_removed(cells: Cells):
    for body in ({"state": "closed"}, {"parents": ["r1"]}):
        assert "is the root" in await cells.refused(409, "PATCH", "/cells/api", json=body)
    assert "is the root" in await cells.refused(409, "DELETE", "/cells/api?force")


# -- changes


async def test_what_an_operator_changes_is_followed_by_every_cell(cells: Cells):
    body = {
        "weight": 0.25,
        "weight_offset": 3,
        "projects": ["p1", "p9"],
        "flavor_classes": ["gpu"],
        "state": "draining",
        "successor": "r2-c1",
    }
    changed = (await cells.done("PATCH", "/cells/r1-c1", json=body))["cell"]
    assert {name: changed[name] for name in body} == body

    async def is_followed() -> bool:
        newest = cells.tree.root.node.topology.version
        return all(cell.node.topology.version == newest for cell in cells.tree.cells.values())

    await cells.tree.until(is_followed)
    entry = cells.tree.cells["r2-c2"].node.topology.get("r1-c1")
    assert (entry.weight, entry.state) == (0.25, "draining")
    kept = (await cells.done("PATCH", "/cells/r1-c1", json={"weight": 4}))["cell"]
    assert (kept["weight"], kept["weight_offset"], kept["successor"]) == (4, 3, "r2-c1")


async def test_a_broker_s_certificate_is_told_with_its_address_or_alone(cells: Cells):
    def told() -> tuple[str, bytes]:
        entry = cells.tree.root.node.topology.get("r1-c1")
        return entry.broker, entry.broker_ca

    body = {"broker": "amqps://b.example:5671", "broker_ca": b"one".hex()}
    await cells.done("PATCH", "/cells/r1-c1", json=body)
    assert told() == ("amqps://b.example:5671", b"one")
    await cells.done("PATCH", "/cells/r1-c1", json={"broker_ca": b"two".hex()})
    await cells.done("PATCH", "/cells/r1-c1", json={"weight": 2})
    assert told() == ("amqps://b.example:5671", b"two")
    await cells.done("PATCH", "/cells/r1-c1", json={"broker": "amqps://c.example"})
    assert told() == ("amqps://c.example", b"two")
    wrong = (
        {"broker_ca": "xyz"},
        {"broker_ca": "00" * 20_000},
        {"broker_ca": ""},
        {"broker": "ftp:/x"},
        {"broker": "amqps://b:no"},
        {"broker": "amqp://b", "broker_ca": b"one".hex()},
    )
    for each in wrong:
        await cells.refused(400, "PATCH", "/cells/r1-c1", json=each)
    assert told() == ("amqps://c.example", b"two")
    await cells.done("PATCH", "/cells/r1-c1", json={"broker": "amqp://127.0.0.1"})
    assert told() == ("amqp://127.0.0.1", b"")


async def test_a_cell_gets_a_second_parent_and_a_link_to_it(cells: Cells):
    await cells.done("PATCH", "/cells/r1-c1", json={"parents": ["r1", "r2"]})

    async def has_both() -> bool:
        links = (await cells.cell("r1-c1"))["links"]
        return [link["parent"] for link in links] == ["r1", "r2"] and all(
            link["is_open"] for link in links
        )

    await cells.tree.until(has_both)


async def test_a_closed_cell_takes_no_builds_but_those_that_are_sent_to_it(cells: Cells):
    for name in ("r1", "r2-c1"):
        await cells.done("PATCH", f"/cells/{name}", json={"state": "closed"})
    found = await cells.tree.instance(await cells.tree.build())
    assert found.cell_id == cells.tree.id_of("r2-c2")
    tested = await cells.done("POST", "/cells/r2-c1/test", json={"image": IMAGE_ID})
    assert tested["test"]["built_in"] == "api!r2!r2-c1"


async def test_edits_at_the_same_time_are_all_made(cells: Cells):
    names = ["r1", "r2", "r1-c1", "r1-c2", "r2-c1", "r2-c2"]
    await asyncio.gather(
        *(cells.done("PATCH", f"/cells/{name}", json={"weight": 7}) for name in names)
    )
    assert {(await cells.cells())[name]["weight"] for name in names} == {7}


# -- the smoke test


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"image": "nowhere"}, "Image nowhere could not be found"),
        ({"image": IMAGE_ID, "flavor": "huge"}, "Flavor huge could not be found"),
        ({"image": IMAGE_ID, "timeout_s": 1000}, "timeout_s"),
        ({}, "image"),
    ],
)
async def test_a_smoke_test_of_what_is_not_there_is_refused(
    few: Cells, body: dict[str, Any], words: str
):
    assert words in await few.refused(400, "POST", "/cells/c1/test", json=body)


async def test_a_smoke_test_that_fails_says_why_and_leaves_nothing(cells: Cells):
    body = {"image": IMAGE_ID, "flavor": "m1.xlarge"}
    said = await cells.refused(409, "POST", "/cells/r1-c1/test", json=body)
    assert said.startswith("the smoke test of cell r1-c1 failed: ")
    assert "room" in said

    async def is_clean() -> bool:
        living = await cells.tree.root.db.read(
            lambda tx: [row for row in tx.list(servers) if row.deleted_at is None]
        )
        return not living

    await cells.tree.until(is_clean)
    await cells.done("PATCH", "/cells/r1-c1", json={"state": "draining"})
    said = await cells.refused(409, "POST", "/cells/r1-c1/test", json={"image": IMAGE_ID})
    assert "is draining" in said


# -- rebuilding


async def test_a_projection_is_rebuilt_as_it_was_byte_for_byte(cells: Cells):
    for _ in range(3):
        await cells.tree.build(target_cell="r1")
    leaves = [cells.tree.id_of(name) for name in ("r1-c1", "r1-c2")]

    async def hashes(name: str) -> list[list[bytes]]:
        node = cells.tree.cells[name].node
        return [await node.db.read(node.changes.hashes, leaf) for leaf in leaves]

    await cells.tree.settle()
    at_root, at_router = await hashes("api"), await hashes("r1")
    done = await cells.done("POST", "/cells/r1-c1/rebuild")
    assert [(each["cell"], each["whole"]) for each in done["in"]] == [
        ("r1", ["r1-c1"]),
        ("api", ["r1-c1"]),
    ]
    assert await hashes("api") == at_root
    assert await hashes("r1") == at_router
    done = await cells.done("POST", "/cells/r1/rebuild")
    assert [(each["cell"], sorted(each["whole"])) for each in done["in"]] == [
        ("api", ["r1", "r1-c1", "r1-c2"])
    ]
    assert await hashes("api") == at_root


async def test_what_cannot_be_read_anew_is_not_dropped(cells: Cells):
    server_id = await cells.tree.build(target_cell="r1-c1")
    await cells.tree.stop_cell("r1")

    async def is_dead() -> bool:
        return bool(cells.tree.root.node.chooser.is_dead(cells.tree.id_of("r1")))

    await cells.tree.until(is_dead)
    said = await cells.refused(503, "POST", "/cells/r1-c1/rebuild")
    assert "left as it is" in said
    assert await cells.tree.instance(server_id) is not None


# -- removing


async def test_a_cell_with_servers_or_children_is_removed_only_by_force(cells: Cells):
    await cells.tree.build(target_cell="r1-c1")
    said = await cells.refused(409, "DELETE", "/cells/r1-c1")
    assert "1 living server:" in said
    assert "r1-c1, r1-c2" in await cells.refused(409, "DELETE", "/cells/r1")
    # No other parent would be left to them.
    assert "has 2 children" in await cells.refused(409, "DELETE", "/cells/r1?force")
    gone = await cells.done("DELETE", "/cells/r1-c1?force=true")
    assert gone["servers"] == 1
    assert len(gone["stays"]) == 2
    assert "r1-c1" not in await cells.cells()
    topology = cells.tree.root.node.topology
    assert cells.tree.plan.topology.get("r1-c1").key.signing in topology.revoked


async def test_an_empty_cell_goes_with_its_hosts_and_children_keep_other_parents(
    tree_of_cells: Any, callers: Any
):
    async with tree_of_cells.small_tree("1x2x1", second_parents=1) as tree:
        cells = Cells(tree, callers)
        gone = await cells.done("DELETE", "/cells/r1?force")
        assert gone["stays"] == ["the cells r1-c1, below their other parents"]
        assert (await cells.cell("r1-c1"))["parents"] == ["r2"]
        gone = await cells.done("DELETE", "/cells/r2-c1")
        assert "1 host," in gone["stays"][0]
        listed = (await cells.done("GET", "/hosts"))["hosts"]
        assert [host["name"] for host in listed] == ["r1-c1-host-1"]


async def test_the_token_of_a_cell_that_is_expected_is_voided(few: Cells):
    await few.done("POST", "/cells", status=201, json={"name": "new"})
    await few.done("DELETE", "/cells/new")
    await few.refused(404, "DELETE", "/cells/new")


# -- neighbours that do what they may not


def forged(key: CellKey, sender: str, receiver: str, *messages: Any) -> bytes:
    """Make a frame as a cell would, with a key of one's own."""
    header = Header(
        sender=CellId(sender),
        receiver=CellId(receiver),
        session="s",
        to_session="",
        sequence=1,
        kind="messages",
        sent_at=0.0,
    )
    body = msgspec.msgpack.encode([msgspec.Raw(encode_message(each)) for each in messages])
    return encode_frame(key, header, body)


async def test_frames_of_unknown_and_revoked_keys_are_refused_and_counted(cells: Cells):
    tree = cells.tree
    child, root = tree.id_of("r1"), tree.plan.root
    link = tree.root.node.children[child].link

    async def send(frame: bytes) -> None:
        await tree.bus.publish(topic_of(child, root), frame, priority=Priority.INTENT)

    async def refused(reason: str) -> dict[str, Any]:
        async def is_counted() -> bool:
            return bool(link.counts["refused_" + reason])

        await tree.until(is_counted)
        found = await cells.cells()
        return found["r1"]["links"][0]["refused_by_parent"]

    stranger = CellKey.derive(b"stranger")
    await send(forged(stranger, child, root, Hello()))
    assert (await refused("bad_signature"))["bad_signature"] == 1
    await send(forged(stranger, "stranger", root, Hello()))
    assert (await refused("unknown_sender"))["unknown_sender"] == 1
    newest = tree.root.node.topology
    await tree.root.node.publish(without_key(newest, child))
    await send(forged(tree.plan.keys[child], child, root, Hello()))
    assert (await refused("revoked_sender"))["revoked_sender"] >= 1
    assert (await cells.cell("r1"))["is_revoked"]


async def test_rows_of_another_origin_are_refused_and_counted(cells: Cells):
    tree = cells.tree
    row = {"id": "h", "change_number": 1, "name": "mine now"}
    stolen = Batch(origin=tree.id_of("r2-c1"), epoch=9, after=0, to=1, head=1, rows=[("host", row)])
    tree.cells["r1"].node.parents[tree.plan.root].link.post(stolen)

    async def is_counted() -> bool:
        link = (await cells.cell("r1"))["links"][0]
        return bool(link["refused_by_parent"].get("not_its_own") == 1)

    await tree.until(is_counted)
    found = await tree.root.db.read(lambda tx: tx.list(hosts, id="h"))
    assert found == []


# -- why a server is where it is


async def test_the_choice_of_cells_is_explained_level_by_level(cells: Cells):
    server_id = await cells.tree.build(target_cell="r2-c2")
    path = f"/servers/{server_id}/explanation"
    told = (await cells.done("GET", path))["explanation"]
    assert told["cell"] == "api!r2!r2-c2"
    first, second = told["cells"]
    assert (first["cell_count"], second["cell_count"]) == (2, 2)
    assert [each["name"] for each in first["sampled"]] == ["r2"]
    assert [each["name"] for each in second["sampled"]] == ["r2-c2"]
    assert {row["name"]: row["cells_left"] for row in second["filters"]}["hints"] == 1
    assert told["host"] == "r2-c2-host-1"
    text = "\n".join(lines(told))
    assert "choice of a cell, 1: 2 cells" in text
    assert "drawn r2-c2: weight" in text


async def test_a_tenant_is_told_how_many_cells_there_were_and_not_which(cells: Cells):
    server_id = await cells.tree.build(target_cell="r2-c2")
    answer = await cells.ask("GET", f"/servers/{server_id}/explanation", by="member")
    told = answer.json()["explanation"]
    assert [step["cell_count"] for step in told["cells"]] == [2, 2]
    assert "r2" not in answer.text
    assert "choice of a cell, 2: 2 cells" in "\n".join(lines(told))


async def test_every_operation_on_cells_is_for_admins(few: Cells):
    for method, path in (
        ("POST", "/cells"),
        ("PATCH", "/cells/c1"),
        ("DELETE", "/cells/c1"),
        ("POST", "/cells/c1/rebuild"),
        ("POST", "/cells/c1/test"),
    ):
        await few.refused(403, method, path, by="manager", json={})
