"""The qemu backend: real virtual machines in QEMU, with KVM where it works, else emulated.

    <directory>/domains/<vm>/domain.json console.log pid qmp.sock qemu.log memory
    <directory>/disks/...                    see ``chain``
    <directory>/domid kvm.json

QEMUs are no children of ours and run on while we are away. ``start`` finds them by their command
lines and takes hold again; nothing else is remembered that could be wrong after a kill.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Literal
from weakref import WeakValueDictionary

import msgspec

from xenith.core.tasks import TaskOwner
from xenith.core.world import World
from xenith.toolstack.backends import (
    BackendError,
    Capacity,
    DiskSpec,
    DomainListener,
    DomainSpec,
    DomainState,
)
from xenith.toolstack.backends.qemu import console, machine
from xenith.toolstack.backends.qemu.chain import DiskFile
from xenith.toolstack.backends.qemu.command import CONSOLE
from xenith.toolstack.backends.qemu.disks import Disks
from xenith.toolstack.backends.qemu.domain import Domain
from xenith.toolstack.backends.qemu.domains import Domains, Engine, checked_uuid
from xenith.toolstack.backends.qemu.kvm import has_kvm

#: How long a guest may take to shut down when asked. Source: nova `shutdown_timeout` is 60.
SHUTDOWN_TIMEOUT_S = 60.0
_CONSOLE_PERIOD_S = 5.0


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
        self._disks = Disks(self._directory / "disks", is_in_use=self._is_in_use)
        self._tasks = TaskOwner("qemu", world.clock)
        self._domains = Domains(self._directory / "domains", clock=world.clock, tasks=self._tasks)
        # A lock lives as long as someone holds it or waits for it.
        self._disk_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

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
        if program is None or shutil.which("qemu-img") is None:
            raise BackendError(
                "INTERNAL_ERROR",
                f"{self._qemu} or qemu-img is not installed: "
                "apt-get install qemu-system-x86 qemu-utils",
            )
        self._qemu = program
        self._directory.mkdir(parents=True, exist_ok=True)
        if self._accelerator == "auto":
            works = await has_kvm(Path(program), self._directory)
            self._accelerator = "kvm" if works else "tcg"
        await self._domains.recover(listener)
        self._disks.start()
        self._tasks.keep("console", self._trim_consoles, restart_delay_s=_CONSOLE_PERIOD_S)

    async def stop(self) -> None:
        """End our part; the guests run on."""
        await self._tasks.stop()
        await self._domains.release()

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

    async def disk_create(self, vdi_uuid: str, size_bytes: int) -> None:
        """Make an empty disk."""
        async with self._disk_lock(vdi_uuid):
            await self._disks.create(vdi_uuid, size_bytes)

    async def disk_clone(self, vdi_uuid: str, parent_uuid: str) -> None:
        """Make a disk that shares its parent's blocks and keeps its own writes."""
        if vdi_uuid == parent_uuid:
            raise BackendError("VDI_IN_USE", vdi_uuid, "clone")
        async with self._disk_lock(parent_uuid), self._disk_lock(vdi_uuid):
            await self._disks.clone(vdi_uuid, parent_uuid)

    async def disk_resize(self, vdi_uuid: str, size_bytes: int) -> None:
        """Grow a disk."""
        async with self._disk_lock(vdi_uuid):
            await self._disks.resize(vdi_uuid, size_bytes)

    async def disk_destroy(self, vdi_uuid: str) -> None:
        """Remove a disk; one that is not there is no error."""
        async with self._disk_lock(vdi_uuid):
            await self._disks.destroy(vdi_uuid)

    async def disk_import(
        self, vdi_uuid: str, disk_format: str, chunks: AsyncIterator[bytes]
    ) -> int:
        """Fill a disk from a raw or VHD stream; tell the virtual size in bytes."""
        async with self._disk_lock(vdi_uuid):
            return await self._disks.fill(vdi_uuid, disk_format, chunks)

    async def disk_used_bytes(self, vdi_uuid: str) -> int:
        """Tell what the disk takes on the host."""
        return self._disks.used_bytes(vdi_uuid)

    async def disks(self) -> Mapping[str, int]:
        """Tell the disks there are and their virtual sizes in bytes."""
        return self._disks.sizes()

    async def console_log(self, vm_uuid: str, byte_count: int) -> bytes:
        """Give the end of the serial console's log, at most ``byte_count`` bytes."""
        return console.tail(self._domains.directory(vm_uuid) / CONSOLE, byte_count)

    async def _trim_consoles(self) -> None:
        for domain in self._domains:
            console.trim(domain.directory / CONSOLE)

    def _disk_lock(self, vdi_uuid: str) -> asyncio.Lock:
        return self._disk_locks.setdefault(checked_uuid("VDI", vdi_uuid), asyncio.Lock())

    async def _launch(self, spec: DomainSpec, *, memory: Path | None = None) -> Domain:
        engine = Engine(self._qemu, self._accelerator)
        return await self._domains.launch(
            spec, engine=engine, find_disk=self._find_disk, memory=memory
        )

    def _find_disk(self, disk: DiskSpec) -> DiskFile:
        file = self._disks.get(disk.vdi_uuid)
        if not (disk.is_read_only or disk.is_cd) and self._disks.is_parent(file):
            raise BackendError("VDI_READONLY", disk.vdi_uuid)
        return file

    def _is_in_use(self, vdi_uuid: str) -> bool:
        return any(
            disk.vdi_uuid == vdi_uuid
            for domain in self._domains
            for disk in domain.record.spec.disks
        )
