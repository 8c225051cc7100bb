"""The hosts that share one database, and which of them answers for it: the coordinator.

Records say where a thing is: a domain is on the host that its VM is resident on or scheduled to be,
a disk on a host that its SR is attached to. ``PoolBackend`` reads them and asks that host's engine,
so that the classes need not know how many hosts there are.

Hosts of one pool are hosts of one fleet: they hold the database itself, not copies of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from xenith.core.ids import Ids
from xenith.toolstack.backends import (
    Backend,
    BackendError,
    Capacity,
    DiskSpec,
    DomainListener,
    DomainSpec,
    DomainState,
    Measured,
    Repository,
    Sample,
)
from xenith.toolstack.objects import Objects, Record
from xenith.toolstack.operations import Operations
from xenith.toolstack.storage.attached import Attached
from xenith.xapi import NULL
from xenith.xapi.faults import XapiFault

if TYPE_CHECKING:
    from xenith.toolstack.server import HostServer

#: Where a suspended VM of a pool has its memory, by the host's uuid.
SUSPENDED_ON = "xenith-suspended-on"
#: Which host a VM's domain was being handed to.
MIGRATING_TO = "xenith-migrating-to"


class Pool:
    """One database and its hosts."""

    def __init__(self, objects: Objects, ids: Ids, *, name: str) -> None:
        self.objects = objects
        #: What the journal calls the database: the name of the host that began it.
        self.name = name
        self.operations = Operations(ids)
        #: VMs whose domain changed by itself while an operation ran.
        self.unheard: set[str] = set()
        #: Bytes that each VM that runs, or is about to, was given.
        self.memory_bytes: dict[str, int] = {}
        #: The host that each of them runs on.
        self.places: dict[str, str] = {}
        #: By the reference of the host's record.
        self.members: dict[str, HostServer] = {}
        self.coordinator: HostServer | None = None
        self.storage = PoolStorage(self)
        self._spread = PoolBackend(self)

    @property
    def backend(self) -> Backend:
        """What acts for the whole pool."""
        if len(self.members) == 1:
            return next(iter(self.members.values())).engine
        return self._spread

    def member(self, ref: str) -> HostServer:
        """Give a host that is up.

        Raises:
            BackendError: HOST_OFFLINE.
        """
        found = self.members.get(ref)
        if found is None or not found.is_up:
            raise BackendError("HOST_OFFLINE", ref)
        return found

    def place_of(self, vm: str, record: Record) -> str:
        """Tell the host that a VM is on, or the null reference."""
        if vm in self.places:
            return self.places[vm]
        for ref in (record["resident_on"], record["scheduled_to_be_resident_on"]):
            if ref in self.members:
                return str(ref)
        uuid = record["other_config"].get(SUSPENDED_ON)
        for ref in self.members:
            if self.objects.get("host", ref)["uuid"] == uuid:
                return ref
        return NULL

    def sees(self, host: str, sr: str) -> bool:
        """Tell whether an SR is attached to a host."""
        record = self.objects.find("SR", sr)
        return record is not None and any(
            pbd["host"] == host and pbd["currently_attached"]
            for pbd in map(self._pbd, record["PBDs"])
        )

    def _pbd(self, ref: str) -> Mapping[str, Any]:
        return self.objects.find("PBD", ref) or {"host": NULL, "currently_attached": False}

    def engine_of_vm(self, vm_uuid: str) -> Backend:
        """Give the engine that has, or will have, a VM's domain."""
        vm = self.objects.by_uuid("VM", vm_uuid)
        place = self.place_of(vm, self.objects.get("VM", vm))
        return self.own().engine if place == NULL else self.member(place).engine

    def used_memory_bytes(self, host: str) -> int:
        """Tell the bytes that VMs were given on a host."""
        if len(self.members) == 1:
            return sum(self.memory_bytes.values())
        return sum(size for vm, size in self.memory_bytes.items() if self.places.get(vm) == host)

    def coordinator_address(self) -> str:
        """Tell where the coordinator takes calls, be it up or not."""
        if self.coordinator is not None:
            return self.coordinator.address
        master = self.objects.get("pool", self.objects.only("pool"))["master"]
        record = self.objects.find("host", master)
        return "" if record is None else str(record["address"])

    def own(self) -> HostServer:
        """Give the coordinator."""
        assert self.coordinator is not None, "a pool that acts has a coordinator"
        return self.coordinator


