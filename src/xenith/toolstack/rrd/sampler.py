"""The archives of one host and its VMs, and who fills them.

Backends that run real guests are measured every five seconds by a task, and what was measured is
kept in a directory. What a simulated host would measure follows from what it does, so nothing runs
there: a thousand hosts that nobody asks have no archive and no task. When one is asked, its
archives are filled from when its domains last changed up to now.

A VM's archives go with it to the host that it runs on, and stay where it last ran.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from xenith.core.log import logger
from xenith.toolstack.backends import BackendError, Sample, device_name
from xenith.toolstack.methods import is_null
from xenith.toolstack.rrd import keeping
from xenith.toolstack.rrd.archive import LEVELS, STEP_S, Archives
from xenith.xapi.faults import XapiFault

if TYPE_CHECKING:
    from xenith.toolstack.server import HostServer

#: Seconds between two savings: so much is lost by a kill. Source: xapi saves once a day.
SAVE_PERIOD_S = 300.0
#: Seconds between two looks at what disks take: each opens the files of their chains.
DISKS_PERIOD_S = 60.0
#: Seconds between two writings of what records say of processors: each is an event for each VM.
SHOW_PERIOD_S = 60.0
_log = logger("toolstack.rrd")


class Sampler:
    """What is measured on one host, over time."""

    def __init__(self, host: HostServer) -> None:
        self._host = host
        self._own: Archives | None = None
        self._vms: dict[str, Archives] = {}
        #: Held while a measurement is taken, so that none is written after a later one.
        self._turn = asyncio.Lock()
        self._shelf: keeping.Shelf | None = None
        self._is_timed = False
        #: When records last said how processors are used, and of which VMs they do.
        self._shown_s = -math.inf
        self._shown: set[str] = set()
        #: Files that are to be removed.
        self._gone: set[str] = set()
        #: What each VM's disks took when that was last looked at, and when that was.
        self._disks: dict[str, tuple[float, dict[str, float]]] = {}

    @property
    def archive_count(self) -> int:
        """How many hosts and VMs have archives here."""
        return len(self._vms) + (self._own is not None)

    def begin(self, directory: Path | None) -> None:
        """Measure every five seconds from now on, and keep it in a directory if one is named."""
        self._is_timed = True
        if directory is not None:
            self._shelf = keeping.Shelf(directory)
            self._vms = self._shelf.load()
            self._own = self._vms.pop(self._host_uuid(), None)
        self._host.tasks.keep("measure", self._measure_all, restart_delay_s=STEP_S)
        self._host.tasks.keep("look at disks", self._look_at_disks, restart_delay_s=STEP_S)
        if directory is not None:
            self._host.tasks.keep("keep archives", self._keep_later, restart_delay_s=0.0)

    async def keep(self) -> None:
        """Bring the archives to the disk."""
        if self._shelf is None:
            return
        kept: dict[str, bytes] = {}
        for uuid, archives in list(self._vms.items()):
            kept[uuid] = keeping.encode(archives)
            # Many VMs' archives are some megabytes.
            await asyncio.sleep(0)
        if self._own is not None:
            kept[self._host_uuid()] = keeping.encode(self._own)
        gone, self._gone = self._gone - kept.keys(), set()
        try:
            await asyncio.to_thread(self._shelf.save, kept, gone)
        except OSError as error:
            # A disk that is full must not hold up the end of a host.
            _log.warning("archives are not kept", host=self._host.name, error=repr(error))
            self._gone |= gone

    async def of_host(self) -> Archives:
        """Give the host's archives, as they are now."""
        if not self._is_timed or self._own is None:
            await self._measure(())
        assert self._own is not None, "a measurement makes them"
        return self._own

    async def of_vms(self, wanted: Collection[str] | None = None) -> dict[str, Archives]:
        """Give the archives of VMs that run here, as they are now: of all, or of some."""
        living = await self._living(wanted)
        if not self._is_timed or any(uuid not in self._vms for uuid in living):
            await self._measure(living)
        return {uuid: self._vms[uuid] for uuid in living if uuid in self._vms}

    def find(self, vm_uuid: str) -> Archives | None:
        """Find what was measured of a VM that may not run any more."""
        return self._vms.get(vm_uuid)

    def pop(self, vm_uuid: str) -> Archives | None:
        """Give a VM's archives away."""
        if vm_uuid in self._vms and self._shelf is not None:
            self._gone.add(vm_uuid)
        return self._vms.pop(vm_uuid, None)

    async def _measure_all(self) -> None:
        living = await self._living(None)
        await self._measure(living)
        now_s = self._host.world.clock.monotonic()
        if now_s - self._shown_s >= SHOW_PERIOD_S:
            self._shown_s = now_s
            self._show_processors(living)

    def _show_processors(self, living: Collection[str]) -> None:
        """Write VM_metrics.VCPUs_utilisation. Source: XenAPI, from a processor's number to 0…1."""
        for uuid in self._shown.difference(living):
            self._show(uuid, {})
        self._shown = {uuid for uuid in living if uuid in self._vms}
        for uuid in self._shown:
            archives = self._vms[uuid]
            used = {
                name.removeprefix("cpu"): round(archives.value(name), 2)
                for name in archives.present()
                if name.removeprefix("cpu").isdecimal() and not math.isnan(archives.value(name))
            }
            self._show(uuid, used)

    def _show(self, vm_uuid: str, used: dict[str, float]) -> None:
        vm, objects = _find(self._host, "VM", vm_uuid), self._host.objects
        metrics = "" if vm is None else objects.get("VM", vm)["metrics"]
        record = objects.find("VM_metrics", metrics)
        if record is not None and record["VCPUs_utilisation"] != used:
            objects.update("VM_metrics", metrics, VCPUs_utilisation=used)

    async def _keep_later(self) -> None:
        await self._host.world.clock.sleep(SAVE_PERIOD_S)
        await self.keep()

    async def _living(self, wanted: Collection[str] | None) -> list[str]:
        states = await self._host.engine.running()
        return [
            uuid
            for uuid, state in states.items()
            if state in ("running", "paused") and (wanted is None or uuid in wanted)
        ]

    async def _measure(self, vm_uuids: Iterable[str]) -> None:
        async with self._turn:
            self._forget_destroyed()
            uuids = list(vm_uuids)
            if self._is_timed:
                disks = {uuid: self._disks[uuid][1] for uuid in uuids if uuid in self._disks}
            else:
                disks = {uuid: await self._disk_use(uuid) for uuid in uuids}
            # Last, so that what counters say is of the moment that is written beside it.
            measured = await self._host.engine.measure(uuids)
            now_s = self._host.world.clock.now()
            own = measured.host._replace(figures={**measured.host.figures, **self._memory()})
            self._own = self._own or _begun(own, now_s)
            self._own.update(now_s, own.figures, since_s=own.since_s)
            for uuid, sample in measured.vms.items():
                archives = self._vms.get(uuid) or self._taken_over(uuid) or _begun(sample, now_s)
                figures = {**sample.figures, **disks.get(uuid, {})}
                fresh = disks.get(uuid, {}).keys()
                archives.update(now_s, figures, since_s=sample.since_s, fresh=fresh)
                self._vms[uuid] = archives
                self._gone.discard(uuid)
                # A quarter of a millisecond for each VM.
                await asyncio.sleep(0)

    def _taken_over(self, vm_uuid: str) -> Archives | None:
        for member in self._host.pool.members.values():
            if member is not self._host and member.sampler is not None:
                found = member.sampler.pop(vm_uuid)
                if found is not None:
                    return found
        return None

    def _forget_destroyed(self) -> None:
        for uuid in list(self._vms):
            if _find(self._host, "VM", uuid) is None:
                self.pop(uuid)

    def _memory(self) -> dict[str, float]:
        """Tell what VMs may have, which is what XenAPI calls a host's memory."""
        objects, own = self._host.objects, self._host.ref
        metrics = objects.get("host_metrics", objects.get("host", own)["metrics"])
        total = int(metrics["memory_total"])
        used = self._host.pool.used_memory_bytes(own)
        return {"memory_total_kib": total / 1024, "memory_free_kib": max(0, total - used) / 1024}

    async def _look_at_disks(self) -> None:
        """Look at the disks of all VMs whose turn it is.

        Apart from all else that is measured, for an SR may have long work to do first.
        """
        living = await self._living(None)
        for uuid in self._disks.keys() - set(living):
            del self._disks[uuid]
        for uuid in living:
            now_s = self._host.world.clock.monotonic()
            if uuid not in self._disks or now_s - self._disks[uuid][0] >= DISKS_PERIOD_S:
                self._disks[uuid] = now_s, await self._disk_use(uuid)

    async def _disk_use(self, vm_uuid: str) -> dict[str, float]:
        """Tell what a VM's disks take where they lie, each with the chain that it stands on."""
        try:
            return await self._disk_bytes(vm_uuid)
        except (XapiFault, BackendError) as error:
            # An SR may be on its way out, and a disk too: it is unknown then, and nothing worse.
            _log.debug("disks are not measured", vm=vm_uuid, error=repr(error))
            return {}

    async def _disk_bytes(self, vm_uuid: str) -> dict[str, float]:
        objects = self._host.objects
        vm = _find(self._host, "VM", vm_uuid)
        by_sr: dict[str, dict[str, str]] = {}
        for vbd in [] if vm is None else objects.get("VM", vm)["VBDs"]:
            record = objects.get("VBD", vbd)
            if not is_null(record["VDI"]) and record["userdevice"].isdecimal():
                vdi = objects.get("VDI", record["VDI"])
                name = device_name(int(record["userdevice"]))
                by_sr.setdefault(vdi["SR"], {})[name] = vdi["uuid"]
        found: dict[str, float] = {}
        in_all = 0
        for sr, disks in by_sr.items():
            contents = await self._host.storage.get(sr).look(*disks.values())
            for name, uuid in disks.items():
                if uuid in contents.vdis:
                    found[f"vbd_{name}_physical"] = float(contents.vdis[uuid].chain_bytes)
            in_all += sum(vdi.used_bytes for vdi in contents.vdis.values())
        return {**found, "disk_physical": float(in_all)} if found else {}

    def _host_uuid(self) -> str:
        return str(self._host.objects.get("host", self._host.ref)["uuid"])


