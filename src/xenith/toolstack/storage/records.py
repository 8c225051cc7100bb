"""The records of an SR's disks, brought in step with what lies there: a reconciler.

Disks that came are introduced, disks that went are forgotten, the rest is told anew. A record
without a location is of a disk that is being made; nobody else touches it.
Source: sm's ``SR.py``, scan: compared by location; a hidden disk is "base copy" and not managed.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from xenith.toolstack.backends import BackendError, Contents
from xenith.xapi import NULL
from xenith.xapi.faults import XapiFault

if TYPE_CHECKING:
    from xenith.toolstack.server import HostServer
    from xenith.toolstack.storage.inventory import Vdi
    from xenith.toolstack.storage.space import SrUse

BASE_LABEL = "base copy"
#: The parent of a disk, by uuid. Source: sm, ``sm_config["vhd-parent"]``, absent at the root.
PARENT_KEY = "vhd-parent"


async def refresh(host: HostServer, sr: str) -> Contents | None:
    """Bring an SR's records up to date; one that is not attached is left alone.

    Safe to repeat, and at any time: what changes meanwhile is told by the next. Of many that are
    asked for at once, one is done.
    """
    attached = host.storage.find(sr)
    if attached is None:
        return None
    attached.asked_count += 1
    ticket = attached.asked_count
    async with attached.scanning:
        if attached.begun_count >= ticket:
            # One that began after this was asked for has seen all that this is about.
            return attached.contents
        begun = attached.asked_count
        # Only what had a record before it was looked for can be gone, and only what had none new.
        before = {
            record["uuid"]: ref
            for ref, record in host.objects.all("VDI").items()
            if record["SR"] == sr
        }
        placed = {uuid for uuid, ref in before.items() if _is_placed(host, ref)}
        contents = await attached.repository.scan()
        if host.objects.find("SR", sr) is None:
            return None
        for uuid, vdi in contents.vdis.items():
            if uuid in before:
                _tell(host, before[uuid], vdi)
            elif not vdi.error:
                find_or_introduce(host, sr, vdi)
        for uuid in placed - contents.vdis.keys():
            forget(host, before[uuid])
        _tell_use(host, sr, contents.use)
        attached.begun_count, attached.contents = begun, contents
        return contents


async def look(host: HostServer, sr: str, *refs: str) -> None:
    """Bring the records of some disks up to date, after something was done to them.

    What they stand on gets a record where it has none. The others are not looked at: a scan of a
    thousand disks takes a tenth of a second.
    """
    attached = host.storage.find(sr)
    if attached is None:
        return
    async with attached.scanning:
        asked = [record["uuid"] for ref in refs if (record := host.objects.find("VDI", ref))]
        contents = await attached.repository.look(*asked)
        for uuid, vdi in contents.vdis.items():
            # One that is gone by now is not brought back; the storage's own come from here alone.
            if uuid not in asked and vdi.is_hidden:
                find_or_introduce(host, sr, vdi)
            with contextlib.suppress(XapiFault):
                _tell(host, host.objects.by_uuid("VDI", uuid), vdi)
        if host.objects.find("SR", sr) is not None:
            allocated = sum(
                [
                    record["virtual_size"]
                    for record in host.objects.all("VDI").values()
                    if record["SR"] == sr and record["managed"]
                ]
            )
            use = replace(contents.use, virtual_allocation_bytes=allocated)
            _tell_use(host, sr, use)


def find_or_introduce(host: HostServer, sr: str, vdi: Vdi) -> str:
    """Give the record of a disk that lies there, made now if there is none."""
    with contextlib.suppress(XapiFault):
        return host.objects.by_uuid("VDI", vdi.uuid)
    ref = host.objects.create(
        "VDI",
        uuid=vdi.uuid,
        SR=sr,
        location=vdi.uuid,
        name_label=BASE_LABEL if vdi.is_hidden else "",
        **_facts(vdi, {}),
    )
    host.objects.link("SR", sr, "VDIs", ref)
    show_operations(host, ref)
    return ref


def forget(host: HostServer, ref: str) -> None:
    """Remove the record of a disk that is gone; of one that a VM has, it says that it is."""
    record = host.objects.find("VDI", ref)
    if record is None:
        return
    if is_attached(host, record):
        if not record["missing"]:
            host.objects.update("VDI", ref, missing=True)
        return
    for vbd in list(record["VBDs"]):
        host.objects.update("VBD", vbd, VDI=NULL, empty=True)
    host.objects.delete("VDI", ref)
    host.objects.unlink("SR", record["SR"], "VDIs", ref)
    host.objects.unlink("VDI", record["snapshot_of"], "snapshots", ref)


def is_attached(host: HostServer, record: dict[str, Any], *, mode: str = "") -> bool:
    """Tell whether a VM that runs has a disk, in any way or to read and write (``RW``)."""
    vbds = [host.objects.get("VBD", vbd) for vbd in record["VBDs"]]
    return any(vbd["currently_attached"] and mode in ("", vbd["mode"]) for vbd in vbds)


#: What may be asked of a disk. Source: XenAPI vdi_operations.
OPERATIONS = (
    "clone",
    "copy",
    "destroy",
    "forget",
    "generate_config",
    "resize",
    "resize_online",
    "set_on_boot",
    "snapshot",
    "update",
)
#: What is done to a disk by many at once.
SHARING = frozenset(("clone", "copy", "export", "snapshot"))
#: What is done to a disk while a VM reads it, and while one writes it.
BESIDE_READERS = frozenset(("clone", "copy", "export", "generate_config", "snapshot", "update"))
BESIDE_WRITER = frozenset(("generate_config", "snapshot", "update"))


def allowed(host: HostServer, ref: str) -> list[str]:
    """List what may be asked of a disk now."""
    record = host.objects.get("VDI", ref)
    if not record["managed"]:
        return []
    running = {operation.name for operation in host.operations.of(ref)}
    names = set(OPERATIONS)
    if not running <= SHARING:
        return []
    if running:
        names &= SHARING | {"update"}
    if is_attached(host, record, mode="RW"):
        names &= BESIDE_WRITER
    elif is_attached(host, record):
        names &= BESIDE_READERS
    return sorted(names)


def show_operations(host: HostServer, ref: str) -> None:
    """Write what is being done to a disk and what else may be asked, if that has changed."""
    record = host.objects.find("VDI", ref)
    if record is None:
        return
    current = {operation.mark: operation.name for operation in host.operations.of(ref)}
    may = allowed(host, ref)
    if record["allowed_operations"] != may or record["current_operations"] != current:
        host.objects.update("VDI", ref, allowed_operations=may, current_operations=current)


def chain_of(host: HostServer, ref: str) -> list[str]:
    """List a disk and what it stands on, the disk first."""
    chain: list[str] = []
    by_uuid = {record["uuid"]: one for one, record in host.objects.all("VDI").items()}
    at: str | None = ref
    while at is not None and at not in chain:
        chain.append(at)
        at = by_uuid.get(host.objects.get("VDI", at)["sm_config"].get(PARENT_KEY, ""))
    return chain


def vm_bytes(host: HostServer, vm: str) -> int:
    """Tell what a VM's disks take, with all that they stand on; what they share counts once."""
    links: set[str] = set()
    for vbd in host.objects.get("VM", vm)["VBDs"]:
        row = host.objects.get("VBD", vbd)
        if not row["empty"]:
            links.update(chain_of(host, row["VDI"]))
    return sum(host.objects.get("VDI", ref)["physical_utilisation"] for ref in links)


