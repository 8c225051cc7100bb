"""What a host tells while the database is away is written when that is back."""

from __future__ import annotations

from xenith.compute.records.hosts import hosts
from xenith.core.errors import Unavailable
from xenith.core.ids import HostId


async def host_row(cloud, name):
    return await cloud.db.read(lambda tx: tx.get(hosts, name=name))


async def test_a_host_that_went_down_while_the_database_was_away_is_down_in_its_row(
    small_cloud, monkeypatch
):
    cloud = await small_cloud.SmallCloud.start(host_count=1, clock=small_cloud.QuickClock())
    try:
        cell = cloud.cell
        row = await host_row(cloud, "host-1")

        async def is_up():
            return (await host_row(cloud, "host-1")).is_up

        await cell._keep_facts(row.id)
        await cloud.until(is_up)
        keep, refused = cell.hosts.keep_facts, []

        async def keep_facts(host_id):
            if len(refused) < 3:
                refused.append(host_id)
                raise Unavailable("the database is away")
            await keep(host_id)

        monkeypatch.setattr(cell.hosts, "keep_facts", keep_facts)
        cloud.fleet.hosts["host-1"].die()

        async def is_told_down():
            return not await is_up()

        await cloud.until(is_told_down)
        assert refused == [HostId(row.id)] * 3
    finally:
        await cloud.close()
