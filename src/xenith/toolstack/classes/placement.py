"""Which host of a pool a VM is on: who can take it, its memory there, and its way over."""

from __future__ import annotations

from typing import Any

from xenith.toolstack.backends import BackendError
from xenith.toolstack.backends.sim import SimBackend
from xenith.toolstack.classes.host import free_memory_bytes, write_free_memory
from xenith.toolstack.methods import is_null
from xenith.toolstack.server import HostServer
from xenith.xapi.faults import XapiFault


def check_place(host: HostServer, record: dict[str, Any], on: str) -> None:
    """Refuse a host that cannot take a VM, for another reason than memory.

    Raises:
        XapiFault: HOST_DISABLED, HOST_OFFLINE, VM_REQUIRES_SR, VM_REQUIRES_NET.
    """
    target = host.objects.get("host", on)
    ref = host.objects.by_uuid("VM", record["uuid"])
    if not target["enabled"]:
        raise XapiFault("HOST_DISABLED", on)
    host.pool.member(on)
    if len(host.pool.members) == 1:
        return
    for vbd in record["VBDs"]:
        row = host.objects.get("VBD", vbd)
        if row["empty"] or is_null(row["VDI"]):
            continue
        sr = host.objects.get("VDI", row["VDI"])["SR"]
        if not host.pool.sees(on, sr):
            raise XapiFault("VM_REQUIRES_SR", ref, sr)
    for vif in record["VIFs"]:
        network = host.objects.get("VIF", vif)["network"]
        cards = host.objects.get("network", network)["PIFs"]
        # A network without any card is inside each host alone, and everywhere.
        if cards and not any(host.objects.get("PIF", pif)["host"] == on for pif in cards):
            raise XapiFault("VM_REQUIRES_NET", ref, network)


def check_boot(host: HostServer, record: dict[str, Any], on: str) -> None:
    """Refuse a host that cannot start a VM now.

    Raises:
        XapiFault: as ``check_place``, or HOST_NOT_ENOUGH_FREE_MEMORY.
    """
    check_place(host, record, on)
    needed, free = record["memory_static_max"], free_memory_bytes(host, on)
    if needed > free:
        raise XapiFault("HOST_NOT_ENOUGH_FREE_MEMORY", needed, free)


def possible_hosts(host: HostServer, record: dict[str, Any]) -> list[str]:
    """List the hosts that could start a VM now."""
    found = []
    for ref in host.pool.members:
        try:
            check_boot(host, record, ref)
        except (XapiFault, BackendError):
            continue
        found.append(ref)
    return found


def choose_host(host: HostServer, record: dict[str, Any]) -> str:
    """Choose where a VM starts: by its affinity, else where there is most memory.

    Raises:
        XapiFault: NO_HOSTS_AVAILABLE; for a host that is alone, what stands in the way there.
    """
    if len(host.objects.all("host")) == 1:
        return host.ref
    fit = possible_hosts(host, record)
    if record["affinity"] in fit:
        return str(record["affinity"])
    if not fit:
        raise XapiFault("NO_HOSTS_AVAILABLE")
    return max(fit, key=lambda ref: free_memory_bytes(host, ref))


def take_memory(host: HostServer, ref: str, record: dict[str, Any], on: str) -> None:
    """Claim a VM's memory on a host, and the place there.

    Raises:
        XapiFault: as ``check_boot``.
    """
    check_boot(host, record, on)
    host.memory_bytes[ref] = record["memory_static_max"]
    host.pool.places[ref] = on


def give_back(host: HostServer, ref: str) -> None:
    """Give a VM's memory and place back."""
    host.memory_bytes.pop(ref, None)
    host.pool.places.pop(ref, None)
    write_free_memory(host)


async def move_domain(host: HostServer, record: dict[str, Any], source: str, target: str) -> int:
    """Take a domain from one host's engine to another's; tell its new domid.

    Raises:
        XapiFault: VM_MIGRATE_FAILED, the hosts' engines cannot.
    """
    ref = host.objects.by_uuid("VM", record["uuid"])
    old, new = host.pool.member(source).engine, host.pool.member(target).engine
    if not (isinstance(old, SimBackend) and isinstance(new, SimBackend)):
        raise XapiFault(
            "VM_MIGRATE_FAILED", ref, source, target, "the backend does not move domains"
        )
    move = await old.domain_send(record["uuid"])
    try:
        return await new.domain_receive(move)
    except BaseException:
        await old.domain_receive(move)
        raise
