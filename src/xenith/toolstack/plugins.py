"""The plugins of dom0, as functions: what ``host.call_plugin`` runs.

A plugin is named with or without ``.py``, as its clients before and after os-xenapi 0.2 do. A
function takes the host and a map of texts, and gives text. Source: os-xenapi 0.3.4.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

from xenith.core.limits import CONSOLE_LOG_BYTES_MAX
from xenith.toolstack.server import HostServer
from xenith.xapi.faults import XapiFault

Plugin = Callable[[HostServer, str, dict[str, str]], str | Awaitable[str]]

#: Where a VM's record keeps its last domid, for the log of one that has ended. Source: nova.
_LAST = "last_dom_id"
PLUGINS: dict[str, dict[str, Plugin]] = {}


def plugin(name: str, function: str) -> Callable[[Plugin], Plugin]:
    """Enter a function of a plugin; it takes the server, the host's reference and arguments."""

    def enter(called: Plugin) -> Plugin:
        PLUGINS.setdefault(name, {})[function] = called
        return called

    return enter


def find(name: str, function: str) -> Plugin:
    """Find a plugin's function.

    Raises:
        XapiFault: XENAPI_MISSING_PLUGIN, UNKNOWN_XENAPI_PLUGIN_FUNCTION.
    """
    functions = PLUGINS.get(name.removesuffix(".py"))
    if functions is None:
        raise XapiFault("XENAPI_MISSING_PLUGIN", name)
    if function not in functions:
        raise XapiFault("UNKNOWN_XENAPI_PLUGIN_FUNCTION", function)
    return functions[function]


@plugin("console", "get_console_log")
async def console_log(host: HostServer, _ref: str, args: dict[str, str]) -> str:
    """Give the end of a console's log: Base64 of what zlib packed."""
    domid = args.get("dom_id", "")
    record = _domain(host, domid) or _had_domid(host, domid)
    if record is None:
        raise _failure("get_console_log", "NoSuchDomain", domid)
    data = await host.backend.console_log(record["uuid"], CONSOLE_LOG_BYTES_MAX)
    return base64.b64encode(zlib.compress(data)).decode()


@plugin("xenhost", "host_uptime")
def host_uptime(host: HostServer, ref: str, _args: dict[str, str]) -> str:
    """Tell for how long the host has been up, as uptime(1) would."""
    boot = host.objects.get("host", ref)["other_config"].get("boot_time", "0")
    try:
        up_s = int(host.world.clock.now() - float(boot))
    except ValueError:
        up_s = 0
    days, minutes = divmod(up_s // 60, 24 * 60)
    text = f" up {days} days, {minutes // 60:2}:{minutes % 60:02},  0 users"
    return json.dumps({"uptime": text})


@plugin("xenhost", "set_host_enabled")
def set_host_enabled(host: HostServer, ref: str, args: dict[str, str]) -> str:
    """Enable or disable the host."""
    wanted = args.get("enabled", "")
    if wanted not in ("true", "false"):
        raise _failure("set_host_enabled", "PluginError", "Value must be true or false")
    host.objects.update("host", ref, enabled=wanted == "true")
    return json.dumps({"status": "enabled" if wanted == "true" else "disabled"})


@plugin("xenhost", "host_data")
def host_data(host: HostServer, ref: str, _args: dict[str, str]) -> str:
    """Tell what the host is and has, as Nova's driver read it."""
    record = host.objects.get("host", ref)
    metrics = host.objects.get("host_metrics", record["metrics"])
    cpu = record["cpu_info"]
    return json.dumps(
        {
            "enabled": "true" if record["enabled"] else "false",
            "host_uuid": record["uuid"],
            "host_name-label": record["name_label"],
            "host_name-description": record["name_description"],
            "host_hostname": record["hostname"],
            "host_ip_address": record["address"],
            "host_other-config": record["other_config"],
            "host_capabilities": record["capabilities"],
            "host_memory": {
                "total": metrics["memory_total"],
                "overhead": record["memory_overhead"],
                "free": metrics["memory_free"],
                "free-computed": metrics["memory_free"],
            },
            "host_cpu_info": {**cpu, "cpu_count": int(cpu.get("cpu_count", "0") or 0)},
        }
    )


@plugin("config_file", "get_val")
def get_val(_host: HostServer, _ref: str, _args: dict[str, str]) -> str:
    """Give a setting of xapi's file: this host has none of them."""
    return ""


def _domain(host: HostServer, domid: str) -> dict[str, Any] | None:
    vms = host.objects.all("VM").values()
    found = [record for record in vms if record["domid"] > 0 and str(record["domid"]) == domid]
    # A domid that two VMs claim names neither: a log must not go to another's owner.
    return found[0] if len(found) == 1 else None


def _had_domid(host: HostServer, domid: str) -> dict[str, Any] | None:
    vms = host.objects.all("VM").values()
    if any(str(record["domid"]) == domid for record in vms):
        return None
    found = [record for record in vms if record["other_config"].get(_LAST) == domid]
    return found[0] if len(found) == 1 else None


def _failure(function: str, kind: str, text: str) -> XapiFault:
    return XapiFault("XENAPI_PLUGIN_FAILURE", function, kind, text)
