"""The qemu backend: real virtual machines in QEMU, with KVM where it works, else emulated.

    <directory>/domains/<vm>/domain.json console.log pid qmp.sock qemu.log memory
    <directory>/disks/...                    see ``chain``
    <directory>/domid kvm.json

QEMUs are no children of ours and run on while we are away. ``start`` finds them by their command
lines and takes hold again; nothing else is remembered that could be wrong after a kill.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Literal
from weakref import WeakValueDictionary

import msgspec

from xenith.core.ids import is_uuid
from xenith.core.log import logger
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
from xenith.toolstack.backends.qemu.command import CONSOLE, MONITOR, PID_FILE, arguments
from xenith.toolstack.backends.qemu.disks import Disks
from xenith.toolstack.backends.qemu.domain import Domain, Record
from xenith.toolstack.backends.qemu.kvm import has_kvm
from xenith.toolstack.backends.qemu.processes import (
    Process,
    find_qemus,
    has_ended,
    spawn_detached,
)
from xenith.toolstack.backends.qemu.qmp import QmpAbsentError, QmpError

#: How long a guest may take to shut down when asked. Source: nova `shutdown_timeout` is 60.
SHUTDOWN_TIMEOUT_S = 60.0
#: From the start of QEMU to its first word; a busy machine takes a second.
_LAUNCH_TIMEOUT_S = 30.0
_CONSOLE_PERIOD_S = 5.0
#: With its dashes; ids come without them too, and a file must have one name.
_UUID_CHARACTERS = 36
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
        self._domains_directory = self._directory / "domains"
        self._given = (memory_bytes, cpu_count, disk_bytes)
        self._accelerator: str = accelerator
        self._qemu = qemu
        self._shutdown_timeout_s = shutdown_timeout_s
        self._disks = Disks(self._directory / "disks", is_in_use=self._is_in_use)
        self._domains: dict[str, Domain] = {}
        # A lock lives as long as someone holds it or waits for it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks = TaskOwner("qemu", world.clock)
        self._listener: DomainListener = lambda _uuid, _state, _reason: None

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
        self._listener = listener
        self._domains_directory.mkdir(parents=True, exist_ok=True)
        if self._accelerator == "auto":
            works = await has_kvm(Path(program), self._directory)
            self._accelerator = "kvm" if works else "tcg"
        await self._find_domains()
        self._disks.start()
        self._tasks.keep("console", self._trim_consoles, restart_delay_s=_CONSOLE_PERIOD_S)

    async def stop(self) -> None:
        """End our part; the guests run on."""
        await self._tasks.stop()
        for domain in tuple(self._domains.values()):
            await domain.release()
        self._domains.clear()

    def capacity(self) -> Capacity:
        """Tell what the host has in all."""
        memory, cpus, disk = self._given
        return machine.capacity(
            self._directory, memory_bytes=memory, cpu_count=cpus, disk_bytes=disk
        )

    async def running(self) -> Mapping[str, DomainState]:
        """Tell the domains there are, by VM uuid, and their states."""
        found: dict[str, DomainState] = {
            path.parent.name: "suspended" for path in self._domains_directory.glob("*/memory")
        }
        found.update({uuid: domain.state for uuid, domain in self._domains.items()})
        return found

    async def domain_start(self, spec: DomainSpec, *, is_paused: bool = False) -> int:
        """Start a domain and tell its domid; one that already runs is left alone."""
        async with self._lock(spec.vm_uuid):
            domain = self._domains.get(spec.vm_uuid)
            if domain is None:
                self._forget_memory(spec.vm_uuid)
                domain = await self._launch(spec)
            if domain.status == "prelaunch" and not is_paused:
                await domain.unpause()
            return domain.record.domid

    async def domain_shutdown(self, vm_uuid: str, *, is_clean: bool) -> None:
        """End a domain: ask the guest and wait up to a deadline, or cut its power."""
        async with self._lock(vm_uuid):
            domain = self._domains.get(vm_uuid)
            if domain is not None and is_clean:
                await domain.shut_down(timeout_s=self._shutdown_timeout_s)
            elif domain is not None:
                await domain.power_off()
            if domain is not None:
                await self._bury(domain)
            if not is_clean:
                self._forget_memory(vm_uuid)

    async def domain_reboot(self, vm_uuid: str, *, is_clean: bool) -> int:
        """Restart a domain in its QEMU and tell its new domid."""
        async with self._lock(vm_uuid):
            domain = self._get(vm_uuid)
            if is_clean:
                await domain.restart_clean(timeout_s=self._shutdown_timeout_s)
            else:
                await domain.restart()
            return self._renew_domid(domain)

    async def domain_pause(self, vm_uuid: str) -> None:
        """Stop the domain's processors."""
        async with self._lock(vm_uuid):
            await self._get(vm_uuid).pause()

    async def domain_unpause(self, vm_uuid: str) -> None:
        """Let the domain's processors run."""
        async with self._lock(vm_uuid):
            await self._get(vm_uuid).unpause()

    async def domain_suspend(self, vm_uuid: str) -> None:
        """Save the domain's memory to the host's disk and end it; one that is, is left alone."""
        async with self._lock(vm_uuid):
            domain = self._domains.get(vm_uuid)
            if domain is None and self._memory(vm_uuid).exists():
                return
            domain = self._get(vm_uuid)
            # Saved memory only fits the machine version that it came from.
            self._write_record(
                msgspec.structs.replace(domain.record, machine=await domain.machine())
            )
            await domain.save()
            await self._bury(domain)

    async def domain_resume(self, spec: DomainSpec) -> int:
        """Bring a suspended domain back and tell its domid; one that runs is left alone."""
        async with self._lock(spec.vm_uuid):
            domain = self._domains.get(spec.vm_uuid)
            if domain is None:
                memory = self._memory(spec.vm_uuid)
                if not memory.exists():
                    raise BackendError("VM_BAD_POWER_STATE", spec.vm_uuid, "suspended", "halted")
                domain = await self._launch(spec, memory=memory)
                try:
                    await domain.load()
                except BackendError:
                    await domain.power_off()
                    await self._bury(domain)
                    raise
            elif domain.state == "paused":
                await domain.load()
            return domain.record.domid

    async def domain_forget(self, vm_uuid: str) -> None:
        """Remove all that is kept of a domain that has ended: its log and its saved memory.

        Beyond the protocol: for VM.destroy. What is not forgotten so is kept for a while.
        """
        async with self._lock(vm_uuid):
            if vm_uuid not in self._domains:
                shutil.rmtree(self._domain_directory(vm_uuid), ignore_errors=True)

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
        return console.tail(self._domain_directory(vm_uuid) / CONSOLE, byte_count)

    async def _find_domains(self) -> None:
        living = find_qemus(self._domains_directory)
        for directory in self._domains_directory.iterdir():
            uuid = directory.name
            record = _read_record(directory)
            process = _hold(living.get(uuid, []), directory)
            if record is None or process is None:
                if process is not None:
                    process.kill()
                    await process.wait()
                await self._tidy(uuid)
                if record is not None and not self._memory(uuid).exists():
                    self._listener(uuid, "halted", "it ended while the toolstack was away")
                continue
            await self._adopt(self._make_domain(record, directory, process))

    async def _adopt(self, domain: Domain) -> None:
        """Take hold of a domain that lived on, and finish what was cut off."""
        self._domains[domain.uuid] = domain
        try:
            await domain.connect()
            await domain.recover()
        except QmpAbsentError:
            # We were killed while QEMU started. Its guest has never run, for it waits for us.
            domain.is_ending = True
            await self._kill_all(domain.uuid)
            domain.status = "gone"
        except (QmpError, BackendError) as error:
            # A QEMU that is stuck has a guest, which is not ours to end; each call tries again.
            _log.error("qemu does not answer", vm=domain.uuid, error=str(error))
        if domain.status != "gone":
            self._tasks.start("watch", domain.watch())
            return
        await self._bury(domain)
        if not self._memory(domain.uuid).exists():
            self._listener(domain.uuid, "halted", "its start was cut off")

    async def _launch(self, spec: DomainSpec, *, memory: Path | None = None) -> Domain:
        """Start a QEMU that waits, stopped, and take hold of it."""
        directory = self._domain_directory(spec.vm_uuid)
        directory.mkdir(exist_ok=True)
        old = _read_record(directory)
        kind = old.machine if memory is not None and old is not None else "pc"
        record = Record(spec, self._next_domid(), self._accelerator, kind)
        command = [self._qemu]
        command += arguments(
            spec,
            directory=directory,
            accelerator=self._accelerator,
            machine=kind,
            find_disk=self._find_disk,
        )
        self._write_record(record)
        # What a launch of ours that was killed at a bad moment left; its guest has never run.
        await self._kill_all(spec.vm_uuid)
        for name in (MONITOR, PID_FILE):
            (directory / name).unlink(missing_ok=True)
        log = directory / "qemu.log"
        try:
            if memory is None:
                alive = await spawn_detached(command, directory=directory, log=log)
            else:
                with memory.open("rb") as file:
                    number = file.fileno()
                    command += ["-incoming", f"fd:{number}"]
                    alive = await spawn_detached(
                        command, directory=directory, log=log, files=[number]
                    )
            try:
                domain = await self._meet(record, directory, alive)
            finally:
                os.close(alive)
        except BaseException:
            # Nobody would ever start the guest of a launch that was given up.
            await self._kill_all(spec.vm_uuid)
            await self._tidy(spec.vm_uuid)
            raise
        self._domains[spec.vm_uuid] = domain
        self._tasks.start("watch", domain.watch())
        return domain

    async def _meet(self, record: Record, directory: Path, alive: int) -> Domain:
        """Wait until a new QEMU listens and connect to it."""
        deadline = self._world.clock.monotonic() + _LAUNCH_TIMEOUT_S
        while not has_ended(alive):
            process = None
            if (directory / MONITOR).exists():
                process = _hold(_read_pid(directory), directory)
            if process is not None:
                domain = self._make_domain(record, directory, process)
                try:
                    await domain.connect()
                except (QmpError, BackendError):
                    await domain.release()
                else:
                    return domain
            if self._world.clock.monotonic() > deadline:
                break
            await self._world.clock.sleep(0.02)
        said = console.tail(directory / "qemu.log", 1000).decode(errors="replace").strip()
        _log.error("qemu does not start", vm=record.spec.vm_uuid, said=said)
        raise BackendError("INTERNAL_ERROR", f"QEMU does not start: {said}")

    def _make_domain(self, record: Record, directory: Path, process: Process) -> Domain:
        return Domain(
            record,
            directory,
            process=process,
            clock=self._world.clock,
            on_change=self._take_change,
        )

    def _take_change(self, domain: Domain, state: DomainState, reason: str) -> None:
        """Pass on what a guest did by itself."""
        if reason == "reboot":
            self._renew_domid(domain)
        elif domain.is_ending or self._domains.get(domain.uuid) is not domain:
            return
        else:
            # At once, so that whoever hears of the end may start it again.
            del self._domains[domain.uuid]
            self._tasks.start("bury", self._bury_later(domain))
        self._listener(domain.uuid, state, reason)

    async def _bury(self, domain: Domain) -> None:
        """Let go of a domain that has ended and remove what only a living one needs."""
        if self._domains.get(domain.uuid) is domain:
            del self._domains[domain.uuid]
            await domain.release()
            await self._tidy(domain.uuid)

    async def _bury_later(self, domain: Domain) -> None:
        async with self._lock(domain.uuid):
            await domain.release()
            if domain.uuid not in self._domains:
                await self._tidy(domain.uuid)

    async def _tidy(self, vm_uuid: str) -> None:
        """Remove what a domain without a QEMU does not need; its log stays."""
        directory = self._domain_directory(vm_uuid)
        names = [PID_FILE, MONITOR, "memory.part", "memory.loaded"]
        if not self._memory(vm_uuid).exists():
            names.append("domain.json")
        for name in names:
            (directory / name).unlink(missing_ok=True)
        console.keep_newest(self._domains_directory)

    async def _kill_all(self, vm_uuid: str) -> None:
        directory = self._domain_directory(vm_uuid)
        # Again until none is found, since setsid may fork between the look and the kill.
        while pids := find_qemus(self._domains_directory).get(vm_uuid, []):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    process = Process(pid, directory)
                    process.kill()
                    if not await process.wait():
                        raise BackendError("INTERNAL_ERROR", f"process {pid} does not die")

    async def _trim_consoles(self) -> None:
        for domain in self._domains.values():
            console.trim(domain.directory / CONSOLE)

    def _get(self, vm_uuid: str) -> Domain:
        domain = self._domains.get(vm_uuid)
        if domain is None:
            actual = "suspended" if self._memory(vm_uuid).exists() else "halted"
            raise BackendError("VM_BAD_POWER_STATE", vm_uuid, "running", actual)
        return domain

    def _lock(self, vm_uuid: str) -> asyncio.Lock:
        return self._locks.setdefault(_checked("VM", vm_uuid), asyncio.Lock())

    def _disk_lock(self, vdi_uuid: str) -> asyncio.Lock:
        return self._locks.setdefault(_checked("VDI", vdi_uuid), asyncio.Lock())

    def _domain_directory(self, vm_uuid: str) -> Path:
        return self._domains_directory / _checked("VM", vm_uuid)

    def _memory(self, vm_uuid: str) -> Path:
        return self._domain_directory(vm_uuid) / "memory"

    def _forget_memory(self, vm_uuid: str) -> None:
        if self._memory(vm_uuid).exists():
            self._memory(vm_uuid).unlink()
            (self._domain_directory(vm_uuid) / "domain.json").unlink(missing_ok=True)

    def _find_disk(self, disk: DiskSpec) -> DiskFile:
        file = self._disks.get(disk.vdi_uuid)
        if not (disk.is_read_only or disk.is_cd) and self._disks.is_parent(file):
            raise BackendError("VDI_READONLY", disk.vdi_uuid)
        return file

    def _is_in_use(self, vdi_uuid: str) -> bool:
        return any(
            disk.vdi_uuid == vdi_uuid
            for domain in self._domains.values()
            for disk in domain.record.spec.disks
        )

    def _renew_domid(self, domain: Domain) -> int:
        domain.record = msgspec.structs.replace(domain.record, domid=self._next_domid())
        self._write_record(domain.record)
        return domain.record.domid

    def _next_domid(self) -> int:
        """Count domids, across restarts too."""
        path = self._directory / "domid"
        domid = int(path.read_text()) + 1 if path.exists() else 1
        _write(path, str(domid).encode())
        return domid

    def _write_record(self, record: Record) -> None:
        directory = self._domain_directory(record.spec.vm_uuid)
        _write(directory / "domain.json", msgspec.json.encode(record))


def _checked(kind: str, uuid: str) -> str:
    """Give back a uuid that is safe as a file's name, in the one form that names compare in."""
    if not is_uuid(uuid) or len(uuid) != _UUID_CHARACTERS or uuid != uuid.lower():
        raise BackendError("UUID_INVALID", kind, uuid)
    return uuid


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


def _read_record(directory: Path) -> Record | None:
    try:
        return msgspec.json.decode((directory / "domain.json").read_bytes(), type=Record)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        _log.warning("domain's record is unreadable", vm=directory.name, error=str(error))
        return None


def _read_pid(directory: Path) -> list[int]:
    """Read the process id that QEMU wrote; empty while it has not."""
    try:
        return [int((directory / PID_FILE).read_text())]
    except (FileNotFoundError, ValueError):
        return []


def _hold(pids: list[int], directory: Path) -> Process | None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            return Process(pid, directory)
    return None
