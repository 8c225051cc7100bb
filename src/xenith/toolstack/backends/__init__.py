"""Engines under the XenAPI server: what really runs a domain and holds a disk.

The toolstack's classes (VM, VDI, VBD, VIF) keep the records and the rules; a backend only acts. A
call returns when the thing is done, may be repeated with the same ids, and raises ``BackendError``
with a XenAPI error code when it cannot be done. Disks are named by their VDI's uuid, domains by
their VM's uuid, so that after a restart ``running`` tells what lived on.

Disks lie in the repositories of SRs, which a backend attaches, because it is the backend whose
domains hold them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from xenith.toolstack.storage.garbage import Collected
    from xenith.toolstack.storage.inventory import Vdi
    from xenith.toolstack.storage.space import SrUse

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
    #: How its input and output is limited. Source: XenAPI VBD.qos_algorithm_type and _params.
    qos_type: str = ""
    qos_params: Mapping[str, str] = field(default_factory=dict)


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


class Sample(NamedTuple):
    """What is measured of a host or a domain, by the name of its data source.

    Counters are given as they stand. With ``since_s``, seconds since the epoch, none of it has
    changed since then: a backend that simulates knows.
    """

    figures: Mapping[str, float]
    since_s: float | None = None


class Measured(NamedTuple):
    """What is measured of a host and of domains of it, by VM uuid."""

    host: Sample
    vms: Mapping[str, Sample]


def device_name(number: int) -> str:
    """Name a device as the guest sees it: xvda, …, xvdz, xvdaa."""
    letters = chr(ord("a") + number % 26)
    if number >= 26:
        letters = chr(ord("a") + number // 26 - 1) + letters
    return f"xvd{letters}"


#: Reason of a domain that was paused, or goes on: a write of it found no room.
NO_ROOM = "no room"

#: Called by a backend when a domain changes by itself: uuid, new state, and "reboot" or a reason.
DomainListener = Callable[[str, DomainState, str], None]


class Contents(NamedTuple):
    """What lies in an SR: its disks by uuid, hidden ones that others stand on too, and its use."""

    vdis: Mapping[str, Vdi]
    use: SrUse


class Repository(Protocol):
    """The disks of one SR that is attached here."""

    async def create(self, vdi_uuid: str, size_bytes: int) -> None:
        """Make an empty disk."""

    async def clone(self, vdi_uuid: str, source_uuid: str) -> None:
        """Make a disk that begins as another is, shares its blocks and keeps its own writes."""

    async def snapshot(self, vdi_uuid: str, source_uuid: str) -> None:
        """Make a disk that keeps what another holds now, be that written to meanwhile or not."""

    async def copy(self, vdi_uuid: str, source_uuid: str, into: Repository) -> None:
        """Make a disk of another's bytes that stands on nothing, in any repository."""

    async def resize(self, vdi_uuid: str, size_bytes: int) -> None:
        """Grow a disk."""

    async def destroy(self, vdi_uuid: str) -> None:
        """Remove a disk; one that is not there is no error."""

    async def introduce(self, vdi_uuid: str) -> list[Vdi]:
        """Look at a disk that was laid there by others; give it and what it stands on.

        One that is not sound is refused.
        """

    async def fill(self, vdi_uuid: str, disk_format: str, chunks: AsyncIterator[bytes]) -> int:
        """Fill a disk from a raw or VHD stream; tell the virtual size in bytes.

        A differencing VHD is laid over what the disk holds.
        """

    def read(
        self, vdi_uuid: str, disk_format: str, *, base_uuid: str = ""
    ) -> AsyncGenerator[bytes]:
        """Give a disk as a raw or VHD stream, or as the VHD that makes it of another disk."""

    async def scan(self) -> Contents:
        """Tell what there is now."""

    async def look(self, *vdi_uuids: str) -> Contents:
        """Tell of some disks and what they stand on; those that are not there are left out.

        What is allocated is told of these alone.
        """

    async def collect(self) -> Collected:
        """Do a bounded part of what garbage collection has to do."""


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

    async def attach_sr(
        self,
        sr_uuid: str,
        kind: str,
        device_config: Mapping[str, str],
        *,
        beside: Repository | None = None,
    ) -> Repository:
        """Take hold of an SR's disks, which another host may have already. Source: PBD.plug.

        ``beside`` is by what that host has them; hosts of one process go by the same.
        """

    async def detach_sr(self, sr_uuid: str) -> None:
        """Let go of an SR's disks; one that is not attached is no error."""

    async def set_qos(self, vm_uuid: str, disk: DiskSpec) -> None:
        """Limit a running domain's disk as it says now; one that does not run is no error."""

    async def measure(self, vm_uuids: Collection[str]) -> Measured:
        """Measure the host and some domains; those that cannot be measured are left out."""

    async def console_log(self, vm_uuid: str, byte_count: int) -> bytes:
        """Give the end of the serial console's log, at most ``byte_count`` bytes."""
