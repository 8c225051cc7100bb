"""Images that are made by schedule: each in its time, of each project in its turn, so many kept."""

from __future__ import annotations

import pytest

from xenith.compute import scheduled_images
from xenith.compute.operations.image_schedules import RETRY_S, SERVICE
from xenith.compute.operations.server_images import CREATED_BY
from xenith.compute.records.image_schedules import DAY_S, image_schedules, list_due, next_time
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
    await cloud.db.run(lambda tx: tx.update(instances, {"id": busy}, task_state=None))
    assert await activate(cloud) == 0
    await cloud.world.clock.advance(RETRY_S + 1)
    assert await activate(cloud) == 1


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
    await cloud.delete(gone)
    await cloud.work()
    await cloud.world.clock.advance(2 * DAY_S)
    assert await activate(cloud) == 0
    assert await cloud.db.read(lambda tx: tx.list(image_schedules)) == []


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


def test_times_are_spread_over_the_day_and_fall_on_the_day_that_was_asked_for():
    ids = [f"server-{number}" for number in range(400)]
    hours = {int(next_time(one, None, 0.0) % DAY_S // 3600) for one in ids}
    assert hours == set(range(24))
    for day, weekday in (("THURSDAY", 0), ("FRIDAY", 1), ("WEDNESDAY", 6)):
        assert int(next_time("a", day, 0.0) // DAY_S) % 7 == weekday
    first = next_time("a", "MONDAY", 0.0)
    assert next_time("a", "MONDAY", first) == first + 7 * DAY_S
