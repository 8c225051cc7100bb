"""The qemu backend: real virtual machines in QEMU, with KVM where it works, else emulated.

    <directory>/domains/<vm>/domain.json console.log pid qmp.sock qemu.log memory
    <directory>/domains/<vm>/tap.sock tap.log disk<n>.nbd xenstore.sock
    <directory>/sr/<sr>/<vdi>.vhd            SRs that name no directory of their own
    <directory>/domid kvm.json xenstored.sock

Between a QEMU and its chains of VHDs is a tap (``xenith.toolstack.tap``), so that a running disk is
the same file as one at rest, and a snapshot of it is one of the chain.

QEMUs are no children of ours and run on while we are away. ``start`` finds them by their command
lines and takes hold again; nothing else is remembered that could be wrong after a kill.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import msgspec

from xenith.core.log import logger
from xenith.core.tasks import TaskOwner
from xenith.core.units import MIB
from xenith.core.world import World
from xenith.toolstack.backends import (
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
from xenith.toolstack.backends.live import XenstoreListener
from xenith.toolstack.backends.qemu import console, machine, measures
from xenith.toolstack.backends.qemu.command import CONSOLE, disks_in_order, socket_name
from xenith.toolstack.backends.qemu.domain import Domain
from xenith.toolstack.backends.qemu.domains import Domains, Engine, checked_uuid
from xenith.toolstack.backends.qemu.kvm import has_kvm
from xenith.toolstack.backends.qemu.xenstore import GuestStores
from xenith.toolstack.backends.trees import kept_by_host
from xenith.toolstack.qos import limits_of
from xenith.toolstack.storage.file_sr import FileSr, directory_of, open_file_sr

#: How long a guest may take to shut down when asked. Source: nova `shutdown_timeout` is 60.
SHUTDOWN_TIMEOUT_S = 60.0
_CONSOLE_PERIOD_S = 5.0
#: Seconds between two looks for room that guests wait for, and what there must be: some blocks.
_ROOM_PERIOD_S = 5.0
_ROOM_BYTES_MIN = 16 * MIB
_log = logger("toolstack.qemu")


class QemuBackend:
    """One host's domains and disks, in QEMU on this machine."""

    name = "qemu"

    def __init__(
        self,
        world: World,
        directory: Path,
        *,
        memory_bytes: int | None = None,
        cpu_count: int | None = None,
        disk_bytes: int | None = None,
        accelerator: Literal["auto", "kvm", "tcg"] = "auto",
        qemu: str = "qemu-system-x86_64",
        shutdown_timeout_s: float = SHUTDOWN_TIMEOUT_S,
    ) -> None:
        self._world = world
        # As QEMUs name it on their command lines, so that they are found again.
        self._directory = directory.resolve()
        self._given = (memory_bytes, cpu_count, disk_bytes)
        self._accelerator: str = accelerator
        self._qemu = qemu
        self._shutdown_timeout_s = shutdown_timeout_s
        self._srs: dict[str, FileSr] = {}
        self._tasks = TaskOwner("qemu", world.clock)
        self._stores = GuestStores(world.clock, self._tasks)
        self._domains = Domains(
            self._directory / "domains",
            clock=world.clock,
            tasks=self._tasks,
            stores=self._stores,
            on_end=self._deactivate_all,
        )
        #: The SRs whose disks each domain holds, by domain and disk.
        self._held: dict[tuple[str, str], FileSr] = {}

    @property
    def accelerator(self) -> str:
        """What runs the guests, ``kvm`` or ``tcg``; known once started."""
        return self._accelerator

    async def start(self, listener: DomainListener) -> None:
        """Begin; take hold of the domains that lived on, and tell of those that did not.

        Raises:
            BackendError: QEMU is not installed.
        """
        program = shutil.which(self._qemu)
        if program is None:
            raise BackendError(
                "INTERNAL_ERROR",
                f"{self._qemu} is not installed: apt-get install qemu-system-x86",
            )
        self._qemu = program
        self._directory.mkdir(parents=True, exist_ok=True)
        if self._accelerator == "auto":
            works = await has_kvm(Path(program), self._directory)
            self._accelerator = "kvm" if works else "tcg"
        await self._stores.start(self._directory)
        await self._domains.recover(listener)
        self._tasks.keep("console", self._trim_consoles, restart_delay_s=_CONSOLE_PERIOD_S)
        self._tasks.keep("room", self._go_on_with_room, restart_delay_s=_ROOM_PERIOD_S)

    async def stop(self) -> None:
        """End our part; the guests run on."""
        await self._stores.stop()
        await self._tasks.stop()
        await self._domains.release()
        for sr_uuid in list(self._srs):
            await self.detach_sr(sr_uuid)

    def capacity(self) -> Capacity:
        """Tell what the host has in all."""
        memory, cpus, disk = self._given
        return machine.capacity(
            self._directory, memory_bytes=memory, cpu_count=cpus, disk_bytes=disk
        )

    async def running(self) -> Mapping[str, DomainState]:
        """Tell the domains there are, by VM uuid, and their states."""
        found: dict[str, DomainState] = dict.fromkeys(self._domains.suspended(), "suspended")
        found.update({domain.uuid: domain.state for domain in self._domains})
        return found

    async def domain_start(self, spec: DomainSpec, *, is_paused: bool = False) -> int:
        """Start a domain and tell its domid; one that already runs is left alone."""
        async with self._domains.lock(spec.vm_uuid):
            domain = self._domains.find(spec.vm_uuid)
            if domain is None:
                self._domains.forget_memory(spec.vm_uuid)
                domain = await self._launch(spec)
            if domain.status == "prelaunch" and not is_paused:
                await domain.unpause()
            return domain.record.domid

    async def domain_shutdown(self, vm_uuid: str, *, is_clean: bool) -> None:
        """End a domain: ask the guest and wait up to a deadline, or cut its power."""
        async with self._domains.lock(vm_uuid):
            domain = self._domains.find(vm_uuid)
            if domain is not None and is_clean:
                await domain.shut_down(timeout_s=self._shutdown_timeout_s)
            elif domain is not None:
                await domain.power_off()
            if domain is not None:
                await self._domains.bury(domain)
            if not is_clean:
                self._domains.forget_memory(vm_uuid)

    async def domain_reboot(self, vm_uuid: str, *, is_clean: bool) -> int:
        """Restart a domain in its QEMU and tell its new domid."""
        async with self._domains.lock(vm_uuid):
            domain = self._domains.get(vm_uuid)
            if is_clean:
                await domain.restart_clean(timeout_s=self._shutdown_timeout_s)
            else:
                await domain.restart()
            return self._domains.renew_domid(domain)

    async def domain_pause(self, vm_uuid: str) -> None:
        """Stop the domain's processors."""
        async with self._domains.lock(vm_uuid):
            await self._domains.get(vm_uuid).pause()

    async def domain_unpause(self, vm_uuid: str) -> None:
        """Let the domain's processors run."""
        async with self._domains.lock(vm_uuid):
            await self._domains.get(vm_uuid).unpause()

    async def domain_suspend(self, vm_uuid: str) -> None:
        """Save the domain's memory to the host's disk and end it; one that is, is left alone."""
        async with self._domains.lock(vm_uuid):
            domain = self._domains.find(vm_uuid)
            if domain is None and self._domains.memory(vm_uuid).exists():
                return
            domain = self._domains.get(vm_uuid)
            # Saved memory only fits the machine version that it came from.
            self._domains.write_record(
                msgspec.structs.replace(domain.record, machine=await domain.machine())
            )
            await domain.save()
            await self._domains.bury(domain)

    async def domain_resume(self, spec: DomainSpec) -> int:
        """Bring a suspended domain back and tell its domid; one that runs is left alone."""
        async with self._domains.lock(spec.vm_uuid):
            domain = self._domains.find(spec.vm_uuid)
            if domain is None:
                memory = self._domains.memory(spec.vm_uuid)
                if not memory.exists():
                    raise BackendError("VM_BAD_POWER_STATE", spec.vm_uuid, "suspended", "halted")
                domain = await self._launch(spec, memory=memory)
                try:
                    await domain.load()
                except BackendError:
                    await domain.power_off()
                    await self._domains.bury(domain)
                    raise
            elif domain.state == "paused":
                await domain.load()
            return domain.record.domid

    async def domain_forget(self, vm_uuid: str) -> None:
        """Remove all that is kept of a domain that has ended: its log and its saved memory.

        Beyond the protocol: for VM.destroy. What is not forgotten so is kept for a while.
        """
        async with self._domains.lock(vm_uuid):
            if self._domains.find(vm_uuid) is None:
                shutil.rmtree(self._domains.directory(vm_uuid), ignore_errors=True)

    async def attach_sr(
        self,
        sr_uuid: str,
        kind: str,
        device_config: Mapping[str, str],
        *,
        beside: Repository | None = None,
    ) -> Repository:
        """Take hold of a directory of VHDs, and of those that living domains have in it."""
        del kind
        if isinstance(beside, FileSr):
            sr = beside.share(self._quiet)
        else:
            sr = await self._open(sr_uuid, device_config)
        self._srs[sr_uuid] = sr
        for domain in self._domains:
            for disk in domain.record.spec.disks:
                if await sr.has(disk.vdi_uuid):
                    await self._activate(domain.uuid, disk, sr)
        return sr

    async def _open(self, sr_uuid: str, device_config: Mapping[str, str]) -> FileSr:
        path = directory_of(device_config)
        is_own = path is None
        if path is None:
            path = self._directory / "sr" / checked_uuid("SR", sr_uuid)
            path.mkdir(parents=True, exist_ok=True)
        return await open_file_sr(
            path,
            world=self._world,
            size_bytes_max=self.capacity().disk_bytes if is_own else 0,
            quiet=self._quiet,
        )

    async def detach_sr(self, sr_uuid: str) -> None:
        """Let go of a directory."""
        sr = self._srs.pop(sr_uuid, None)
        if sr is not None:
            self._held = {key: held for key, held in self._held.items() if held is not sr}
            await sr.close()

    async def set_qos(self, vm_uuid: str, disk: DiskSpec) -> None:
        """Limit a running domain's disk as it says now."""
        async with self._domains.lock(vm_uuid):
            domain = self._domains.find(vm_uuid)
            if domain is None:
                return
            spec = domain.record.spec
            for at, old in enumerate(disks_in_order(spec), start=1):
                if old.device == disk.device:
                    await domain.limit(at, disk)
                    await self._weigh(domain, at, disk)
            disks = tuple(disk if old.device == disk.device else old for old in spec.disks)
            changed = msgspec.structs.replace(domain.record, spec=replace(spec, disks=disks))
            domain.record = changed
            self._domains.write_record(changed)

    def watch_xenstore(self, listener: XenstoreListener) -> None:
        """Tell of what guests write."""
        self._stores.listener = listener

    async def xenstore_read(self, vm_uuid: str) -> Mapping[str, str]:
        """Give a domain's own subtree."""
        self._domains.get(vm_uuid)
        return self._stores.trees.read(vm_uuid)

    async def xenstore_write(self, vm_uuid: str, changes: Mapping[str, str | None]) -> None:
        """Write keys of a domain's subtree, and keep what it is to have after a restart of ours."""
        async with self._domains.lock(vm_uuid):
            domain = self._domains.get(vm_uuid)
            self._stores.trees.write(vm_uuid, changes)
            spec = domain.record.spec
            spec = replace(spec, xenstore=kept_by_host(spec.xenstore, changes))
            domain.record = msgspec.structs.replace(domain.record, spec=spec)
            self._domains.write_record(domain.record)

    async def measure(self, vm_uuids: Collection[str]) -> Measured:
        """Measure this machine and some domains; one whose QEMU does not answer is left out."""
        living = [domain for domain in self._domains if domain.uuid in vm_uuids]
        # At once, so that one that is stuck does not hold the others up.
        found = await asyncio.gather(*(self._sample(domain) for domain in living))
        vms = {domain.uuid: sample for domain, sample in zip(living, found, strict=True) if sample}
        return Measured(Sample(measures.machine()), vms)

    async def _sample(self, domain: Domain) -> Sample | None:
        try:
            return Sample(await domain.measure())
        except BackendError as error:
            _log.debug("a domain is not measured", vm=domain.uuid, error=repr(error))
            return None

    async def console_log(self, vm_uuid: str, byte_count: int) -> bytes:
        """Give the end of the serial console's log, at most ``byte_count`` bytes."""
        return console.tail(self._domains.directory(vm_uuid) / CONSOLE, byte_count)

    async def _trim_consoles(self) -> None:
        for domain in self._domains:
            console.trim(domain.directory / CONSOLE)

    async def _go_on_with_room(self) -> None:
        """Let guests go on that waited for room, where there is some again."""
        for domain in self._domains:
            if not domain.lacks_room:
                continue
            async with self._domains.lock(domain.uuid):
                is_ours = self._domains.find(domain.uuid) is domain and domain.lacks_room
                if not is_ours or not await self._has_room(domain):
                    continue
                _log.info("there is room again", vm=domain.uuid)
                try:
                    await domain.unpause()
                except BackendError as error:
                    _log.warning("a guest still waits for room", vm=domain.uuid, error=repr(error))

    async def _has_room(self, domain: Domain) -> bool:
        srs = {sr for (vm_uuid, _), sr in self._held.items() if vm_uuid == domain.uuid}
        return all([await sr.free_bytes() >= _ROOM_BYTES_MIN for sr in srs])

    async def _launch(self, spec: DomainSpec, *, memory: Path | None = None) -> Domain:
        try:
            leaves = [
                await self._activate(spec.vm_uuid, disk, await self._find_sr(disk))
                for disk in disks_in_order(spec)
            ]
            domain = await self._domains.launch(
                spec,
                engine=Engine(self._qemu, self._accelerator),
                leaves=leaves,
                memory=memory,
            )
        except BaseException:
            await self._deactivate_all(spec)
            raise
        for at, disk in enumerate(disks_in_order(spec), start=1):
            if disk.qos_type:
                await self._weigh(domain, at, disk)
        return domain

    async def _weigh(self, domain: Domain, boot_index: int, disk: DiskSpec) -> None:
        """Give the thread that serves a disk its weight. Source: xapi, ionice on the backend's."""
        limits = limits_of(disk.qos_type, disk.qos_params)
        words = socket_name(boot_index), str(limits.scheduler), str(limits.level)
        try:
            assert domain.tap is not None, "a domain with disks has a tap"
            await domain.tap.order("ionice", *words)
        except BackendError as error:
            # Real-time takes a privilege that a laboratory's host may not have.
            _log.warning("a disk has no weight", vm=domain.uuid, error=repr(error))

    async def _find_sr(self, disk: DiskSpec) -> FileSr:
        for sr in tuple(self._srs.values()):
            if await sr.has(disk.vdi_uuid):
                return sr
        raise BackendError("VDI_MISSING", "", disk.vdi_uuid)

    async def _activate(self, vm_uuid: str, disk: DiskSpec, sr: FileSr) -> str:
        is_writable = not (disk.is_read_only or disk.is_cd)
        path = await sr.activate(disk.vdi_uuid, is_writable=is_writable)
        self._held[vm_uuid, disk.vdi_uuid] = sr
        return path

    async def _deactivate_all(self, spec: DomainSpec) -> None:
        for disk in spec.disks:
            sr = self._held.pop((spec.vm_uuid, disk.vdi_uuid), None)
            if sr is not None:
                is_writable = not (disk.is_read_only or disk.is_cd)
                await sr.deactivate(disk.vdi_uuid, is_writable=is_writable)

    @contextlib.asynccontextmanager
    async def _quiet(self, vdi_uuid: str) -> AsyncIterator[bool]:
        """Hold whoever writes to a disk still, and tell whether there is someone."""
        found = self._find_writer(vdi_uuid)
        if found is None:
            yield False
            return
        async with self._domains.lock(found[0].uuid):
            domain, socket = found
            assert domain.tap is not None, "a domain with disks has a tap"
            try:
                await domain.tap.order("hold", socket)
                yield True
            finally:
                await domain.tap.order("go", socket)

    def _find_writer(self, vdi_uuid: str) -> tuple[Domain, str] | None:
        for domain in self._domains:
            for at, disk in enumerate(disks_in_order(domain.record.spec), start=1):
                if disk.vdi_uuid == vdi_uuid and not (disk.is_read_only or disk.is_cd):
                    return domain, socket_name(at)
        return None
