"""Images that are made by schedule: each in its time, of each project in its turn, so many kept."""

from __future__ import annotations

import asyncio

import pytest

from xenith.compute import scheduled_images
from xenith.compute.operations.image_schedules import RETRY_S, SERVICE
from xenith.compute.operations.server_images import CREATED_BY
from xenith.compute.records.actions import actions
from xenith.compute.records.image_schedules import (
    DAY_S,
    image_schedule_turns,
    image_schedules,
    list_due,
    next_time,
    note_turn,
)
from xenith.compute.records.instances import instances
from xenith.compute.records.servers import servers
from xenith.compute.scheduled_images import ScheduledImages
from xenith.compute.schemas.image_schedules import ImageSchedule
from xenith.core.errors import Exhausted, NotFound

pytestmark = pytest.mark.slow


@pytest.fixture
async def cloud(small_cloud):
    cloud = await small_cloud.SmallCloud.start(host_count=1)
    cloud.who = small_cloud.WHO
    cloud.reconciler = ScheduledImages(cloud.house.context)
    yield cloud
    await cloud.close()
    await cloud.db.close()


async def schedule(cloud, server_id, retention=2, day=None):
    return await cloud.compute.image_schedules.put(
        cloud.who, server_id, ImageSchedule(retention, day)
    )


async def activate(cloud) -> int:
    """Begin what is due now, and have all of it come to its end."""
    begun = (await cloud.reconciler.activate())["begun"]
    await cloud.work()
    return begun


async def test_an_image_is_made_each_day_and_named_and_marked_as_it_was_upstream(cloud):
    (server_id,) = await cloud.build()
    row = await schedule(cloud, server_id)
    assert 0 < row.next_at - cloud.world.clock.now() <= DAY_S
    assert await activate(cloud) == 0, "it is not due"
    made = []
    for _ in range(2):
        await cloud.world.clock.advance(DAY_S)
        assert await activate(cloud) == 1
        assert await activate(cloud) == 0
        made = list(cloud.images.stored)
    assert len(made) == 2
    described = cloud.images.described[made[0]]
    assert described["properties"]["image_type"] == "snapshot"
    assert described["properties"][CREATED_BY] == SERVICE
    name = described["name"]
    assert name.startswith("daily-web-")
    assert len(name.rpartition("-")[2]) == 10
    assert cloud.images.rotations == [2, 2]


async def actions_of(cloud, server_id):
    return await cloud.db.read(lambda tx: tx.list(actions, instance_id=server_id))


async def test_times_that_were_missed_are_made_up_once(cloud):
    (server_id,) = await cloud.build()
    await schedule(cloud, server_id)
    await cloud.world.clock.advance(9.5 * DAY_S)
    assert await activate(cloud) == 1
    assert await activate(cloud) == 0
    row = await cloud.compute.image_schedules.get(cloud.who, server_id)
    assert 0 < row.next_at - cloud.world.clock.now() <= DAY_S


async def test_a_busy_server_is_tried_again_and_others_are_not_held_up(cloud):
    busy, free = await cloud.build(count=2)
    await schedule(cloud, busy)
    await schedule(cloud, free)
    await cloud.db.run(lambda tx: tx.update(instances, {"id": busy}, task_state="rebooting"))
    await cloud.world.clock.advance(DAY_S)
    assert await activate(cloud) == 1
    await cloud.world.clock.advance(RETRY_S + 1)
    assert await activate(cloud) == 0
    await cloud.db.run(lambda tx: tx.update(instances, {"id": busy}, task_state=None))
    assert await activate(cloud) == 0
    # Its owner is told, and once.
    (told,) = [row for row in await actions_of(cloud, busy) if row.action == "createBackup"]
    assert told.message.startswith("The scheduled image is made later: ")
    assert "rebooting" in told.message
    await cloud.world.clock.advance(RETRY_S + 1)
    assert await activate(cloud) == 1
    await cloud.db.run(lambda tx: tx.update(instances, {"id": busy}, task_state="rebooting"))
    await cloud.world.clock.advance(DAY_S)
    assert await activate(cloud) == 1
    messages = [row.message for row in await actions_of(cloud, busy)]
    assert sum(message is not None for message in messages) == 2


