"""What a node measures, on trees of bare nodes, and the lines that it logs on the way."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from xenith.cells import metrics
from xenith.cells.capacity import CapacityClass, ClassKey, Digest
from xenith.core.errors import Unavailable

SHAPE = {"api": (), "r1": ("api",), "c1": ("r1",), "c2": ("r1",)}


async def measured(tree: Any, name: str) -> dict[tuple[str, ...], float]:
    """Give what a node measures, by the metric and its labels."""
    samples = await metrics.measure(tree.nodes[name])
    found = {(sample.metric, *sample.labels): sample.value for sample in samples}
    assert len(found) == len(samples), "no two values have the same labels"
    return found


def test_each_level_tells_its_hosts_its_builds_and_its_links(nodes):
    async def scenario(simulation):
        async with nodes.Tree(simulation, SHAPE) as tree:
            await tree.start()
            await tree.ready()
            await tree.wish("a")
            owner = (await tree.reaches("a", "owned")).cell_id
            await tree.settle()
            root, router = await measured(tree, "api"), await measured(tree, "r1")
            leaf = await measured(tree, owner)
            assert root["xenith_hosts_up", "api"] == router["xenith_hosts_up", "r1"]
            assert root["xenith_hosts_up", "api"] > leaf["xenith_hosts_up", owner] > 0
            for found, name in ((root, "api"), (router, "r1"), (leaf, owner)):
                assert found["xenith_decisions_total", name] == 1
                assert found["xenith_database_up", name] == 1
            assert root["xenith_intents_open", "api", "r1"] == 0
            assert root["xenith_intents_open", "api", ""] == 0
            assert root["xenith_link_open", "api", "r1"] == 1
            assert root["xenith_link_alive", "api", "r1"] == 1
            assert router["xenith_link_open", "r1", "api"] == 1
            assert root["xenith_link_frames_sent_total", "api", "r1"] > 0
            assert root["xenith_changes_applied_total", "api"] > 0
            assert leaf["xenith_changes_total", owner] > 0
            assert 0 <= root["xenith_origin_age_seconds", "api", owner] < 5
            assert root["xenith_origins_unheard", "api"] == 0

    nodes.play(scenario)


def test_a_dark_cell_is_told_by_its_link_its_age_and_what_is_open_there(nodes):
    async def scenario(simulation):
        async with nodes.Tree(simulation, SHAPE) as tree:
            owner = await tree.lose_owner("a")
            await tree.order("a", "poke")

            async def is_dark() -> bool:
                return (await measured(tree, "r1"))["xenith_link_alive", "r1", owner] == 0

            await tree.until(is_dark)
            router, root = await measured(tree, "r1"), await measured(tree, "api")
            assert router["xenith_intents_open", "r1", owner] == 1
            assert root["xenith_origin_age_seconds", "api", owner] > 3
            assert router["xenith_hosts_up", "r1"] < router["xenith_hosts", "r1"]

    nodes.play(scenario)


def test_what_is_refused_is_told_by_its_reason_and_logged_once_with_the_cell(nodes):
    async def scenario(simulation):
        async with nodes.Tree(simulation, {"api": (), "c1": ("api",)}) as tree:
            await tree.start()
            await tree.ready()
            with capture_logs() as lines:
                tree.nodes["api"].children["c1"].link.refuse("not_messages")
            found = await measured(tree, "api")
            assert found["xenith_link_refused_total", "api", "c1", "not_messages"] == 1
            refused = [line for line in lines if line["event"] == "refused"]
            assert [(line["cell"], line["peer"], line["reason"]) for line in refused] == [
                ("api", "c1", "not_messages")
            ]

    nodes.play(scenario)


def test_without_its_database_a_cell_tells_what_it_has_in_memory(nodes):
    async def away(*_args: Any) -> Any:
        raise Unavailable("the database is away")

    async def scenario(simulation):
        async with nodes.Tree(simulation, {"api": (), "c1": ("api",)}) as tree:
            await tree.start()
            await tree.ready()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(tree.nodes["api"].db, "read", away)
                found = await measured(tree, "api")
            assert found["xenith_database_up", "api"] == 0
            assert found["xenith_link_open", "api", "c1"] == 1
            assert ("xenith_intents_open", "api", "") not in found

    nodes.play(scenario)


def test_free_room_is_added_up_by_zone_and_flavor_classes_and_names_no_project():
    digest = Digest(
        cell_id="c",
        classes=(
            CapacityClass(ClassKey("z1"), ((1024, 2, 10, 3),)),
            CapacityClass(ClassKey("z1", capabilities=("gpu=yes",)), ((2048, 4, 20, 1),)),
            CapacityClass(ClassKey("z1", ("big", "huge"), ("secret-project",)), ((512, 1, 5, 2),)),
            CapacityClass(ClassKey("z2")),
        ),
    )
    found = {
        (sample.metric, *sample.labels): sample.value
        for sample in metrics._of_classes(("c",), digest)
    }
    assert found["xenith_free_hosts", "c", "z1", "", "no"] == 4
    assert found["xenith_free_memory_bytes", "c", "z1", "", "no"] == (3 * 1024 + 2048) * 2**20
    assert found["xenith_free_vcpus", "c", "z1", "", "no"] == 10
    assert found["xenith_free_disk_bytes", "c", "z1", "", "no"] == 50 * 2**30
    assert found["xenith_free_hosts", "c", "z1", "big,huge", "yes"] == 2
    assert found["xenith_free_hosts", "c", "z2", "", "no"] == 0
    assert not [labels for labels in found if "secret-project" in labels]


def test_a_build_leaves_a_line_in_each_cell_that_it_came_through(nodes):
    async def scenario(simulation):
        async with nodes.Tree(simulation, SHAPE) as tree:
            await tree.start()
            await tree.ready()
            with capture_logs() as lines:
                intent_id = await tree.wish("a", request_id="req-7")
                owner = (await tree.reaches("a", "owned")).cell_id
                await tree.settle()
            accepted = [line for line in lines if line["event"] == "build accepted"]
            assert [(line["cell"], line["intent"]) for line in accepted] == [
                (owner, f"{intent_id}.1.1"),
                ("r1", f"{intent_id}.1"),
                ("api", intent_id),
            ]
            assert {line["subject"] for line in accepted} == {"a"}
            assert {line["request_id"] for line in accepted} == {"req-7"}
            assert {line["by"] for line in accepted} == {owner}
            assert [line for line in lines if line["log_level"] in ("warning", "error")] == []

    nodes.play(scenario)
