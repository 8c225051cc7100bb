"""Hosts as machines: emptied, shut down, started again, measured and configured.

A simulated host that is shut down answers no more until it is powered on.
Source: XenAPI class host.
"""

from __future__ import annotations

import re
from typing import Any

from xenith.toolstack.backends import BackendError
from xenith.toolstack.classes import migration
from xenith.toolstack.classes.host import free_memory_bytes, show_operations
from xenith.toolstack.classes.placement import check_boot
from xenith.toolstack.methods import method
from xenith.toolstack.server import HostServer
from xenith.xapi.faults import XapiFault

#: Seconds until a host that was told to, goes down: its answer is to be heard first.
POWER_DELAY_S = 0.5
_HOSTNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}")
_SYSLOG = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:-]{0,254}")


def _residents(host: HostServer, ref: str) -> dict[str, dict[str, Any]]:
    return {
        vm: record
        for vm, record in host.objects.all("VM").items()
        if record["resident_on"] == ref and not record["is_control_domain"]
    }


@method("host.evacuate", is_async=True)
async def evacuate(
    host: HostServer, ref: str, network: str = "OpaqueRef:NULL", batch_size: int = 0
) -> None:
    """Move all VMs off a host. Source: XenAPI host.evacuate."""
    del network, batch_size  # one after the other, over the only network there is
    assert_can_evacuate(host, ref)
    try:
        with host.operations.hold("host", ref, "evacuate"):
            show_operations(host, ref)
            for vm, record in _residents(host, ref).items():
                await migration.pool_migrate(host, vm, _refuge(host, record, ref), {"live": "true"})
    finally:
        show_operations(host, ref)


def _refuge(host: HostServer, record: dict[str, Any], leaving: str) -> str:
    """Find where a VM can go from a host.

    Raises:
        XapiFault: why the last host that was asked cannot take it.
    """
    reason = XapiFault("NO_HOSTS_AVAILABLE")
    fit = []
    for other in host.pool.members:
        if other == leaving:
            continue
        try:
            check_boot(host, record, other)
        except XapiFault as fault:
            reason = fault
        except BackendError as error:
            reason = XapiFault(error.code, *error.params)
        else:
            fit.append(other)
    if not fit:
        raise reason
    return max(fit, key=lambda other: free_memory_bytes(host, other))


@method("host.get_vms_which_prevent_evacuation")
def get_vms_which_prevent_evacuation(host: HostServer, ref: str) -> dict[str, list[str]]:
    """Tell the VMs that can go nowhere, and why. Source: XenAPI."""
    host.objects.get("host", ref)
    found: dict[str, list[str]] = {}
    for vm, record in _residents(host, ref).items():
        if record["power_state"] != "Running":
            found[vm] = ["VM_BAD_POWER_STATE", vm, "running", record["power_state"].lower()]
            continue
        try:
            _refuge(host, record, ref)
        except XapiFault as fault:
            found[vm] = fault.description
    return found


@method("host.assert_can_evacuate", is_async=True)
def assert_can_evacuate(host: HostServer, ref: str) -> None:
    """Refuse if a VM can go nowhere. Source: XenAPI host.assert_can_evacuate."""
    bound = get_vms_which_prevent_evacuation(host, ref)
    if bound:
        raise XapiFault("CANNOT_EVACUATE_HOST", "|".join(",".join(why) for why in bound.values()))


@method("host.get_uncooperative_resident_VMs", is_async=True)
def get_uncooperative_resident_vms(host: HostServer, ref: str) -> list[str]:
    """List VMs whose balloons do not obey: none has been seen. Source: XenAPI."""
    host.objects.get("host", ref)
    return []


def _check_idle(host: HostServer, ref: str) -> None:
    if host.objects.get("host", ref)["enabled"]:
        raise XapiFault("HOST_NOT_DISABLED")
    for vm in _residents(host, ref):
        raise XapiFault("HOST_IN_USE", ref, "VM", vm)


@method("host.shutdown", is_async=True)
def shutdown(host: HostServer, ref: str) -> None:
    """Switch a disabled and empty host off. Source: XenAPI host.shutdown."""
    _check_idle(host, ref)
    _simulated_only(host, ref)
    member = host.pool.member(ref)
    if member is host:
        host.tasks.start("power", _go_down(host))
    else:
        member.die()
        show_operations(host, ref)


async def _go_down(host: HostServer) -> None:
    await host.world.clock.sleep(POWER_DELAY_S)
    host.die()


@method("host.reboot", is_async=True)
def reboot(host: HostServer, ref: str) -> None:
    """Restart a disabled and empty host, which is enabled then. Source: XenAPI host.reboot."""
    _check_idle(host, ref)
    _simulated_only(host, ref)
    host.pool.member(ref)
    _has_booted(host, ref)


