"""Images as a simulated region has them: a few sizes, no bytes but zeros."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from xenith.core.errors import NotFound
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
    """An ``ImageSource`` that every cell reads, as they would one store."""

    def __init__(self) -> None:
        self._images = {image.id: image for image in (SMALL, LARGE)}

    def find_image(self, _tx: Tx, image_id: str, _principal: Principal) -> SimulatedImage | None:
        """Find an image. Transaction function."""
        return self._images.get(image_id)

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
