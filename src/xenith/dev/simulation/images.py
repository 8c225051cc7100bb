"""Images as a simulated region has them: a few sizes, no bytes but zeros, and those of servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from xenith.core.errors import Invalid, NotFound
from xenith.db import Tx
from xenith.http import Principal

_CHUNK_BYTES = 256 * 1024


class SimulatedImage(msgspec.Struct, frozen=True, kw_only=True):
    """One image, raw."""

    id: str
    name: str
    size_bytes: int
    status: str = "active"
    disk_format: str = "raw"
    container_format: str = "bare"
    min_ram_mib: int = 0
    min_disk_gib: int = 0
    properties: Mapping[str, Any] = {}

    @property
    def virtual_size_bytes(self) -> int:
        """What a disk of it has."""
        return self.size_bytes


SMALL = SimulatedImage(
    id="11111111-0000-4000-8000-000000000001", name="small", size_bytes=64 * 1024
)
LARGE = SimulatedImage(id="11111111-0000-4000-8000-000000000002", name="large", size_bytes=2**20)


class SimulatedImages:
    """An ``ImageSource`` that every cell reads and writes, as they would one store."""

    def __init__(self) -> None:
        self._images = {image.id: image for image in (SMALL, LARGE)}
        #: Servers by the images that were asked for, and have no bytes yet.
        self.queued: dict[str, str] = {}
        self.stored_count = 0

    def find_image(self, _tx: Tx, image_id: str, _principal: Principal) -> SimulatedImage | None:
        """Find an image. Transaction function."""
        return self._images.get(image_id)

    def add_snapshot(self, tx: Tx, *, properties: Mapping[str, str], **_described: Any) -> str:
        """Make the record of a server's image. Transaction function."""
        image_id = tx.world.ids.uuid()
        server_id = properties["instance_uuid"]
        tx.on_commit(lambda: self.queued.update({image_id: server_id}))
        return image_id

    def drop_snapshot(self, tx: Tx, image_id: str) -> None:
        """Remove such a record if it has no bytes yet. Transaction function."""
        tx.on_commit(lambda: self._forget(image_id))

    def find_imaged(self, _tx: Tx, image_id: str) -> str | None:
        """Find the server of which an image is to be made. Transaction function."""
        return self.queued.get(image_id)

    async def store_image(
        self, image_id: str, chunks: AsyncIterator[bytes], *, rotation: int | None = None
    ) -> None:
        """Read the bytes to their end; none of them are kept.

        Raises:
            Invalid: they are no whole VHD.
        """
        del rotation
        tail = b""
        async for chunk in chunks:
            tail = (tail + chunk)[-512:]
        if not tail.startswith(b"conectix"):
            raise Invalid(f"the bytes of image {image_id} do not end as a VHD does")
        if self.queued.pop(image_id, None) is not None:
            self.stored_count += 1

    async def drop_image(self, image_id: str) -> None:
        """Remove a server's image that came to nothing."""
        self._forget(image_id)

    def _forget(self, image_id: str) -> None:
        self.queued.pop(image_id, None)

    async def open_image(self, image_id: str) -> AsyncIterator[bytes]:
        """Stream an image's zeros.

        Raises:
            NotFound: there is no such image.
        """
        image = self._images.get(image_id)
        if image is None:
            raise NotFound(f"image {image_id} is not there")
        for start in range(0, image.size_bytes, _CHUNK_BYTES):
            yield bytes(min(_CHUNK_BYTES, image.size_bytes - start))
