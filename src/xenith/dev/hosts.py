"""The hosts that a cloud runs itself: our own toolstack in this process, sim or qemu beneath.

The cell knows them only by their XenAPI addresses, like any others.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from xenith.core.errors import Invalid
from xenith.core.log import logger
from xenith.core.settings import Settings
from xenith.core.units import GIB
from xenith.core.world import World
from xenith.dev import keys
from xenith.toolstack.backends import Backend
from xenith.toolstack.backends.sim import SimBackend
from xenith.toolstack.fleet import Fleet

_log = logger("dev.hosts")

#: What a simulated host has. Source: the talk's second-generation hosts, rounded.
SIM_MEMORY_BYTES = 128 * GIB
SIM_CPUS = 32
SIM_DISK_BYTES = 4096 * GIB
#: What real guests may have of this machine's memory and of its free disk, all hosts together.
MACHINE_MEMORY_SHARE = 0.75
MACHINE_DISK_SHARE = 0.9


class OwnHost(NamedTuple):
    """A host as the cell is told of it."""

    name: str
    url: str
    user: str
    password: str


class OwnHosts:
    """Starts and stops the hosts of one cloud."""

    def __init__(self, settings: Settings, world: World, directory: Path) -> None:
        self._settings = settings
        self._world = world
        self._directory = directory
        self.backend = chosen_backend(settings.backend)
        #: Simulated guests read nothing; real ones have no other way to learn their addresses.
        self.needs_config_drive = self.backend == "qemu"
        self.fleet: Fleet | None = None

    async def start(self) -> list[OwnHost]:
        """Start them all and give their addresses, the same as before a restart."""
        if not self._settings.hosts:
            return []
        password = keys.host_password(self._directory, self._world.ids)
        fleet = Fleet(self._world, self._directory / "toolstack")
        self.fleet = fleet
        hosts: list[OwnHost] = []
        for number in range(1, self._settings.hosts + 1):
            name = f"host-{number}"
            endpoint = await fleet.add_host(
                name,
                make_backend(self._settings, self._world, self._directory, name),
                password=password,
            )
            hosts.append(OwnHost(name, endpoint.url, "root", password))
        await fleet.start()
        return hosts

    async def stop(self) -> None:
        """Stop our servers; the guests run on."""
        if self.fleet is not None:
            await self.fleet.stop()


def chosen_backend(wanted: str) -> str:
    """Give the backend that a setting means on this machine.

    Raises:
        Invalid: there is none of that name.
    """
    if wanted not in ("auto", "sim", "qemu"):
        raise Invalid(f"--backend {wanted} is none of auto, sim, qemu")
    if wanted != "auto":
        return wanted
    return "qemu" if _has_qemu() else "sim"


def make_backend(settings: Settings, world: World, directory: Path, name: str) -> Backend:
    """Make what is under the toolstack of the host ``name``."""
    if chosen_backend(settings.backend) == "sim":
        return SimBackend(
            world,
            memory_bytes=SIM_MEMORY_BYTES,
            cpu_count=SIM_CPUS,
            disk_bytes=SIM_DISK_BYTES,
            latency_s=settings.sim_latency_s,
            failure_rate=settings.sim_failure_rate,
        )
    from xenith.toolstack.backends.qemu import QemuBackend  # noqa: PLC0415 - real guests only

    # The hosts are one machine, so each has its share; processors are shared by all.
    share = max(1, settings.hosts)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return QemuBackend(
        world,
        directory / "toolstack" / name,
        memory_bytes=int(memory * MACHINE_MEMORY_SHARE) // share,
        disk_bytes=int(shutil.disk_usage(directory).free * MACHINE_DISK_SHARE) // share,
    )


def _has_qemu() -> bool:
    return shutil.which("qemu-system-x86_64") is not None and shutil.which("qemu-img") is not None
