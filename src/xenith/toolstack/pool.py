"""The hosts that share one database, and which of them answers for it: the coordinator.

Records say where a thing is: a domain is on the host that its VM is resident on or scheduled to be,
a disk on a host that its SR is attached to. ``PoolBackend`` reads them and asks that host's engine,
so that the classes need not know how many hosts there are.

Hosts of one pool are hosts of one fleet: they hold the database itself, not copies of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from xenith.core.ids import Ids
from xenith.toolstack.backends import (
    Backend,
    BackendError,
    Capacity,
    DomainListener,
    DomainSpec,
    DomainState,
)
from xenith.toolstack.backends.sim import SimBackend
from xenith.toolstack.objects import Objects, Record
from xenith.toolstack.operations import Operations
from xenith.xapi import NULL

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

    def engine_of_disk(self, vdi_uuid: str) -> Backend:
        """Give an engine that sees a disk; the coordinator's where nothing is known of it."""
        own = self.own()
        try:
            sr = self.objects.get("VDI", self.objects.by_uuid("VDI", vdi_uuid))["SR"]
        except Exception as error:
            if getattr(error, "code", "") not in ("UUID_INVALID", "HANDLE_INVALID"):
                raise
            return own.engine
        seeing = [ref for ref in self.members if self.sees(ref, sr)]
        up = [ref for ref in seeing if self.members[ref].is_up]
        if not seeing:
            return own.engine
        return self.member(up[0] if up else seeing[0]).engine

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
        engine = self._pool.engine_of_vm(spec.vm_uuid)
        await self._share(engine, spec)
        return await engine.domain_start(spec, is_paused=is_paused)

    async def _share(self, engine: Backend, spec: DomainSpec) -> None:
        """Tell a simulated host of the disks it will see: there are no bytes to find them by."""
        if not isinstance(engine, SimBackend):
            return
        here = await engine.disks()
        for disk in spec.disks:
            if disk.vdi_uuid in here:
                continue
            other = self._pool.engine_of_disk(disk.vdi_uuid)
            if other is not engine and isinstance(other, SimBackend):
                await engine.disk_receive(disk.vdi_uuid, *await other.disk_send(disk.vdi_uuid))

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
        engine = self._pool.engine_of_vm(spec.vm_uuid)
        await self._share(engine, spec)
        return await engine.domain_resume(spec)

    async def disk_create(self, vdi_uuid: str, size_bytes: int) -> None:
        """Make an empty disk."""
        await self._pool.engine_of_disk(vdi_uuid).disk_create(vdi_uuid, size_bytes)

    async def disk_clone(self, vdi_uuid: str, parent_uuid: str) -> None:
        """Make a disk that shares its parent's blocks, where the parent is."""
        await self._pool.engine_of_disk(parent_uuid).disk_clone(vdi_uuid, parent_uuid)

    async def disk_resize(self, vdi_uuid: str, size_bytes: int) -> None:
        """Grow a disk."""
        await self._pool.engine_of_disk(vdi_uuid).disk_resize(vdi_uuid, size_bytes)

    async def disk_destroy(self, vdi_uuid: str) -> None:
        """Remove a disk; a host that merely sees it has its own view of it to forget."""
        owner = self._pool.engine_of_disk(vdi_uuid)
        await owner.disk_destroy(vdi_uuid)
        for member in list(self._pool.members.values()):
            if member.engine is not owner and isinstance(member.engine, SimBackend):
                await member.engine.disk_destroy(vdi_uuid)

    async def disk_import(
        self, vdi_uuid: str, disk_format: str, chunks: AsyncIterator[bytes]
    ) -> int:
        """Fill a disk from a stream."""
        return await self._pool.engine_of_disk(vdi_uuid).disk_import(vdi_uuid, disk_format, chunks)

    async def disk_used_bytes(self, vdi_uuid: str) -> int:
        """Tell what the disk takes on its host."""
        return await self._pool.engine_of_disk(vdi_uuid).disk_used_bytes(vdi_uuid)

    async def disks(self) -> Mapping[str, int]:
        """Tell the disks of all hosts that are up."""
        found: dict[str, int] = {}
        for member in list(self._pool.members.values()):
            if member.is_up:
                found.update(await member.engine.disks())
        return found

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
