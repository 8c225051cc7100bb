"""What a backend may do to a domain that runs, beyond starting and ending it.

Not every backend can: those that cannot lack these methods, and calls that need them answer
NOT_IMPLEMENTED.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

#: Called when a guest has written to its part of the xenstore: its VM's uuid.
XenstoreListener = Callable[[str], None]


@runtime_checkable
class XenstoreBackend(Protocol):
    """A backend whose domains have a tree in a xenstore."""

    def watch_xenstore(self, listener: XenstoreListener) -> None:
        """Tell of what guests write."""

    async def xenstore_read(self, vm_uuid: str) -> Mapping[str, str]:
        """Give a domain's own subtree, by path under ``/local/domain/<domid>/``."""

    async def xenstore_write(self, vm_uuid: str, changes: Mapping[str, str | None]) -> None:
        """Write keys of a domain's subtree in one transaction; None removes a key."""


@runtime_checkable
class LiveBackend(Protocol):
    """A backend whose domains can be changed while they run."""

    async def domain_set_memory(self, vm_uuid: str, size_bytes: int) -> None:
        """Have the balloon leave so much."""

    async def domain_set_vcpus(self, vm_uuid: str, count: int) -> None:
        """Plug processors in or out."""

    async def domain_set_schedule(self, vm_uuid: str, params: Mapping[str, str]) -> None:
        """Weigh and cap the processors. Source: XenAPI VM.VCPUs_params."""

    async def domain_key(self, vm_uuid: str, key: str) -> None:
        """Send a magic system request key."""

    async def domain_copy_memory(self, vm_uuid: str, into_uuid: str) -> None:
        """Save a domain's memory, as it is now, as that of another that is suspended."""
