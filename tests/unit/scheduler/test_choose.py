"""The choice equals that of a slow and obvious scheduler, and its account of itself adds up."""

from collections import Counter
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenith.core.ids import Ids
from xenith.scheduler.choose import NoValidHost, Placement, choose
from xenith.scheduler.explanation import Explanation, admin_reason, nearest_misses
from xenith.scheduler.filters import FILTERS
from xenith.scheduler.hosts import Host, HostTable
from xenith.scheduler.profile import HostProfile
from xenith.scheduler.request import PlacementRequest

KINDS = [
    HostProfile(),
    HostProfile(capabilities={"n": 4}, supported=(("x86_64", "xen", "hvm"),)),
    HostProfile(capabilities={"n": 8}, supported=(("i686", "xen", "xen"),)),
]
POLICIES = ["affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity"]
some = st.integers(0, 3)

hosts = st.lists(
    st.builds(
        dict,
        ram_mib=st.integers(0, 8),
        vcpus=st.integers(0, 2),
        disk_gib=st.integers(0, 8),
        is_up=st.integers(0, 5).map(bool),
        is_enabled=st.integers(0, 5).map(bool),
        availability_zone=st.sampled_from(["east", "west"]),
        profile=st.sampled_from(KINDS),
        failures=st.sampled_from([0, 0, 0, 1, 2]),
        is_removed=st.sampled_from([False, False, False, True]),
    ),
    max_size=7,
)
requests = st.builds(
    dict,
    project_id=st.sampled_from(["blue", "red"]),
    ram_mib=some,
    vcpus=some,
    disk_gib=some,
    availability_zone=st.sampled_from([None, None, None, "east"]),
    extra_specs=st.sampled_from([{}, {}, {"capabilities:n": ">= 5"}]),
    image_properties=st.sampled_from([{}, {}, {"hw_architecture": "x86_64"}]),
    group_id=st.sampled_from([None, "g"]),
    group_policy=st.sampled_from(POLICIES),
    different_host=st.sampled_from([(), (), ("i0",)]),
    same_host=st.sampled_from([(), (), (), ("i0", "i1")]),
    tried_hosts=st.sampled_from([(), (), ("h0",)]),
)
placed = st.lists(st.tuples(st.integers(0, 6), requests), max_size=12)


class SlowHost:
    """A host as one would write it on paper."""

    def __init__(self, host, failures):
        self.host, self.failures, self.claims = host, failures, {}

    def free(self):
        ram, vcpus, disk = self.host.limits()
        for claim in self.claims.values():
            ram, vcpus, disk = ram - claim.ram_mib, vcpus - claim.vcpus, disk - claim.disk_gib
        return ram, vcpus, disk

    def has(self, names, project):
        return any(i in names and c.project_id == project for i, c in self.claims.items())

    def group(self, group_id):
        return sum(1 for claim in self.claims.values() if claim.group_id == group_id)

    def passes(self, request, group_is_anywhere):
        needs = (request.ram_mib, request.vcpus, request.disk_gib)
        kind = KINDS.index(self.host.profile)
        zone = request.availability_zone
        members = self.group(request.group_id) if request.group_id else 0
        return (
            (self.host.is_up and self.host.is_enabled)
            and (zone is None or self.host.availability_zone == zone)
            # What is not asked for is not lacking, even where an adopted claim went below zero.
            and all(not need or free >= need for need, free in zip(needs, self.free(), strict=True))
            and (not request.extra_specs or kind == 2)
            and (not request.image_properties or kind == 1)
            and self.host.id not in request.tried_hosts
            and (not request.same_host or self.has(request.same_host, request.project_id))
            and not self.has(request.different_host, request.project_id)
            and not (request.group_id and request.group_policy == "anti-affinity" and members)
            and not (
                request.group_id
                and request.group_policy == "affinity"
                and group_is_anywhere
                and not members
            )
            and len(self.claims) < 8
        )

    def raw(self, request):
        members = self.group(request.group_id) if request.group_id else 0
        return [
            *((value, 1.0) for value in self.free()),
            (len(self.claims), -1.0),  # all of them are builds in flight
            (sum(1 for c in self.claims.values() if c.project_id == request.project_id), -1.0),
            (members if request.group_policy == "soft-affinity" else 0, 1.0),
            (members if request.group_policy == "soft-anti-affinity" else 0, -1.0),
            (self.failures, -1_000_000.0),
        ]


def slow_weights(slow, request):
    anywhere = any(each.group(request.group_id) for each in slow) if request.group_id else False
    passing = [each for each in slow if each.passes(request, anywhere)]
    weights = {each.host.id: 0.0 for each in passing}
    for column in zip(*(each.raw(request) for each in passing), strict=True):
        low, high = min(value for value, _ in column), max(value for value, _ in column)
        for each, (value, multiplier) in zip(passing, column, strict=True):
            if high > low:
                weights[each.host.id] += (value - low) / (high - low) * multiplier
    return weights


