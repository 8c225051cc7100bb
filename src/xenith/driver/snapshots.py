"""Snapshots of root disks on their way to be images: one of a server at a time.

A snapshot is made under the name of its disk, so it is marked and named last: one that has not come
to its name is a second root disk, which is swept up when the host is next read.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from xenith.core.errors import NotFound
from xenith.driver.connection import HostConnection
from xenith.driver.disks import Disks
from xenith.driver.inventory import Inventory
from xenith.driver.names import SNAPSHOT_KEY, snapshot_name

#: What a snapshot is given as: the chain in one file, with nothing for what is empty.
FORMAT = "vhd"


class Snapshots:
    """The snapshots of one host's servers."""

    def __init__(self, line: HostConnection, inventory: Inventory, disks: Disks) -> None:
        self._line = line
        self._inventory = inventory
        self._disks = disks

    async def take(self, instance_id: str, image_id: str) -> None:
        """Keep the root disk as it is now, for an image. Safe to repeat: the first one stays.

        Raises:
            NotFound: the instance has no root disk here.
        """
        name = snapshot_name(instance_id)
        held = self._inventory.held(instance_id)
        with self._inventory.begin(name) as was_begun:
            if was_begun and held.snapshot is None:
                held.snapshot = await self._disks.find(name)
            if held.snapshot is not None:
                config = await self._line.call("VDI.get_other_config", held.snapshot)
                if config.get(SNAPSHOT_KEY) == image_id:
                    return
                await self._disks.destroy(held.snapshot)
                held.snapshot = None
            root = await self._disks.get_root(instance_id)
            ref: str = await self._line.call_patiently("VDI.snapshot", root, {})
            await self._line.call("VDI.add_to_other_config", ref, SNAPSHOT_KEY, image_id)
            await self._line.call("VDI.set_name_label", ref, name)
            held.snapshot = ref

    async def read(self, instance_id: str) -> AsyncGenerator[bytes]:
        """Give the snapshot in ``FORMAT``, piece by piece.

        Raises:
            NotFound: there is none.
        """
        ref = self._inventory.held(instance_id).snapshot
        if ref is None:
            raise NotFound(f"instance {instance_id} has no snapshot on {self._line.address.name}")
        stream = self._line.export_vdi(ref, disk_format=FORMAT)
        async with contextlib.aclosing(stream) as pieces:
            async for piece in pieces:
                yield piece

    async def delete(self, instance_id: str) -> None:
        """Remove the snapshot. Safe to repeat."""
        held = self._inventory.held(instance_id)
        await self._disks.delete_named(snapshot_name(instance_id), held.snapshot)
        held.snapshot = None
