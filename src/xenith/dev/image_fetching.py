"""A cell's way to images when it runs in a process of its own: from the root, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2

from xenith.cells.keys import CellKey
from xenith.compute.neighbours import ImageInfo
from xenith.compute.operations.cell_images import HEADER, sign_word
from xenith.core.errors import Bug, NotFound, Unavailable
from xenith.core.ids import CellId
from xenith.core.limits import STREAM_CHUNK_BYTES
from xenith.core.world import World
from xenith.db import Tx
from xenith.http import Principal

#: Seconds for the root to begin, and between two pieces.
TIMEOUT_S = 60.0


class FetchedImages:
    """The image service as a leaf has it: it opens images, and knows nothing else of them."""

    def __init__(self, world: World, *, api_url: str, cell_id: CellId, key: CellKey) -> None:
        self._world = world
        self._url = api_url.rstrip("/")
        self._cell_id = cell_id
        self._key = key
        self._client = httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=False)

    def find_image(self, _tx: Tx, image_id: str, _principal: Principal) -> ImageInfo | None:
        """Nobody asks a leaf which images there are."""
        raise Bug(f"a leaf was asked for image {image_id}: only a root knows images")

    async def open_image(self, image_id: str) -> AsyncIterator[bytes]:
        """Stream an image from the root.

        Raises:
            NotFound: there is no such image.
            Unavailable: the root does not answer, or refuses.
        """
        word = sign_word(self._cell_id, self._key, image_id, now_s=self._world.clock.now())
        url = f"{self._url}/xenith/v1/cell-images/{image_id}"
        try:
            async with self._client.stream("GET", url, headers={HEADER: word}) as answer:
                if answer.status_code == 404:
                    raise NotFound(f"the root has no image {image_id}")
                if answer.is_error:
                    raise Unavailable(f"the root refuses image {image_id}: {answer.status_code}")
                async for chunk in answer.aiter_bytes(STREAM_CHUNK_BYTES):
                    yield chunk
        except httpx2.HTTPError as error:
            raise Unavailable(f"image {image_id} was not fetched: {error!r}") from error

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()
