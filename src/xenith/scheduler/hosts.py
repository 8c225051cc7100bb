"""The hosts of one cell as a struct of arrays, and the claims upon them.

A row is a host; its index holds until the host is removed, and is then used again. ``free`` arrays
are kept as limit less claims, so that a filter is one comparison; ``claim`` and ``release`` touch
one element of each. Rows of the database are the truth: the table is filled from them at start
(``add``, then ``adopt`` for each allocation) and only guards and speeds the choice.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from xenith.core.errors import Conflict, Exhausted, Invalid, NotFound
from xenith.core.ids import HostId, InstanceId, ProjectId
from xenith.scheduler.profile import HostProfile, ProfileTable
from xenith.scheduler.request import PlacementRequest
from xenith.scheduler.tally import Tally

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]

#: Source: nova ``initial_cpu_allocation_ratio``; RAM and disk of a Xen host are not overcommitted.
CPU_ALLOCATION_RATIO = 4.0
#: Source: nova ``default_availability_zone``.
DEFAULT_AVAILABILITY_ZONE = "nova"
#: Profiles that no host has any more are kept up to this many above twice the hosts.
_STALE_PROFILES_MAX = 64


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A host as the cell knows it: its inventory, its state and its properties."""

    id: HostId
    name: str
    ram_mib: int
    vcpus: int
    disk_gib: int
    ram_ratio: float = 1.0
    cpu_ratio: float = CPU_ALLOCATION_RATIO
    disk_ratio: float = 1.0
    is_enabled: bool = True
    is_up: bool = True
    availability_zone: str = DEFAULT_AVAILABILITY_ZONE
    profile: HostProfile = HostProfile()

    def __post_init__(self) -> None:
        """Refuse an inventory below zero."""
        if min(self.limits()) < 0:
            raise Invalid(f"host {self.name} has less than nothing", host_id=self.id)

    def limits(self) -> tuple[int, int, int]:
        """Give what may be claimed: RAM in MiB, vCPUs, disk in GiB.

        >>> Host(id="h", name="h", ram_mib=10, vcpus=3, disk_gib=5, disk_ratio=1.5).limits()
        (10, 12, 7)
        """
        return (
            int(self.ram_mib * self.ram_ratio),
            int(self.vcpus * self.cpu_ratio),
            int(self.disk_gib * self.disk_ratio),
        )


class Claim(msgspec.Struct, frozen=True, gc=False):
    """What one instance holds on one host."""

    host_index: int
    ram_mib: int
    vcpus: int
    disk_gib: int
    project_id: ProjectId
    group_id: str | None