async def test_a_server_that_no_image_can_be_made_of_holds_no_other_up(cloud, monkeypatch):
    broken, sound = await cloud.build(count=2)
    await schedule(cloud, broken)
    await schedule(cloud, sound)
    add = cloud.images.add_snapshot

    def refuse(tx, **described):
        if described["properties"]["instance_uuid"] == broken:
            raise Exhausted("the limit of image properties is exceeded")
        return add(tx, **described)

    monkeypatch.setattr(cloud.images, "add_snapshot", refuse)
    await cloud.world.clock.advance(DAY_S)
    # Whichever of both is due first.
    await cloud.db.run(lambda tx: tx.update(image_schedules, {"server_id": broken}, next_at=1.0))
    assert await activate(cloud) == 1
    assert len(cloud.images.stored) == 1
    row = await cloud.compute.image_schedules.get(cloud.who, broken)
    assert 0 < row.next_at - cloud.world.clock.now() <= RETRY_S
    assert await activate(cloud) == 0


async def test_a_schedule_is_gone_with_its_server_and_when_it_is_taken_away(cloud):
    kept, gone = await cloud.build(count=2)
    await schedule(cloud, kept)
    await schedule(cloud, gone)
    await cloud.compute.image_schedules.delete(cloud.who, kept)
    with pytest.raises(NotFound):
        await cloud.compute.image_schedules.get(cloud.who, kept)
    with pytest.raises(NotFound):
        await cloud.compute.image_schedules.delete(cloud.who, kept)
    await cloud.world.clock.advance(DAY_S)
    assert await activate(cloud) == 1
    await cloud.delete(gone)
    await cloud.work()
    assert await cloud.db.read(lambda tx: tx.list(image_schedules)) == []
    assert await cloud.db.read(lambda tx: tx.list(image_schedule_turns)) == []
    await cloud.world.clock.advance(DAY_S)
    assert await activate(cloud) == 0


async def test_a_project_with_many_servers_does_not_hold_up_one_with_one(cloud, monkeypatch):
    monkeypatch.setattr(scheduled_images, "RUNNING_MAX", 4)

    def fill(tx):
        for project, count in (("many", 100), ("few", 2), ("one", 1)):
            for number in range(count):
                row = {
                    "server_id": f"{project}-{number:03d}",
                    "project_id": project,
                    "retention": 1,
                    "day_of_week": None,
                    "principal": {},
                    # The large project's are all due for longer.
                    "next_at": 10.0 if project == "many" else 20.0,
                }
                tx.insert(image_schedules, row)

    await cloud.db.run(fill)
    chosen = await cloud.db.read(cloud.reconciler._choose, 30.0)
    assert chosen == ["many-000", "few-000", "one-000", "many-001"]
    # With one of its own running, it waits until the others had theirs.
    (server_id,) = await cloud.build()
    await cloud.db.run(
        lambda tx: tx.insert(
            image_schedules,
            {
                "server_id": server_id,
                "project_id": "many",
                "retention": 1,
                "day_of_week": None,
                "principal": {},
                "next_at": 1e12,
            },
        )
    )
    await cloud.db.run(
        lambda tx: tx.update(servers, {"id": server_id}, pending_task_state="image_backup")
    )
    chosen = await cloud.db.read(cloud.reconciler._choose, 30.0)
    assert chosen == ["few-000", "one-000", "many-000"]
    assert len(await cloud.db.read(lambda tx: list_due(tx, now_s=15.0, count=1000))) == 100


def put(tx, server_id, project, next_at):
    tx.insert(
        image_schedules,
        {
            "server_id": server_id,
            "project_id": project,
            "retention": 1,
            "day_of_week": None,
            "principal": {},
            "next_at": next_at,
        },
    )


