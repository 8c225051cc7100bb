"""Hosts and their pool: what there is, how much is free, and its plugins."""

from __future__ import annotations

from xenith.toolstack.methods import maybe, method
from xenith.toolstack.plugins import find
from xenith.toolstack.server import HostServer


@method("host.compute_free_memory", is_async=True)
def compute_free_memory(host: HostServer, ref: str) -> int:
    """Tell the bytes that VMs may still have. Source: XenAPI host.compute_free_memory."""
    host.objects.get("host", ref)
    return free_memory_bytes(host)


@method("host.compute_memory_overhead")
def compute_memory_overhead(host: HostServer, ref: str) -> int:
    """Tell the bytes that the host keeps for itself."""
    host.objects.get("host", ref)
    return 0


@method("host.get_servertime")
def get_servertime(host: HostServer, ref: str) -> str:
    """Tell the host's time."""
    host.objects.get("host", ref)
    return host.now()


@method("host.disable", is_async=True)
def disable(host: HostServer, ref: str) -> None:
    """Start no more VMs here."""
    host.objects.update("host", ref, enabled=False)


@method("host.enable", is_async=True)
def enable(host: HostServer, ref: str) -> None:
    """Start VMs here again."""
    host.objects.update("host", ref, enabled=True)


@method("host.call_plugin", is_async=True)
async def call_plugin(
    host: HostServer, ref: str, plugin: str, function: str, args: dict[str, str]
) -> str:
    """Run a function of a dom0 plugin. Source: XenAPI host.call_plugin."""
    host.objects.get("host", ref)
    called = find(plugin, function)
    result: str = await maybe(called(host, ref, args))
    return result


def free_memory_bytes(host: HostServer) -> int:
    """Tell the bytes that VMs may still have."""
    return max(0, host.backend.capacity().memory_bytes - sum(host.memory_bytes.values()))


def write_free_memory(host: HostServer) -> None:
    """Write what is free where clients read it."""
    ref = host.objects.only("host_metrics")
    free = free_memory_bytes(host)
    if host.objects.get("host_metrics", ref)["memory_free"] != free:
        host.objects.update("host_metrics", ref, memory_free=free)
