"""The host table keeps its accounts through any order of claims, releases and changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenith.core.errors import Conflict, Exhausted, Invalid, NotFound
from xenith.scheduler.hosts import Host, HostTable
from xenith.scheduler.profile import ANSWERS_KEPT_MAX, HostProfile, ProfileTable
from xenith.scheduler.request import PlacementRequest

COLUMNS = [*HostTable._FLAGS, *HostTable._INTS]


def snapshot(table):
    return {name: getattr(table, name).tolist() for name in COLUMNS if name != "generation"}


def test_a_claim_takes_and_a_release_gives_back(table_of, host, ask):
    table = table_of(host(1), host(2))
    before = snapshot(table)
    assert table.claim(1, ask(ram_mib=1000, vcpus=2, disk_gib=3)) == 2
    assert (table.ram_free[1], table.vcpus_free[1], table.disk_free[1]) == (3096, 14, 97)
    assert (table.instance_count[1], table.io_ops[1]) == (1, 1)
    assert table.list_instances("h2") == {"i"}
    assert table.projects.count("p", 1) == 1
    assert table.release("i") == 3
    assert snapshot(table) == before
    assert len(table.projects) == 0


@pytest.mark.parametrize(
    ("fields", "resource", "lacking"),
    [
        ({"ram_mib": 5000}, "MEMORY_MB", 904),
        ({"vcpus": 17}, "VCPU", 1),
        ({"disk_gib": 200}, "DISK_GB", 100),
    ],
)
def test_a_claim_above_the_capacity_is_refused_and_leaves_nothing(
    table_of, host, ask, fields, resource, lacking
):
    table = table_of(host())
    before = snapshot(table)
    with pytest.raises(Exhausted) as caught:
        table.claim(0, ask(**fields))
    assert caught.value.fields["resource"] == resource
    assert caught.value.fields["lacking"] == lacking
    assert snapshot(table) == before
    assert table.find_claim("i") is None


def test_an_instance_cannot_claim_twice(table_of, host, ask):
    table = table_of(host(1), host(2))
    table.claim(0, ask())
    with pytest.raises(Conflict):
        table.claim(1, ask())
    assert table.instance_count.tolist() == [1, 0]


def test_a_release_without_a_claim_is_not_found(table_of, host):
    with pytest.raises(NotFound):
        table_of(host()).release("i")


def test_a_row_that_is_no_host_takes_no_claim(table_of, host, ask):
    table = table_of(host(1))
    table.remove("h1")
    for row in (0, 1, -1):
        with pytest.raises(NotFound):
            table.claim(row, ask())


def test_a_host_with_instances_cannot_be_removed(table_of, host, ask):
    table = table_of(host())
    table.claim(0, ask())
    with pytest.raises(Conflict, match="1 instances"):
        table.remove("h1")
    table.release("i")
    table.remove("h1")
    assert len(table) == 0
    assert "h1" not in table


def test_a_removed_row_is_used_again_as_if_new(table_of, host):
    table = table_of(host(1), host(2))
    table.record_build_failure(0)
    generation = int(table.generation[0])
    table.remove("h1")
    assert table.add(host(3, ram_mib=100)) == 0
    assert table.ram_free.tolist() == [100, 4096]
    assert table.build_failures_total == 0
    assert table.generation[0] > generation
    with pytest.raises(NotFound):
        table.index("h1")


def test_a_host_is_added_once(table_of, host):
    with pytest.raises(Conflict):
        table_of(host(1)).add(host(1))


def test_a_host_that_shrinks_under_its_claims_takes_no_more(table_of, host, ask):
    table = table_of(host())
    table.claim(0, ask("a", ram_mib=3000))
    table.update(host(ram_mib=2000))
    assert table.ram_free[0] == -1000
    with pytest.raises(Exhausted):
        table.claim(0, ask("b", ram_mib=1))
    table.claim(0, ask("c", ram_mib=0))
    table.release("a")
    assert table.ram_free[0] == 2000


def test_an_adopted_allocation_counts_even_if_it_does_not_fit(table_of, host, ask):
    table = table_of(host())
    table.adopt(0, ask(ram_mib=5000))
    assert table.ram_free[0] == -904
    assert table.io_ops[0] == 0


def test_a_finished_build_is_no_longer_in_flight_and_can_be_finished_twice(table_of, host, ask):
    table = table_of(host())
    table.claim(0, ask())
    table.finish_build("i")
    table.finish_build("i")
    assert table.io_ops[0] == 0
    assert table.io_ops_total == 0
    table.release("i")
    assert table.io_ops[0] == 0


def test_a_host_is_ready_when_enabled_and_up(table_of, host):
    table = table_of(host())
    table.set_up("h1", is_up=False)
    assert not table.is_ready[0]
    table.set_up("h1", is_up=True)
    assert table.is_ready[0]
    table.set_enabled("h1", is_enabled=False)
    assert not table.is_ready[0]


def test_less_than_nothing_is_refused(host, ask):
    with pytest.raises(Invalid):
        ask(disk_gib=-1)
    with pytest.raises(Invalid):
        host(ram_mib=-1)


def test_profiles_that_no_host_has_any_more_are_dropped(table_of, host):
    table = table_of(host(1), host(2, profile=HostProfile(traits=frozenset({"STAYS"}))))
    for version in range(500):
        table.update(host(1, profile=HostProfile(capabilities={"version": version})))
    assert len(table.profiles) < 100
    assert table.profiles[int(table.profile_code[0])].capabilities == {"version": 499}
    assert table.profiles[int(table.profile_code[1])].traits == {"STAYS"}


def test_remembered_answers_are_bounded_and_grow_with_the_profiles():
    profiles = ProfileTable()
    profiles.intern(HostProfile())
    for key in range(ANSWERS_KEPT_MAX + 10):
        profiles.allowed(key, lambda _: True)
    assert len(profiles._answers) == ANSWERS_KEPT_MAX
    profiles.intern(HostProfile(traits=frozenset({"T"})))
    newest = ANSWERS_KEPT_MAX + 9
    assert profiles.allowed(newest, lambda profile: not profile.traits).tolist() == [True, False]


def test_the_table_grows_past_its_first_room(host):
    table = HostTable()
    for number in range(100):
        assert table.add(host(number, ram_mib=number)) == number
    assert table.ram_free.tolist() == list(range(100))
    assert len(table.is_present) == 100


steps = st.lists(
    st.tuples(
        st.sampled_from(["claim", "release", "finish", "update"]),
        st.integers(0, 2),  # host
        st.integers(0, 9),  # instance
        st.integers(0, 900),  # RAM
        st.integers(0, 5),  # vCPUs
    ),
    max_size=60,
)


@given(steps=steps, cpu_ratio=st.sampled_from([1.0, 1.5, 4.0]))
def test_accounts_always_equal_the_claims_and_claims_never_exceed_capacity(steps, cpu_ratio):
    table = HostTable()
    hosts = [
        Host(id=f"h{n}", name=f"n{n}", ram_mib=1000, vcpus=2, disk_gib=50, cpu_ratio=cpu_ratio)
        for n in range(3)
    ]
    for each in hosts:
        table.add(each)
    held, building = {}, set()
    for verb, row, number, ram, vcpus in steps:
        instance = f"i{number}"
        if verb == "claim":
            wanted = PlacementRequest(
                instance_id=instance, project_id="p", ram_mib=ram, vcpus=vcpus, disk_gib=vcpus
            )
            mine = [claim for at, claim in held.values() if at == row]
            fits = (
                sum(claim.ram_mib for claim in mine) + ram <= 1000
                and sum(claim.vcpus for claim in mine) + vcpus <= int(2 * cpu_ratio)
                and sum(claim.disk_gib for claim in mine) + vcpus <= 50
            )
            if instance in held:
                with pytest.raises((Conflict, Exhausted)):
                    table.claim(row, wanted)
            elif fits:
                table.claim(row, wanted)
                held[instance] = (row, wanted)
                building.add(instance)
            else:
                with pytest.raises(Exhausted):
                    table.claim(row, wanted)
        elif verb == "release" and instance in held:
            table.release(instance)
            del held[instance]
            building.discard(instance)
        elif verb == "finish":
            table.finish_build(instance)
            building.discard(instance)
        elif verb == "update":
            table.update(hosts[row])
        for at in range(3):
            mine = {name: claim for name, (row_, claim) in held.items() if row_ == at}
            assert table.ram_free[at] == 1000 - sum(claim.ram_mib for claim in mine.values())
            assert table.vcpus_limit[at] - table.vcpus_free[at] == sum(
                claim.vcpus for claim in mine.values()
            )
            assert table.instance_count[at] == len(mine)
            assert table.projects.count("p", at) == len(mine)
            assert table.io_ops[at] == len(building & mine.keys())
            assert table.list_instances(f"h{at}") == mine.keys()
        assert np.all(table.ram_free >= 0)
        assert np.all(table.vcpus_free >= 0)
        assert np.all(table.disk_free >= 0)
