"""The command line of a domain's QEMU, from its spec: a pure function.

Machine: ``pc`` (i440fx), which boots about as fast as q35 under emulation and has IDE for CDs.
Disks are virtio-blk, CDs are IDE (at most four), cards are virtio-net. Nothing that a tenant
chose (names, labels) is on the command line, only ids and numbers that we check.

A disk's bytes come from the domain's tap over NBD, through a throttle whose limits can be changed
while the guest runs.

Networks: a card's back end is a hub port with nothing behind it. The link is up and the guest
sets the address that its config drive gives, but no frame leaves the guest; wires between guests
and to the world belong to the network back ends. QEMU's own user-mode network was rejected: it
puts a DHCP server and a TCP stack beside every guest that answer with addresses not ours.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from xenith.core.units import MIB
from xenith.toolstack.backends import BackendError, DiskSpec, DomainSpec, NicSpec
from xenith.toolstack.qos import LIMITS, limits_of

MONITOR = "qmp.sock"
CONSOLE = "console.log"
PID_FILE = "pid"
#: The host's end of the port that the guest finds its xenstore at, and the port's name.
XENSTORE = "xenstore.sock"
XENSTORE_PORT = "org.xenith.xenstore.0"
#: IDE has two buses of two places.
CDS_MAX = 4
#: PCI has 32 places, of which the machine takes three and the port to the xenstore one.
DEVICES_MAX = 27
#: Translated code of a guest under emulation; QEMU would take up to 1 GiB for each.
_TRANSLATION_MIB = 128
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_MAC = re.compile("(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")


def arguments(
    spec: DomainSpec,
    *,
    directory: Path,
    accelerator: str,
    machine: str,
    has_xenstore: bool = True,
) -> list[str]:
    """Give the arguments of a QEMU that waits, stopped, for ``cont`` on its monitor.

    Relative names are in the domain's directory, which must be the working directory: a socket's
    path may have only 108 bytes.
    """
    is_kvm = accelerator == "kvm"
    accel = "kvm" if is_kvm else f"tcg,thread=multi,tb-size={_TRANSLATION_MIB}"
    if len(spec.disks) + len(spec.nics) > DEVICES_MAX:
        raise BackendError("INTERNAL_ERROR", f"more than {DEVICES_MAX} devices")
    if sum(disk.is_cd for disk in spec.disks) > CDS_MAX:
        raise BackendError("INTERNAL_ERROR", f"more than {CDS_MAX} CDs")
    given = ["-pidfile", str(directory / PID_FILE), "-name", spec.vm_uuid, "-uuid", spec.vm_uuid]
    given += ["-S", "-nodefaults", "-no-user-config", "-display", "none", "-sandbox", _SANDBOX]
    given += ["-machine", machine, "-accel", accel, "-cpu", "host" if is_kvm else "max"]
    given += ["-m", f"{max(1, spec.memory_bytes // MIB)}M", "-smp", str(max(1, spec.vcpu_count))]
    given += ["-rtc", "base=utc", "-boot", "strict=on", "-vga", "none"]
    given += ["-chardev", f"socket,id=monitor,path={MONITOR},server=on,wait=off"]
    given += ["-mon", "chardev=monitor,mode=control"]
    given += ["-chardev", f"file,id=console,path={CONSOLE},append=on", "-serial", "chardev:console"]
    given += ["-device", "pvpanic", "-object", "rng-random,id=rng,filename=/dev/urandom"]
    given += ["-device", "virtio-rng-pci,rng=rng"]
    if has_xenstore:
        given += ["-chardev", f"socket,id=xenstore,path={XENSTORE},server=on,wait=off"]
        port = f"virtserialport,id=xenstore,nr=1,chardev=xenstore,name={XENSTORE_PORT}"
        # Last of the machine's own places, so that disks and cards keep those that they had.
        given += ["-device", "virtio-serial-pci,id=ports,max_ports=2,addr=0x1f", "-device", port]
    for boot_index, disk in enumerate(disks_in_order(spec), start=1):
        given += _disk(disk, boot_index)
    for number, nic in enumerate(sorted(spec.nics, key=_position)):
        given += _nic(nic, number)
    return given


def _position(device: DiskSpec | NicSpec) -> tuple[int, str]:
    """Order devices by number; XenAPI's userdevice is a text of digits."""
    return (int(device.device) if device.device.isdecimal() else 1_000_000, device.device)


def disks_in_order(spec: DomainSpec) -> list[DiskSpec]:
    """Give a domain's disks as its guest meets them."""
    return sorted(spec.disks, key=_position)


def node_name(boot_index: int) -> str:
    """Name a disk's node, from one on."""
    return f"disk{boot_index}"


def socket_name(boot_index: int) -> str:
    """Name the socket at which a disk is served, in the domain's directory."""
    return f"disk{boot_index}.nbd"


def throttle_name(boot_index: int) -> str:
    """Name what limits a disk."""
    return f"disk{boot_index}-limits"


def throttle_limits(disk: DiskSpec) -> dict[str, int]:
    """Give all limits of a disk by QEMU's names, 0 where there is none."""
    return {**dict.fromkeys(LIMITS, 0), **limits_of(disk.qos_type, disk.qos_params).throttle}


def _disk(disk: DiskSpec, boot_index: int) -> list[str]:
    name = node_name(boot_index)
    is_read_only = disk.is_read_only or disk.is_cd
    served: dict[str, Any] = {
        "driver": "nbd",
        "server": {"type": "unix", "path": socket_name(boot_index)},
        "read-only": is_read_only,
        "discard": "unmap",
    }
    node = {
        "driver": "throttle",
        "throttle-group": throttle_name(boot_index),
        "node-name": name,
        "read-only": is_read_only,
        "discard": "unmap",
        "file": served,
    }
    group = {
        "qom-type": "throttle-group",
        "id": throttle_name(boot_index),
        "limits": throttle_limits(disk),
    }
    kind = "ide-cd" if disk.is_cd else "virtio-blk-pci"
    device = f"{kind},drive={name},id={name}-device,bootindex={boot_index}"
    given = ["-object", msgspec.json.encode(group).decode()]
    return [*given, "-blockdev", msgspec.json.encode(node).decode(), "-device", device]


def _nic(nic: NicSpec, number: int) -> list[str]:
    if _MAC.fullmatch(nic.mac) is None:
        raise BackendError("MAC_INVALID", nic.mac)
    name = f"net{number}"
    # No option ROM: guests do not boot from the network, and loading it takes time.
    device = f"virtio-net-pci,netdev={name},mac={nic.mac},host_mtu={nic.mtu},romfile="
    return ["-netdev", f"hubport,id={name},hubid={number}", "-device", device]
