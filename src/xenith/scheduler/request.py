"""What is asked of the scheduler for one server."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from xenith.core.errors import Invalid
from xenith.core.ids import HostId, InstanceId, ProjectId

AFFINITY = "affinity"
ANTI_AFFINITY = "anti-affinity"
SOFT_AFFINITY = "soft-affinity"
SOFT_ANTI_AFFINITY = "soft-anti-affinity"


class PlacementRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One server's needs, wishes and past; what it names is trusted to exist or be ignored.

    Source: Compute API, "Create Server", ``os:scheduler_hints``; server groups since 2.64.

    >>> PlacementRequest(instance_id="i", project_id="p", ram_mib=-1, vcpus=1, disk_gib=0)
    Traceback (most recent call last):
    xenith.core.errors.Invalid: a placement request cannot ask for less than nothing
    """

    instance_id: InstanceId
    project_id: ProjectId
    ram_mib: int
    vcpus: int
    disk_gib: int
    #: None: any zone.
    availability_zone: str | None = None
    #: The flavor's extra specs.
    extra_specs: Mapping[str, str] = {}
    #: The image's properties; a tenant wrote them.
    image_properties: Mapping[str, str] = {}
    #: Stand beside one of these instances.
    same_host: tuple[InstanceId, ...] = ()
    #: Stand beside none of these instances.
    different_host: tuple[InstanceId, ...] = ()
    group_id: str | None = None
    #: One of the four policies above; "" without a group.
    group_policy: str = ""
    #: Members of an anti-affinity group that one host may have; rule ``max_server_per_host``.
    group_per_host_max: int = 1
    #: The one host that the admin named; it must pass the filters all the same.
    target_host: HostId | None = None
    #: Hosts on which this build has failed already.
    tried_hosts: tuple[HostId, ...] = ()
    #: Hosts to leave out for another reason, such as the source of an evacuation.
    ignored_hosts: tuple[HostId, ...] = ()
    #: When not None, no other hosts are looked at.
    only_hosts: tuple[HostId, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse amounts that would free what they claim."""
        if self.ram_mib < 0 or self.vcpus < 0 or self.disk_gib < 0:
            raise Invalid("a placement request cannot ask for less than nothing")
