"""The pool: hosts that join and leave it, and which of them answers for it.

Source: XenAPI class pool. Hosts of a pool are of one fleet; a host elsewhere cannot be joined.
"""

from __future__ import annotations

import re

from xenith.core.errors import Unavailable
from xenith.toolstack.classes.pbd import attach_all, attach_shared, detach_all
from xenith.toolstack.furnishing import move_out
from xenith.toolstack.methods import is_null, method
from xenith.toolstack.pool import Neighbourhood
from xenith.toolstack.server import HostServer
from xenith.xapi import XapiSession
from xenith.xapi.faults import XapiFault

#: Seconds for each question to the pool that is to be joined.
JOIN_TIMEOUT_S = 10.0
_ADDRESS = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}")


@method("pool.join", is_async=True)
async def join(host: HostServer, address: str, user: str, password: str) -> None:
    """Leave the pool of its own that a host is, and be one of another's. Source: pool.join."""
    await _join(host, address, user, password, is_forced=False)


@method("pool.join_force", is_async=True)
async def join_force(host: HostServer, address: str, user: str, password: str) -> None:
    """Join, be the hosts alike or not. Source: XenAPI pool.join_force."""
    await _join(host, address, user, password, is_forced=True)


async def _join(
    host: HostServer, address: str, user: str, password: str, *, is_forced: bool
) -> None:
    _check_may_leave(host)
    if _ADDRESS.fullmatch(address) is None:
        raise XapiFault("INVALID_VALUE", "master_address", address[:255])
    master = _fleet(host).find(address)
    scheme = "http" if master is None else master.url.partition("://")[0]
    pin = "" if master is None else master.pin
    try:
        session = await XapiSession.login(
            f"{scheme}://{address}", user=user, password=password, originator="pool.join", pin=pin
        )
    except Unavailable:
        raise XapiFault("POOL_JOINING_HOST_CONNECTION_FAILED") from None
    try:
        theirs = await session.call("host.get_all_records", timeout_s=JOIN_TIMEOUT_S)
    except Unavailable:
        raise XapiFault("POOL_JOINING_HOST_CONNECTION_FAILED") from None
    finally:
        await session.logout()
    own = host.objects.get("host", host.ref)
    if own["uuid"] in {record["uuid"] for record in theirs.values()}:
        raise XapiFault("OPERATION_NOT_ALLOWED", "the host is in that pool already")
    if master is None or master.pool.coordinator is not master:
        raise XapiFault("POOL_JOINING_HOST_SERVICE_FAILED")
    if not is_forced:
        _check_alike(own, next(iter(theirs.values())))
    # Much may have happened while the other pool was asked.
    _check_may_leave(host)
    _fleet(host).join(host, master.pool)
    await attach_shared(host)


def _fleet(host: HostServer) -> Neighbourhood:
    if host.fleet is None:
        raise XapiFault("POOL_JOINING_HOST_SERVICE_FAILED")
    return host.fleet


def _check_may_leave(host: HostServer) -> None:
    if len(host.objects.all("host")) > 1:
        raise XapiFault("POOL_JOINING_HOST_CANNOT_BE_MASTER_OF_OTHER_HOSTS")
    vms = host.objects.all("VM")
    if any(record["power_state"] != "Halted" for record in vms.values()):
        raise XapiFault("POOL_JOINING_HOST_CANNOT_HAVE_RUNNING_VMS")
    if any(host.operations.of(ref) for ref in (*vms, *host.objects.all("VDI"))):
        raise XapiFault("POOL_JOINING_HOST_CANNOT_HAVE_VMS_WITH_CURRENT_OPERATIONS")
    if any(record["shared"] for record in host.objects.all("SR").values()):
        raise XapiFault("POOL_JOINING_HOST_CANNOT_CONTAIN_SHARED_SRS")
    if host.objects.all("Bond"):
        raise XapiFault("POOL_JOINING_HOST_HAS_BONDS")
    if host.objects.all("tunnel"):
        raise XapiFault("POOL_JOINING_HOST_HAS_TUNNELS")
    if host.objects.all("VLAN"):
        raise XapiFault("POOL_JOINING_HOST_HAS_NON_MANAGEMENT_VLANS")


def _check_alike(own: dict[str, object], theirs: dict[str, object]) -> None:
    for field, names, reason in (
        ("software_version", ("product_version", "product_brand"), "Software version differs"),
        ("cpu_info", ("vendor", "modelname"), "CPUs differ"),
    ):
        mine, other = own[field], theirs[field]
        assert isinstance(mine, dict), "these fields are maps"
        assert isinstance(other, dict), "these fields are maps"
        if any(mine.get(name) != other.get(name) for name in names):
            raise XapiFault("POOL_HOSTS_NOT_HOMOGENEOUS", reason)


@method("pool.eject", is_async=True)
async def eject(host: HostServer, ref: str) -> None:
    """Have a host leave the pool, empty, with nothing of its local disks. Source: pool.eject."""
    host.objects.get("host", ref)
    if ref == host.ref:
        is_led = len(host.pool.members) > 1
        raise XapiFault("HOST_IS_MASTER" if is_led else "HOST_CANNOT_DESTROY_SELF", ref)
    leaver = host.pool.member(ref)
    _check_empty(host, ref)
    _check_idle(host)
    await _clear(host, leaver)
    move_out(host.pool, ref)
    _fleet(host).leave(leaver)
    await attach_all(leaver)


