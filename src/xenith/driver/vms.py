"""A server's VM: its record, its disks' and interfaces' places, and its end.

All that can be said at creation is said there, in one record each; nothing is set afterwards. A VM
that is found halted and was not made whole by this process is made anew: it has never run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from xenith.core.errors import Conflict, NotFound
from xenith.core.limits import MIB
from xenith.driver.connection import HostConnection
from xenith.driver.flavor_disks import flavor_disks
from xenith.driver.inventory import Inventory
from xenith.driver.names import INSTANCE_KEY, network_name, vm_name
from xenith.driver.vm_spec import VmNic, VmSpec
from xenith.xapi import NULL, XapiFault

#: Devices of the disks. Source: nova's table; the guest sees xvda, xvdb and xvdd. The second is the
#: own root disk of a VM that is rescued.
ROOT_DEVICE, RESCUED_DEVICE, CONFIG_DEVICE = "0", "1", "3"
#: Times that a VM that changes by itself is tried to be removed.
DESTROY_TRIES_MAX = 4

_PLATFORM = {
    "acpi": "1",
    "apic": "true",
    "pae": "true",
    "nx": "true",
    "viridian": "false",
    "device-model": "qemu-upstream-compat",
    "vga": "std",
    "videoram": "8",
}


class Vms:
    """The VMs of one host's servers."""

    def __init__(self, line: HostConnection, inventory: Inventory) -> None:
        self._line = line
        self._inventory = inventory
        self._networks: dict[str, str] = {}
        self._network_lock = asyncio.Lock()

    async def create(self, spec: VmSpec) -> None:
        """Make the VM with its VBDs and VIFs; its disks are there. Safe to repeat."""
        held = self._inventory.held(spec.instance_id)
        if held.vm is not None and held.is_vm_whole:
            return
        if held.root is None:
            raise NotFound(f"instance {spec.instance_id} has no root disk here", kind="NoRootDisk")
        with self._inventory.begin(vm_name(spec.instance_id)) as was_begun:
            if held.vm is not None or was_begun:
                if held.power not in ("", "Halted"):
                    return  # It runs: an earlier process had made it whole.
                await self._destroy_all(spec.instance_id, look=was_begun)
            further = {
                disk.device: self._inventory.get_further(spec.instance_id, disk.name)
                for disk in flavor_disks(
                    spec.instance_id, swap_mib=spec.swap_mib, ephemeral_gib=spec.ephemeral_gib
                )
            }
            networks = await asyncio.gather(*(self._network(nic) for nic in spec.nics))
            ref = await self._line.call("VM.create", vm_record(spec))
            self._inventory.has_vm(spec.instance_id, ref, power="Halted")
            parts = [self._line.call("VBD.create", vbd_record(ref, held.root, ROOT_DEVICE))]
            if held.config is not None:
                parts.append(
                    self._line.call("VBD.create", vbd_record(ref, held.config, CONFIG_DEVICE))
                )
            parts.extend(
                self._line.call("VBD.create", vbd_record(ref, vdi, device))
                for device, vdi in further.items()
            )
            is_locked = self._line.places.has_openvswitch
            parts.extend(
                self._line.call("VIF.create", vif_record(ref, nic, network, is_locked=is_locked))
                for nic, network in zip(spec.nics, networks, strict=True)
            )
            await asyncio.gather(*parts)
            held.is_vm_whole = True

    async def delete(self, instance_id: str) -> None:
        """Stop and remove the VM with its VBDs and VIFs; its disks stay. Safe to repeat."""
        name = vm_name(instance_id)
        await self._destroy_all(instance_id, look=self._inventory.is_begun(name))
        self._inventory.settle(name)

    async def set_disks(self, instance_id: str, wanted: Mapping[str, str | None]) -> None:
        """Have these disks at these devices of a halted VM, and others at none. Safe to repeat.

        Raises:
            NotFound: the host has no such VM.
        """
        vm = self.get(instance_id)
        with self._inventory.begin(f"devices of {vm}") as was_begun:
            missing = {device: vdi for device, vdi in wanted.items() if vdi is not None}
            for ref, record in await self._vbds(vm):
                device = record["userdevice"]
                if device not in wanted:
                    continue
                # A call whose end is not known may still take away what is there: it is to find
                # another than it knows.
                if missing.get(device) == record["VDI"] and not was_begun:
                    del missing[device]
                else:
                    await self._remove_vbd(ref)
            for device, vdi in sorted(missing.items()):
                await self._line.call("VBD.create", vbd_record(vm, vdi, device))

    async def _vbds(self, vm: str) -> list[tuple[str, dict[str, Any]]]:
        refs = await self._line.call("VM.get_VBDs", vm)
        records = await asyncio.gather(*(self._line.call("VBD.get_record", ref) for ref in refs))
        return list(zip(refs, records, strict=True))

    async def _remove_vbd(self, ref: str) -> None:
        try:
            await self._line.call("VBD.destroy", ref)
        except XapiFault as fault:
            if fault.code != "HANDLE_INVALID":
                raise

    async def set_size(self, instance_id: str, *, ram_mib: int, vcpus: int) -> None:
        """Give a halted VM this memory and as many processors. Safe to repeat.

        Source: XenAPI, VM.set_memory_limits, VM.set_VCPUs_max and VM.set_VCPUs_at_startup: a VM
        never begins with more processors than it may have, so the order depends.
        """
        vm, memory = self.get(instance_id), ram_mib * MIB
        await self._line.call("VM.set_memory_limits", vm, 0, memory, memory, memory)
        most = int(await self._line.call("VM.get_VCPUs_max", vm))
        setters = ["VM.set_VCPUs_max", "VM.set_VCPUs_at_startup"]
        for setter in setters if vcpus >= most else reversed(setters):
            await self._line.call(setter, vm, vcpus)

    def get(self, instance_id: str) -> str:
        """Give the VM's reference.

        Raises:
            NotFound: the host has none of that instance.
        """
        held = self._inventory.instances.get(instance_id)
        if held is None or held.vm is None:
            raise NotFound(f"host {self._line.address.name} has no VM of instance {instance_id}")
        return held.vm

    async def _destroy_all(self, instance_id: str, *, look: bool) -> None:
        held = self._inventory.held(instance_id)
        refs = set() if held.vm is None else {held.vm}
        if look:
            refs.update(await self._line.call("VM.get_by_name_label", vm_name(instance_id)))
        for ref in sorted(refs):
            await self._destroy(ref, power=held.power if ref == held.vm else "")
        self._inventory.drop_vm(instance_id)

    async def _destroy(self, ref: str, *, power: str) -> None:
        for _ in range(DESTROY_TRIES_MAX):
            try:
                if power not in ("", "Halted"):
                    await self._line.call("VM.hard_shutdown", ref)
                await self._line.call_patiently("VM.destroy", ref)
            except XapiFault as fault:
                if fault.code == "HANDLE_INVALID":
                    return
                if fault.code != "VM_BAD_POWER_STATE":
                    raise
                power = fault.params[-1].capitalize()
            else:
                return
        raise Conflict(f"a VM on {self._line.address.name} changes by itself and is not removed")

    async def _network(self, nic: VmNic) -> str:
        """Give the host's network of a tenant network, made when there is none."""
        known = self._networks.get(nic.network_id)
        if known is not None:
            return known
        async with self._network_lock:
            known = self._networks.get(nic.network_id)
            if known is None:
                name = network_name(nic.network_id)
                found = await self._line.call("network.get_by_name_label", name)
                known = min(found, default=None)
                if known is None:
                    record = {
                        "name_label": name,
                        "name_description": "",
                        "MTU": nic.mtu,
                        "other_config": {},
                    }
                    known = await self._line.call("network.create", record)
                self._networks[nic.network_id] = known
        return known

    def forget_networks(self) -> None:
        """Forget the host's networks: it may have been changed while it was away."""
        self._networks.clear()