@method("host.power_on", is_async=True)
async def power_on(host: HostServer, ref: str) -> None:
    """Switch a host on that was shut down. Source: XenAPI host.power_on."""
    host.objects.get("host", ref)
    member = host.pool.members.get(ref)
    if member is None:
        raise XapiFault("HOST_OFFLINE", ref)
    if member.is_up:
        raise XapiFault("HOST_IS_LIVE", ref)
    address, _, port = member.address.rpartition(":")
    member.is_up = True
    await member.listen(address, int(port))
    _has_booted(host, ref)


def _has_booted(host: HostServer, ref: str) -> None:
    record = host.objects.get("host", ref)
    now = f"{host.world.clock.now():.0f}"
    times = {"boot_time": now, "agent_start_time": now}
    config = {**record["other_config"], **times}
    host.objects.update("host", ref, enabled=True, other_config=config)
    host.objects.update("host_metrics", record["metrics"], live=True, last_updated=host.now())
    show_operations(host, ref)


def _simulated_only(host: HostServer, ref: str) -> None:
    # A toolstack on someone's workstation has no business to switch it off.
    if host.pool.member(ref).engine.name != "sim":
        raise XapiFault("NOT_IMPLEMENTED", "host power on a machine that is not simulated")


@method("host.restart_agent", is_async=True)
def restart_agent(host: HostServer, ref: str) -> None:
    """Have a host's toolstack begin anew: its sessions end. Source: XenAPI host.restart_agent."""
    record = host.objects.get("host", ref)
    host.pool.member(ref).forget_sessions()
    now = f"{host.world.clock.now():.0f}"
    config = {**record["other_config"], "agent_start_time": now}
    host.objects.update("host", ref, other_config=config)


@method("host.management_reconfigure", is_async=True)
def management_reconfigure(host: HostServer, pif: str) -> None:
    """Have another card of a host be its management's. Source: host.management_reconfigure."""
    record = host.objects.get("PIF", pif)
    if record["ip_configuration_mode"] == "None" and not record["IP"]:
        raise XapiFault("PIF_HAS_NO_NETWORK_CONFIGURATION", pif)
    if not record["currently_attached"]:
        raise XapiFault("REQUIRED_PIF_IS_UNPLUGGED", pif)
    for other, row in list(host.objects.all("PIF").items()):
        if row["host"] == record["host"] and row["management"] != (other == pif):
            host.objects.update("PIF", other, management=other == pif)


@method("host.management_disable")
def management_disable(host: HostServer) -> None:
    """Refuse to take away the only way to this host. Source: XenAPI host.management_disable."""
    raise XapiFault("OPERATION_NOT_ALLOWED", f"host {host.ref} is reached in no other way")


@method("host.get_management_interface", is_async=True)
def get_management_interface(host: HostServer, ref: str) -> str:
    """Give the card that a host is reached by. Source: XenAPI host.get_management_interface."""
    for pif in host.objects.get("host", ref)["PIFs"]:
        if host.objects.get("PIF", pif)["management"]:
            return str(pif)
    raise XapiFault("HOST_HAS_NO_MANAGEMENT_IP")


@method("pool.management_reconfigure", is_async=True)
def pool_management_reconfigure(host: HostServer, network: str) -> None:
    """Have all hosts be reached over another network. Source: pool.management_reconfigure."""
    cards = host.objects.get("network", network)["PIFs"]
    by_host = {host.objects.get("PIF", pif)["host"]: pif for pif in cards}
    for ref in host.objects.all("host"):
        if ref not in by_host:
            raise XapiFault("PIF_NOT_PRESENT", ref, network)
    for pif in by_host.values():
        management_reconfigure(host, pif)


@method("host.list_methods")
def list_methods(host: HostServer) -> list[str]:
    """List all methods. Source: XenAPI host.list_methods."""
    return sorted(host.methods)


@method("host.dmesg", is_async=True)
def dmesg(host: HostServer, ref: str) -> str:
    """Give the hypervisor's messages: under these backends there is none. Source: host.dmesg."""
    host.objects.get("host", ref)
    return f"({host.pool.member(ref).engine.name}) no hypervisor of Xen's\n"


@method("host.get_log", is_async=True)
def get_log(host: HostServer, ref: str) -> str:
    """Refuse: logs hold what other tenants did, and are kept elsewhere. Source: host.get_log."""
    host.objects.get("host", ref)
    raise XapiFault("NOT_IMPLEMENTED", "host.get_log")