class HostTable:
    """Hosts by row, claims by instance. Arrays are read by anyone, written only here.

    >>> table = HostTable()
    >>> row = table.add(Host(id="h1", name="host-1", ram_mib=1024, vcpus=2, disk_gib=10))
    >>> ask = PlacementRequest(instance_id="i", project_id="p", ram_mib=600, vcpus=1, disk_gib=1)
    >>> table.claim(row, ask), int(table.ram_free[row])
    (2, 424)
    >>> table.release("i"), int(table.ram_free[row])
    (3, 1024)
    """

    # Each is (rows,); present says which rows are hosts, the others being free for reuse.
    is_present: Flags
    is_ready: Flags  # present, enabled and up
    is_enabled: Flags
    is_up: Flags
    ram_free: Ints  # MiB; below zero when the host shrank under its claims
    vcpus_free: Ints
    disk_free: Ints  # GiB
    ram_limit: Ints  # MiB, ratio applied
    vcpus_limit: Ints
    disk_limit: Ints  # GiB, ratio applied
    zone_code: Ints
    profile_code: Ints
    instance_count: Ints
    io_ops: Ints  # builds in flight
    build_failures: Ints  # since the last build that went well
    generation: Ints  # rises at every change of the row

    _FLAGS: ClassVar = ("is_present", "is_ready", "is_enabled", "is_up")
    _INTS: ClassVar = (
        *("ram_free", "vcpus_free", "disk_free", "ram_limit", "vcpus_limit", "disk_limit"),
        *("zone_code", "profile_code", "instance_count", "io_ops", "build_failures", "generation"),
    )

    def __init__(self) -> None:
        self.row_count = 0
        self.host_count = 0
        self.io_ops_total = 0
        self.build_failures_total = 0
        self.ids: list[HostId] = []
        self.names: list[str] = []
        self.profiles = ProfileTable()
        self.projects = Tally()
        self.groups = Tally()
        self.zone_codes: dict[str, int] = {}
        self.zones: list[str] = []
        self._claims: dict[InstanceId, Claim] = {}
        self._building: set[InstanceId] = set()
        self._instances: dict[int, set[InstanceId]] = {}
        self._index: dict[HostId, int] = {}
        self._free_rows: list[int] = []
        self._columns: dict[str, NDArray[Any]] = {
            **{name: np.zeros(16, np.bool_) for name in self._FLAGS},
            **{name: np.zeros(16, np.int64) for name in self._INTS},
        }
        self._scratch: tuple[Floats, Floats, Ints] = (np.zeros(0), np.zeros(0), np.zeros(0, int))
        self._cut_columns()

    def __len__(self) -> int:
        return self.host_count

    def __contains__(self, host_id: object) -> bool:
        return host_id in self._index

    def index(self, host_id: HostId) -> int:
        """Get the host's row.

        Raises:
            NotFound: no such host in this cell.
        """
        row = self._index.get(host_id)
        if row is None:
            raise NotFound(f"host {host_id} is not in this cell", host_id=host_id)
        return row

    def find_index(self, host_id: HostId) -> int | None:
        """Find the host's row, or None."""
        return self._index.get(host_id)

    def find_claim(self, instance_id: InstanceId) -> Claim | None:
        """Find what the instance holds, or None."""
        return self._claims.get(instance_id)

    def list_instances(self, host_id: HostId) -> frozenset[InstanceId]:
        """List the instances with a claim on the host."""
        return frozenset(self._instances.get(self.index(host_id), ()))

    def add(self, host: Host) -> int:
        """Add a host, empty, and give its row.

        Raises:
            Conflict: the host is there already.
        """
        if host.id in self._index:
            raise Conflict(f"host {host.id} is in the table already", host_id=host.id)
        row = self._free_rows.pop() if self._free_rows else self._append_row()
        self.ids[row] = host.id
        self._index[host.id] = row
        self.host_count += 1
        for column in (self.ram_free, self.vcpus_free, self.disk_free):
            column[row] = 0
        for column in (self.ram_limit, self.vcpus_limit, self.disk_limit):
            column[row] = 0
        self.is_present[row] = True
        self._write(row, host)
        return row

    def update(self, host: Host) -> int:
        """Take over a host's new inventory, state and properties; claims stay. Give its row."""
        row = self.index(host.id)
        self._write(row, host)
        return row

    def remove(self, host_id: HostId) -> None:
        """Remove a host that holds nothing.

        Raises:
            Conflict: instances still have claims on it.
        """
        row = self.index(host_id)
        if self._instances.get(row):
            raise Conflict(
                f"host {self.names[row]} still holds {len(self._instances[row])} instances",
                host_id=host_id,
            )
        assert self.io_ops[row] == 0, "a host without claims has no builds in flight"
        self.clear_build_failures(row)
        self.is_present[row] = self.is_ready[row] = False
        del self._index[host_id]
        self.host_count -= 1
        self._free_rows.append(row)
        self.generation[row] += 1

    def set_up(self, host_id: HostId, *, is_up: bool) -> None:
        """Note that the host answers, or does not."""
        row = self.index(host_id)
        self.is_up[row] = is_up
        self._touch_state(row)

    def set_enabled(self, host_id: HostId, *, is_enabled: bool) -> None:
        """Note that the operator lets new servers onto the host, or does not."""
        row = self.index(host_id)
        self.is_enabled[row] = is_enabled
        self._touch_state(row)

    def scratch(self, count: int) -> tuple[Floats, Floats, Ints]:
        """Lend memory for ``count`` rows to whoever weighs them; the next call lends it again."""
        if len(self._scratch[0]) < count:
            room = len(self._columns["is_present"])
            self._scratch = (np.zeros(room), np.zeros(room), np.zeros(room, np.int64))
        weights, part, values = self._scratch
        return weights[:count], part[:count], values[:count]

    def claim(self, host_index: int, request: PlacementRequest, *, is_building: bool = True) -> int:
        """Take what the request needs from the host and count a build; give its generation.

        Raises:
            Exhausted: the host has less free; fields say of what, and how much is lacking.
            Conflict: the instance holds a claim already.
            NotFound: the row is no host.
        """
        if not 0 <= host_index < self.row_count or not self.is_present[host_index]:
            raise NotFound(f"row {host_index} is no host")
        for resource, need, free in (
            ("MEMORY_MB", request.ram_mib, int(self.ram_free[host_index])),
            ("VCPU", request.vcpus, int(self.vcpus_free[host_index])),
            ("DISK_GB", request.disk_gib, int(self.disk_free[host_index])),
        ):
            # What is not asked for is never lacking, even on a host that shrank below its claims.
            if need and need > free:
                raise Exhausted(
                    f"host {self.names[host_index]} lacks {need - free} of {resource}",
                    host_id=self.ids[host_index],
                    resource=resource,
                    lacking=need - free,
                )
        return self.adopt(host_index, request, is_building=is_building)

    def adopt(
        self, host_index: int, request: PlacementRequest, *, is_building: bool = False
    ) -> int:
        """Take over an allocation that stands in the rows, fitting or not; give the generation.

        Raises:
            Conflict: the instance holds a claim already.
        """
        instance_id = request.instance_id
        if instance_id in self._claims:
            raise Conflict(f"instance {instance_id} holds a claim", instance_id=instance_id)
        self._claims[instance_id] = Claim(
            host_index,
            request.ram_mib,
            request.vcpus,
            request.disk_gib,
            request.project_id,
            request.group_id,
        )
        self._instances.setdefault(host_index, set()).add(instance_id)
        self.ram_free[host_index] -= request.ram_mib
        self.vcpus_free[host_index] -= request.vcpus
        self.disk_free[host_index] -= request.disk_gib
        self.instance_count[host_index] += 1
        self.projects.add(request.project_id, host_index)
        if request.group_id is not None:
            self.groups.add(request.group_id, host_index)
        if is_building:
            self._building.add(instance_id)
            self.io_ops[host_index] += 1
            self.io_ops_total += 1
        return self._next_generation(host_index)

    def resize(
        self, instance_id: InstanceId, *, ram_mib: int, vcpus: int, disk_gib: int
    ) -> Claim | None:
        """Have the instance hold this much, fitting or not; give what it held, None for nothing."""
        claim = self._claims.get(instance_id)
        if claim is None:
            return None
        row = claim.host_index
        self.ram_free[row] += claim.ram_mib - ram_mib
        self.vcpus_free[row] += claim.vcpus - vcpus
        self.disk_free[row] += claim.disk_gib - disk_gib
        self._claims[instance_id] = msgspec.structs.replace(
            claim, ram_mib=ram_mib, vcpus=vcpus, disk_gib=disk_gib
        )
        self._next_generation(row)
        return claim

    def release(self, instance_id: InstanceId) -> int:
        """Give back what the instance holds; give the host's generation.

        Raises:
            NotFound: the instance holds no claim.
        """
        claim = self._claims.get(instance_id)
        if claim is None:
            raise NotFound(f"instance {instance_id} holds no claim", instance_id=instance_id)
        self.finish_build(instance_id)
        del self._claims[instance_id]
        row = claim.host_index
        self._instances[row].discard(instance_id)
        if not self._instances[row]:
            del self._instances[row]
        self.ram_free[row] += claim.ram_mib
        self.vcpus_free[row] += claim.vcpus
        self.disk_free[row] += claim.disk_gib
        self.instance_count[row] -= 1
        self.projects.subtract(claim.project_id, row)
        if claim.group_id is not None:
            self.groups.subtract(claim.group_id, row)
        return self._next_generation(row)

    def begin_build(self, instance_id: InstanceId) -> None:
        """Count the instance as a build in flight on the host that it has a claim on."""
        claim = self._claims.get(instance_id)
        if claim is None or instance_id in self._building:
            return
        self._building.add(instance_id)
        self.io_ops[claim.host_index] += 1
        self.io_ops_total += 1

    def finish_build(self, instance_id: InstanceId) -> None:
        """Stop counting the instance as a build in flight; safe to repeat."""
        if instance_id not in self._building:
            return
        self._building.discard(instance_id)
        self.io_ops[self._claims[instance_id].host_index] -= 1
        self.io_ops_total -= 1

    def list_building(self) -> frozenset[InstanceId]:
        """List the instances that are counted as builds in flight."""
        return frozenset(self._building)

    def record_build_failure(self, host_index: int) -> None:
        """Count a build that failed by the host's fault."""
        self.build_failures[host_index] += 1
        self.build_failures_total += 1

    def clear_build_failures(self, host_index: int) -> None:
        """Forget the host's failures, because a build went well on it."""
        self.build_failures_total -= int(self.build_failures[host_index])
        self.build_failures[host_index] = 0

    def _write(self, row: int, host: Host) -> None:
        ram, vcpus, disk = host.limits()
        for free, limit, now in (
            (self.ram_free, self.ram_limit, ram),
            (self.vcpus_free, self.vcpus_limit, vcpus),
            (self.disk_free, self.disk_limit, disk),
        ):
            free[row] += now - limit[row]
            limit[row] = now
        self.names[row] = host.name
        self.zone_code[row] = self._zone(host.availability_zone)
        self.profile_code[row] = self.profiles.intern(host.profile)
        self.is_enabled[row] = host.is_enabled
        self.is_up[row] = host.is_up
        self._touch_state(row)
        if len(self.profiles) > 2 * self.host_count + _STALE_PROFILES_MAX:
            self._drop_stale_profiles()

    def _zone(self, name: str) -> int:
        code = self.zone_codes.setdefault(name, len(self.zones))
        if code == len(self.zones):
            self.zones.append(name)
        return code

    def _drop_stale_profiles(self) -> None:
        old, self.profiles = self.profiles, ProfileTable()
        for row in self._index.values():
            self.profile_code[row] = self.profiles.intern(old[int(self.profile_code[row])])
        self.profile_code[~self.is_present] = 0

    def _touch_state(self, row: int) -> None:
        self.is_ready[row] = self.is_enabled[row] and self.is_up[row]
        self._next_generation(row)

    def _next_generation(self, row: int) -> int:
        generation = int(self.generation[row]) + 1
        self.generation[row] = generation
        return generation

    def _append_row(self) -> int:
        row = self.row_count
        if row == len(self._columns["is_present"]):
            for name, column in self._columns.items():
                self._columns[name] = np.concatenate([column, np.zeros_like(column)])
        self.row_count += 1
        self.ids.append(HostId(""))
        self.names.append("")
        self._cut_columns()
        return row

    def _cut_columns(self) -> None:
        # Public columns are views of exactly the rows in use, cut once here and not at each read.
        for name, column in self._columns.items():
            setattr(self, name, column[: self.row_count])