class PoolStorage:
    """The SRs of all hosts of a pool; each host attaches its own, a shared one is on each of them.

    What is done to a disk is done by one host that has it: the coordinator, if that does.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def get(self, sr_ref: str) -> Repository:
        """Give an SR's disks.

        Raises:
            XapiFault: SR_NOT_ATTACHED.
            BackendError: HOST_OFFLINE, the hosts that have it attached are away.
        """
        found = self.find(sr_ref)
        if found is not None:
            return found.repository
        for ref in self._pool.members:
            if self._pool.sees(ref, sr_ref):
                self._pool.member(ref)
        raise XapiFault("SR_NOT_ATTACHED", sr_ref)

    def find(self, sr_ref: str) -> Attached | None:
        """Find an SR that a host which is up has attached."""
        host = self.holder(sr_ref)
        return None if host is None else host.own_storage.attached[sr_ref]

    def holder(self, sr_ref: str) -> HostServer | None:
        """Find the host that acts on an SR's disks."""
        for host in (self._pool.coordinator, *self._pool.members.values()):
            if host is not None and host.is_up and sr_ref in host.own_storage.attached:
                return host
        return None


class PoolBackend:
    """The engines of a pool as one: each call goes to the host that it is about."""

    name = "pool"

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def start(self, listener: DomainListener) -> None:
        """Nothing: each host starts its own engine."""

    async def stop(self) -> None:
        """Nothing: each host stops its own engine."""

    def capacity(self) -> Capacity:
        """Tell what the coordinator has."""
        return self._pool.own().engine.capacity()

    async def running(self) -> Mapping[str, DomainState]:
        """Tell the domains of all hosts that are up."""
        found: dict[str, DomainState] = {}
        for member in list(self._pool.members.values()):
            if member.is_up:
                found.update(await member.engine.running())
        return found

    async def domain_start(self, spec: DomainSpec, *, is_paused: bool = False) -> int:
        """Start a domain where its VM is to be."""
        return await self._pool.engine_of_vm(spec.vm_uuid).domain_start(spec, is_paused=is_paused)

    async def domain_shutdown(self, vm_uuid: str, *, is_clean: bool) -> None:
        """End a domain."""
        await self._pool.engine_of_vm(vm_uuid).domain_shutdown(vm_uuid, is_clean=is_clean)

    async def domain_reboot(self, vm_uuid: str, *, is_clean: bool) -> int:
        """Restart a domain."""
        return await self._pool.engine_of_vm(vm_uuid).domain_reboot(vm_uuid, is_clean=is_clean)

    async def domain_forget(self, vm_uuid: str) -> None:
        """Forget a domain on all hosts it may have been on."""
        for member in list(self._pool.members.values()):
            if member.is_up:
                await member.engine.domain_forget(vm_uuid)

    async def domain_pause(self, vm_uuid: str) -> None:
        """Stop the domain's processors."""
        await self._pool.engine_of_vm(vm_uuid).domain_pause(vm_uuid)

    async def domain_unpause(self, vm_uuid: str) -> None:
        """Let the domain's processors run."""
        await self._pool.engine_of_vm(vm_uuid).domain_unpause(vm_uuid)

    async def domain_suspend(self, vm_uuid: str) -> None:
        """Save the domain."""
        await self._pool.engine_of_vm(vm_uuid).domain_suspend(vm_uuid)

    async def domain_resume(self, spec: DomainSpec) -> int:
        """Bring a saved domain back."""
        return await self._pool.engine_of_vm(spec.vm_uuid).domain_resume(spec)

    async def attach_sr(
        self,
        sr_uuid: str,
        kind: str,
        device_config: Mapping[str, str],
        *,
        beside: Repository | None = None,
    ) -> Repository:
        """Attach an SR to the coordinator: each host else attaches its own."""
        engine = self._pool.own().engine
        return await engine.attach_sr(sr_uuid, kind, device_config, beside=beside)

    async def detach_sr(self, sr_uuid: str) -> None:
        """Let the coordinator let go of an SR."""
        await self._pool.own().engine.detach_sr(sr_uuid)

    async def set_qos(self, vm_uuid: str, disk: DiskSpec) -> None:
        """Limit a running domain's disk."""
        await self._pool.engine_of_vm(vm_uuid).set_qos(vm_uuid, disk)

    async def measure(self, vm_uuids: Collection[str]) -> Measured:
        """Measure domains wherever they are, and the coordinator."""
        vms: dict[str, Sample] = {}
        own = Sample({})
        for member in list(self._pool.members.values()):
            if member.is_up:
                measured = await member.engine.measure(vm_uuids)
                vms.update(measured.vms)
                own = measured.host if member is self._pool.coordinator else own
        return Measured(own, vms)

    async def console_log(self, vm_uuid: str, byte_count: int) -> bytes:
        """Give the end of the serial console's log."""
        return await self._pool.engine_of_vm(vm_uuid).console_log(vm_uuid, byte_count)


class Neighbourhood(Protocol):
    """What a host asks of the fleet it is in."""

    def find(self, address: str) -> HostServer | None:
        """Find a host by its address."""

    def join(self, host: HostServer, pool: Pool) -> None:
        """Have a host leave its own pool for another's."""

    def leave(self, host: HostServer) -> None:
        """Have a host leave its pool and be one of its own, as new."""
