"""A host without guests: power, memory, disks, time and failure as they would be, no bytes.

Latency is a number of seconds for every operation, or one by the operation's name. Failures are
drawn at a rate, or come from a script that sees each operation before it is done and may refuse
it, or hold it up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import NamedTuple

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
    device_name,
)
from xenith.toolstack.backends.live import XenstoreListener
from xenith.toolstack.backends.sim_disks import SimDisk, SimRepository
from xenith.toolstack.backends.trees import DomainTrees
from xenith.toolstack.storage.file_sr import FileSr, directory_of, open_file_sr

#: Sees an operation's name and its subject's uuid before it is done; raises to refuse it.
Script = Callable[[str, str], Awaitable[None] | None]


class SimMove(NamedTuple):
    """A domain on its way from one simulated host to another."""

    vm_uuid: str
    state: DomainState
    spec: DomainSpec | None
    xenstore: Mapping[str, str]


class SimBackend:
    """One simulated host."""

    name = "sim"

    def __init__(
        self,
        world: World,
        *,
        memory_bytes: int,
        cpu_count: int,
        disk_bytes: int,
        latency_s: float | Mapping[str, float] = 0.0,
        failure_rate: float = 0.0,
        script: Script | None = None,
    ) -> None:
        self._world = world
        self._capacity = Capacity(memory_bytes, cpu_count, disk_bytes, "simulated")
        self._latency = latency_s
        self._failure_rate = failure_rate
        #: For tests; may be changed at any time.
        self.script = script
        self._listener: DomainListener = lambda _uuid, _state, _reason: None
        self._domains: dict[str, DomainState] = {}
        self._specs: dict[str, DomainSpec] = {}
        self._disks: dict[str, SimDisk] = {}
        self._files: dict[str, FileSr] = {}
        #: SRs whose disks another simulated host keeps.
        self._shared: dict[str, SimRepository] = {}
        self._domid = 0
        self._memory: dict[str, int] = {}
        self._vcpus: dict[str, int] = {}
        #: When each domain, and any of them, last changed: all that must be kept to tell later what
        #: would have been measured.
        self._since_s: dict[str, float] = {}
        self._changed_s = world.clock.now()
        #: Processors' weights and caps, and keys that were sent; for tests.
        self.schedules: dict[str, Mapping[str, str]] = {}
        self.keys: list[tuple[str, str]] = []
        self._on_xenstore: XenstoreListener = lambda _uuid: None
        self._trees = DomainTrees(self._hear_guest)

    def adopt(
        self,
        domains: Mapping[str, DomainState],
        disks: Mapping[str, SimDisk],
        *,
        specs: Mapping[str, DomainSpec],
        domids: Mapping[str, int],
        last_domid: int,
    ) -> None:
        """Take over what an earlier process ran: simulated guests live on as real ones do."""
        self._domains.update(domains)
        self._disks.update(disks)
        self._specs.update(specs)
        for name, state in domains.items():
            if name in specs and state != "suspended":
                self._begin(specs[name], domids[name])
        # Domids are not used twice: a log is asked for by the last one of a VM.
        self._domid = max(self._domid, last_domid)

    async def start(self, listener: DomainListener) -> None:
        """Begin."""
        self._listener = listener

    async def stop(self) -> None:
        """End; simulated disks are kept by nobody, and directories let go."""
        for sr_uuid in list(self._files):
            await self.detach_sr(sr_uuid)

    def capacity(self) -> Capacity:
        """Tell what the host has in all."""
        return self._capacity

    async def running(self) -> Mapping[str, DomainState]:
        """Tell the domains there are."""
        return dict(self._domains)

    # -- domains

    async def domain_start(self, spec: DomainSpec, *, is_paused: bool = False) -> int:
        """Start a domain; one that already runs is left alone."""
        await self._act("domain_start", spec.vm_uuid)
        for disk in spec.disks:
            if not self._files and not self._sees(disk.vdi_uuid):
                raise BackendError("VDI_MISSING", "", disk.vdi_uuid)
        self._domains[spec.vm_uuid] = "paused" if is_paused else "running"
        return self._begin(spec, self._next_domid())

    async def domain_shutdown(self, vm_uuid: str, *, is_clean: bool) -> None:
        """End a domain."""
        await self._act("domain_shutdown_clean" if is_clean else "domain_shutdown", vm_uuid)
        self._end(vm_uuid)

    async def domain_reboot(self, vm_uuid: str, *, is_clean: bool) -> int:
        """Restart a domain."""
        await self._act("domain_reboot_clean" if is_clean else "domain_reboot", vm_uuid)
        self._domains[vm_uuid] = "running"
        domid = self._next_domid()
        if self._trees.has(vm_uuid):
            self._trees.renew(vm_uuid, domid)
        elif vm_uuid in self._specs:
            # It ended by itself while it was being restarted, and begins again.
            self._begin(self._specs[vm_uuid], domid)
        return domid

    async def domain_forget(self, vm_uuid: str) -> None:
        """Forget what its console would say."""
        self._specs.pop(vm_uuid, None)

    async def domain_pause(self, vm_uuid: str) -> None:
        """Stop the domain's processors."""
        await self._act("domain_pause", vm_uuid)
        self._domains[vm_uuid] = "paused"

    async def domain_unpause(self, vm_uuid: str) -> None:
        """Let the domain's processors run."""
        await self._act("domain_unpause", vm_uuid)
        self._domains[vm_uuid] = "running"

    async def domain_suspend(self, vm_uuid: str) -> None:
        """Save the domain."""
        await self._act("domain_suspend", vm_uuid)
        self._domains[vm_uuid] = "suspended"
        self._trees.end(vm_uuid)
        self._touch(vm_uuid)

    async def domain_resume(self, spec: DomainSpec) -> int:
        """Bring a saved domain back."""
        await self._act("domain_resume", spec.vm_uuid)
        self._domains[spec.vm_uuid] = "running"
        return self._begin(spec, self._next_domid())

    async def domain_send(self, vm_uuid: str) -> SimMove:
        """Let a domain go, with what is known of it; its disks go another way."""
        await self._act("domain_send", vm_uuid)
        spec = self._specs.pop(vm_uuid, None)
        kept = self._trees.read(vm_uuid)
        state = self._end(vm_uuid)
        return SimMove(vm_uuid, state, spec, kept)

    async def domain_receive(self, move: SimMove) -> int:
        """Take a domain over and tell its domid."""
        await self._act("domain_receive", move.vm_uuid)
        domid = self._next_domid()
        if move.spec is not None:
            self._begin(move.spec, domid, kept=move.xenstore)
            if move.state == "suspended":
                self._trees.end(move.vm_uuid)
        if move.state not in ("halted", "crashed"):
            self._domains[move.vm_uuid] = move.state
        return domid

    async def console_log(self, vm_uuid: str, byte_count: int) -> bytes:
        """Give what a guest that read its configuration might have printed."""
        await self._act("console_log", vm_uuid)
        spec = self._specs.get(vm_uuid)
        name = "" if spec is None else spec.xenstore.get("vm-data/hostname", spec.name)
        lines = ["[    0.000000] Simulated guest, no kernel", f"{name} login: "]
        return "\n".join(lines).encode()[-byte_count:]

    def change(self, vm_uuid: str, state: DomainState) -> None:
        """Have a guest change by itself; for tests."""
        if state in ("halted", "crashed"):
            self._end(vm_uuid)
        else:
            self._domains[vm_uuid] = state
        self._listener(vm_uuid, state, "the guest's own doing")

    def _begin(self, spec: DomainSpec, domid: int, *, kept: Mapping[str, str] | None = None) -> int:
        self._specs[spec.vm_uuid] = spec
        keys = {**spec.xenstore, **(kept or {})}
        self._trees.begin(spec.vm_uuid, domid, label=spec.name, keys=keys)
        self._memory[spec.vm_uuid] = spec.memory_bytes
        self._vcpus[spec.vm_uuid] = spec.vcpu_count
        self._touch(spec.vm_uuid)
        return domid

    def _end(self, vm_uuid: str) -> DomainState:
        self._changed_s = self._world.clock.now()
        self._since_s.pop(vm_uuid, None)
        self._trees.end(vm_uuid)
        return self._domains.pop(vm_uuid, "halted")

    def _touch(self, vm_uuid: str) -> None:
        self._changed_s = self._since_s[vm_uuid] = self._world.clock.now()

    # -- live domains

    def watch_xenstore(self, listener: XenstoreListener) -> None:
        """Tell of what guests write."""
        self._on_xenstore = listener

    def _hear_guest(self, vm_uuid: str) -> None:
        self._on_xenstore(vm_uuid)

    async def xenstore_read(self, vm_uuid: str) -> Mapping[str, str]:
        """Give a domain's own subtree."""
        await self._act("xenstore_read", vm_uuid)
        self._check_live(vm_uuid)
        return self._trees.read(vm_uuid)

    async def xenstore_write(self, vm_uuid: str, changes: Mapping[str, str | None]) -> None:
        """Write keys of a domain's subtree; None removes a key."""
        await self._act("xenstore_write", vm_uuid)
        self._check_live(vm_uuid)
        self._trees.write(vm_uuid, changes)
        self._touch(vm_uuid)

    def guest_writes(self, vm_uuid: str, changes: Mapping[str, str | None]) -> None:
        """Have a guest write to its xenstore, as far as it may; for tests."""
        self._check_live(vm_uuid)
        guest = self._trees.guest(vm_uuid)
        for path, value in changes.items():
            if value is None:
                guest.rm(path)
            else:
                guest.write(path, value.encode())
        self._touch(vm_uuid)

    async def domain_set_memory(self, vm_uuid: str, size_bytes: int) -> None:
        """Have the balloon leave so much."""
        await self._act("domain_set_memory", vm_uuid)
        self._check_live(vm_uuid)
        self._memory[vm_uuid] = size_bytes
        self._touch(vm_uuid)

    async def domain_set_vcpus(self, vm_uuid: str, count: int) -> None:
        """Plug processors in or out."""
        await self._act("domain_set_vcpus", vm_uuid)
        self._check_live(vm_uuid)
        self._vcpus[vm_uuid] = count
        self._touch(vm_uuid)

    async def domain_set_schedule(self, vm_uuid: str, params: Mapping[str, str]) -> None:
        """Weigh and cap the processors."""
        await self._act("domain_set_schedule", vm_uuid)
        self.schedules[vm_uuid] = dict(params)

    async def domain_key(self, vm_uuid: str, key: str) -> None:
        """Send a magic system request key."""
        await self._act("domain_key", vm_uuid)
        self.keys.append((vm_uuid, key))

    async def domain_copy_memory(self, vm_uuid: str, into_uuid: str) -> None:
        """Save a domain's memory as that of another that is suspended."""
        await self._act("domain_copy_memory", vm_uuid)
        if vm_uuid not in self._domains:
            raise BackendError("VM_BAD_POWER_STATE", vm_uuid, "running", "halted")
        self._domains[into_uuid] = "suspended"

    async def measure(self, vm_uuids: Collection[str]) -> Measured:
        """Tell what idle guests would show: memory as it stands, and counters that stand still."""
        now_s = self._world.clock.now()
        host = {f"cpu{number}": 0.0 for number in range(self._capacity.cpu_count)}
        own = Sample({**host, "cpu_avg": 0.0, "loadavg": 0.0}, self._changed_s)
        vms = {
            uuid: Sample(self._figures(uuid), self._since_s.get(uuid, now_s))
            for uuid in vm_uuids
            if self._domains.get(uuid) in ("running", "paused") and uuid in self._specs
        }
        return Measured(own, vms)

    def _figures(self, vm_uuid: str) -> dict[str, float]:
        figures = {f"cpu{number}": 0.0 for number in range(self._vcpus[vm_uuid])}
        memory = float(self._memory[vm_uuid])
        figures |= {"memory": memory, "memory_target": memory}
        # Where a guest's agent says what it has free, in KiB. Source: xcp-rrdd, rrdp-squeezed.
        said = self._trees.get(vm_uuid, "data/meminfo_free")
        if said.isascii() and said.isdigit():
            figures["memory_internal_free"] = float(said[:15])
        for disk in self._specs[vm_uuid].disks:
            if disk.device.isdecimal():
                name = device_name(int(disk.device))
                figures |= {f"vbd_{name}_read": 0.0, f"vbd_{name}_write": 0.0}
                figures |= {f"vbd_{name}_iops_read": 0.0, f"vbd_{name}_iops_write": 0.0}
        for nic in self._specs[vm_uuid].nics:
            figures |= {f"vif_{nic.device}_rx": 0.0, f"vif_{nic.device}_tx": 0.0}
        return figures

    def _check_live(self, vm_uuid: str) -> None:
        if self._domains.get(vm_uuid) not in ("running", "paused"):
            raise BackendError("VM_BAD_POWER_STATE", vm_uuid, "running", "halted")

    # -- disks

    async def attach_sr(
        self,
        sr_uuid: str,
        kind: str,
        device_config: Mapping[str, str],
        *,
        beside: Repository | None = None,
    ) -> Repository:
        """Attach simulated disks, or those of a directory where one is named."""
        del kind
        if isinstance(beside, FileSr):
            self._files[sr_uuid] = beside.share()
            return beside
        if isinstance(beside, SimRepository):
            # There is one of each disk, and the other host has it.
            for uuid in [uuid for uuid, disk in self._disks.items() if disk.sr_uuid == sr_uuid]:
                del self._disks[uuid]
            self._shared[sr_uuid] = beside.share(self._is_in_use)
            return beside
        path = directory_of(device_config)
        if path is not None:
            self._files[sr_uuid] = await open_file_sr(path, world=self._world)
            return self._files[sr_uuid]
        return SimRepository(
            sr_uuid,
            self._disks,
            act=self._act,
            world=self._world,
            capacity_bytes=self._capacity.disk_bytes,
            is_in_use=self._is_in_use,
        )

    async def detach_sr(self, sr_uuid: str) -> None:
        """Let go of an SR's disks."""
        self._shared.pop(sr_uuid, None)
        held = self._files.pop(sr_uuid, None)
        if held is not None:
            await held.close()

    async def set_qos(self, vm_uuid: str, disk: DiskSpec) -> None:
        """Limit nothing: simulated guests do not write."""

    async def disks(self) -> dict[str, int]:
        """Tell the simulated disks there are and their sizes, hidden ones left out; for tests."""
        return {uuid: disk.size_bytes for uuid, disk in self._disks.items() if not disk.is_hidden}

    def _sees(self, vdi_uuid: str) -> bool:
        return vdi_uuid in self._disks or any(sr.has(vdi_uuid) for sr in self._shared.values())

    def _is_in_use(self, vdi_uuid: str) -> bool:
        return any(
            disk.vdi_uuid == vdi_uuid
            for uuid in self._domains
            if uuid in self._specs
            for disk in self._specs[uuid].disks
        )

    # -- time and failure

    async def _act(self, operation: str, subject: str) -> None:
        latency = (
            self._latency.get(operation, 0.0)
            if isinstance(self._latency, Mapping)
            else self._latency
        )
        if latency > 0:
            await self._world.clock.sleep(latency)
        if self.script is not None:
            held = self.script(operation, subject)
            if held is not None:
                await held
        if self._failure_rate and self._world.ids.uniform() < self._failure_rate:
            raise BackendError("INTERNAL_ERROR", f"simulated failure of {operation}")

    def _next_domid(self) -> int:
        self._domid += 1
        return self._domid
