"""An XVA made a VM of this pool: all of it, or nothing.

The VM's record is there from the start, marked, and its disks are its own as soon as each is
whole; the mark goes last. What a kill left half made is removed when the host starts again
(``recovery.py``). Source: xen-api, import.ml.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from xenith.core.ids import is_uuid
from xenith.toolstack.backends import BackendError, Repository
from xenith.toolstack.classes import network as networks
from xenith.toolstack.classes import vbd as vbds
from xenith.toolstack.classes import vdi as vdis
from xenith.toolstack.classes import vif as vifs
from xenith.toolstack.classes import vm as vms
from xenith.toolstack.classes.lifecycle import show_operations
from xenith.toolstack.methods import is_null
from xenith.toolstack.objects import Record
from xenith.toolstack.recovery import IMPORTING
from xenith.toolstack.schema import CLASSES
from xenith.toolstack.server import HostServer
from xenith.toolstack.xva.manifest import Manifest
from xenith.toolstack.xva.pieces import Archive
from xenith.xapi import NULL
from xenith.xapi.faults import XapiFault

#: What a disk has of the one that was exported.
_OF_DISK = ("name_label", "name_description", "virtual_size", "type", "sharable", "other_config")
_OF_DISK_MORE = ("xenstore_data", "tags", "on_boot")
#: Says where the cards of VMs get their addresses from; a second VM has others.
_MAC_SEED = "mac_seed"


async def receive(
    host: HostServer,
    chunks: AsyncIterator[bytes],
    *,
    sr: str,
    is_restored: bool,
    is_forced: bool,
) -> str:
    """Read an XVA and give the VM that it became; its disks go to an SR.

    ``is_restored`` keeps the VM's uuid, where it is free, and the addresses of its cards;
    ``is_forced`` takes disks whose checksums are wrong.

    Raises:
        XapiFault: the file is damaged, is none, or does not fit.
        BackendError: the SR cannot hold it.
        ConnectionResetError: the sender hung up.
    """
    archive = Archive(chunks, is_forced=is_forced)
    manifest = Manifest(await archive.manifest())
    if len(manifest.all("VM")) != 1:
        raise XapiFault("IMPORT_ERROR_GENERIC", f"it has {len(manifest.all('VM'))} VMs, not one")
    (record,) = manifest.all("VM").values()
    vm = _make_vm(host, record, is_restored=is_restored)
    try:
        with host.operations.hold("VM", vm, "import"):
            show_operations(host, vm)
            await _take_disks(host, archive, manifest, vm, record, sr)
            await archive.finish()
            for name in record["VIFs"]:
                _add_card(host, manifest, vm, name, keeps_mac=is_restored)
            config = dict(host.objects.get("VM", vm)["other_config"])
            del config[IMPORTING]
            host.objects.update("VM", vm, other_config=config)
    except BaseException:
        await _take_apart(host, vm)
        raise
    show_operations(host, vm)
    return vm


def _make_vm(host: HostServer, record: Record, *, is_restored: bool) -> str:
    if record["is_control_domain"]:
        raise XapiFault("IMPORT_ERROR_GENERIC", "its VM is a host's own domain")
    # References mean nothing here, and the file is believed no more than a client.
    wanted = {name: value for name, value in record.items() if CLASSES["VM"][name].kind != "ref"}
    config = record["other_config"]
    if not is_restored:
        config = {key: value for key, value in config.items() if key != _MAC_SEED}
    wanted["other_config"] = {**config, IMPORTING: "true"}
    own = {"uuid": record["uuid"]} if is_restored and _is_free(host, record["uuid"]) else {}
    vm = vms.make(host, wanted, **own)
    host.flush()
    return vm


def _is_free(host: HostServer, uuid: str) -> bool:
    """Tell whether a uuid is one, in the form that names of files are made of, and nobody's."""
    taken = (row["uuid"] for row in host.objects.all("VM").values())
    return is_uuid(uuid) and "-" in uuid and uuid == uuid.lower() and uuid not in taken


async def _take_disks(
    host: HostServer, archive: Archive, manifest: Manifest, vm: str, record: Record, sr: str
) -> None:
    """Fill the disks as they come; drives come last, and are empty."""
    devices = [manifest.get("VBD", name) for name in record["VBDs"]]
    wanted = {row["VDI"]: row for row in devices if row["type"] == "Disk" and _is_named(row["VDI"])}
    while (piece := await archive.peek()) is not None:
        row = wanted.pop(piece.prefix, None)
        if row is None:
            raise XapiFault("IMPORT_ERROR_UNEXPECTED_FILE", "a disk of the VM", piece.prefix)
        device = {**row, "VM": vm}
        await _take_disk(host, archive, piece.prefix, manifest.get("VDI", row["VDI"]), device, sr)
    if wanted:
        raise XapiFault("IMPORT_ERROR_ATTACHED_DISKS_NOT_FOUND")
    for row in devices:
        if row["type"] != "Disk":
            vbds.create(host, {**row, "VM": vm, "VDI": NULL})


def _is_named(name: str) -> bool:
    return bool(name) and not is_null(name)


async def _take_disk(
    host: HostServer, archive: Archive, prefix: str, record: Record, device: Record, sr: str
) -> None:
    fields = {name: record[name] for name in (*_OF_DISK, *_OF_DISK_MORE)}
    size = record["virtual_size"]
    vdis.check_room(host, sr, size)
    fields.update(SR=sr, virtual_size=vdis.rounded(size))

    async def act(repository: Repository, uuid: str) -> None:
        # It is the VM's before it is whole: at no moment is it whole and nobody's.
        vbds.create(host, {**device, "VDI": host.objects.by_uuid("VDI", uuid)})
        await repository.create(uuid, vdis.rounded(size))
        async with contextlib.aclosing(archive.disk(prefix, size)) as pieces:
            await repository.fill(uuid, "raw", pieces)

    await vdis.make(host, fields, act)


def _add_card(host: HostServer, manifest: Manifest, vm: str, name: str, *, keeps_mac: bool) -> None:
    row = manifest.get("VIF", name)
    wanted = manifest.get("network", row["network"])
    mac = row["MAC"] if keeps_mac else ""
    vifs.create(host, {**row, "VM": vm, "network": _network(host, wanted), "MAC": mac})


def _network(host: HostServer, wanted: Record) -> str:
    """Find the network of that name, or of that bridge, or make one of that name."""
    named = host.objects.by_label("network", wanted["name_label"])
    if named:
        return named[0]
    for ref, row in host.objects.all("network").items():
        if row["bridge"] == wanted["bridge"] != "":
            return ref
    given = {name: wanted[name] for name in ("name_label", "name_description", "MTU")}
    made: str = networks.create(host, given)
    return made


async def _take_apart(host: HostServer, vm: str) -> None:
    record = host.objects.get("VM", vm)
    for vif in list(record["VIFs"]):
        vifs.remove(host, vif)
    disks = [host.objects.get("VBD", vbd)["VDI"] for vbd in record["VBDs"]]
    for vbd in list(record["VBDs"]):
        vbds.remove(host, vbd)
    for disk in disks:
        if not is_null(disk):
            with contextlib.suppress(XapiFault, BackendError):
                await vdis.destroy(host, disk)
    host.objects.delete("VM", vm)
    host.flush()
