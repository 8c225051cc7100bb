"""Makes a flavor's swap and ephemeral disks, and has them follow when the flavor changes.

A swap disk holds a swap area as ``mkswap`` makes it, on the whole disk; an ephemeral one is blank.
"""

from __future__ import annotations

import uuid

from xenith.driver.disks import Disks
from xenith.driver.flavor_disks import SWAP_DEVICE, FlavorDisk, device_of, flavor_disks
from xenith.driver.inventory import Inventory
from xenith.driver.names import is_flavor_disk
from xenith.driver.swap import swap_header
from xenith.driver.vm_spec import VmSpec
from xenith.driver.vms import Vms


class FurtherDisks:
    """Such disks of one host's servers."""

    def __init__(self, inventory: Inventory, disks: Disks, vms: Vms) -> None:
        self._inventory = inventory
        self._disks = disks
        self._vms = vms

    async def create(self, spec: VmSpec) -> None:
        """Make the disks. Safe to repeat while no guest has them."""
        for disk in flavor_disks(
            spec.instance_id, swap_mib=spec.swap_mib, ephemeral_gib=spec.ephemeral_gib
        ):
            await self._create(spec.instance_id, disk)

    async def _create(self, instance_id: str, disk: FlavorDisk) -> str:
        ref = await self._disks.ensure_further(
            instance_id,
            disk.name,
            lambda: self._disks.create(
                disk.name, description=disk.description, size_bytes=disk.size_bytes
            ),
        )
        if disk.device == SWAP_DEVICE:
            # The guest knows the area by this; no two servers share it.
            known_by = uuid.uuid5(uuid.UUID(instance_id), disk.description)
            await self._disks.fill(ref, swap_header(disk.size_bytes, uuid=known_by.bytes))
        return ref

    async def resize(self, instance_id: str, *, swap_mib: int, ephemeral_gib: int) -> None:
        """Have a halted VM have the disks of another flavor. Safe to repeat.

        Swap is made anew. Ephemeral disks grow and do not shrink; those of a larger flavor that the
        VM is taken back from are removed.
        """
        wanted = flavor_disks(instance_id, swap_mib=swap_mib, ephemeral_gib=ephemeral_gib)
        kept = {disk.name for disk in wanted if disk.device != SWAP_DEVICE}
        known = self._inventory.further_names(instance_id)
        gone = [name for name in known if is_flavor_disk(name) and name not in kept]
        if gone:
            await self._vms.set_disks(instance_id, {device_of(name): None for name in gone})
        for name in gone:
            await self._disks.delete_further(instance_id, name)
        devices: dict[str, str | None] = {}
        for disk in wanted:
            ref = devices[disk.device] = await self._create(instance_id, disk)
            await self._disks.grow(ref, disk.size_bytes)
        if devices:
            await self._vms.set_disks(instance_id, devices)
