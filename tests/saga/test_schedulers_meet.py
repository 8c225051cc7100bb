"""Several schedulers serve one cell: the rows decide who was first, and nobody claims too much."""

from __future__ import annotations

import msgspec
import pytest

from xenith.cells.intents import BUILD, Intent, intent_of
from xenith.cells.intents import intents as outbox
from xenith.compute.records.claims import host_claims
from xenith.compute.records.instances import allocations, instances
from xenith.scheduler.request import PlacementRequest

pytestmark = pytest.mark.slow


@pytest.fixture
async def cloud(small_cloud):
    """One whose two hosts hold few servers: 64 MiB each of 1 GiB, less what dom0 takes."""
    cloud = await small_cloud.SmallCloud.start(host_count=2, memory_bytes=2**30)
    await cloud.allow_many()
    yield cloud
    await cloud.close()
    await cloud.db.close()


async def test_a_scheduler_whose_table_is_old_is_refused_and_reads_the_hosts_claims(cloud):
    first = cloud.cell
    second = cloud._make_cell()
    await second.hosts.start()
    ids = await cloud.create(count=2)
    rows = await cloud.db.read(lambda tx: tx.list(outbox))
    intents = {intent.subject: intent for intent in map(intent_of, rows)}
    (host_id,) = {choose(first, intents[ids[0]], cloud)}
    assert await write(cloud, first, intents[ids[0]]) is not None
    # The second does not know of that claim.
    assert str(intents[ids[0]].subject) not in claims_of(second, host_id)
    second.hosts.table.set_enabled(other_host(second, host_id), is_enabled=False)
    assert choose(second, intents[ids[1]], cloud) == host_id
    assert await write(cloud, second, intents[ids[1]]) is None
    await second.hosts.look_again(host_id)
    assert ids[0] in claims_of(second, host_id)
    assert choose(second, intents[ids[1]], cloud) == host_id
    assert await write(cloud, second, intents[ids[1]]) is not None
    await second.hosts.stop()


async def test_two_schedulers_that_take_turns_fill_the_hosts_and_not_more(cloud):
    first = cloud.cell
    second = cloud._make_cell()
    await second.hosts.start()
    await cloud.create(count=60)
    rows = await cloud.db.read(lambda tx: tx.list(outbox))
    answers = []
    for at, row in enumerate(rows):
        intent = intent_of(row)
        scheduler = (first, second)[at % 2]
        for _ in range(5):
            prepared = scheduler.prepare(intent)
            verdict = await cloud.db.run(scheduler.apply, intent, prepared)
            if verdict is not None:
                break
            for host_id in scheduler.hosts.drivers:
                await scheduler.hosts.look_again(host_id)
        assert verdict is not None
        answers.append(verdict.answer)
    held = await cloud.db.read(lambda tx: tx.list(allocations))
    assert answers.count("yes") == len(held)
    assert answers.count("no") > 0, "the hosts were not filled"
    for scheduler in (first, second):
        await scheduler.hosts.compare_claims()
        table = scheduler.hosts.table
        for host_id in scheduler.hosts.drivers:
            used = sum(row.ram_mib for row in held if row.host_id == host_id)
            row = table.index(host_id)
            assert used <= table.ram_limit[row]
            assert table.ram_free[row] == table.ram_limit[row] - used
    await second.hosts.stop()


async def test_a_resize_by_a_scheduler_whose_table_is_old_waits_for_the_hosts_claims(cloud):
    (server_id,) = await cloud.build()
    host_id = (await cloud.instance(server_id)).host_id
    second = cloud._make_cell()
    await second.hosts.start()
    # The host is nearly full by now, and the second does not know.
    first = cloud.cell
    first.hosts.table.set_enabled(other_host(first, host_id), is_enabled=False)
    others = await cloud.create(count=9)
    await cloud.resize(server_id, "1")
    rows = await cloud.db.read(lambda tx: tx.list(outbox))
    intents = {row.subject: intent_of(row) for row in rows if row.subject in (*others, server_id)}
    for each in others:
        assert choose(first, intents[each], cloud) == host_id
        assert await write(cloud, first, intents[each]) is not None
    intent = intents[server_id]
    assert intent.kind == "resize"
    before = second.hosts.table.find_claim(server_id)
    prepared = second.prepare(intent)
    assert second.hosts.table.find_claim(server_id).ram_mib > before.ram_mib
    assert await cloud.db.run(second.apply, intent, prepared) is None
    assert second.hosts.table.find_claim(server_id) == before
    await second.hosts.look_again(host_id)
    assert set(others) < claims_of(second, host_id)
    refused = await cloud.db.run(second.apply, intent, second.prepare(intent))
    assert (refused.answer, "lacks" in refused.detail) == ("no", True)
    (held,) = [
        row
        for row in await cloud.db.read(lambda tx: tx.list(allocations))
        if row.instance_id == server_id
    ]
    assert held.ram_mib == before.ram_mib
    await second.hosts.stop()


