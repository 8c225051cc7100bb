"""Each filter keeps the hosts that it says it keeps."""

import pytest

from xenith.core.ids import Ids
from xenith.scheduler.choose import NoValidHost, Placement, choose
from xenith.scheduler.extra_specs import matches
from xenith.scheduler.filters import FILTERS, make_filters
from xenith.scheduler.profile import HostProfile

BY_NAME = {row.name: row for row in FILTERS}


def passing(name, table, request, filters=BY_NAME):
    mask = filters[name].apply(table, request, table.is_present)
    return [table.names[row] for row in mask.nonzero()[0]]


def test_every_filter_has_its_wording_and_its_own_name():
    assert len(BY_NAME) == len(FILTERS)
    assert all(row.tenant and row.admin for row in FILTERS)


def test_a_request_without_wishes_is_not_looked_at_by_the_filters_on_wishes(table_of, host, ask):
    table = table_of(host())
    untouched = {
        row.name for row in FILTERS if row.apply(table, ask(), table.is_present) is table.is_present
    }
    assert untouched == set(BY_NAME) - {
        *("ComputeFilter", "RamFilter", "CoreFilter", "DiskFilter", "NumInstancesFilter")
    }


def test_compute_keeps_enabled_hosts_that_are_up(table_of, host, ask):
    table = table_of(host(1, is_up=False), host(2, is_enabled=False), host(3))
    assert passing("ComputeFilter", table, ask()) == ["host-3"]


def test_zones_are_kept_apart_and_an_unknown_one_is_empty(table_of, host, ask):
    table = table_of(host(1), host(2, availability_zone="west"))
    assert passing("AvailabilityZoneFilter", table, ask(availability_zone="west")) == ["host-2"]
    assert passing("AvailabilityZoneFilter", table, ask(availability_zone="moon")) == []


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("RamFilter", {"ram_mib": 4096}),
        ("CoreFilter", {"vcpus": 16}),
        ("DiskFilter", {"disk_gib": 100}),
    ],
)
def test_a_host_with_exactly_enough_passes_and_one_more_is_too_much(
    table_of, host, ask, name, fields
):
    table = table_of(host())
    assert passing(name, table, ask(**fields)) == ["host-1"]
    ((field, amount),) = fields.items()
    assert passing(name, table, ask(**{field: amount + 1})) == []


def test_an_image_runs_where_its_whole_way_of_running_is_supported(table_of, host, ask):
    xen = HostProfile(supported=(("x86_64", "xen", "hvm"), ("x86_64", "xen", "xen")))
    arm = HostProfile(supported=(("aarch64", "qemu", "hvm"),))
    table = table_of(host(1, profile=xen), host(2, profile=arm), host(3))
    for properties, expected in (
        ({"hw_architecture": "x86_64"}, ["host-1"]),
        ({"architecture": "arm64", "vm_mode": "hvm"}, ["host-2"]),
        ({"img_hv_type": "xen", "hw_vm_mode": "pv"}, ["host-1"]),
        ({"hw_architecture": "x86_64", "img_hv_type": "qemu"}, []),
        ({"hw_architecture": "\x00" * 300}, []),
        ({"os_distro": "debian"}, ["host-1", "host-2", "host-3"]),
    ):
        request = ask(image_properties=properties)
        assert passing("ImagePropertiesFilter", table, request) == expected, properties


def test_capabilities_and_aggregates_read_their_scopes(table_of, host, ask):
    ssd = HostProfile(capabilities={"cpu": {"model": "epyc"}}, aggregates=({"disk": "ssd,nvme"},))
    hdd = HostProfile(capabilities={"cpu": {"model": "xeon"}}, aggregates=({"disk": "hdd"},))
    table = table_of(host(1, profile=ssd), host(2, profile=hdd), host(3))
    by_cpu = ask(extra_specs={"capabilities:cpu:model": "<or> epyc <or> rome"})
    assert passing("ComputeCapabilitiesFilter", table, by_cpu) == ["host-1"]
    assert passing("AggregateInstanceExtraSpecsFilter", table, by_cpu) == [
        *("host-1", "host-2", "host-3")
    ]
    by_disk = ask(extra_specs={"aggregate_instance_extra_specs:disk": "nvme"})
    assert passing("AggregateInstanceExtraSpecsFilter", table, by_disk) == ["host-1"]
    foreign = ask(extra_specs={"quota:vif_outbound_average": "10", "hw_rng:allowed": "true"})
    assert len(passing("ComputeCapabilitiesFilter", table, foreign)) == 3


def test_a_key_without_scope_is_met_by_capability_or_aggregate_with_both_filters_on(
    table_of, host, ask, ids
):
    table = table_of(
        host(1, profile=HostProfile(aggregates=({"class": "gold"},))),
        host(2, profile=HostProfile(capabilities={"class": "gold"})),
        host(3),
        host(4, profile=HostProfile(aggregates=({"class": "tin"},))),
        host(5, profile=HostProfile(capabilities={"class": "tin"})),
    )
    placement = choose(table, ask(extra_specs={"class": "gold"}), ids=ids, alternates=9)
    assert sorted(placement.hosts) == ["h1", "h2"]


