"""The machines of a simulated region: what runs on each lives on while its toolstack is dead.

A *machine* is the simulated backend, outside of any process. Its toolstack (our XenAPI server with
its journal) is a process that can be killed and started again; when the machine loses its power its
domains are gone too, and its disks are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from xenith.core.ids import Ids
from xenith.core.units import MIB
from xenith.dev.invariants import CLASSES, HostRecords
from xenith.dev.simulation.process import Life, SimulatedProcess
from xenith.dev.simulation.run import Simulation
from xenith.driver.names import instance_of
from xenith.toolstack.backends import BackendError, DomainSpec, DomainState
from xenith.toolstack.backends.sim import SimBackend
from xenith.toolstack.backends.sim_disks import SimDisk
from xenith.toolstack.fleet import Fleet
from xenith.toolstack.server import HostServer

#: The one account of a simulated host.
USER, PASSWORD = "root", "simulated"
CPUS = 32
DISK_BYTES = 64 * 2**30
#: Seconds that operations take on a quick machine; slow ones take some times as long.
LATENCY_S = {
    "domain_start": 0.4,
    "domain_shutdown": 0.1,
    "domain_shutdown_clean": 1.0,
    "domain_reboot": 0.3,
    "domain_reboot_clean": 1.0,
    "domain_suspend": 0.5,
    "domain_resume": 0.5,
    "disk_import": 0.5,
    "disk_clone": 0.05,
    "disk_create": 0.05,
}
#: How many times as slow the slowest machine is.
SLOWNESS_MAX = 5


class Machine(SimBackend):
    """What a host is besides its toolstack: domains and disks, which outlive that."""

    def __init__(self, simulation: Simulation, name: str, *, memory_mib: int) -> None:
        world = simulation.world(f"machine {name}")
        slowness = 1 + (SLOWNESS_MAX - 1) * world.ids.uniform()
        super().__init__(
            world,
            memory_bytes=memory_mib * MIB,
            cpu_count=CPUS,
            disk_bytes=DISK_BYTES,
            latency_s={name: seconds * slowness for name, seconds in LATENCY_S.items()},
            script=self._misbehave,
        )
        self.host = name
        #: Share of operations that fail, and that take ``hang_s`` seconds more.
        self.fail_rate = 0.0
        self.hang_rate = 0.0
        self.hang_s = 90.0
        #: Hears the instance of each VM that is started.
        self.on_start: Callable[[str], None] = lambda _instance_id: None
        self._instances: dict[str, str] = {}
        #: Domains whose processors have run since their start.
        self._ran: set[str] = set()

    def adopt(
        self,
        domains: Mapping[str, DomainState],
        disks: Mapping[str, SimDisk],
        *,
        specs: Mapping[str, DomainSpec],
        domids: Mapping[str, int],
        last_domid: int,
    ) -> None:
        """Believe nothing of what a toolstack remembers: the machine has never been away."""

    async def domain_start(self, spec: DomainSpec, *, is_paused: bool = False) -> int:
        """Start a domain, and tell who listens."""
        domid = await super().domain_start(spec, is_paused=is_paused)
        instance_id = instance_of(spec.name)
        if instance_id is not None:
            self._instances[spec.vm_uuid] = instance_id
            self._ran.discard(spec.vm_uuid)
            if not is_paused:
                self._note_run(spec.vm_uuid)
        return domid

    async def domain_unpause(self, vm_uuid: str) -> None:
        """Let a domain run, and tell who listens when it is for the first time."""
        await super().domain_unpause(vm_uuid)
        if vm_uuid not in self._ran:
            self._note_run(vm_uuid)

    def _note_run(self, vm_uuid: str) -> None:
        self._ran.add(vm_uuid)
        if vm_uuid in self._instances:
            self.on_start(self._instances[vm_uuid])

    def lose_power(self) -> None:
        """Lose all domains but those that are saved on disk."""
        for uuid, state in tuple(self._domains.items()):
            if state != "suspended":
                self._trees.end(uuid)
                del self._domains[uuid]

    def any_domain(self, ids: Ids) -> str | None:
        """Draw a running domain, as its VM's uuid; None when there is none."""
        running = [uuid for uuid, state in self._domains.items() if state == "running"]
        return running[ids.below(len(running))] if running else None

    def instances(self) -> set[str]:
        """Tell which instances have a domain in memory that has run, whoever knows of it."""
        return {
            self._instances[uuid]
            for uuid, state in self._domains.items()
            if state != "suspended" and uuid in self._instances and uuid in self._ran
        }

    async def _misbehave(self, operation: str, _subject: str) -> None:
        ids = self._world.ids
        if self.hang_rate and ids.uniform() < self.hang_rate:
            await self._world.clock.sleep(self.hang_s * ids.uniform())
        if self.fail_rate and ids.uniform() < self.fail_rate:
            raise BackendError("INTERNAL_ERROR", f"simulated failure of {operation}")


class HostPlace:
    """One host of a leaf: its machine, its port, and its toolstack as a process."""

    def __init__(
        self, simulation: Simulation, name: str, directory: Path, *, port: int, memory_mib: int
    ) -> None:
        self.name = name
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.machine = Machine(simulation, name, memory_mib=memory_mib)
        self.process = SimulatedProcess(simulation, f"host {name}", self._start)
        #: The present toolstack; None while it is dead.
        self.server: HostServer | None = None
        self._directory = directory

    async def start(self) -> None:
        """Start the toolstack."""
        self.server = await self.process.start()

    def kill(self, *, has_power: bool) -> None:
        """Kill the toolstack; without power, the machine too, so that no peer hears of it."""
        if not has_power:
            self.machine.lose_power()
        self.server = None
        self.process.kill(is_silent=not has_power)

    def records(self) -> HostRecords:
        """Tell all that the host has, as XenAPI would."""
        assert self.server is not None, f"{self.name} is dead"
        found: dict[str, Any] = {kind: self.server.objects.all(kind) for kind in CLASSES}
        return HostRecords(self.name, found)

    async def _start(self, life: Life) -> HostServer:
        fleet = Fleet(life.world, self._directory)
        await fleet.add_host(self.name, self.machine, password=PASSWORD, port=self.port)
        await fleet.start()
        return fleet.hosts[self.name]