async def test_what_another_scheduler_gave_back_is_found_by_comparing(cloud):
    (server_id,) = await cloud.build()
    second = cloud._make_cell()
    await second.hosts.start()
    await cloud.delete(server_id)
    await cloud.work()
    (claims,) = [
        row for row in await cloud.db.read(lambda tx: tx.list(host_claims)) if row.generation > 0
    ]
    assert claims_of(second, claims.host_id) == {server_id}
    assert await second.hosts.compare_claims() == 1
    assert claims_of(second, claims.host_id) == set()
    await second.hosts.stop()


async def test_what_another_scheduler_gave_back_of_ones_own_claim_is_found_by_comparing(cloud):
    first, second, intent, host_id = await accepted_by_second(cloud)
    await cloud.db.run(first.fence, intent.subject, intent.id)
    # It made the last claim there, so nobody has claimed since; and there is one less.
    assert claims_of(second, host_id) == {intent.subject}
    await second.hosts.compare_claims()
    assert claims_of(second, host_id) == set()
    assert await second.hosts.compare_claims() == 0
    await second.hosts.stop()


async def test_what_another_gave_back_is_found_though_one_has_claimed_there_since(cloud):
    first, second, intent, host_id = await accepted_by_second(cloud)
    await cloud.db.run(first.fence, intent.subject, intent.id)
    second.hosts.table.set_enabled(other_host(second, host_id), is_enabled=False)
    later = await an_intent(cloud)
    assert choose(second, later, cloud) == host_id
    assert await write(cloud, second, later) is not None
    assert claims_of(second, host_id) == {intent.subject, later.subject}
    await second.hosts.compare_claims()
    assert claims_of(second, host_id) == {later.subject}
    await second.hosts.stop()


async def test_a_build_that_another_process_ended_is_in_flight_no_more(cloud):
    (server_id,) = await cloud.create()
    await cloud.carry()
    await cloud.db.run(
        lambda tx: tx.update(
            instances, {"id": server_id}, vm_state="building", task_state="spawning"
        )
    )
    second = cloud._make_cell()
    await second.hosts.start()
    assert second.hosts.table.list_building() == {server_id}
    await second.hosts.compare_claims()
    assert second.hosts.table.list_building() == {server_id}
    await cloud.db.run(
        lambda tx: tx.update(instances, {"id": server_id}, vm_state="active", task_state=None)
    )
    await second.hosts.compare_claims()
    assert second.hosts.table.list_building() == set()
    await second.hosts.stop()


async def test_a_build_that_another_let_go_is_accepted_when_it_comes_back(cloud):
    first, second, intent, host_id = await accepted_by_second(cloud)
    await cloud.db.run(first.fence, intent.subject, intent.id)
    again = msgspec.structs.replace(intent, id="again")
    assert await cloud.db.run(second.apply, again, second.prepare(again)) is None
    assert claims_of(second, host_id) == set()
    assert (await cloud.db.run(second.apply, again, second.prepare(again))).answer == "yes"
    await second.hosts.stop()


async def test_a_server_that_came_back_to_another_host_is_counted_there(cloud):
    first, second, intent, host_id = await accepted_by_second(cloud)
    await cloud.db.run(first.fence, intent.subject, intent.id)
    # Told of nothing, the second has it where it was.
    again = msgspec.structs.replace(intent, id="again")
    first.hosts.table.set_enabled(host_id, is_enabled=False)
    other = choose(first, again, cloud)
    assert other == other_host(first, host_id)
    assert await write(cloud, first, again) is not None
    assert await second.hosts.look_again(other)
    assert claims_of(second, other) == {intent.subject}
    assert claims_of(second, host_id) == set()
    await second.hosts.stop()


async def test_a_build_that_another_scheduler_accepted_begins_where_that_claimed(cloud):
    second = cloud._make_cell()
    await second.hosts.start()
    # The node is the second's, and the sagas are the first's.
    (server_id,) = await cloud.create()
    await cloud.work()
    row = await cloud.instance(server_id)
    assert (row.vm_state, len(row.placement)) == ("active", 1), row.placement
    assert claims_of(cloud.cell, row.host_id) == {server_id}
    assert claims_of(second, row.host_id) == {server_id}
    await second.hosts.stop()


