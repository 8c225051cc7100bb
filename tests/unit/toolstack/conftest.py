"""One simulated host with a session, without a journal and without waiting."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from xenith.core.clock import SystemClock
from xenith.core.ids import Ids
from xenith.core.units import GIB, MIB
from xenith.core.world import World
from xenith.toolstack.backends.sim import SimBackend
from xenith.toolstack.fleet import Fleet
from xenith.toolstack.server import HostServer
from xenith.xapi import XapiFault, XapiSession

PASSWORD = "pass-the-salt"


@dataclass
class Simulated:
    server: HostServer
    backend: SimBackend
    session: XapiSession
    url: str
    password: str = PASSWORD

    async def call(self, method: str, *params: Any) -> Any:
        return await self.session.call(method, *params, timeout_s=10)

    async def fault(self, method: str, *params: Any) -> list[str]:
        """Give the description of the fault that a call ends in."""
        with pytest.raises(XapiFault) as caught:
            await self.call(method, *params)
        return caught.value.description

    async def make_vm(self, name: str = "vm", **fields: Any) -> str:
        record = {"name_label": name, "memory_static_max": 256 * MIB, **fields}
        return await self.call("VM.create", record)

    async def make_vdi(self, name: str = "vdi", size_bytes: int = 8 * MIB) -> str:
        sr = (await self.call("SR.get_all"))[0]
        return await self.call(
            "VDI.create", {"SR": sr, "virtual_size": size_bytes, "name_label": name}
        )

    async def in_state(self, power: str) -> str:
        """Make a VM and bring it to a power state."""
        vm = await self.make_vm(power)
        if power != "Halted":
            await self.call("VM.start", vm, power == "Paused", False)
        if power == "Suspended":
            await self.call("VM.suspend", vm)
        return vm


@pytest.fixture
async def sim_host():
    world = World(SystemClock(), Ids(1))
    fleet = Fleet(world, event_batch_s=0)
    backend = SimBackend(world, memory_bytes=2 * GIB, cpu_count=4, disk_bytes=100 * GIB)
    endpoint = await fleet.add_host("host-1", backend, password=PASSWORD)
    session = await XapiSession.login(endpoint.url, user="root", password=PASSWORD)
    yield Simulated(fleet.hosts["host-1"], backend, session, endpoint.url)
    await session.close()
    await fleet.stop()


class SimFleet:
    """Simulated hosts of one process, each with a session; a test can kill and restart it all."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory
        self.seed = 7
        self.backends: dict[str, SimBackend] = {}
        self.ports: dict[str, int] = {}

    async def start(self, *names: str) -> None:
        self.world = World(SystemClock(), Ids(self.seed))
        self.seed += 1
        self.fleet = Fleet(self.world, self.directory, event_batch_s=0)
        for name in names:
            await self.add(name)
        await self.fleet.start()

    async def add(self, name: str) -> None:
        self.backends[name] = SimBackend(
            self.world, memory_bytes=2 * GIB, cpu_count=4, disk_bytes=100 * GIB
        )
        await self.fleet.add_host(name, self.backends[name], password=PASSWORD)

    def host(self, name: str) -> HostServer:
        return self.fleet.hosts[name]

    def url(self, name: str) -> str:
        return self.host(name).url

    async def session(self, name: str) -> XapiSession:
        return await XapiSession.login(self.url(name), user="root", password=PASSWORD)

    async def call(self, name: str, method: str, *params: Any) -> Any:
        """Call a host with a session of its own."""
        session = await self.session(name)
        try:
            return await session.call(method, *params, timeout_s=10)
        finally:
            await session.close()

    async def fault(self, name: str, method: str, *params: Any) -> list[str]:
        with pytest.raises(XapiFault) as caught:
            await self.call(name, method, *params)
        return caught.value.description

    async def join(self, name: str, to: str) -> str:
        """Have a host join another's pool; give its reference there."""
        await self.call(name, "pool.join", self.host(to).address, "root", PASSWORD)
        return self.host(name).ref

    async def kill(self) -> None:
        for host in self.fleet.hosts.values():
            host.die()

    async def restart(self, *names: str) -> None:
        await self.kill()
        await self.start(*names)


@pytest.fixture
async def sim_fleet(tmp_path):
    fleet = SimFleet(tmp_path)
    yield fleet
    await fleet.fleet.stop()
