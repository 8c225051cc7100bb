"""What every host has from its first start, and how it takes that into another pool."""

from __future__ import annotations

from xenith.toolstack.classes.sr import OPERATIONS
from xenith.toolstack.methods import is_null
from xenith.toolstack.pool import Pool
from xenith.toolstack.server import HostServer
from xenith.xapi import NULL


def furnish(host: HostServer) -> None:
    """Make what every host has: itself, its pool, an SR and a network for its management."""
    objects = host.objects
    metrics = objects.create("host_metrics")
    own = objects.create(
        "host",
        name_label=host.name,
        hostname=host.name,
        metrics=metrics,
        name_description=f"Xenith toolstack, {host.engine.name}",
    )
    sr = objects.create(
        "SR",
        name_label="Local storage",
        type="file",
        content_type="user",
        allowed_operations=OPERATIONS,
    )
    pbd = objects.create("PBD", host=own, SR=sr, currently_attached=True)
    network = objects.create("network", name_label="Management", bridge="xenbr0")
    card = objects.create(
        "PIF_metrics", carrier=True, speed=1000, duplex=True, device_name="management"
    )
    pif = objects.create(
        "PIF",
        metrics=card,
        host=own,
        network=network,
        device="eth0",
        management=True,
        physical=True,
        currently_attached=True,
        IP="127.0.0.1",
    )
    objects.update("SR", sr, PBDs=[pbd])
    objects.update("network", network, PIFs=[pif])
    objects.update("host", own, PBDs=[pbd], PIFs=[pif], suspend_image_sr=sr, crash_dump_sr=sr)
    objects.create(
        "pool",
        master=own,
        default_SR=sr,
        suspend_image_SR=sr,
        crash_dump_SR=sr,
        allowed_operations=["designate_new_master"],
    )


#: What a host takes into another pool, by class, and the fields that name networks.
_MOVED = (
    ("host", ()),
    ("host_metrics", ()),
    ("PIF", ("network",)),
    ("PIF_metrics", ()),
    ("SR", ()),
    ("PBD", ()),
    ("VDI", ()),
    ("VM", ()),
    ("VM_metrics", ()),
    ("VM_guest_metrics", ()),
    ("VBD", ()),
    ("VIF", ("network",)),
    ("VTPM", ()),
    ("PCI", ()),
    ("PGPU", ()),
    ("Certificate", ()),
    ("secret", ()),
)


def move_in(host: HostServer, pool: Pool) -> str:
    """Take a host's records into another pool's database; give its reference, which stays.

    A network is the pool's own of the same bridge, where it has one. Source: XenAPI pool.join.
    """
    old, new = host.pool.objects, pool.objects
    by_bridge = {record["bridge"]: ref for ref, record in new.all("network").items()}
    networks: dict[str, str] = {}
    for ref, record in old.all("network").items():
        known = by_bridge.get(record["bridge"])
        if known is None:
            new.insert("network", ref, dict(record))
        networks[ref] = known or ref
    for class_name, fields in _MOVED:
        for ref, record in old.all(class_name).items():
            taken = {field: networks.get(record[field], record[field]) for field in fields}
            new.insert(class_name, ref, {**record, **taken})
            if class_name in ("PIF", "VIF"):
                new.link("network", str(taken["network"]), f"{class_name}s", ref)
    shared = new.get("pool", new.only("pool"))
    if not is_null(shared["default_SR"]):
        new.update(
            "host",
            host.ref,
            suspend_image_sr=shared["suspend_image_SR"],
            crash_dump_sr=shared["crash_dump_SR"],
        )
    return host.ref


def move_out(pool: Pool, host: str) -> None:
    """Remove a host and what is its alone from a database.

    Source: XenAPI pool.eject, host.destroy.
    """
    objects = pool.objects
    record = objects.get("host", host)
    for pbd in list(record["PBDs"]):
        row = objects.find("PBD", pbd)
        if row is not None:
            objects.delete("PBD", pbd)
            objects.unlink("SR", row["SR"], "PBDs", pbd)
            _remove_local_sr(pool, row["SR"])
    for class_name in ("PIF", "PCI", "PGPU", "host_cpu", "Certificate"):
        for ref, row in list(objects.all(class_name).items()):
            if row["host"] == host:
                objects.delete(class_name, ref)
                if class_name == "PIF":
                    objects.unlink("network", row["network"], "PIFs", ref)
                    if objects.find("PIF_metrics", row["metrics"]) is not None:
                        objects.delete("PIF_metrics", row["metrics"])
    if not is_null(record["metrics"]):
        objects.delete("host_metrics", record["metrics"])
    for ref, vm in list(objects.all("VM").items()):
        if vm["affinity"] == host:
            objects.update("VM", ref, affinity=NULL)
    objects.delete("host", host)


def _remove_local_sr(pool: Pool, sr: str) -> None:
    objects = pool.objects
    record = objects.find("SR", sr)
    if record is None or record["PBDs"] or record["shared"]:
        return
    for vdi in list(record["VDIs"]):
        row = objects.get("VDI", vdi)
        for vbd in list(row["VBDs"]):
            objects.update("VBD", vbd, VDI=NULL, empty=True)
        objects.delete("VDI", vdi)
    objects.delete("SR", sr)
