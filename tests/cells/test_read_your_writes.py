"""Who asked for something sees at least that, at every step of its way down and of its rows up.

All frames that carry intents, verdicts or rows are held, and let through one at a time; the server
is looked at before each.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from types import ModuleType
from typing import Any

import httpx2
import pytest

from xenith.bus import Priority
from xenith.http import Principal, Site

pytestmark = pytest.mark.slow

HELD = {"intents", "verdicts", "changes", "changes_ack"}
IMAGE_ID = "11111111-0000-4000-8000-000000000001"
#: A status with its task, or the code of an answer without one.
Seen = tuple[str, str | None]
GONE: Seen = ("404", None)


class OneCaller:
    """An authenticator that takes every token for the tree's admin."""

    def __init__(self, principal: Principal) -> None:
        self._principal = principal

    async def authenticate(self, _token: str) -> Principal:
        return self._principal


class Watched:
    """A tree whose frames go one at a time while it is watched, and its API."""

    def __init__(self, tree: Any, nodes: ModuleType, principal: Principal) -> None:
        self.tree = tree
        self.is_held = False
        self.released = 0
        self._held: list[tuple[str, bytes, Priority]] = []
        self._opened = nodes.opened
        self._publish = tree.bus.publish
        tree.bus.publish = self._take
        self._site = Site(tree.services(), world=tree.world, authenticator=OneCaller(principal))

    async def _take(
        self, topic: str, message: bytes, *, priority: Priority, timeout_s: float = 5.0
    ) -> None:
        _, bodies = self._opened(message)
        if self.is_held and HELD & {body["type"] for body in bodies}:
            self._held.append((topic, message, priority))
            return
        await self._publish(topic, message, priority=priority, timeout_s=timeout_s)

    async def release(self) -> bool:
        """Let the frame through that waits longest."""
        if not self._held:
            return False
        topic, message, priority = self._held.pop(0)
        await self._publish(topic, message, priority=priority)
        self.released += 1
        return True

    async def let_go(self) -> None:
        """Hold nothing any more."""
        self.is_held = False
        while await self.release():
            pass

    async def ask(self, method: str, path: str, **kwargs: Any) -> httpx2.Response:
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=self._site),
            base_url="http://cloud/compute/v2.1",
            headers={"X-Auth-Token": "admin"},
        ) as client:
            return await client.request(method, path, **kwargs)

    async def create(self) -> str:
        body = {"name": "web", "imageRef": IMAGE_ID, "flavorRef": "64", "networks": []}
        answer = await self.ask("POST", "/servers", json={"server": body})
        assert answer.status_code == 202, answer.text
        server_id: str = answer.json()["server"]["id"]
        return server_id

    async def act(self, server_id: str, **action: Any) -> None:
        answer = await self.ask("POST", f"/servers/{server_id}/action", json=action)
        assert answer.status_code == 202, answer.text

    async def delete(self, server_id: str) -> None:
        answer = await self.ask("DELETE", f"/servers/{server_id}")
        assert answer.status_code == 204, answer.text

    async def look(self, server_id: str) -> Seen:
        """Give what a server's owner sees, the same in the list as by itself."""
        shown = await self.ask("GET", f"/servers/{server_id}")
        listed = (await self.ask("GET", "/servers/detail")).json()["servers"]
        found = [one for one in listed if one["id"] == server_id]
        if shown.status_code == 404:
            assert found == []
            return GONE
        server = shown.json()["server"]
        seen = server["status"], server["OS-EXT-STS:task_state"]
        assert [(one["status"], one["OS-EXT-STS:task_state"]) for one in found] == [seen]
        by_status = (await self.ask("GET", f"/servers?status={seen[0]}")).json()["servers"]
        assert server_id in [one["id"] for one in by_status]
        return seen

    async def watch(self, server_id: str, last: Seen) -> list[Seen]:
        """Let frame after frame through until the server is as it must become; give all seen."""
        seen: list[Seen] = []

        async def is_there() -> bool:
            seen.append(await self.look(server_id))
            await self.release()
            return seen[-1] == last

        await self.tree.until(is_there)
        while await self.release():
            # Whatever is still on its way changes nothing of it.
            await self.tree.world.clock.sleep(0.1)
            seen.append(await self.look(server_id))
        return seen

    async def wait_for(self, server_id: str, last: Seen) -> None:
        async def is_there() -> bool:
            return await self.look(server_id) == last

        await self.tree.until(is_there)


@pytest.fixture
async def watched(tree_of_cells: ModuleType, nodes: ModuleType) -> AsyncIterator[Watched]:
    async with tree_of_cells.small_tree("1x1x1") as tree:
        yield Watched(tree, nodes, tree_of_cells.ADMIN)


@pytest.fixture
async def active(watched: Watched) -> str:
    """A server that is ACTIVE, before anything is held."""
    server_id = await watched.create()
    await watched.wait_for(server_id, ("ACTIVE", None))
    watched.is_held = True
    return server_id


