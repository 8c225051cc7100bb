"""Images on the hosts of a cell: there before a build where that was asked, and not for ever."""

from __future__ import annotations

import pytest

from xenith.compute.reconcilers import IMAGE_IDLE_S, ImageCacheReconciler
from xenith.core.errors import NotFound

pytestmark = pytest.mark.slow


@pytest.fixture
async def cloud(small_cloud):
    cloud = await small_cloud.SmallCloud.start(host_count=2)
    yield cloud
    await cloud.close()
    await cloud.db.close()


def counts(cloud):
    drivers = cloud.cell.hosts.drivers.values()
    return [(driver.image_counts.hits, driver.image_counts.misses) for driver in drivers]


async def cache(cloud, small_cloud, *images):
    """Ask for images on the hosts of an aggregate with one of both hosts."""
    made = await cloud.compute.aggregates.create(name="a", zone=None)
    await cloud.compute.aggregates.add_host(made.row.number, "host-1")
    await cloud.compute.aggregates.cache_images(made.row.number, images, small_cloud.WHO)


async def test_an_image_is_brought_to_the_hosts_of_an_aggregate_alone(cloud, small_cloud):
    await cache(cloud, small_cloud, small_cloud.IMAGE_ID)
    first, second = cloud.cell.hosts.drivers.values()
    while not first.images:
        await cloud.world.clock.advance(0.1)
    assert list(second.images) == []
    assert counts(cloud) == [(0, 1), (0, 0)]


async def test_an_image_that_is_not_there_cannot_be_asked_for(cloud, small_cloud):
    with pytest.raises(NotFound, match="could not be found"):
        await cache(cloud, small_cloud, "11111111-0000-4000-8000-0000000000ff")


async def test_an_image_leaves_its_host_a_day_after_its_last_server(cloud):
    (server_id,) = await cloud.build()
    reconciler = ImageCacheReconciler(cloud.cell)
    await cloud.world.clock.advance(IMAGE_IDLE_S + 1)
    assert await reconciler.activate() == {"removed": 0}
    await cloud.delete(server_id)
    await cloud.work()
    assert await reconciler.activate() == {"removed": 1}
    # What it stood on is the storage's own, which collects it.
    assert [vdi for _, vdi in cloud.objects("VDI") if vdi["managed"]] == []
    await cloud.build()
    assert sum(misses for _, misses in counts(cloud)) == 2
