"""Hosts and their pool: what there is, how much is free, and the plugins of dom0."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Awaitable, Callable

from xenith.core.limits import CONSOLE_LOG_BYTES_MAX
from xenith.toolstack.methods import maybe, method
from xenith.toolstack.server import HostServer
from xenith.xapi.faults import XapiFault

#: Where a VM's record keeps its last domid, for the log of one that has ended. Source: nova.
_LAST = "last_dom_id"

Plugin = Callable[[HostServer, dict[str, str]], str | Awaitable[str]]


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
    known = [name for name, _ in PLUGINS if name == plugin]
    if not known:
        raise XapiFault("XENAPI_MISSING_PLUGIN", plugin)
    called = PLUGINS.get((plugin, function))
    if called is None:
        raise XapiFault(
            "XENAPI_PLUGIN_FAILURE", function, "UnknownFunction", f"no function {function[:64]}"
        )
    result: str = await maybe(called(host, args))
    return result


async def console_log(host: HostServer, args: dict[str, str]) -> str:
    """Give the end of a console's log. Source: dom0 plugin `console`, get_console_log."""
    domid = args.get("dom_id", "")
    vms = host.objects.all("VM").values()
    found = [record for record in vms if record["domid"] > 0 and str(record["domid"]) == domid]
    found = found or [record for record in vms if record["other_config"].get(_LAST) == domid]
    # A domid that two VMs claim names neither: a log must not go to another's owner.
    if len(found) != 1:
        raise XapiFault("XENAPI_PLUGIN_FAILURE", "get_console_log", "NoSuchDomain", domid)
    data = await host.backend.console_log(found[0]["uuid"], CONSOLE_LOG_BYTES_MAX)
    return base64.b64encode(zlib.compress(data)).decode()


#: Plugins as functions, by plugin and function.
PLUGINS: dict[tuple[str, str], Plugin] = {("console", "get_console_log"): console_log}


def free_memory_bytes(host: HostServer) -> int:
    """Tell the bytes that VMs may still have."""
    return max(0, host.backend.capacity().memory_bytes - sum(host.memory_bytes.values()))


def write_free_memory(host: HostServer) -> None:
    """Write what is free where clients read it."""
    ref = host.objects.only("host_metrics")
    free = free_memory_bytes(host)
    if host.objects.get("host_metrics", ref)["memory_free"] != free:
        host.objects.update("host_metrics", ref, memory_free=free)