def failed_scan(contents: Contents) -> BackendError | None:
    """Say what of an SR cannot be read, if anything. Source: sm, SR_BACKEND_FAILURE_40."""
    damaged = [f"{uuid}: {vdi.error}" for uuid, vdi in contents.vdis.items() if vdi.error]
    if not damaged:
        return None
    return BackendError(
        "SR_BACKEND_FAILURE_40", "", "The SR scan failed", "; ".join(damaged)[:2000]
    )


def _is_placed(host: HostServer, ref: str) -> bool:
    return bool(host.objects.get("VDI", ref)["location"])


def _tell(host: HostServer, ref: str, vdi: Vdi) -> None:
    record = host.objects.find("VDI", ref)
    if record is None or not record["location"] or vdi.error:
        return
    facts = _facts(vdi, record)
    changed = {name: value for name, value in facts.items() if record[name] != value}
    if changed:
        host.objects.update("VDI", ref, **changed)
        show_operations(host, ref)


def _facts(vdi: Vdi, record: dict[str, Any]) -> dict[str, Any]:
    config = {key: value for key, value in record.get("sm_config", {}).items() if key != PARENT_KEY}
    if vdi.parent is not None:
        config[PARENT_KEY] = vdi.parent
    return {
        "virtual_size": vdi.size_bytes,
        "physical_utilisation": vdi.used_bytes,
        "managed": not vdi.is_hidden,
        # Others see its bytes through their own.
        "read_only": bool(vdi.children) or vdi.is_hidden or record.get("read_only", False),
        "missing": False,
        "sm_config": config,
    }


def _tell_use(host: HostServer, sr: str, use: SrUse) -> None:
    record = host.objects.get("SR", sr)
    facts = {
        "virtual_allocation": use.virtual_allocation_bytes,
        "physical_utilisation": use.physical_utilisation_bytes,
        "physical_size": use.physical_size_bytes,
    }
    changed = {name: value for name, value in facts.items() if record[name] != value}
    if changed:
        host.objects.update("SR", sr, **changed)