def in_order(seen: list[Seen], *stages: Callable[[Seen], bool]) -> bool:
    """Tell whether all that was seen is of these stages, and none was gone back to."""
    at = 0
    for one in seen:
        while at < len(stages) and not stages[at](one):
            at += 1
        if at == len(stages):
            return False
    return True


def is_building(seen: Seen) -> bool:
    return seen[0] == "BUILD"


def is_going(seen: Seen) -> bool:
    return seen[1] == "deleting"


def is_(*wanted: Seen) -> Callable[[Seen], bool]:
    return lambda seen: seen in wanted


async def test_a_new_server_is_there_from_the_answer_on_and_becomes_active_once(watched: Watched):
    watched.is_held = True
    server_id = await watched.create()
    seen = await watched.watch(server_id, ("ACTIVE", None))
    assert seen[0] == ("BUILD", "scheduling")
    assert in_order(seen, is_building, is_(("ACTIVE", None))), seen
    assert watched.released >= 8, "four frames at each of two links at the least"


async def test_a_deleted_server_is_being_deleted_or_gone_and_never_back(
    watched: Watched, active: str
):
    await watched.delete(active)
    seen = await watched.watch(active, GONE)
    assert seen[0] == ("ACTIVE", "deleting")
    assert in_order(seen, is_going, is_(GONE)), seen


@pytest.mark.parametrize("frames", range(0, 14, 2))
async def test_a_server_that_is_deleted_while_it_is_built_is_never_back(
    watched: Watched, frames: int
):
    watched.is_held = True
    server_id = await watched.create()

    async def has_come_so_far() -> bool:
        if watched.released < frames:
            await watched.release()
        return watched.released >= frames or await watched.look(server_id) == ("ACTIVE", None)

    await watched.tree.until(has_come_so_far)
    await watched.delete(server_id)
    seen = await watched.watch(server_id, GONE)
    assert in_order(seen, is_going, is_(GONE)), seen


ACTIONS: list[tuple[dict[str, Any], str, Seen]] = [
    ({"os-stop": None}, "powering-off", ("SHUTOFF", None)),
    ({"pause": None}, "pausing", ("PAUSED", None)),
    ({"suspend": None}, "suspending", ("SUSPENDED", None)),
]


@pytest.mark.parametrize(("action", "task", "last"), ACTIONS)
async def test_an_action_is_seen_to_be_done_and_then_that_it_was(
    watched: Watched, active: str, action: dict[str, Any], task: str, last: Seen
):
    await watched.act(active, **action)
    seen = await watched.watch(active, last)
    assert seen[0] == ("ACTIVE", task)
    assert in_order(seen, lambda one: one[1] == task, is_(last)), seen


async def test_a_reboot_is_seen_until_it_is_over(watched: Watched, active: str):
    await watched.act(active, reboot={"type": "HARD"})
    seen = await watched.watch(active, ("ACTIVE", None))
    assert seen[0] == ("HARD_REBOOT", "rebooting_hard")
    assert in_order(seen, lambda one: one[0] == "HARD_REBOOT", is_(("ACTIVE", None))), seen


async def test_what_is_asked_next_stands_before_rows_of_what_came_before(
    watched: Watched, active: str
):
    await watched.act(active, **{"os-stop": None})
    await watched.watch(active, ("SHUTOFF", None))
    await watched.act(active, **{"os-start": None})
    await watched.delete(active)
    seen = await watched.watch(active, GONE)
    assert seen[0] == ("SHUTOFF", "deleting")
    assert in_order(seen, is_going, is_(GONE)), seen


async def test_a_state_that_was_set_by_hand_is_seen_at_once(watched: Watched, active: str):
    await watched.act(active, reboot={"type": "SOFT"})
    assert await watched.look(active) == ("REBOOT", "rebooting")
    await watched.act(active, **{"os-resetState": {"state": "error"}})
    assert await watched.look(active) == ("ERROR", None)
    await watched.act(active, **{"os-stop": None})
    assert await watched.look(active) == ("ERROR", "powering-off")
    await watched.delete(active)
    seen = await watched.watch(active, GONE)
    assert seen[0] == ("ERROR", "deleting")
    assert in_order(seen, is_going, is_(GONE)), seen


async def test_a_state_set_by_hand_stands_until_the_cell_has_it(watched: Watched, active: str):
    await watched.act(active, **{"os-resetState": {"state": "error"}})
    seen = await watched.watch(active, ("ERROR", None))
    assert in_order(seen, is_(("ERROR", None))), seen
    await watched.let_go()

    async def has_arrived() -> bool:
        row = await watched.tree.instance(active)
        return bool(row.vm_state == "error" and row.applied_intent == 2)

    await watched.tree.until(has_arrived)
    await watched.act(active, reboot={"type": "HARD"})
    await watched.wait_for(active, ("ACTIVE", None))