def build_both(drawn_hosts, drawn_claims):
    table, slow = HostTable(), []
    for number, drawn in enumerate(drawn_hosts):
        fields = {k: v for k, v in drawn.items() if k not in ("failures", "is_removed")}
        host = Host(id=f"h{number}", name=f"host-{number}", **fields)
        row = table.add(host)
        for _ in range(drawn["failures"]):
            table.record_build_failure(row)
        slow.append(SlowHost(host, drawn["failures"]))
    for number, drawn in enumerate(drawn_hosts):
        if drawn["is_removed"]:
            table.remove(f"h{number}")
    slow = [each for each, drawn in zip(slow, drawn_hosts, strict=True) if not drawn["is_removed"]]
    for number, (at, fields) in enumerate(drawn_claims):
        if not slow:
            break
        request = PlacementRequest(instance_id=f"i{number}", **fields)
        target = slow[at % len(slow)]
        table.adopt(table.index(target.host.id), request, is_building=True)
        target.claims[f"i{number}"] = request
    return table, slow


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(drawn_hosts=hosts, claims=placed, fields=requests, seed=st.integers(0, 9))
def test_the_choice_equals_that_of_a_slow_scheduler(drawn_hosts, claims, fields, seed):
    table, slow = build_both(drawn_hosts, claims)
    request = PlacementRequest(instance_id="new", **fields)
    for each in slow:
        assert each.free() == tuple(
            int(column[table.index(each.host.id)])
            for column in (table.ram_free, table.vcpus_free, table.disk_free)
        )
    weights = slow_weights(slow, request)
    chosen = choose(table, request, ids=Ids(seed=seed), alternates=9)
    assert isinstance(chosen, Placement if weights else NoValidHost)
    if not isinstance(chosen, Placement):
        return
    assert set(chosen.hosts) == set(weights)
    assert [table.ids[row] for row in chosen.indices] == list(chosen.hosts)
    in_order = [weights[host_id] for host_id in chosen.hosts]
    assert all(before >= after - 1e-6 for before, after in pairwise(in_order))
    for told in chosen.explanation.weights:
        assert told.total == pytest.approx(weights[told.host_id])


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(drawn_hosts=hosts, claims=placed, fields=requests)
def test_masks_only_shrink_and_counts_add_up(drawn_hosts, claims, fields):
    table, _ = build_both(drawn_hosts, claims)
    request = PlacementRequest(instance_id="new", **fields)
    mask = table.is_present
    left = [table.host_count]
    for row in FILTERS:
        before = mask.copy()
        given_mask, mask = mask, row.apply(table, request, mask)
        assert not (mask & ~before).any(), row.name
        assert (given_mask == before).all(), f"{row.name} wrote into what it was given"
        left.append(int(mask.sum()))
    result = choose(table, request, ids=Ids(seed=1))
    told = result.explanation.filters
    assert result.explanation.host_count == left[0]
    assert [(count.before, count.after) for count in told] == list(pairwise(left))[: len(told)]
    assert isinstance(result, NoValidHost) == (left[-1] == 0)
    if isinstance(result, NoValidHost) and left[0]:
        assert told[-1].after == 0
        assert result.explanation.misses
    assert (nearest_misses(table, request) == ()) == (left[-1] > 0 or left[0] == 0)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(drawn_hosts=hosts, claims=placed, fields=requests)
def test_whatever_is_chosen_can_be_claimed(drawn_hosts, claims, fields):
    table, _ = build_both(drawn_hosts, claims)
    request = PlacementRequest(instance_id="new", **fields)
    result = choose(table, request, ids=Ids(seed=1))
    if isinstance(result, Placement):
        for row in result.indices:
            table.claim(row, request)
            table.release("new")


def test_equal_hosts_are_chosen_by_chance_and_the_same_seed_chooses_the_same(table_of, host, ask):
    table = table_of(*(host(number) for number in range(10)))
    ids = Ids(seed=3)
    tally = Counter(choose(table, ask(), ids=ids).hosts[0] for _ in range(1000))
    assert len(tally) == 10
    assert max(tally.values()) < 200
    again = [choose(table, ask(), ids=Ids(seed=5)).hosts for _ in range(2)]
    assert again[0] == again[1]
    assert len(set(again[0])) == 4


