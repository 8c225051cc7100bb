"""Storage repositories: one on each host, over the backend's disks."""

from __future__ import annotations

from xenith.toolstack.methods import method
from xenith.toolstack.server import HostServer


@method("SR.scan", is_async=True)
async def scan(host: HostServer, ref: str) -> None:
    """Bring sizes up to what the backend has. Source: XenAPI SR.scan."""
    host.objects.get("SR", ref)
    disks = await host.backend.disks()
    for vdi, record in list(host.objects.all("VDI").items()):
        if record["SR"] != ref:
            continue
        is_missing = record["uuid"] not in disks
        if is_missing != record["missing"]:
            host.objects.update("VDI", vdi, missing=is_missing)
    await update(host, ref)


@method("SR.update", is_async=True)
async def update(host: HostServer, ref: str) -> None:
    """Bring the SR's use up to date. Source: XenAPI SR.update."""
    vdis = [record for record in host.objects.all("VDI").values() if record["SR"] == ref]
    used = 0
    for record in vdis:
        used += await host.backend.disk_used_bytes(record["uuid"])
    host.objects.update(
        "SR",
        ref,
        virtual_allocation=sum(record["virtual_size"] for record in vdis),
        physical_utilisation=used,
        physical_size=host.backend.capacity().disk_bytes,
    )


@method("SR.get_supported_types")
def get_supported_types(host: HostServer) -> list[str]:
    """List the types that this host makes."""
    del host
    return ["file"]
