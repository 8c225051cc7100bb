"""The allocator: no address twice, none outside the pools, and what is released comes again."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xenith.core.clock import ManualClock
from xenith.core.ids import Ids
from xenith.core.world import World
from xenith.db import open_database
from xenith.db.migrate import prepare
from xenith.network.addresses import address_at, count_addresses, is_in_pools
from xenith.network.records import allocations
from xenith.network.records.allocations import IP_ALLOCATIONS

OTHER_POOLS = [["10.0.0.20", "10.0.0.24"], ["10.0.0.3", "10.0.0.8"]]


class Subnet:
    """As much of a subnet's row as the allocator reads."""

    def __init__(self):
        self.id = "s"
        self.pools = [["10.0.0.2", "10.0.0.5"], ["10.0.0.10", "10.0.0.13"]]


def take_next(tx, subnet):
    address = allocations.find_free(tx, subnet)
    if address is not None:
        assert not allocations.is_taken(tx, subnet.id, address)
        allocations.give(tx, "port", [(subnet.id, address)])
    return address


def release(tx, address):
    allocations.take_back(tx, [tx.get(IP_ALLOCATIONS, subnet_id="s", address=address)])


steps = st.lists(
    st.one_of(
        st.just(("next", 0)),
        st.tuples(st.sampled_from(["named", "release"]), st.integers(0, 13)),
        st.just(("pools", 0)),
    ),
    max_size=60,
)


@pytest.mark.slow
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
async def test_each_address_is_one_ports_and_nothing_free_is_lost(steps):
    world = World(clock=ManualClock(), ids=Ids(seed=3))
    database = open_database("sqlite://", ids=world.ids, clock=world.clock)
    prepare(database)
    subnet, taken = Subnet(), set()
    for step, number in steps:
        free = {
            address_at(subnet.pools, position) for position in range(count_addresses(subnet.pools))
        } - taken
        if step == "next":
            address = await database.run(take_next, subnet)
            assert (address is None) == (not free)
            if address is not None:
                assert address in free
                assert is_in_pools(subnet.pools, address)
                taken.add(address)
        elif step == "named":
            address = f"10.0.0.{number + 1}"
            if address not in taken:
                await database.run(allocations.give, "port", [("s", address)])
                taken.add(address)
        elif step == "release" and taken:
            address = sorted(taken)[number % len(taken)]
            await database.run(release, address)
            taken.discard(address)
        elif step == "pools":
            subnet.pools = OTHER_POOLS
            await database.run(allocations.begin_again, "s")
    await database.close()


async def test_released_addresses_come_again_last_and_oldest_first(rows):
    subnet, clock = Subnet(), rows.networks.world.clock
    first = [await rows.do(take_next, subnet) for _ in range(7)]
    for address in (first[3], first[0]):
        await clock.advance(1)
        await rows.do(release, address)
    again = [await rows.do(take_next, subnet) for _ in range(4)]
    assert again == ["10.0.0.13", first[3], first[0], None]


async def test_a_long_run_of_taken_addresses_is_passed_once(rows):
    subnet = Subnet()
    subnet.pools = [["10.0.0.1", "10.0.3.254"]]
    taken = [("s", address_at(subnet.pools, position)) for position in range(700)]
    await rows.do(allocations.give, "port", taken)
    assert await rows.do(take_next, subnet) == "10.0.2.189"
    assert await rows.do(take_next, subnet) == "10.0.2.190"
