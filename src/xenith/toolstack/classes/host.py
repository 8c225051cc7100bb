"""Hosts and their pool: what there is, how much is free, and its plugins."""

from __future__ import annotations

from xenith.toolstack.methods import maybe, method
from xenith.toolstack.plugins import find
from xenith.toolstack.server import HostServer


@method("host.compute_free_memory", is_async=True)
def compute_free_memory(host: HostServer, ref: str) -> int:
    """Tell the bytes that VMs may still have. Source: XenAPI host.compute_free_memory."""
    host.objects.get("host", ref)
    return free_memory_bytes(host, ref)


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
    show_operations(host, ref)


@method("host.enable", is_async=True)
def enable(host: HostServer, ref: str) -> None:
    """Start VMs here again."""
    host.objects.update("host", ref, enabled=True)
    show_operations(host, ref)


@method("host.call_plugin", is_async=True)
async def call_plugin(
    host: HostServer, ref: str, plugin: str, function: str, args: dict[str, str]
) -> str:
    """Run a function of a dom0 plugin. Source: XenAPI host.call_plugin."""
    host.objects.get("host", ref)
    called = find(plugin, function)
    result: str = await maybe(called(host, ref, args))
    return result


def show_operations(host: HostServer, ref: str) -> None:
    """Write what is being done to a host, and what else may be. Source: xapi_host_helpers."""
    record = host.objects.find("host", ref)
    if record is None:
        return
    running = host.operations.of(ref)
    member = host.pool.members.get(ref)
    if member is None or not member.is_up:
        allowed = ["power_on"]
    elif record["enabled"]:
        allowed = ["evacuate", "provision", "vm_migrate", "vm_resume", "vm_start"]
    else:
        allowed = ["enable", "evacuate", "reboot", "shutdown"]
    host.objects.update(
        "host",
        ref,
        current_operations={operation.mark: operation.name for operation in running},
        allowed_operations=[] if running else allowed,
    )


def free_memory_bytes(host: HostServer, ref: str | None = None) -> int:
    """Tell the bytes that VMs may still have on a host, the coordinator if none is named."""
    pool, wanted = host.pool, ref or host.ref
    if wanted not in pool.members:
        return 0
    total = pool.members[wanted].engine.capacity().memory_bytes
    return max(0, total - pool.used_memory_bytes(wanted))


def write_free_memory(host: HostServer) -> None:
    """Write what is free where clients read it."""
    for own in host.pool.members:
        ref = host.objects.get("host", own)["metrics"]
        free = free_memory_bytes(host, own)
        if host.objects.get("host_metrics", ref)["memory_free"] != free:
            host.objects.update("host_metrics", ref, memory_free=free)
