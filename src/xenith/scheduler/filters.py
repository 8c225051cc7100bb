"""The filters, by their nova names: each takes the hosts that are left and gives those that pass.

A filter is a pure function ``(table, request, mask) -> mask``. One that the request does not use
gives back the very mask it got, which costs nothing and counts as passed. ``FILTERS`` is the table
of them, in order; each row carries its wording for the tenant (no host, no amount) and for the
admin, and how far a host is from passing. To add one: write the function, add the row.

Source: nova "Filters" in the administrator's guide. RequestedHostFilter, IgnoreHostsFilter and
TraitsFilter are rules that nova applies outside its filters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from xenith.core.ids import HostId, InstanceId
from xenith.scheduler import extra_specs, image_properties
from xenith.scheduler.hosts import HostTable
from xenith.scheduler.profile import HostProfile
from xenith.scheduler.request import AFFINITY, ANTI_AFFINITY, PlacementRequest

Mask = NDArray[np.bool_]
Apply = Callable[[HostTable, PlacementRequest, Mask], Mask]

#: Builds that one host takes at a time. Source: nova ``max_io_ops_per_host``.
IO_OPS_PER_HOST_MAX = 8
#: Source: XenServer configuration limits, VMs per host. Nova's own default is 50.
INSTANCES_PER_HOST_MAX = 1000


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A row of the table of filters."""

    name: str
    apply: Apply
    #: Why there is no host, safe for any tenant to read.
    tenant: str
    #: What a host that fails is, told to the admin; said alone where there is no amount.
    admin: str
    #: The amount that each host lacks, above zero where it fails; None where it cannot be counted.
    shortfall: Callable[[HostTable, PlacementRequest], NDArray[np.int64]] | None = None
    unit: str = ""
    #: What precisely one host lacks, where ``admin`` is not enough.
    detail: Callable[[HostTable, PlacementRequest, int], str] | None = None
    #: A host that fails may pass in a moment, with nothing changed by anyone.
    is_transient: bool = False


def requested_host(table: HostTable, request: PlacementRequest, mask: Mask) -> Mask:
    """Keep the host that the admin named, or the only ones to look at."""
    if request.target_host is not None:
        mask = np.logical_and(mask, _rows(table, [request.target_host]))
    if request.only_hosts is not None:
        mask = np.logical_and(mask, _rows(table, request.only_hosts))
    return mask


def retry(table: HostTable, request: PlacementRequest, mask: Mask) -> Mask:
    """Drop the hosts on which this build has failed."""
    return mask & ~_rows(table, request.tried_hosts) if request.tried_hosts else mask


def ignore_hosts(table: HostTable, request: PlacementRequest, mask: Mask) -> Mask:
    """Drop the hosts that the request leaves out."""
    return mask & ~_rows(table, request.ignored_hosts) if request.ignored_hosts else mask


def compute(table: HostTable, _request: PlacementRequest, mask: Mask) -> Mask:
    """Keep hosts that are enabled and up."""
    return mask & table.is_ready


def availability_zone(table: HostTable, request: PlacementRequest, mask: Mask) -> Mask:
    """Keep hosts of the zone."""
    if request.availability_zone is None:
        return mask
    code = table.zone_codes.get(request.availability_zone, -1)
    passed: Mask = mask & (table.zone_code == code)
    return passed


def ram(table: HostTable, request: PlacementRequest, mask: Mask) -> Mask:
    """Keep hosts with the memory free, at their allocation ratio."""
    return mask & (table.ram_free >= request.ram_mib) if request.ram_mib else mask


def core(table: HostTable, request: PlacementRequest, mask: Mask) -> Mask:
    """Keep hosts with the vCPUs free, at their allocation ratio."""
    return mask & (table.vcpus_free >= request.vcpus) if request.vcpus else mask


def disk(table: HostTable, request: PlacementRequest, mask: Mask) -> Mask:
    """Keep hosts with the disk free, at their allocation ratio."""
    return mask & (table.disk_free >= request.disk_gib) if request.disk_gib else mask


def image_props(table: HostTable, request: PlacementRequest, mask: Mask) -> Mask:
    """Keep hosts that can run the image's architecture, hypervisor and VM mode."""
    if not request.image_properties:
        return mask
    demand = image_properties.demanded(request.image_properties)
    if not any(demand):
        return mask
    return _of_kind(
        table, mask, ("image", demand), lambda host: image_properties.is_supported(host, demand)
    )


def compute_capabilities(table: HostTable, request: PlacementRequest, mask: Mask) -> Mask:
    """Keep hosts whose capabilities meet the flavor's extra specs."""
    specs = request.extra_specs
    if not specs:
        return mask
    key = ("capabilities", frozenset(specs.items()))
    return _of_kind(table, mask, key, lambda host: not extra_specs.unmet_capabilities(host, specs))


