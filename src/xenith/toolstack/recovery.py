"""What a fleet makes of its journal after a kill: whole records, and guests that live on."""

from __future__ import annotations

from xenith.toolstack.backends import DomainState
from xenith.toolstack.backends.sim import SimBackend
from xenith.toolstack.backends.sim_disks import SimDisk
from xenith.toolstack.classes.vm import spec
from xenith.toolstack.methods import is_null
from xenith.toolstack.objects import Objects, Record
from xenith.toolstack.pool import MIGRATING_TO
from xenith.toolstack.server import HostServer
from xenith.toolstack.storage.records import PARENT_KEY
from xenith.xapi import NULL

#: Sets that follow from other records: class, its field, the class it names, the set there. They
#: are not kept, so that a change costs the same however many there are.
DERIVED = (
    ("VDI", "SR", "SR", "VDIs"),
    ("VDI", "snapshot_of", "VDI", "snapshots"),
    ("VBD", "VM", "VM", "VBDs"),
    ("VBD", "VDI", "VDI", "VBDs"),
    ("VIF", "VM", "VM", "VIFs"),
    ("VIF", "network", "network", "VIFs"),
    ("VM", "resident_on", "host", "resident_VMs"),
)
#: Says in a VM's ``other_config`` that it is being imported.
IMPORTING = "xenith-importing"
_DOMAINS: dict[str, DomainState] = {
    "Running": "running",
    "Paused": "paused",
    "Suspended": "suspended",
}


def forget_half_made(objects: Objects) -> None:
    """Remove what a crash cut short, and fill the sets that are derived from other records.

    Disks that were being made are left to whoever attaches their SR.
    """
    _leave_handed_on(objects)
    _forget_imported(objects)
    for class_name in ("VBD", "VIF"):
        for ref, record in list(objects.all(class_name).items()):
            if objects.find("VM", record["VM"]) is None:
                objects.delete(class_name, ref)
    for ref, record in objects.all("VBD").items():
        if not is_null(record["VDI"]) and objects.find("VDI", record["VDI"]) is None:
            objects.update("VBD", ref, VDI=NULL, empty=True)
    for of, field, holder, holder_field in DERIVED:
        for ref, record in objects.all(of).items():
            objects.link(holder, record[field], holder_field, ref)


def _forget_imported(objects: Objects) -> None:
    """Remove VMs that had not come in whole; their disks are as those that were being made."""
    for vm, record in list(objects.all("VM").items()):
        if IMPORTING not in record["other_config"]:
            continue
        for row in objects.all("VBD").values():
            if row["VM"] == vm and objects.find("VDI", row["VDI"]) is not None:
                objects.update("VDI", row["VDI"], location="")
        objects.delete("VM", vm)


def hand_over(host: HostServer, backend: SimBackend) -> None:
    """Tell a simulated host what it ran in the process before."""
    pool, objects = host.pool, host.objects
    is_alone = objects.get("pool", objects.only("pool"))["master"] == host.ref and (
        len(objects.all("host")) == 1
    )
    vms = [
        record
        for ref, record in objects.all("VM").items()
        if is_alone or pool.place_of(ref, record) == host.ref
    ]
    disks = [
        record
        for record in objects.all("VDI").values()
        if is_alone or pool.sees(host.ref, record["SR"])
    ]
    domids = [record["domid"] for record in vms]
    for record in vms:
        last = record["other_config"].get("last_dom_id", "")
        # Clients may write anything there.
        if last.isascii() and last.isdigit() and len(last) < 10:
            domids.append(int(last))
    backend.adopt(
        {
            record["uuid"]: _DOMAINS[record["power_state"]]
            for record in vms
            if record["power_state"] in _DOMAINS
        },
        {record["uuid"]: _sim_disk(host, record) for record in disks},
        specs={record["uuid"]: spec(host, record) for record in vms},
        domids={record["uuid"]: record["domid"] for record in vms},
        last_domid=max([0, *domids]),
    )


def _sim_disk(host: HostServer, record: Record) -> SimDisk:
    sr = host.objects.find("SR", record["SR"])
    return SimDisk(
        record["virtual_size"],
        record["physical_utilisation"],
        record["sm_config"].get(PARENT_KEY),
        is_hidden=not record["managed"],
        sr_uuid="" if sr is None else sr["uuid"],
    )


def _leave_handed_on(objects: Objects) -> None:
    """Have VMs be halted whose domain was given away, or was about to be: two must not run."""
    for ref, record in objects.all("VM").items():
        if MIGRATING_TO not in record["other_config"]:
            continue
        objects.update("VM", ref, power_state="Halted", resident_on=NULL, domid=-1)
        for class_name in ("VBD", "VIF"):
            for device, row in objects.all(class_name).items():
                if row["VM"] == ref:
                    objects.update(class_name, device, currently_attached=False)
