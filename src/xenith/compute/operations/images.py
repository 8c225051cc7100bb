"""Images as compute shows them; they are the image service's, which has the last word."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from xenith.compute.neighbours import ImageCatalog, ImageEntry
from xenith.compute.operations.context import Context
from xenith.core.errors import NotFound, Unsupported
from xenith.http import Principal

_ID = re.compile("[0-9a-fA-F-]{36}")


class ImageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which images are asked for."""

    name: str | None = None
    #: The image service's; any of them holds.
    statuses: tuple[str, ...] | None = None
    server_id: str | None = None
    image_type: str | None = None
    min_disk_gib: int | None = None
    min_ram_mib: int | None = None
    changed_since_s: float | None = None
    marker: str | None = None


class ImageProxy:
    """The image service's operations under compute's names."""

    def __init__(self, context: Context) -> None:
        self._context = context

    @property
    def _catalog(self) -> ImageCatalog:
        images = self._context.images
        if not isinstance(images, ImageCatalog):
            raise Unsupported("this cell's image service shows no images")
        return images

    async def list(
        self, principal: Principal, query: ImageQuery, *, limit: int
    ) -> Sequence[ImageEntry]:
        """List a page of images, and one more if there is one."""
        return await self._catalog.list_entries(principal, query, limit=limit)

    async def get(self, principal: Principal, image_id: str) -> ImageEntry:
        """Get an image.

        Raises:
            NotFound: there is none, or its id is none.
        """
        self._check(image_id)
        return await self._catalog.get_entry(principal, image_id)

    async def delete(self, principal: Principal, image_id: str) -> None:
        """Delete an image."""
        self._check(image_id)
        await self._catalog.delete(principal, image_id)

    async def set_properties(
        self, principal: Principal, image_id: str, items: Mapping[str, str], *, is_replacing: bool
    ) -> ImageEntry:
        """Add items to an image's properties, or put them in place of all."""
        self._check(image_id)
        return await self._catalog.set_properties(
            principal, image_id, lambda held: {**({} if is_replacing else held), **items}
        )

    async def delete_property(self, principal: Principal, image_id: str, key: str) -> None:
        """Remove one item.

        Raises:
            NotFound: there is none of that name.
        """
        self._check(image_id)

        def without(held: Mapping[str, str]) -> dict[str, str]:
            if key not in held:
                raise NotFound("Metadata item was not found")
            return {name: value for name, value in held.items() if name != key}

        await self._catalog.set_properties(principal, image_id, without)

    @staticmethod
    def _check(image_id: str) -> None:
        if not _ID.fullmatch(image_id):
            raise NotFound("Image not found.")
