"""Images of servers from the side of their bytes: stored once, whole, and so many kept."""

from __future__ import annotations

import asyncio

import pytest

from xenith.core.errors import NotFound, Unavailable


def snapshot(cloud, **properties):
    def add(tx):
        return cloud.images.add_snapshot(
            tx,
            name="s",
            owner="p1",
            disk_format="raw",
            min_disk_gib=1,
            min_ram_mib=0,
            properties={"instance_uuid": "one", **properties},
        )

    return cloud.db.run(add)


async def pieces(*data, trouble=None):
    for piece in data:
        yield piece
    if trouble is not None:
        raise trouble


async def stored(cloud):
    return await cloud.store.list()


async def test_an_image_is_active_once_its_bytes_are_whole(cloud):
    image_id = await snapshot(cloud)
    assert (await cloud.show(image_id))["status"] == "queued"
    await cloud.images.store_image(image_id, pieces(b"ab", b"c"))
    shown = await cloud.show(image_id)
    assert (shown["status"], shown["size"], shown["visibility"]) == ("active", 3, "private")
    answer = await cloud.ask("GET", f"/v2/images/{image_id}/file")
    assert answer.content == b"abc"


async def test_what_was_stored_is_not_stored_again(cloud):
    image_id = await snapshot(cloud)
    await cloud.images.store_image(image_id, pieces(b"first"))
    await cloud.images.store_image(image_id, pieces(b"second"))
    answer = await cloud.ask("GET", f"/v2/images/{image_id}/file")
    assert answer.content == b"first"


async def test_bytes_that_break_off_leave_nothing_and_may_come_again(cloud):
    image_id = await snapshot(cloud)
    with pytest.raises(Unavailable):
        await cloud.images.store_image(image_id, pieces(b"a", trouble=Unavailable("gone")))
    assert (await cloud.show(image_id))["status"] == "queued"
    assert await stored(cloud) == []
    await cloud.images.store_image(image_id, pieces(b"whole"))
    assert (await cloud.show(image_id))["status"] == "active"


async def test_two_attempts_at_once_do_not_mix(cloud):
    image_id = await snapshot(cloud)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow():
        begun.set()
        yield b"slow"
        await go_on.wait()

    first = asyncio.create_task(cloud.images.store_image(image_id, slow()))
    await begun.wait()
    assert (await cloud.show(image_id))["status"] == "saving"
    with pytest.raises(Unavailable):
        await cloud.images.store_image(image_id, pieces(b"quick"))
    go_on.set()
    await first
    assert (await cloud.ask("GET", f"/v2/images/{image_id}/file")).content == b"slow"


async def test_an_image_that_is_deleted_as_it_comes_is_gone_with_its_bytes(cloud):
    image_id = await snapshot(cloud)

    async def deleted():
        yield b"a"
        answer = await cloud.ask("DELETE", f"/v2/images/{image_id}")
        assert answer.status_code == 204
        yield b"b"

    with pytest.raises(NotFound):
        await cloud.images.store_image(image_id, deleted())
    assert await stored(cloud) == []
    with pytest.raises(NotFound):
        await cloud.images.store_image(image_id, pieces(b"late"))


async def test_one_that_came_to_nothing_is_removed_and_a_whole_one_is_not(cloud):
    failed, whole = await snapshot(cloud), await snapshot(cloud)
    await cloud.images.store_image(whole, pieces(b"a"))
    for image_id in (failed, failed, whole):
        await cloud.images.drop_image(image_id)
    assert (await cloud.ask("GET", f"/v2/images/{failed}")).status_code == 404
    assert (await cloud.show(whole))["status"] == "active"


async def test_so_many_backups_of_a_kind_are_kept_and_the_newest_ones(cloud):
    daily = {"image_type": "backup", "backup_type": "daily"}
    weekly = await snapshot(cloud, image_type="backup", backup_type="weekly")
    other = await snapshot(cloud, **daily, instance_uuid="two")
    for image_id in (weekly, other):
        await cloud.images.store_image(image_id, pieces(b"x"))
    made = []
    for number in range(4):
        await cloud.world.clock.advance(1.0)
        image_id = await snapshot(cloud, **daily)
        await cloud.images.store_image(image_id, pieces(b"%d" % number), rotation=2)
        made.append(image_id)
    assert await stored(cloud) == sorted([weekly, other, *made[2:]])
    last = await snapshot(cloud, **daily)
    await cloud.images.store_image(last, pieces(b"x"), rotation=0)
    assert await stored(cloud) == sorted([weekly, other])


async def test_a_schedule_removes_only_what_a_schedule_made(cloud):
    mark = {"image_type": "snapshot", "org.openstack__1__created-by": "scheduled-images-service"}
    by_hand = await snapshot(cloud, image_type="snapshot")
    backup = await snapshot(cloud, image_type="backup", backup_type="daily")
    for image_id in (by_hand, backup):
        await cloud.images.store_image(image_id, pieces(b"x"))
    made = []
    for number in range(3):
        await cloud.world.clock.advance(1.0)
        image_id = await snapshot(cloud, **mark)
        await cloud.images.store_image(image_id, pieces(b"%d" % number), rotation=1)
        made.append(image_id)
    assert await stored(cloud) == sorted([by_hand, backup, made[-1]])