def vm_record(spec: VmSpec) -> dict[str, Any]:
    """Give the record of ``VM.create``. Source: XenAPI, class VM."""
    memory = spec.ram_mib * MIB
    return {
        "name_label": vm_name(spec.instance_id),
        # The tenant's name is for people who look at the host; nothing is found by it.
        "name_description": "".join(c if c.isprintable() else " " for c in spec.name),
        "user_version": 1,
        "is_a_template": False,
        "affinity": NULL,
        "memory_static_max": memory,
        "memory_dynamic_max": memory,
        "memory_dynamic_min": memory,
        "memory_static_min": 0,
        "VCPUs_params": {},
        "VCPUs_max": spec.vcpus,
        "VCPUs_at_startup": spec.vcpus,
        "actions_after_shutdown": "destroy",
        "actions_after_reboot": "restart",
        "actions_after_crash": "destroy",
        "PV_bootloader": "",
        "PV_kernel": "",
        "PV_ramdisk": "",
        "PV_args": "",
        "PV_bootloader_args": "",
        "PV_legacy_args": "",
        "HVM_boot_policy": "BIOS order",
        "HVM_boot_params": {"order": "c", "firmware": "bios"},
        "platform": _PLATFORM,
        "PCI_bus": "",
        "recommendations": "",
        "xenstore_data": {"vm-data/hostname": spec.hostname, **spec.xenstore},
        "other_config": {INSTANCE_KEY: spec.instance_id},
    }


def vbd_record(vm: str, vdi: str, device: str) -> dict[str, Any]:
    """Give the record of ``VBD.create``.

    Also the config drive can be written to: an HVM guest may have no read-only disk (CA-83260),
    and a drive of type CD takes only what is on an ISO repository.
    """
    return {
        "VM": vm,
        "VDI": vdi,
        "userdevice": device,
        "bootable": device == ROOT_DEVICE,
        "mode": "RW",
        "type": "Disk",
        "unpluggable": device != ROOT_DEVICE,
        "empty": False,
        "other_config": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
    }


def vif_record(vm: str, nic: VmNic, network: str, *, is_locked: bool) -> dict[str, Any]:
    """Give the record of ``VIF.create``.

    Where the host can (Open vSwitch), only the port's own addresses may be a source.
    """
    return {
        "VM": vm,
        "network": network,
        "device": str(nic.device),
        "MAC": nic.mac,
        "MTU": nic.mtu,
        "other_config": {"neutron-port-id": nic.port_id},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
        "locking_mode": "locked" if is_locked and (nic.ipv4 or nic.ipv6) else "network_default",
        "ipv4_allowed": list(nic.ipv4),
        "ipv6_allowed": list(nic.ipv6),
    }
