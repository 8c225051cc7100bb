"""A host without guests: power, memory, disks, time and failure as they would be, no bytes.

Latency is a number of seconds for every operation, or one by the operation's name. Failures are
drawn at a rate, or come from a script that sees each operation before it is done and may refuse
it, or hold it up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import NamedTuple, TypeVar

from xenith.core.world import World
from xenith.toolstack.backends import (
    BackendError,
    Capacity,
    DomainListener,
    DomainSpec,
    DomainState,
)
from xenith.toolstack.backends.live import XenstoreListener

#: Sees an operation's name and its subject's uuid before it is done; raises to refuse it.
Script = Callable[[str, str], Awaitable[None] | None]

_Kept = TypeVar("_Kept")

_FOOTER_BYTES = 512
#: Source: VHD specification 1.0, Disk Type; 4 is a differencing disk, which names a parent.
_VHD_FIXED, _VHD_DYNAMIC = 2, 3


class SimMove(NamedTuple):
    """A domain on its way from one simulated host to another."""

    vm_uuid: str
    state: DomainState
    spec: DomainSpec | None
    disks: Mapping[str, int]
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
        self._disks: dict[str, int] = {}
        self._used: dict[str, int] = {}
        self._domid = 0
        self._xenstore: dict[str, dict[str, str]] = {}
        self._memory: dict[str, int] = {}
        self._vcpus: dict[str, int] = {}
        #: Processors' weights and caps, and keys that were sent; for tests.
        self.schedules: dict[str, Mapping[str, str]] = {}
        self.keys: list[tuple[str, str]] = []
        self._on_xenstore: XenstoreListener = lambda _uuid: None

    def adopt(
        self,
        domains: Mapping[str, DomainState],
        disks: Mapping[str, int],
        *,
        specs: Mapping[str, DomainSpec],
        used_bytes: Mapping[str, int],
        last_domid: int,
    ) -> None:
        """Take over what an earlier process ran: simulated guests live on as real ones do."""
        self._domains.update(domains)
        self._disks.update(disks)
        self._specs.update(specs)
        for name in domains:
            if name in specs:
                self._begin(specs[name])
        self._used.update(used_bytes)
        # Domids are not used twice: a log is asked for by the last one of a VM.
        self._domid = max(self._domid, last_domid)

    async def start(self, listener: DomainListener) -> None:
        """Begin."""
        self._listener = listener

    async def stop(self) -> None:
        """End; there is nothing to let go of."""

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
            if disk.vdi_uuid not in self._disks:
                raise BackendError("VDI_MISSING", "", disk.vdi_uuid)
        self._begin(spec)
        self._domains[spec.vm_uuid] = "paused" if is_paused else "running"
        return self._next_domid()

    async def domain_shutdown(self, vm_uuid: str, *, is_clean: bool) -> None:
        """End a domain."""
        await self._act("domain_shutdown_clean" if is_clean else "domain_shutdown", vm_uuid)
        self._domains.pop(vm_uuid, None)

    async def domain_reboot(self, vm_uuid: str, *, is_clean: bool) -> int:
        """Restart a domain."""
        await self._act("domain_reboot_clean" if is_clean else "domain_reboot", vm_uuid)
        self._domains[vm_uuid] = "running"
        return self._next_domid()

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

    async def domain_resume(self, spec: DomainSpec) -> int:
        """Bring a saved domain back."""
        await self._act("domain_resume", spec.vm_uuid)
        self._begin(spec)
        self._domains[spec.vm_uuid] = "running"
        return self._next_domid()

    async def domain_send(self, vm_uuid: str) -> SimMove:
        """Let a domain go, with what is known of it and of its disks' sizes."""
        await self._act("domain_send", vm_uuid)
        spec = self._specs.get(vm_uuid)
        names = [] if spec is None else [disk.vdi_uuid for disk in spec.disks]
        sizes = {name: self._disks[name] for name in names if name in self._disks}
        state = self._domains.pop(vm_uuid, "halted")
        kept = self._xenstore.pop(vm_uuid, {})
        return SimMove(vm_uuid, state, self._specs.pop(vm_uuid, None), sizes, kept)

    async def domain_receive(self, move: SimMove) -> int:
        """Take a domain over and tell its domid; disks that are shared are seen from now on."""
        await self._act("domain_receive", move.vm_uuid)
        if move.spec is not None:
            self._begin(move.spec)
            self._xenstore[move.vm_uuid].update(move.xenstore)
        for name, size in move.disks.items():
            self._disks.setdefault(name, size)
        if move.state not in ("halted", "crashed"):
            self._domains[move.vm_uuid] = move.state
        return self._next_domid()

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
            self._domains.pop(vm_uuid, None)
        else:
            self._domains[vm_uuid] = state
        self._listener(vm_uuid, state, "the guest's own doing")

    def _begin(self, spec: DomainSpec) -> None:
        self._specs[spec.vm_uuid] = spec
        self._xenstore[spec.vm_uuid] = {"name": spec.name, **spec.xenstore}
        self._memory[spec.vm_uuid] = spec.memory_bytes
        self._vcpus[spec.vm_uuid] = spec.vcpu_count

    # -- live domains

    def watch_xenstore(self, listener: XenstoreListener) -> None:
        """Tell of what guests write."""
        self._on_xenstore = listener

    async def xenstore_read(self, vm_uuid: str) -> Mapping[str, str]:
        """Give a domain's own subtree."""
        await self._act("xenstore_read", vm_uuid)
        return dict(self._live(vm_uuid, self._xenstore))

    async def xenstore_write(self, vm_uuid: str, changes: Mapping[str, str | None]) -> None:
        """Write keys of a domain's subtree; None removes a key."""
        await self._act("xenstore_write", vm_uuid)
        _apply(self._live(vm_uuid, self._xenstore), changes)

    def guest_writes(self, vm_uuid: str, changes: Mapping[str, str | None]) -> None:
        """Have a guest write to its xenstore; for tests."""
        _apply(self._live(vm_uuid, self._xenstore), changes)
        self._on_xenstore(vm_uuid)

    async def domain_set_memory(self, vm_uuid: str, size_bytes: int) -> None:
        """Have the balloon leave so much."""
        await self._act("domain_set_memory", vm_uuid)
        self._live(vm_uuid, self._memory)
        self._memory[vm_uuid] = size_bytes

    async def domain_set_vcpus(self, vm_uuid: str, count: int) -> None:
        """Plug processors in or out."""
        await self._act("domain_set_vcpus", vm_uuid)
        self._live(vm_uuid, self._vcpus)
        self._vcpus[vm_uuid] = count

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

    async def domain_figures(self, vm_uuid: str) -> Mapping[str, float]:
        """Give what a simulated guest, which is idle, would show."""
        await self._act("domain_figures", vm_uuid)
        memory = self._live(vm_uuid, self._memory)
        figures = {f"cpu{number}": 0.0 for number in range(self._vcpus[vm_uuid])}
        return {**figures, "memory": float(memory), "memory_target": float(memory)}

    def _live(self, vm_uuid: str, table: Mapping[str, _Kept]) -> _Kept:
        if self._domains.get(vm_uuid) not in ("running", "paused"):
            raise BackendError("VM_BAD_POWER_STATE", vm_uuid, "running", "halted")
        return table[vm_uuid]

    # -- disks

    async def disk_create(self, vdi_uuid: str, size_bytes: int) -> None:
        """Make an empty disk."""
        await self._act("disk_create", vdi_uuid)
        self._disks[vdi_uuid] = size_bytes

    async def disk_clone(self, vdi_uuid: str, parent_uuid: str) -> None:
        """Make a disk that shares its parent's blocks."""
        await self._act("disk_clone", vdi_uuid)
        if parent_uuid not in self._disks:
            raise BackendError("VDI_MISSING", "", parent_uuid)
        self._disks[vdi_uuid] = self._disks[parent_uuid]

    async def disk_resize(self, vdi_uuid: str, size_bytes: int) -> None:
        """Grow a disk."""
        await self._act("disk_resize", vdi_uuid)
        self._disks[vdi_uuid] = size_bytes

    async def disk_destroy(self, vdi_uuid: str) -> None:
        """Remove a disk."""
        await self._act("disk_destroy", vdi_uuid)
        self._disks.pop(vdi_uuid, None)
        self._used.pop(vdi_uuid, None)

    async def disk_import(
        self, vdi_uuid: str, disk_format: str, chunks: AsyncIterator[bytes]
    ) -> int:
        """Count a stream; of a VHD only the footer is looked at, and no parent is followed."""
        await self._act("disk_import", vdi_uuid)
        count, tail = 0, b""
        async for piece in chunks:
            count += len(piece)
            tail = (tail + piece)[-_FOOTER_BYTES:]
        if sum(self._used.values()) + count > self._capacity.disk_bytes:
            raise BackendError("SR_BACKEND_FAILURE_44", "", "There is insufficient space", "")
        size = count if disk_format == "raw" else _vhd_size(tail)
        self._used[vdi_uuid] = count
        self._disks[vdi_uuid] = max(size, self._disks.get(vdi_uuid, 0))
        return size

    async def disk_send(self, vdi_uuid: str) -> tuple[int, int]:
        """Tell what another host must know to have a disk: its size, and what it takes."""
        await self._act("disk_send", vdi_uuid)
        if vdi_uuid not in self._disks:
            raise BackendError("VDI_MISSING", "", vdi_uuid)
        return self._disks[vdi_uuid], self._used.get(vdi_uuid, 0)

    async def disk_receive(self, vdi_uuid: str, size_bytes: int, used_bytes: int) -> None:
        """Take a disk over."""
        await self._act("disk_receive", vdi_uuid)
        self._disks[vdi_uuid], self._used[vdi_uuid] = size_bytes, used_bytes

    async def disk_used_bytes(self, vdi_uuid: str) -> int:
        """Tell what was imported into the disk."""
        return self._used.get(vdi_uuid, 0)

    async def disks(self) -> Mapping[str, int]:
        """Tell the disks there are."""
        return dict(self._disks)

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