async def test_a_build_that_another_scheduler_accepted_and_that_comes_again_has_its_room_once(
    cloud,
):
    first, second, intent, host_id = await accepted_by_second(cloud)
    again = msgspec.structs.replace(intent, id="again")
    first.hosts.table.set_enabled(host_id, is_enabled=False)
    other = choose(first, again, cloud)
    assert other == other_host(first, host_id)
    assert (await write(cloud, first, again)).answer == "yes"
    assert not first.hosts._unwritten
    assert claims_of(first, other) == set()
    assert await first.hosts.look_again(host_id)
    assert claims_of(first, host_id) == {intent.subject}
    await second.hosts.stop()


async def test_a_claim_that_was_taken_over_from_the_rows_is_not_given_back_as_ones_own(cloud):
    first = cloud.cell
    second = cloud._make_cell()
    await second.hosts.start()
    intent = await an_intent(cloud)
    host_id = choose(first, intent, cloud)
    mine = cloud.prepared
    first.hosts.table.set_enabled(other_host(first, host_id), is_enabled=False)
    second.hosts.table.set_enabled(other_host(first, host_id), is_enabled=False)
    assert choose(second, intent, cloud) == host_id
    assert await write(cloud, second, intent) is not None
    # The first looks at the host before it hears that the build was decided.
    assert await first.hosts.look_again(host_id)
    first.abandon(intent, mine)
    assert claims_of(first, host_id) == {intent.subject}
    await second.hosts.stop()


async def test_what_a_table_missed_by_doubtful_commits_is_found_by_comparing(cloud):
    gone, kept = await cloud.build(), await cloud.build()
    (gone_id,), (kept_id,) = gone, kept
    cell = cloud.cell
    host_id = (await cloud.instance(kept_id)).host_id
    table = cell.hosts.table
    assert await cell.hosts.compare_claims() == 0
    # What a commit says to the table once it was, had its answer not been lost.
    gone_host = (await cloud.instance(gone_id)).host_id
    claim = table.find_claim(gone_id)
    await cloud.delete(gone_id)
    await cloud.work()
    table.adopt(claim.host_index, placement_of(gone_id, claim), is_building=True)
    table.release(kept_id)
    assert await cell.hosts.compare_claims() == 0
    cell.hosts._db.doubts += 1
    assert await cell.hosts.compare_claims() == 2
    assert gone_id not in claims_of(cell, gone_host)
    assert kept_id in claims_of(cell, host_id)
    assert not table.list_building()
    assert await cell.hosts.compare_claims() == 0


async def test_nothing_is_claimed_on_a_host_while_a_claim_there_is_in_doubt(cloud):
    first, second = await cloud.create(count=2)
    rows = await cloud.db.read(lambda tx: tx.list(outbox))
    intents = {intent.subject: intent for intent in map(intent_of, rows)}
    cell = cloud.cell
    host_id = choose(cell, intents[first], cloud)
    assert await write(cloud, cell, intents[first]) is not None
    # It was written and nobody was told, so what was claimed in the table is given back.
    cell.abandon(intents[first], cloud.prepared)
    cell.hosts._db.doubts += 1
    cell.hosts.table.set_enabled(other_host(cell, host_id), is_enabled=False)
    assert choose(cell, intents[second], cloud) == host_id
    assert await write(cloud, cell, intents[second]) is None
    assert await cell.hosts.look_again(host_id)
    assert first in claims_of(cell, host_id)
    assert choose(cell, intents[second], cloud) == host_id
    assert await write(cloud, cell, intents[second]) is not None


async def an_intent(cloud) -> Intent:
    """Ask for one server and give its build."""
    (server_id,) = await cloud.create()
    rows = await cloud.db.read(lambda tx: tx.list(outbox, subject=server_id))
    return intent_of(rows[0])


async def accepted_by_second(cloud):
    """Give two schedulers, and a build that the second has accepted, with its host."""
    second = cloud._make_cell()
    await second.hosts.start()
    intent = await an_intent(cloud)
    host_id = choose(second, intent, cloud)
    assert await write(cloud, second, intent) is not None
    return cloud.cell, second, intent, host_id


def placement_of(instance_id: str, claim) -> PlacementRequest:
    return PlacementRequest(
        instance_id=instance_id,
        project_id=claim.project_id,
        ram_mib=claim.ram_mib,
        vcpus=claim.vcpus,
        disk_gib=claim.disk_gib,
        group_id=claim.group_id,
    )


def choose(cell, intent: Intent, cloud) -> str:
    assert intent.kind == BUILD
    prepared = cell.prepare(intent)
    cloud.prepared = prepared
    return prepared.host_id


async def write(cloud, cell, intent: Intent):
    return await cloud.db.run(cell.apply, intent, cloud.prepared)


def claims_of(cell, host_id: str) -> set[str]:
    return set(cell.hosts.table.list_instances(host_id))


def other_host(cell, host_id: str) -> str:
    return next(each for each in cell.hosts.drivers if each != host_id)
