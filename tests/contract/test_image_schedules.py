"""Whose scheduled image is made next, on each database."""

from __future__ import annotations

import pytest

from xenith.compute.records.image_schedules import (
    count_running,
    image_schedule_turns,
    image_schedules,
    list_due,
    note_turn,
    remove_schedule,
)
from xenith.db import Tx, open_database
from xenith.db.migrate import prepare


@pytest.fixture
async def database(url: str):
    opened = open_database(url)
    prepare(opened)
    yield opened
    await opened.close()


def put(tx: Tx, server_id: str, project_id: str, next_at: float) -> None:
    row = {"server_id": server_id, "project_id": project_id, "retention": 1, "principal": {}}
    tx.insert(image_schedules, {**row, "day_of_week": None, "next_at": next_at})


async def test_of_several_firsts_it_is_the_one_whose_turn_is_longest_ago(database):
    def fill(tx: Tx) -> None:
        for number in range(3):
            put(tx, f"a{number}", "a", 1.0)
        put(tx, "b0", "b", 5.0)
        put(tx, "c0", "c", 9.0)
        put(tx, "later", "d", 99.0)
        note_turn(tx, "a", now_s=20.0)
        note_turn(tx, "b", now_s=10.0)
        note_turn(tx, "b", now_s=11.0)

    await database.run(fill)
    due = await database.read(lambda tx: list_due(tx, now_s=50.0, count=10))
    assert [row.server_id for row in due] == ["c0", "b0", "a0", "a1", "a2"]
    assert [row.turn for row in due[:3]] == [0.0, 11.0, 20.0]
    assert await database.read(count_running) == {}


async def test_a_project_s_turns_are_forgotten_with_its_last_schedule(database):
    def fill(tx: Tx) -> None:
        put(tx, "a0", "a", 1.0)
        put(tx, "a1", "a", 1.0)
        note_turn(tx, "a", now_s=20.0)

    await database.run(fill)
    for server_id, left in (("none", 1), ("a0", 1), ("a1", 0)):
        await database.run(remove_schedule, server_id)
        assert len(await database.read(lambda tx: tx.list(image_schedule_turns))) == left
