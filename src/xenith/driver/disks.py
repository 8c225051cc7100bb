"""A server's disks: the root disk, cloned from the cached image, and the config drive.

A root disk gets its name last, so that one with its name is whole; a clone that did not come to
its name is known by the image's mark and swept up. A config drive is named first and may be filled
again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import MappingProxyType

from xenith.core.errors import Invalid, NotFound
from xenith.core.limits import GIB, MIB, STREAM_CHUNK_BYTES, XAPI_CALL_TIMEOUT_S
from xenith.driver.config_drive import LABEL
from xenith.driver.connection import HostConnection
from xenith.driver.image_cache import ImageCache
from xenith.driver.inventory import CachedImage, Inventory
from xenith.driver.names import config_name, root_name
from xenith.driver.vm_spec import VmSpec
from xenith.xapi import XapiFault

#: Faults that say a disk is no more.
GONE = frozenset({"HANDLE_INVALID", "VDI_MISSING"})


class Disks:
    """The disks of one host's servers."""

    def __init__(self, line: HostConnection, inventory: Inventory, images: ImageCache) -> None:
        self._line = line
        self._inventory = inventory
        self._images = images
        #: Clones that have no name yet; while there are any, nothing may be swept up.
        self.nameless_count = 0

    async def create_root(self, spec: VmSpec) -> None:
        """Make the root disk. Safe to repeat."""
        name = root_name(spec.instance_id)
        held = self._inventory.held(spec.instance_id)
        if held.root is not None:
            return
        with self._inventory.begin(name) as was_begun:
            if was_begun:
                held.root = await self.find(name)
            if held.root is None:
                held.root = await self.clone(spec, name)

    async def clone(self, spec: VmSpec, name: str) -> str:
        """Clone the image's disk under a name, grown to the size of the root disk."""
        image = await self._image(spec)
        wanted = spec.root_gib * GIB
        if 0 < wanted < image.size_bytes:
            raise Invalid(
                f"the image's disk has {image.size_bytes} bytes, more than the flavor's "
                f"{spec.root_gib} GiB",
                kind="FlavorDiskSmallerThanImage",
            )
        line = self._line
        self.nameless_count += 1
        try:
            try:
                ref: str = await line.call("VDI.clone", image.vdi, {})
            except XapiFault as fault:
                if fault.code not in GONE:
                    raise
                # Somebody removed the cached image; bring it again, once.
                self._inventory.images.pop(spec.image_id, None)
                ref = await line.call("VDI.clone", (await self._image(spec)).vdi, {})
            if wanted > image.size_bytes:
                await line.call("VDI.resize", ref, wanted)
            await line.call("VDI.set_name_label", ref, name)
        finally:
            self.nameless_count -= 1
        return ref

    async def _image(self, spec: VmSpec) -> CachedImage:
        return await self._images.ensure(
            spec.image_id, disk_format=spec.image_format, size_bytes=spec.image_size_bytes
        )

    async def create_config(self, spec: VmSpec) -> None:
        """Make the config drive, if there is to be one. Safe to repeat."""
        content = spec.config_drive
        held = self._inventory.held(spec.instance_id)
        if content is None or held.is_config_whole:
            return
        name = config_name(spec.instance_id)
        with self._inventory.begin(name) as was_begun:
            if was_begun and held.config is None:
                held.config = await self.find(name)
            if held.config is None:
                held.config = await self.create(name, description=LABEL, size_bytes=len(content))
            await self.fill(held.config, content)
            held.is_config_whole = True

    async def create(
        self,
        name: str,
        *,
        description: str,
        size_bytes: int,
        other_config: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """Make an empty disk of at least so many bytes."""
        record = {
            "name_label": name,
            "name_description": description,
            "SR": self._line.places.sr,
            "virtual_size": -(-size_bytes // MIB) * MIB,
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": dict(other_config),
        }
        ref: str = await self._line.call("VDI.create", record)
        return ref

    async def fill(self, ref: str, content: bytes) -> None:
        """Write the first bytes of a disk. Safe to repeat."""
        await self._line.import_vdi(
            ref,
            _pieces(content),
            disk_format="raw",
            size_bytes=len(content),
            timeout_s=XAPI_CALL_TIMEOUT_S,
        )

    async def get_root(self, instance_id: str) -> str:
        """Give the root disk's reference.

        Raises:
            NotFound: there is none.
        """
        root = self._inventory.held(instance_id).root
        if root is None:
            raise NotFound(f"instance {instance_id} has no root disk on {self._line.address.name}")
        return root

    async def grow_root(self, instance_id: str, root_gib: int) -> None:
        """Have the root disk of a halted VM be at least so large. Safe to repeat."""
        await self.grow(await self.get_root(instance_id), root_gib * GIB)

    async def grow(self, ref: str, size_bytes: int) -> None:
        """Have a disk be at least so large. Safe to repeat."""
        if size_bytes > int(await self._line.call("VDI.get_virtual_size", ref)):
            await self._line.call("VDI.resize", ref, size_bytes)

    async def delete_root(self, instance_id: str) -> None:
        """Remove the root disk. Safe to repeat."""
        name = root_name(instance_id)
        held = self._inventory.held(instance_id)
        await self.delete_named(name, held.root)
        held.root = None

    async def delete_config(self, instance_id: str) -> None:
        """Remove the config drive. Safe to repeat."""
        name = config_name(instance_id)
        held = self._inventory.held(instance_id)
        await self.delete_named(name, held.config)
        held.config, held.is_config_whole = None, False

    async def ensure_further(
        self, instance_id: str, name: str, make: Callable[[], Awaitable[str]]
    ) -> str:
        """Have one of an instance's further disks; one that is there is kept. Safe to repeat."""
        others = self._inventory.held(instance_id).others
        with self._inventory.begin(name) as was_begun:
            if was_begun and name not in others and (found := await self.find(name)) is not None:
                others[name] = found
            if name not in others:
                others[name] = await make()
        return others[name]

    async def delete_further(self, instance_id: str, name: str) -> None:
        """Remove one of an instance's further disks. Safe to repeat."""
        others = self._inventory.held(instance_id).others
        await self.delete_named(name, others.get(name))
        others.pop(name, None)

    async def delete_named(self, name: str, known: str | None) -> None:
        """Remove a disk, and all of its name if it may have been made without our knowing."""
        refs = [] if known is None else [known]
        if self._inventory.is_begun(name):
            refs = sorted({*refs, *await self._line.call("VDI.get_by_name_label", name)})
        for ref in refs:
            await self.destroy(ref)
        self._inventory.settle(name)

    async def destroy(self, ref: str) -> None:
        """Remove one VDI; one that is gone is no error."""
        try:
            await self._line.call_patiently("VDI.destroy", ref)
        except XapiFault as fault:
            if fault.code not in GONE:
                raise

    async def find(self, name: str) -> str | None:
        """Find a disk by its name on the host."""
        found: list[str] = await self._line.call("VDI.get_by_name_label", name)
        return min(found, default=None)


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), STREAM_CHUNK_BYTES):
        yield content[start : start + STREAM_CHUNK_BYTES]