def test_hosts_that_change_their_properties_are_asked_anew(table_of, host, ask):
    table = table_of(host(1))
    request = ask(extra_specs={"trait:GOLD": "required"})
    assert passing("TraitsFilter", table, request) == []
    table.update(host(1, profile=HostProfile(traits=frozenset({"GOLD"}))))
    assert passing("TraitsFilter", table, request) == ["host-1"]
    forbidden = ask(extra_specs={"trait:GOLD": "forbidden"})
    assert passing("TraitsFilter", table, forbidden) == []


def test_same_and_different_host_follow_the_project_own_instances(table_of, host, ask):
    table = table_of(host(1), host(2), host(3))
    table.claim(0, ask("mine"))
    table.claim(1, ask("theirs", project_id="other"))
    same = ask("new", same_host=("mine", "theirs", "unknown"))
    assert passing("SameHostFilter", table, same) == ["host-1"]
    different = ask("new", different_host=("mine", "theirs", "unknown"))
    assert passing("DifferentHostFilter", table, different) == ["host-2", "host-3"]
    assert passing("SameHostFilter", table, ask("new", same_host=("unknown",))) == []


def test_a_server_group_keeps_together_or_apart(table_of, host, ask):
    table = table_of(host(1), host(2))
    together = {"group_id": "g", "group_policy": "affinity"}
    apart = {"group_id": "g", "group_policy": "anti-affinity"}
    assert len(passing("ServerGroupAffinityFilter", table, ask(**together))) == 2
    table.claim(1, ask("first", group_id="g"))
    assert passing("ServerGroupAffinityFilter", table, ask(**together)) == ["host-2"]
    assert passing("ServerGroupAntiAffinityFilter", table, ask(**apart)) == ["host-1"]
    two = ask(**apart, group_per_host_max=2)
    assert len(passing("ServerGroupAntiAffinityFilter", table, two)) == 2


def test_busy_and_full_hosts_are_left_out_at_the_limits_chosen(table_of, host, ask):
    table = table_of(host(1), host(2))
    table.claim(0, ask("a"))
    table.claim(0, ask("b"))
    tight = {row.name: row for row in make_filters(io_ops_per_host_max=2, instances_per_host_max=2)}
    assert passing("IoOpsFilter", table, ask(), tight) == ["host-2"]
    table.finish_build("a")
    assert passing("IoOpsFilter", table, ask(), tight) == ["host-1", "host-2"]
    assert passing("NumInstancesFilter", table, ask(), tight) == ["host-2"]
    assert passing("NumInstancesFilter", table, ask()) == ["host-1", "host-2"]


def test_named_tried_and_ignored_hosts_are_minded(table_of, host, ask, ids):
    table = table_of(host(1), host(2), host(3))
    assert choose(table, ask(target_host="h2"), ids=ids).hosts == ("h2",)
    assert choose(table, ask(only_hosts=("h1", "gone")), ids=ids).hosts == ("h1",)
    assert choose(table, ask(tried_hosts=("h1",), ignored_hosts=("h2",)), ids=ids).hosts == ("h3",)
    nobody = choose(table, ask(target_host="gone"), ids=ids)
    assert isinstance(nobody, NoValidHost)
    assert nobody.reason == ("No valid host was found: the requested host cannot take the server.")


def test_a_named_host_must_pass_the_filters_all_the_same(table_of, host, ask, ids):
    table = table_of(host(1, ram_mib=1), host(2))
    assert isinstance(choose(table, ask(target_host="h1"), ids=ids), NoValidHost)
    assert isinstance(choose(table, ask(target_host="h2"), ids=ids), Placement)


@pytest.mark.parametrize(
    ("value", "demand", "is_met"),
    [
        ("4", "= 4", True),
        ("5", "= 4", True),
        ("3", "= 4", False),
        ("4", "== 4", True),
        ("4", "!= 4", False),
        ("4", "<= 3", False),
        ("b", "s> a", True),
        ("b", "s>= b", True),
        ("b", "s<= a", False),
        ("b", "s!= b", False),
        ("10", "s< 9", True),
        ("abc", "<in> bc", True),
        ("abc", "<in>", False),
        ("a b", "<all-in> a b", True),
        ("a b", "<all-in>", False),
        ("b", "<or> a", False),
        ("b", "<or>", False),
        ("<or>", "<or> a <or> b", False),
        ("four", "= 4", False),
        ("4", "= four", False),
        ("nan", "== nan", False),
        ("two words", "two words", True),
    ],
)
def test_a_demand_is_read_as_nova_reads_it(value, demand, is_met):
    assert matches(value, demand) is is_met


def test_a_choice_reads_no_chance_where_one_host_is_best(table_of, host, ask):
    table = table_of(host(1), host(2, ram_mib=8192))
    chosen = {choose(table, ask(), ids=Ids(seed=seed)).hosts[0] for seed in range(9)}
    assert chosen == {"h2"}