def sampler_of(host: HostServer) -> Sampler:
    """Give what is measured on a host; made when it is first asked for."""
    if host.sampler is None:
        host.sampler = Sampler(host)
    return host.sampler


async def archives_of_vm(host: HostServer, vm_uuid: str) -> Archives | None:
    """Find the archives of a VM, wherever in the pool it runs or ran."""
    vm = _find(host, "VM", vm_uuid)
    if vm is None:
        return None
    members = host.pool.members
    place = members.get(host.pool.place_of(vm, host.objects.get("VM", vm)))
    if place is not None and place.is_up:
        found = (await sampler_of(place).of_vms((vm_uuid,))).get(vm_uuid)
        if found is not None:
            return found
    # One that does not run has its archives where it last did.
    samplers = [member.sampler for member in members.values() if member.sampler is not None]
    return next((found for one in samplers if (found := one.find(vm_uuid)) is not None), None)


def _begun(sample: Sample, now_s: float) -> Archives:
    if sample.since_s is None:
        return Archives(now_s)
    return Archives(max(sample.since_s, now_s - LEVELS[-1].span_s))


def _find(host: HostServer, class_name: str, uuid: str) -> str | None:
    try:
        return host.objects.by_uuid(class_name, uuid)
    except XapiFault:
        return None