@method("host.has_extension", is_async=True)
def has_extension(host: HostServer, ref: str, name: str) -> bool:
    """Tell whether a host has an extension: none has any. Source: XenAPI host.has_extension."""
    host.objects.get("host", ref)
    del name
    return False


@method("host.call_extension")
def call_extension(host: HostServer, ref: str, name: str) -> str:
    """Call an extension, of which there are none. Source: XenAPI host.call_extension."""
    host.objects.get("host", ref)
    raise XapiFault("MESSAGE_METHOD_UNKNOWN", name)


@method("host.get_server_localtime")
def get_server_localtime(host: HostServer, ref: str) -> str:
    """Tell the host's time where it stands: ours stand in UTC. Source: XenAPI."""
    host.objects.get("host", ref)
    return host.now().removesuffix("Z")


@method("host.set_hostname_live")
def set_hostname_live(host: HostServer, ref: str, name: str) -> None:
    """Name a host on its network. Source: XenAPI host.set_hostname_live."""
    host.objects.get("host", ref)
    if _HOSTNAME.fullmatch(name) is None:
        raise XapiFault("HOST_NAME_INVALID", "letters, digits, dots and hyphens, 63 at most")
    host.objects.update("host", ref, hostname=name)


@method("host.set_power_on_mode")
def set_power_on_mode(host: HostServer, ref: str, mode: str, config: dict[str, str]) -> None:
    """Say how a host is powered on. Source: XenAPI host.set_power_on_mode."""
    host.objects.get("host", ref)
    if mode not in ("", "wake-on-lan", "iLO", "DRAC", "custom"):
        raise XapiFault("INVALID_VALUE", "power_on_mode", mode)
    host.objects.update("host", ref, power_on_mode=mode, power_on_config=config)


@method("host.set_ssl_legacy")
def set_ssl_legacy(host: HostServer, ref: str, value: bool) -> None:
    """Refuse TLS older than 1.2. Source: XenAPI host.set_ssl_legacy."""
    host.objects.get("host", ref)
    if value:
        raise XapiFault("VALUE_NOT_SUPPORTED", "ssl_legacy", "true", "TLS older than 1.2 is unsafe")


@method("host.set_https_only")
def set_https_only(host: HostServer, ref: str, value: bool) -> None:
    """Say that a host speaks TLS alone: it speaks one or the other from its start. Source: API."""
    speaks = bool(host.pool.member(ref).identity)
    if value != speaks:
        raise XapiFault("VALUE_NOT_SUPPORTED", "https_only", value, "decided when the host starts")


@method("host.syslog_reconfigure")
def syslog_reconfigure(host: HostServer, ref: str) -> None:
    """Send the log where ``logging`` says: a place may be named, and none is sent to here."""
    place = host.objects.get("host", ref)["logging"].get("syslog_destination", "")
    if not place:
        return
    if _SYSLOG.fullmatch(place) is None:
        raise XapiFault("INVALID_VALUE", "syslog_destination", place[:100])
    raise XapiFault("NOT_IMPLEMENTED", "host.syslog_reconfigure to another machine")


@method("host.apply_updates", is_async=True)
def apply_updates(host: HostServer, ref: str, digest: str) -> list[list[str]]:
    """Install updates: no repository of them is set up. Source: XenAPI host.apply_updates."""
    del digest
    host.objects.get("host", ref)
    raise XapiFault("NO_REPOSITORY_ENABLED")


@method("host_cpu.get_all")
def cpu_get_all(host: HostServer) -> list[str]:
    """List the processors of all hosts."""
    _show_cpus(host)
    return list(host.objects.all("host_cpu"))


@method("host_cpu.get_all_records")
def cpu_get_all_records(host: HostServer) -> dict[str, Any]:
    """Give the records of the processors of all hosts."""
    _show_cpus(host)
    return host.objects.all("host_cpu")


@method("host.get_host_CPUs")
def get_host_cpus(host: HostServer, ref: str) -> list[str]:
    """List the processors of a host."""
    _show_cpus(host)
    return list(host.objects.get("host", ref)["host_CPUs"])


def _show_cpus(host: HostServer) -> None:
    """Make the processors' records when they are first asked for.

    A thousand simulated hosts in one process would be tens of thousands of records that no one
    reads.
    """
    for ref, member in host.pool.members.items():
        record = host.objects.get("host", ref)
        if record["host_CPUs"] or not member.is_up:
            continue
        capacity = member.engine.capacity()
        made = [
            host.objects.create("host_cpu", host=ref, number=n, modelname=capacity.cpu_model)
            for n in range(capacity.cpu_count)
        ]
        host.objects.update("host", ref, host_CPUs=made)
