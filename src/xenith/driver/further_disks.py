"""Makes a flavor's swap and ephemeral disks, and has them follow when the flavor changes.

A swap disk holds a swap area as ``mkswap`` makes it, an ephemeral one an ext4 file system, where
that can be made; both on the whole disk. A disk is marked until it is formatted, which is once.
"""

from __future__ import annotations

import asyncio
import uuid

from xenith.core.world import World
from xenith.driver import ext4
from xenith.driver.connection import HostConnection
from xenith.driver.disks import Disks
from xenith.driver.flavor_disks import SWAP_DEVICE, FlavorDisk, device_of, flavor_disks
from xenith.driver.inventory import Inventory
from xenith.driver.names import BLANK_KEY, is_flavor_disk
from xenith.driver.swap import swap_header
from xenith.driver.tools import read_file
from xenith.driver.vm_spec import VmSpec
from xenith.driver.vms import Vms

#: Seconds for a file system to reach a host.
IMPORT_TIMEOUT_S = 300.0


class FurtherDisks:
    """Such disks of one host's servers."""

    def __init__(
        self,
        world: World,
        line: HostConnection,
        inventory: Inventory,
        disks: Disks,
        vms: Vms,
    ) -> None:
        self._world = world
        self._line = line
        self._inventory = inventory
        self._disks = disks
        self._vms = vms
        #: One file system at a time is made for a host: it takes processor and room for files here.
        self._maker = asyncio.Lock()

    async def create(self, spec: VmSpec) -> None:
        """Make the disks. Safe to repeat."""
        for disk in flavor_disks(
            spec.instance_id, swap_mib=spec.swap_mib, ephemeral_gib=spec.ephemeral_gib
        ):
            await self._create(spec.instance_id, disk)

    async def _create(self, instance_id: str, disk: FlavorDisk) -> str:
        ref = await self._disks.ensure_further(
            instance_id,
            disk.name,
            lambda: self._disks.create(
                disk.name,
                description=disk.description,
                size_bytes=disk.size_bytes,
                other_config={BLANK_KEY: "true"},
            ),
        )
        if BLANK_KEY in await self._line.call("VDI.get_other_config", ref):
            await self._format(instance_id, ref, disk)
            await self._line.call("VDI.remove_from_other_config", ref, BLANK_KEY)
        return ref

    async def _format(self, instance_id: str, ref: str, disk: FlavorDisk) -> None:
        # The guest knows what is on the disk by this; no two servers share it.
        known_by = uuid.uuid5(uuid.UUID(instance_id), disk.description)
        if disk.device == SWAP_DEVICE:
            await self._disks.fill(ref, swap_header(disk.size_bytes, uuid=known_by.bytes))
            return
        tool = ext4.find_tool()
        if tool is None:
            return
        made = ext4.made_as_vhd(
            tool, disk.size_bytes, label=disk.description, uuid=str(known_by), world=self._world
        )
        async with self._maker, made as file:
            await self._line.import_vdi(
                ref,
                read_file(file),
                disk_format="vhd",
                size_bytes=file.stat().st_size,
                timeout_s=IMPORT_TIMEOUT_S,
            )

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
