"""The living domains of a host: found again, launched, followed, and let go at their end.

Nothing is remembered that could be wrong after a kill of ours. Which QEMUs live is read from their
command lines; a QEMU that does not listen yet was being launched when we were killed, and since its
guest waits for our word and has never run, it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

import msgspec

from xenith.core.clock import Clock
from xenith.core.ids import is_uuid
from xenith.core.log import logger
from xenith.core.tasks import TaskOwner
from xenith.toolstack.backends import (
    NO_ROOM,
    BackendError,
    DomainListener,
    DomainSpec,
    DomainState,
)
from xenith.toolstack.backends.qemu import console
from xenith.toolstack.backends.qemu.command import (
    MONITOR,
    PID_FILE,
    XENSTORE,
    arguments,
    disks_in_order,
    socket_name,
)
from xenith.toolstack.backends.qemu.domain import Domain, Record
from xenith.toolstack.backends.qemu.processes import (
    Process,
    find_qemus,
    find_taps,
    has_ended,
    spawn_detached,
)
from xenith.toolstack.backends.qemu.qmp import QmpAbsentError, QmpError
from xenith.toolstack.backends.qemu.taps import Tap, TapDisk, end_tap, find_tap, launch_tap
from xenith.toolstack.backends.qemu.xenstore import GuestStores
from xenith.toolstack.tap.__main__ import CONTROL

#: From the start of QEMU to its first word; a busy machine takes a second.
_LAUNCH_TIMEOUT_S = 30.0
#: A tap ends when its QEMU does, and may be heard to first.
_TAP_GRACE_S = 5.0
#: With its dashes; ids come without them too, and a file must have one name.
_UUID_CHARACTERS = 36
_log = logger("toolstack.qemu")


class Engine(NamedTuple):
    """What runs guests here: the QEMU program, and ``kvm`` or ``tcg``."""

    program: str
    accelerator: str


class Domains:
    """The domains of one host, each in its own directory under ``directory``.

    Whoever changes a domain holds its ``lock``. ``on_end`` is told the spec of each that has ended,
    when nothing holds its disks any more.
    """

    def __init__(
        self,
        directory: Path,
        *,
        clock: Clock,
        tasks: TaskOwner,
        stores: GuestStores,
        on_end: Callable[[DomainSpec], Awaitable[None]],
    ) -> None:
        self._on_end = on_end
        self._directory = directory
        self._clock = clock
        self._tasks = tasks
        self._stores = stores
        self._listener: DomainListener = lambda _uuid, _state, _reason: None
        self._living: dict[str, Domain] = {}
        # A lock lives as long as someone holds it or waits for it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def __iter__(self) -> Iterator[Domain]:
        """Give those that live."""
        return iter(tuple(self._living.values()))

    def find(self, vm_uuid: str) -> Domain | None:
        """Find a living domain."""
        return self._living.get(vm_uuid)

    def get(self, vm_uuid: str) -> Domain:
        """Give a living domain.

        Raises:
            BackendError: VM_BAD_POWER_STATE.
        """
        domain = self._living.get(vm_uuid)
        if domain is None:
            actual = "suspended" if self.memory(vm_uuid).exists() else "halted"
            raise BackendError("VM_BAD_POWER_STATE", vm_uuid, "running", actual)
        return domain

    def lock(self, vm_uuid: str) -> asyncio.Lock:
        """Give the lock of a domain, living or not."""
        return self._locks.setdefault(checked_uuid("VM", vm_uuid), asyncio.Lock())

    async def release(self) -> None:
        """Let go of all; the guests run on."""
        for domain in self:
            await domain.release()
        self._living.clear()

    def suspended(self) -> list[str]:
        """List the domains whose memory is on the disk."""
        return [path.parent.name for path in self._directory.glob("*/memory")]

    async def recover(self, listener: DomainListener) -> None:
        """Take hold of the domains that lived on, and tell of those that did not."""
        self._listener = listener
        self._directory.mkdir(parents=True, exist_ok=True)
        living, taps = find_qemus(self._directory), find_taps(self._directory)
        for directory in self._directory.iterdir():
            uuid = directory.name
            record = _read_record(directory)
            process = _hold(living.get(uuid, []), directory)
            if record is None or process is None:
                if process is not None:
                    process.kill()
                    await process.wait()
                if uuid in taps:
                    await end_tap(directory, clock=self._clock)
                await self._tidy(uuid)
                if record is not None and not self.memory(uuid).exists():
                    self._listener(uuid, "halted", "it ended while the toolstack was away")
                continue
            await self._adopt(self._make_domain(record, directory, process))

    async def _adopt(self, domain: Domain) -> None:
        """Take hold of a domain that lived on, and finish what was cut off."""
        self._living[domain.uuid] = domain
        domain.tap = await find_tap(domain.directory)
        try:
            if domain.tap is None and domain.record.spec.disks:
                raise QmpAbsentError("its tap is gone")
            await domain.connect()
            await domain.recover()
        except QmpAbsentError:
            # We were killed while QEMU started. Its guest has never run, for it waits for us. Or
            # its disks are served no more, which it does not outlive.
            domain.is_ending = True
            await self._kill_all(domain.uuid)
            domain.status = "gone"
        except (QmpError, BackendError) as error:
            # A QEMU that is stuck has a guest, which is not ours to end; each call tries again.
            _log.error("qemu does not answer", vm=domain.uuid, error=str(error))
        if domain.status != "gone":
            self._stores.begin(domain)
            self._watch(domain)
            return
        await self.bury(domain)
        if not self.memory(domain.uuid).exists():
            self._listener(domain.uuid, "halted", "its start was cut off")

    async def launch(
        self,
        spec: DomainSpec,
        *,
        engine: Engine,
        leaves: Sequence[str],
        memory: Path | None = None,
    ) -> Domain:
        """Start a tap and a QEMU that waits, stopped, and take hold of them.

        ``leaves`` are the files of its disks in order, which are the domain's until its end is
        told, or this fails.
        """
        directory = self.directory(spec.vm_uuid)
        directory.mkdir(exist_ok=True)
        old = _read_record(directory)
        if memory is not None and old is not None:
            kind, has_xenstore = old.machine, old.has_xenstore
        else:
            kind, has_xenstore = "pc", True
        record = Record(spec, self._next_domid(), engine.accelerator, kind, has_xenstore)
        command = [engine.program]
        command += arguments(
            spec,
            directory=directory,
            accelerator=engine.accelerator,
            machine=kind,
            has_xenstore=has_xenstore,
        )
        self.write_record(record)
        # What a launch of ours that was killed at a bad moment left; its guest has never run.
        await self._kill_all(spec.vm_uuid)
        for name in (MONITOR, PID_FILE, XENSTORE):
            (directory / name).unlink(missing_ok=True)
        log = directory / "qemu.log"
        tap = None
        try:
            disks = [
                TapDisk(leaf, socket_name(at), disk.is_read_only or disk.is_cd)
                for at, (leaf, disk) in enumerate(
                    zip(leaves, disks_in_order(spec), strict=True), start=1
                )
            ]
            if disks:
                tap = await launch_tap(directory, disks, clock=self._clock)
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
            if tap is not None:
                await tap.quit()
            await self._tidy(spec.vm_uuid)
            raise
        domain.tap = tap
        self._living[spec.vm_uuid] = domain
        self._stores.begin(domain)
        self._watch(domain)
        return domain

    def _watch(self, domain: Domain) -> None:
        self._tasks.start("watch", domain.watch())
        if domain.tap is not None:
            self._tasks.start("watch tap", self._watch_tap(domain, domain.tap))

    async def _watch_tap(self, domain: Domain, tap: Tap) -> None:
        """Cut the power of a domain whose disks are served no more.

        What its tap had not flushed is lost, as by a disk without power; a guest that went on would
        believe that it is there.
        """
        await asyncio.wait([tap.ended])
        is_over = tap.ended.cancelled() or await domain.process.wait(_TAP_GRACE_S)
        if not is_over and self._living.get(domain.uuid) is domain and not domain.is_ending:
            _log.error("a tap has ended before its domain", vm=domain.uuid)
            domain.process.kill()

    async def _meet(self, record: Record, directory: Path, alive: int) -> Domain:
        """Wait until a new QEMU listens and connect to it."""
        deadline = self._clock.monotonic() + _LAUNCH_TIMEOUT_S
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
            if self._clock.monotonic() > deadline:
                break
            await self._clock.sleep(0.02)
        said = console.tail(directory / "qemu.log", 1000).decode(errors="replace").strip()
        _log.error("qemu does not start", vm=record.spec.vm_uuid, said=said)
        raise BackendError("INTERNAL_ERROR", f"QEMU does not start: {said}")

    def _make_domain(self, record: Record, directory: Path, process: Process) -> Domain:
        return Domain(
            record,
            directory,
            process=process,
            clock=self._clock,
            on_change=self._take_change,
        )

    def _take_change(self, domain: Domain, state: DomainState, reason: str) -> None:
        """Pass on what a guest did by itself."""
        if reason == "reboot":
            self.renew_domid(domain)
        elif domain.is_ending or self._living.get(domain.uuid) is not domain:
            return
        elif reason != NO_ROOM:
            # At once, so that whoever hears of the end may start it again.
            del self._living[domain.uuid]
            self._tasks.start("bury", self._bury_later(domain))
        self._listener(domain.uuid, state, reason)

    async def bury(self, domain: Domain) -> None:
        """Let go of a domain that has ended and remove what only a living one needs."""
        if self._living.get(domain.uuid) is domain:
            del self._living[domain.uuid]
            await self._let_go(domain)
            await self._tidy(domain.uuid)

    async def _bury_later(self, domain: Domain) -> None:
        async with self.lock(domain.uuid):
            await self._let_go(domain)
            if domain.uuid not in self._living:
                await self._tidy(domain.uuid)

    async def _let_go(self, domain: Domain) -> None:
        """Wait until the tap of a domain whose QEMU has ended has its bytes on the disk."""
        self._stores.end(domain)
        if domain.tap is not None:
            await domain.tap.end()
        await domain.release()
        await self._on_end(domain.record.spec)

    async def _tidy(self, vm_uuid: str) -> None:
        """Remove what a domain without a QEMU does not need; its log stays."""
        directory = self.directory(vm_uuid)
        names = [PID_FILE, MONITOR, XENSTORE, CONTROL, "memory.part", "memory.loaded"]
        names += [path.name for path in directory.glob("disk*.nbd")]
        if not self.memory(vm_uuid).exists():
            names.append("domain.json")
        for name in names:
            (directory / name).unlink(missing_ok=True)
        console.keep_newest(self._directory)

    async def _kill_all(self, vm_uuid: str) -> None:
        directory = self.directory(vm_uuid)
        # Again until none is found, since setsid may fork between the look and the kill.
        while pids := find_qemus(self._directory).get(vm_uuid, []):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    process = Process(pid, directory)
                    process.kill()
                    if not await process.wait():
                        raise BackendError("INTERNAL_ERROR", f"process {pid} does not die")

    def directory(self, vm_uuid: str) -> Path:
        """Tell where a domain's files are."""
        return self._directory / checked_uuid("VM", vm_uuid)

    def memory(self, vm_uuid: str) -> Path:
        """Tell where the memory of a suspended domain is."""
        return self.directory(vm_uuid) / "memory"

    def forget_memory(self, vm_uuid: str) -> None:
        """Remove a suspended domain's memory, so that it is halted."""
        if self.memory(vm_uuid).exists():
            self.memory(vm_uuid).unlink()
            (self.directory(vm_uuid) / "domain.json").unlink(missing_ok=True)

    def renew_domid(self, domain: Domain) -> int:
        """Give a domain that has begun again its new domid."""
        domain.record = msgspec.structs.replace(domain.record, domid=self._next_domid())
        self.write_record(domain.record)
        self._stores.renew(domain)
        return domain.record.domid

    def _next_domid(self) -> int:
        """Count domids, across restarts too."""
        path = self._directory.parent / "domid"
        domid = int(path.read_text()) + 1 if path.exists() else 1
        _write(path, str(domid).encode())
        return domid

    def write_record(self, record: Record) -> None:
        """Keep what must be known of a domain after a restart of ours."""
        directory = self.directory(record.spec.vm_uuid)
        _write(directory / "domain.json", msgspec.json.encode(record))


def checked_uuid(kind: str, uuid: str) -> str:
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
