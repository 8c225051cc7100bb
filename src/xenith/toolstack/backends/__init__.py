"""Engines under the XenAPI server: what really runs a domain and holds a disk.

The toolstack's classes (VM, VDI, VBD, VIF) keep the records and the rules; a backend only acts. A
call returns when the thing is done, may be repeated with the same ids, and raises ``BackendError``
with a XenAPI error code when it cannot be done. Disks are named by their VDI's uuid, domains by
their VM's uuid, so that after a restart ``running`` tells what lived on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

DomainState = Literal["running", "paused", "suspended", "halted", "crashed"]


class BackendError(Exception):
    """A backend could not do it; ``code`` and ``params`` are XenAPI's."""

    def __init__(self, code: str, *params: str) -> None:
        super().__init__(code, *params)
        self.code = code
        self.params = params


@dataclass(frozen=True)
class DiskSpec:
    """One disk or CD of a domain: ``device`` is the position (0 is the first, bootable one)."""

    vdi_uuid: str
    device: str
    is_read_only: bool = False
    is_cd: bool = False


@dataclass(frozen=True)
class NicSpec:
    """One network card: ``network_uuid`` says which network it is on."""

    device: str
    mac: str
    network_uuid: str
    mtu: int = 1500


@dataclass(frozen=True)
class DomainSpec:
    """All that a backend needs to start a domain."""

    vm_uuid: str
    name: str
    memory_bytes: int
    vcpu_count: int
    disks: tuple[DiskSpec, ...] = ()
    nics: tuple[NicSpec, ...] = ()
    platform: Mapping[str, str] = field(default_factory=dict)
    xenstore: Mapping[str, str] = field(default_factory=dict)
    other_config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Capacity:
    """What a host has in all."""

    memory_bytes: int
    cpu_count: int
    disk_bytes: int
    cpu_model: str = ""


#: Called by a backend when a domain changes by itself: uuid, new state, and "reboot" or a reason.
DomainListener = Callable[[str, DomainState, str], None]


class Backend(Protocol):
    """One host's engine."""

    name: str

    async def start(self, listener: DomainListener) -> None:
        """Begin; find domains that lived on and report changes to ``listener``."""

    async def stop(self) -> None:
        """End our part; domains run on."""

    def capacity(self) -> Capacity:
        """Tell what the host has in all."""

    async def running(self) -> Mapping[str, DomainState]:
        """Tell the domains there are, by VM uuid, and their states."""

    async def domain_start(self, spec: DomainSpec, *, is_paused: bool = False) -> int:
        """Start a domain and tell its domid; one that already runs is left alone."""

    async def domain_shutdown(self, vm_uuid: str, *, is_clean: bool) -> None:
        """End a domain: ask the guest and wait up to a deadline, or cut its power."""

    async def domain_reboot(self, vm_uuid: str, *, is_clean: bool) -> int:
        """Restart a domain and tell its new domid."""

    async def domain_forget(self, vm_uuid: str) -> None:
        """Remove what is kept of a domain that will not come back, its console's log above all."""

    async def domain_pause(self, vm_uuid: str) -> None:
        """Stop the domain's processors."""

    async def domain_unpause(self, vm_uuid: str) -> None:
        """Let the domain's processors run."""

    async def domain_suspend(self, vm_uuid: str) -> None:
        """Save the domain's memory to the host's disk and end it."""

    async def domain_resume(self, spec: DomainSpec) -> int:
        """Bring a suspended domain back and tell its domid."""

    async def disk_create(self, vdi_uuid: str, size_bytes: int) -> None:
        """Make an empty disk."""

    async def disk_clone(self, vdi_uuid: str, parent_uuid: str) -> None:
        """Make a disk that shares its parent's blocks and keeps its own writes."""

    async def disk_resize(self, vdi_uuid: str, size_bytes: int) -> None:
        """Grow a disk."""

    async def disk_destroy(self, vdi_uuid: str) -> None:
        """Remove a disk; one that is not there is no error."""

    async def disk_import(
        self, vdi_uuid: str, disk_format: str, chunks: AsyncIterator[bytes]
    ) -> int:
        """Fill a disk from a raw or VHD stream; tell the virtual size in bytes."""

    async def disk_used_bytes(self, vdi_uuid: str) -> int:
        """Tell what the disk takes on the host."""

    async def disks(self) -> Mapping[str, int]:
        """Tell the disks there are and their virtual sizes in bytes."""

    async def console_log(self, vm_uuid: str, byte_count: int) -> bytes:
        """Give the end of the serial console's log, at most ``byte_count`` bytes."""