def aggregate_extra_specs(table: HostTable, request: PlacementRequest, mask: Mask) -> Mask:
    """Keep hosts whose aggregates meet the flavor's extra specs."""
    specs = request.extra_specs
    if not specs:
        return mask
    key = ("aggregates", frozenset(specs.items()))
    return _of_kind(table, mask, key, lambda host: not extra_specs.unmet_aggregates(host, specs))


def traits(table: HostTable, request: PlacementRequest, mask: Mask) -> Mask:
    """Keep hosts with the traits that flavor and image require, without the forbidden ones."""
    specs = _trait_items(request.extra_specs)
    properties = _trait_items(request.image_properties)
    if not specs and not properties:
        return mask
    key = ("traits", frozenset(specs.items()), frozenset(properties.items()))
    return _of_kind(
        table, mask, key, lambda host: not extra_specs.unmet_traits(host, specs, properties)
    )


def same_host(table: HostTable, request: PlacementRequest, mask: Mask) -> Mask:
    """Keep hosts with one of the project's named instances; others' instances count as unknown."""
    if not request.same_host:
        return mask
    return mask & _holders(table, request, request.same_host)


def different_host(table: HostTable, request: PlacementRequest, mask: Mask) -> Mask:
    """Drop hosts with one of the project's named instances."""
    if not request.different_host:
        return mask
    return mask & ~_holders(table, request, request.different_host)


def group_affinity(table: HostTable, request: PlacementRequest, mask: Mask) -> Mask:
    """Keep the hosts of the server group, once it has any."""
    if request.group_id is None or request.group_policy != AFFINITY:
        return mask
    members = table.groups.column(request.group_id, table.row_count)
    return mask if members is None else mask & (members > 0)


def group_anti_affinity(table: HostTable, request: PlacementRequest, mask: Mask) -> Mask:
    """Drop hosts that have as many of the server group as its rule allows."""
    if request.group_id is None or request.group_policy != ANTI_AFFINITY:
        return mask
    members = table.groups.column(request.group_id, table.row_count)
    return mask if members is None else mask & (members < request.group_per_host_max)


def io_ops(limit: int) -> Apply:
    """Make the filter that keeps hosts with fewer builds in flight than ``limit``."""

    def apply(table: HostTable, _request: PlacementRequest, mask: Mask) -> Mask:
        return mask & (table.io_ops < limit) if table.io_ops_total >= limit else mask

    return apply


def num_instances(limit: int) -> Apply:
    """Make the filter that keeps hosts with fewer instances than ``limit``."""

    def apply(table: HostTable, _request: PlacementRequest, mask: Mask) -> Mask:
        return mask & (table.instance_count < limit)

    return apply


def make_filters(
    *,
    io_ops_per_host_max: int = IO_OPS_PER_HOST_MAX,
    instances_per_host_max: int = INSTANCES_PER_HOST_MAX,
) -> tuple[Filter, ...]:
    """Make the table of filters with other limits than the default ones."""
    limited = {
        "IoOpsFilter": io_ops(io_ops_per_host_max),
        "NumInstancesFilter": num_instances(instances_per_host_max),
    }
    return tuple(replace(row, apply=limited.get(row.name, row.apply)) for row in FILTERS)


def _trait_items(source: Mapping[str, str]) -> dict[str, str]:
    return {key: word for key, word in source.items() if key.startswith("trait:")}


def _rows(table: HostTable, host_ids: Iterable[HostId]) -> Mask:
    rows = np.zeros(table.row_count, np.bool_)
    rows[[row for host_id in host_ids if (row := table.find_index(host_id)) is not None]] = True
    return rows


def _holders(
    table: HostTable, request: PlacementRequest, instance_ids: tuple[InstanceId, ...]
) -> Mask:
    # Only the project's own: else a hint would tell a tenant where another's server stands.
    claims = [table.find_claim(instance_id) for instance_id in instance_ids]
    rows = np.zeros(table.row_count, np.bool_)
    rows[
        [
            claim.host_index
            for claim in claims
            if claim is not None and claim.project_id == request.project_id
        ]
    ] = True
    return rows


def _of_kind(
    table: HostTable, mask: Mask, key: tuple[object, ...], test: Callable[[HostProfile], bool]
) -> Mask:
    allowed = table.profiles.allowed(key, test)
    if allowed.all():
        return mask
    passed: Mask = mask & allowed.take(table.profile_code)
    return passed


def _profile(table: HostTable, row: int) -> HostProfile:
    return table.profiles[int(table.profile_code[row])]


def _state_of(table: HostTable, _request: PlacementRequest, row: int) -> str:
    state = [
        word
        for word, is_so in (("disabled", ~table.is_enabled[row]), ("down", ~table.is_up[row]))
        if is_so
    ]
    return "is " + " and ".join(state)


def _zone_of(table: HostTable, request: PlacementRequest, row: int) -> str:
    return f"is in zone {table.zones[int(table.zone_code[row])]}, not {request.availability_zone}"


def _unsupported(_table: HostTable, request: PlacementRequest, _row: int) -> str:
    demand = image_properties.demanded(request.image_properties)
    return f"cannot run an image for {' '.join(word for word in demand if word)}"