async def _clear(host: HostServer, leaver: HostServer) -> None:
    """Remove a host's local disks, and let go of its SRs."""
    for sr, entry in list(leaver.own_storage.attached.items()):
        record = host.objects.get("SR", sr)
        if not record["shared"]:
            for vdi in list(record["VDIs"]):
                row = host.objects.get("VDI", vdi)
                if row["managed"]:
                    await entry.repository.destroy(row["uuid"])
            while not (await entry.repository.collect()).is_done:
                pass
    await detach_all(leaver)


@method("host.destroy", is_async=True)
def destroy(host: HostServer, ref: str) -> None:
    """Forget a host that is gone for good. Source: XenAPI host.destroy."""
    host.objects.get("host", ref)
    if ref == host.ref:
        raise XapiFault("HOST_CANNOT_DESTROY_SELF", ref)
    member = host.pool.members.get(ref)
    if member is not None and member.is_up:
        raise XapiFault("HOST_IS_LIVE", ref)
    _check_empty(host, ref)
    move_out(host.pool, ref)
    host.pool.members.pop(ref, None)


def _check_empty(host: HostServer, ref: str) -> None:
    for vm, record in host.objects.all("VM").items():
        if record["power_state"] != "Halted" and host.pool.place_of(vm, record) == ref:
            raise XapiFault("HOST_HAS_RESIDENT_VMS", ref)


def _check_idle(host: HostServer) -> None:
    for class_name in ("VM", "VDI"):
        for ref in host.objects.all(class_name):
            host.operations.check(class_name, ref)


@method("pool.designate_new_master", is_async=True)
def designate_new_master(host: HostServer, ref: str) -> None:
    """Have another host answer for the pool. Source: XenAPI pool.designate_new_master."""
    host.objects.get("host", ref)
    if ref == host.ref:
        return
    _check_idle(host)
    lead(host.pool.member(ref))


def lead(host: HostServer) -> None:
    """Have a host answer for its pool; sessions with the others of it end."""
    pool = host.pool
    for member in pool.members.values():
        member.forget_sessions()
    pool.coordinator = host
    pool.objects.update("pool", pool.objects.only("pool"), master=host.ref)
    for ref, member in pool.members.items():
        if not member.is_up:
            metrics = pool.objects.get("host", ref)["metrics"]
            pool.objects.update("host_metrics", metrics, live=False)


@method("pool.emergency_transition_to_master")
def emergency_transition_to_master(host: HostServer) -> None:
    """Answer for the pool from now on, whatever the others say. Source: XenAPI."""
    if host.pool.coordinator is not host:
        lead(host)


@method("pool.emergency_reset_master")
def emergency_reset_master(host: HostServer, address: str) -> None:
    """Follow the host of an address. Source: XenAPI pool.emergency_reset_master.

    Raises:
        XapiFault: HOST_OFFLINE, CANNOT_CONTACT_HOST, no host of the pool is there.
    """
    for ref, member in host.pool.members.items():
        if member.address == address:
            if not member.is_up:
                raise XapiFault("HOST_OFFLINE", ref)
            if host.pool.coordinator is not member:
                lead(member)
            return
    raise XapiFault("CANNOT_CONTACT_HOST", address[:255])


@method("pool.recover_slaves", is_async=True)
def recover_slaves(host: HostServer) -> list[str]:
    """Have the other hosts follow this one; give those that do. Source: pool.recover_slaves."""
    return [ref for ref, member in host.pool.members.items() if ref != host.ref and member.is_up]


@method("pool.sync_database", is_async=True)
def sync_database(host: HostServer) -> None:
    """Bring the database to the disk now. Source: XenAPI pool.sync_database."""
    host.flush()


@method("pool.set_default_SR")
def set_default_sr(host: HostServer, ref: str, sr: str) -> None:
    """Say where disks go that name no SR. Source: XenAPI pool.set_default_SR."""
    if not is_null(sr):
        host.objects.get("SR", sr)
    host.objects.update("pool", ref, default_SR=sr)


@method("pool.enable_ha", is_async=True)
def enable_ha(
    host: HostServer, srs: list[str], configuration: dict[str, str] | None = None
) -> None:
    """Refuse: hosts of one process do not watch each other. Source: XenAPI pool.enable_ha."""
    del configuration
    for sr in srs:
        host.objects.get("SR", sr)
    raise XapiFault("NOT_IMPLEMENTED", "pool.enable_ha")


@method("pool.disable_ha", is_async=True)
def disable_ha(host: HostServer) -> None:
    """Refuse what is not on. Source: XenAPI pool.disable_ha, HA_NOT_ENABLED."""
    del host
    raise XapiFault("HA_NOT_ENABLED")


@method("pool.ha_compute_max_host_failures_to_tolerate")
def ha_max_failures(host: HostServer) -> int:
    """Tell how many hosts may fail before protected VMs find no place: no VM is protected."""
    return max(0, len(host.pool.members) - 1)


@method("host.emergency_ha_disable")
def emergency_ha_disable(host: HostServer, soft: bool = False) -> None:
    """Refuse what is not on. Source: XenAPI host.emergency_ha_disable."""
    del host, soft
    raise XapiFault("HA_NOT_ENABLED")


@method("pool.set_wlb_enabled", is_async=True)
def set_wlb_enabled(host: HostServer, ref: str, value: bool) -> None:
    """Refuse workload balancing, whose service nobody runs any more. Source: XenAPI."""
    host.objects.get("pool", ref)
    if value:
        raise XapiFault("WLB_NOT_INITIALIZED")


@method("pool.get_license_state")
def get_license_state(host: HostServer, ref: str) -> dict[str, str]:
    """Tell that the licence never ends. Source: XenAPI pool.get_license_state."""
    host.objects.get("pool", ref)
    return {"edition": "free", "expiry": "never"}