def _apply(tree: dict[str, str], changes: Mapping[str, str | None]) -> None:
    for path, value in changes.items():
        if value is None:
            for key in [key for key in tree if key == path or key.startswith(f"{path}/")]:
                del tree[key]
        else:
            tree[path] = value


def _vhd_size(tail: bytes) -> int:
    """Read the virtual size from a VHD's footer. Source: VHD specification 1.0, Hard Disk Footer.

    Raises:
        BackendError: VDI_IO_ERROR, it is no footer of a disk that stands alone.
    """
    if len(tail) != _FOOTER_BYTES or tail[:8] != b"conectix":
        raise BackendError("VDI_IO_ERROR", "the stream does not end with a VHD footer")
    size, kind, checksum = (
        int.from_bytes(tail[48:56], "big"),
        int.from_bytes(tail[60:64], "big"),
        int.from_bytes(tail[64:68], "big"),
    )
    if checksum != ~(sum(tail[:64]) + sum(tail[68:])) & 0xFFFFFFFF:
        raise BackendError("VDI_IO_ERROR", "the VHD footer's checksum is wrong")
    if kind not in (_VHD_FIXED, _VHD_DYNAMIC):
        raise BackendError("VDI_IO_ERROR", f"a VHD of type {kind} does not stand alone")
    return size