def _unmet_capabilities(table: HostTable, request: PlacementRequest, row: int) -> str:
    unmet = extra_specs.unmet_capabilities(_profile(table, row), request.extra_specs)
    return f"does not meet {'; '.join(unmet)}"


def _unmet_aggregates(table: HostTable, request: PlacementRequest, row: int) -> str:
    unmet = extra_specs.unmet_aggregates(_profile(table, row), request.extra_specs)
    return f"has no aggregate that meets {'; '.join(unmet)}"


def _unmet_traits(table: HostTable, request: PlacementRequest, row: int) -> str:
    unmet = extra_specs.unmet_traits(
        _profile(table, row), request.extra_specs, request.image_properties
    )
    return f"does not meet {'; '.join(unmet)}"


def _builds_of(table: HostTable, _request: PlacementRequest, row: int) -> str:
    return f"has {int(table.io_ops[row])} builds in flight"


def _instances_of(table: HostTable, _request: PlacementRequest, row: int) -> str:
    return f"has {int(table.instance_count[row])} instances already"


#: All filters, in the order in which they are applied: the cheap and telling ones first.
FILTERS: tuple[Filter, ...] = (
    Filter(
        name="RequestedHostFilter",
        apply=requested_host,
        tenant="the requested host cannot take the server",
        admin="is not the requested host",
    ),
    Filter(
        name="RetryFilter",
        apply=retry,
        tenant="the build failed on every host that it was tried on",
        admin="has been tried",
    ),
    Filter(
        name="IgnoreHostsFilter",
        apply=ignore_hosts,
        tenant="no other host can take the server",
        admin="is left out by the request",
    ),
    Filter(
        name="ComputeFilter",
        apply=compute,
        tenant="no host is in service",
        admin="is not in service",
        detail=_state_of,
    ),
    Filter(
        name="AvailabilityZoneFilter",
        apply=availability_zone,
        tenant="no host of the availability zone can take the server",
        admin="is in another availability zone",
        detail=_zone_of,
    ),
    Filter(
        name="RamFilter",
        apply=ram,
        tenant="no host has enough memory free for the flavor",
        admin="has too little RAM free",
        shortfall=lambda table, request: request.ram_mib - table.ram_free,
        unit="MiB of RAM",
    ),
    Filter(
        name="CoreFilter",
        apply=core,
        tenant="no host has enough vCPUs free for the flavor",
        admin="has too few vCPUs free",
        shortfall=lambda table, request: request.vcpus - table.vcpus_free,
        unit="vCPUs",
    ),
    Filter(
        name="DiskFilter",
        apply=disk,
        tenant="no host has enough disk free for the flavor",
        admin="has too little disk free",
        shortfall=lambda table, request: request.disk_gib - table.disk_free,
        unit="GiB of disk",
    ),
    Filter(
        name="ImagePropertiesFilter",
        apply=image_props,
        tenant="no host can run this image",
        admin="cannot run the image",
        detail=_unsupported,
    ),
    Filter(
        name="ComputeCapabilitiesFilter",
        apply=compute_capabilities,
        tenant="no host has the capabilities that the flavor asks for",
        admin="lacks capabilities",
        detail=_unmet_capabilities,
    ),
    Filter(
        name="AggregateInstanceExtraSpecsFilter",
        apply=aggregate_extra_specs,
        tenant="no host has the properties that the flavor asks for",
        admin="is in no fitting aggregate",
        detail=_unmet_aggregates,
    ),
    Filter(
        name="TraitsFilter",
        apply=traits,
        tenant="no host has the traits that the flavor or the image asks for",
        admin="has not the right traits",
        detail=_unmet_traits,
    ),
    Filter(
        name="SameHostFilter",
        apply=same_host,
        tenant="the host of the servers named in same_host cannot take another",
        admin="has none of the instances of same_host",
    ),
    Filter(
        name="DifferentHostFilter",
        apply=different_host,
        tenant="no host is free of the servers named in different_host",
        admin="has an instance of different_host",
    ),
    Filter(
        name="ServerGroupAffinityFilter",
        apply=group_affinity,
        tenant="the host of the server group cannot take another",
        admin="is not the host of the server group",
    ),
    Filter(
        name="ServerGroupAntiAffinityFilter",
        apply=group_anti_affinity,
        tenant="no host is free of the server group",
        admin="has its share of the server group",
    ),
    Filter(
        name="IoOpsFilter",
        apply=io_ops(IO_OPS_PER_HOST_MAX),
        tenant="all hosts are busy with other builds",
        admin="has too many builds in flight",
        detail=_builds_of,
        is_transient=True,
    ),
    Filter(
        name="NumInstancesFilter",
        apply=num_instances(INSTANCES_PER_HOST_MAX),
        tenant="all hosts have as many servers as they may",
        admin="has too many instances",
        detail=_instances_of,
    ),
)