async def test_turns_go_round_however_few_places_there_are(cloud, monkeypatch):
    monkeypatch.setattr(scheduled_images, "RUNNING_MAX", 1)

    def fill(tx):
        # The large project's have been due for the longest, and stay so.
        for number in range(300):
            put(tx, f"many-{number:03d}", "many", 1.0)
        for number in range(3):
            put(tx, f"few-{number}", "few", 20.0)
        put(tx, "one-0", "one", 30.0)

    await cloud.db.run(fill)
    begun = []
    for moment in range(8):
        (server_id,) = await cloud.db.read(cloud.reconciler._choose, 40.0)
        project = server_id.partition("-")[0]
        begun.append(project)

        def begin(tx, moment=moment, server_id=server_id, project=project):
            note_turn(tx, project, now_s=100.0 + moment)
            tx.update(image_schedules, {"server_id": server_id}, next_at=1e12)

        await cloud.db.run(begin)
    assert begun == ["many", "few", "one", "many", "few", "many", "few", "many"]


async def test_what_a_dark_cell_had_begun_holds_up_no_other(cloud, monkeypatch):
    monkeypatch.setattr(scheduled_images, "RUNNING_MAX", 2)
    stuck = await cloud.build(count=2)

    def fill(tx):
        for server_id in stuck:
            put(tx, server_id, "p", 1e12)
            tx.update(instances, {"id": server_id}, task_state="image_uploading")
        put(tx, "due", "q", 1.0)

    await cloud.db.run(fill)
    assert await cloud.db.read(cloud.reconciler._choose, 2.0) == []
    monkeypatch.setattr(cloud.house.context.node, "age_of", lambda _cell: 61.0)
    assert await cloud.db.read(cloud.reconciler._choose, 2.0) == ["due"]


async def test_a_host_gives_two_disks_at_a_time_and_who_waits_holds_nothing(cloud):
    made = await cloud.build(count=5)
    for server_id in made:
        await schedule(cloud, server_id)
    gate, two_began, store = asyncio.Event(), asyncio.Event(), cloud.images.store_image
    began = []

    async def slow(image_id, chunks, **how):
        began.append(image_id)
        if len(began) == 2:
            two_began.set()
        await gate.wait()
        await store(image_id, chunks, **how)

    cloud.images.store_image = slow
    await cloud.world.clock.advance(DAY_S)
    assert (await cloud.reconciler.activate())["begun"] == 5
    work = asyncio.ensure_future(cloud.work())
    await asyncio.wait_for(two_began.wait(), 60)
    for _ in range(200):
        await asyncio.sleep(0)
    assert len(began) == 2
    states = await cloud.db.read(lambda tx: [tx.get(instances, id=one).task_state for one in made])
    assert sorted(states) == ["image_backup"] * 3 + ["image_uploading"] * 2
    # Of those that wait nothing is kept on their host.
    snapshots = [row for _, row in cloud.objects("VDI") if row["is_a_snapshot"]]
    assert len(snapshots) == 2
    # One that is deleted meanwhile leaves its place in the queue.
    waiting = made[states.index("image_backup")]
    await cloud.delete(waiting)
    await cloud.carry()
    gate.set()
    await work
    await cloud.work()
    assert len(began) == 4
    assert cloud.cell.export_turns._hosts == {}


def test_times_are_spread_over_the_day_and_fall_on_the_day_that_was_asked_for():
    ids = [f"server-{number}" for number in range(400)]
    hours = {int(next_time(one, None, 0.0) % DAY_S // 3600) for one in ids}
    assert hours == set(range(24))
    for day, weekday in (("THURSDAY", 0), ("FRIDAY", 1), ("WEDNESDAY", 6)):
        assert int(next_time("a", day, 0.0) // DAY_S) % 7 == weekday
    first = next_time("a", "MONDAY", 0.0)
    assert next_time("a", "MONDAY", first) == first + 7 * DAY_S