def test_a_subset_size_spreads_the_first_choice_over_the_best(table_of, host, ask):
    table = table_of(*(host(number, ram_mib=1000 * number) for number in range(1, 7)))
    ids = Ids(seed=3)
    placements = [choose(table, ask(), ids=ids, host_subset_size=3) for _ in range(100)]
    assert {placement.hosts[0] for placement in placements} == {"h6", "h5", "h4"}
    assert all(len(set(placement.hosts)) == 4 for placement in placements)


def test_servers_of_one_project_spread_over_the_hosts(table_of, host, ask, ids):
    table = table_of(*(host(number) for number in range(4)))
    for number in range(8):
        request = ask(f"i{number}", ram_mib=0, vcpus=0, disk_gib=0)
        table.claim(choose(table, request, ids=ids).indices[0], request)
        table.finish_build(f"i{number}")
    assert table.instance_count.tolist() == [2, 2, 2, 2]


def test_a_host_that_fails_builds_comes_last_until_a_build_goes_well(table_of, host, ask, ids):
    table = table_of(host(1, ram_mib=9999), host(2))
    table.record_build_failure(0)
    assert choose(table, ask(), ids=ids).hosts == ("h2", "h1")
    table.clear_build_failures(0)
    assert choose(table, ask(), ids=ids).hosts == ("h1", "h2")


def test_the_nearest_miss_names_the_host_and_what_it_lacks(table_of, host, ask, ids):
    table = table_of(
        host(1, is_up=False, ram_mib=1024),
        host(2, ram_mib=1024),
        host(3, ram_mib=1536),
    )
    refusal = choose(table, ask(ram_mib=2048), ids=ids)
    assert refusal.reason == (
        "No valid host was found: no host has enough memory free for the flavor."
    )
    assert refusal.detail == (
        "3 hosts; ComputeFilter 3 to 2; RamFilter 2 to 0. "
        "Nearest: host-3 lacks 512 MiB of RAM; host-2 lacks 1024 MiB of RAM."
    )
    assert not refusal.is_transient
    lack = refusal.explanation.misses[0].lacks[0]
    assert (lack.filter, lack.amount, lack.unit) == ("RamFilter", 512, "MiB of RAM")


def test_a_host_that_fails_several_filters_tells_all_that_it_lacks(table_of, host, ask, ids):
    gold = {
        "trait:GOLD": "required",
        "capabilities:n": "4",
        "aggregate_instance_extra_specs:k": "v",
    }
    table = table_of(host(1, is_up=False, is_enabled=False))
    request = ask(
        ram_mib=5000,
        availability_zone="west",
        extra_specs=gold,
        image_properties={"hw_architecture": "x86_64"},
    )
    detail = choose(table, request, ids=ids).detail
    assert detail == (
        "1 host; ComputeFilter 1 to 0. Nearest: host-1 is disabled and down and "
        "is in zone nova, not west and lacks 904 MiB of RAM and "
        "cannot run an image for x86_64 and does not meet capabilities:n 4 and "
        "has no aggregate that meets aggregate_instance_extra_specs:k v and "
        "does not meet trait:GOLD required."
    )


def test_a_cloud_that_is_only_busy_says_that_waiting_helps(table_of, host, ask, ids):
    table = table_of(host(1), *(host(number, ram_mib=1) for number in range(2, 9)))
    for number in range(8):
        table.claim(0, ask(f"i{number}", ram_mib=1))
    refusal = choose(table, ask("new"), ids=ids)
    assert refusal.is_transient
    assert "host-1 has 8 builds in flight" in refusal.detail
    table.finish_build("i0")
    assert isinstance(choose(table, ask("new"), ids=ids), Placement)


def test_an_empty_cloud_has_no_host_in_service(ask, ids):
    refusal = choose(HostTable(), ask(), ids=ids)
    assert refusal.reason == "No valid host was found: no host is in service."
    assert refusal.detail == "0 hosts."
    assert refusal.explanation.misses == ()


def test_the_tenant_is_told_no_host_and_no_amount(table_of, host, ask, ids):
    for fields in ({"ram_mib": 9999}, {"availability_zone": "moon"}, {"same_host": ("x",)}):
        reason = choose(table_of(host()), ask(**fields), ids=ids).reason
        assert "host-1" not in reason
        assert not any(letter.isdigit() for letter in reason)


def test_the_account_of_a_success_goes_through_json_and_reads_well(table_of, host, ask, ids):
    table = table_of(host(1), host(2, ram_mib=8192), host(3, is_up=False))
    placement = choose(table, ask(), ids=ids)
    text = msgspec.json.encode(placement.explanation)
    assert msgspec.json.decode(text, type=Explanation) == placement.explanation
    assert admin_reason(placement.explanation) == (
        "3 hosts; ComputeFilter 3 to 2. Chosen: host-2 with 1.000 (RAMWeigher +1.000). "
        "Runner-up: host-1 with 0.000 (RAMWeigher +0.000)."
    )
