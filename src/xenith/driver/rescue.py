"""Rescue: a VM boots from another image's disk, with its own root disk beside that.

The VM stays the same one. Its first devices change while it is halted: the rescue disk takes the
place of the root disk, which becomes the second device, and a config drive of the rescue's own
takes the place of the server's.
"""

from __future__ import annotations

import msgspec

from xenith.driver.config_drive import LABEL
from xenith.driver.disks import Disks
from xenith.driver.inventory import Inventory
from xenith.driver.names import rescue_config_name, rescue_name
from xenith.driver.vm_spec import VmSpec
from xenith.driver.vms import CONFIG_DEVICE, RESCUED_DEVICE, ROOT_DEVICE, Vms


class Rescues:
    """The rescues of one host's servers."""

    def __init__(self, inventory: Inventory, disks: Disks, vms: Vms) -> None:
        self._inventory = inventory
        self._disks = disks
        self._vms = vms

    async def make(self, spec: VmSpec) -> None:
        """Make the disks of a rescue for a halted VM; ``spec`` has its image. Safe to repeat.

        The rescue disk has the size of its image: nothing is to be kept on it. What an earlier
        rescue left is removed, as it may be of another image.
        """
        instance_id = spec.instance_id
        await self.detach(instance_id)
        await self.delete(instance_id)
        name = rescue_name(instance_id)
        image_sized = msgspec.structs.replace(spec, root_gib=0)
        await self._disks.ensure_further(
            instance_id, name, lambda: self._disks.clone(image_sized, name)
        )
        content = spec.config_drive
        if content is None:
            return
        drive = rescue_config_name(instance_id)
        ref = await self._disks.ensure_further(
            instance_id,
            drive,
            lambda: self._disks.create(drive, description=LABEL, size_bytes=len(content)),
        )
        await self._disks.fill(ref, content)

    async def attach(self, instance_id: str) -> None:
        """Have the halted VM boot from the rescue disk. Safe to repeat.

        Raises:
            NotFound: there is no VM, no root disk or no rescue disk.
        """
        held = self._inventory.held(instance_id)
        drive = held.others.get(rescue_config_name(instance_id), held.config)
        await self._vms.set_disks(
            instance_id,
            {
                ROOT_DEVICE: self._inventory.get_further(instance_id, rescue_name(instance_id)),
                RESCUED_DEVICE: await self._disks.get_root(instance_id),
                CONFIG_DEVICE: drive,
            },
        )

    async def detach(self, instance_id: str) -> None:
        """Have the halted VM boot from its own root disk. Safe to repeat.

        Raises:
            NotFound: there is no VM or no root disk.
        """
        await self._vms.set_disks(
            instance_id,
            {
                ROOT_DEVICE: await self._disks.get_root(instance_id),
                RESCUED_DEVICE: None,
                CONFIG_DEVICE: self._inventory.held(instance_id).config,
            },
        )

    async def delete(self, instance_id: str) -> None:
        """Remove the disks of a rescue. Safe to repeat."""
        for name in (rescue_name(instance_id), rescue_config_name(instance_id)):
            await self._disks.delete_further(instance_id, name)
