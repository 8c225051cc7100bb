"""A cell's way to images when it runs in a process of its own: from and to the root, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2

from xenith.cells.keys import CellKey
from xenith.compute.neighbours import ImageInfo
from xenith.compute.operations.cell_images import DROP, FETCH, HEADER, STORE, sign_word
from xenith.core.errors import Bug, Invalid, NotFound, Unavailable
from xenith.core.ids import CellId
from xenith.core.limits import STREAM_CHUNK_BYTES
from xenith.core.world import World
from xenith.db import Tx
from xenith.http import Principal

#: Seconds for the root to begin, and between two pieces.
TIMEOUT_S = 60.0
#: Seconds for the root to take the last bytes of an image to its store.
STORE_TIMEOUT_S = 600.0


class FetchedImages:
    """The image service as a leaf has it: it opens images and brings them, and knows no more."""

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
        headers = self._headers(image_id, FETCH)
        try:
            async with self._client.stream(FETCH, self._at(image_id), headers=headers) as answer:
                if answer.status_code == 404:
                    raise NotFound(f"the root has no image {image_id}")
                if answer.is_error:
                    raise Unavailable(f"the root refuses image {image_id}: {answer.status_code}")
                async for chunk in answer.aiter_bytes(STREAM_CHUNK_BYTES):
                    yield chunk
        except httpx2.HTTPError as error:
            raise Unavailable(f"image {image_id} was not fetched: {error!r}") from error

    def add_snapshot(self, tx: Tx, **described: Any) -> str:
        """Nobody asks a leaf for an image's record."""
        del tx
        raise Bug(f"a leaf was asked for image {described['name']}: only a root knows images")

    def drop_snapshot(self, _tx: Tx, image_id: str) -> None:
        """Nobody asks a leaf to remove an image's record."""
        raise Bug(f"a leaf was asked to remove image {image_id}: only a root knows images")

    def find_imaged(self, _tx: Tx, image_id: str) -> str | None:
        """Nobody asks a leaf of which server an image is."""
        raise Bug(f"a leaf was asked for image {image_id}: only a root knows images")

    async def store_image(
        self, image_id: str, chunks: AsyncIterator[bytes], *, rotation: int | None = None
    ) -> None:
        """Bring the bytes of a server's image to the root. Safe to repeat.

        Raises:
            NotFound: the image is gone.
            Invalid: the root does not take these bytes.
            Unavailable: the root does not answer, or cannot take them now.
        """
        headers = {**self._headers(image_id, STORE), "content-type": "application/octet-stream"}
        try:
            answer = await self._client.put(
                self._at(image_id),
                content=chunks,
                headers=headers,
                params={} if rotation is None else {"rotation": str(rotation)},
                timeout=httpx2.Timeout(TIMEOUT_S, read=STORE_TIMEOUT_S),
            )
        except httpx2.HTTPError as error:
            raise Unavailable(f"image {image_id} was not brought: {error!r}") from error
        if answer.status_code == 404:
            raise NotFound(f"the root has no image {image_id}")
        if answer.status_code in (400, 413):
            raise Invalid(f"the root refuses the bytes of image {image_id}: {answer.status_code}")
        if answer.is_error:
            raise Unavailable(f"the root does not take image {image_id}: {answer.status_code}")

    async def drop_image(self, image_id: str) -> None:
        """Tell the root that an image came to nothing. Safe to repeat.

        Raises:
            Unavailable: the root does not answer, or refuses.
        """
        headers = self._headers(image_id, DROP)
        try:
            answer = await self._client.request(DROP, self._at(image_id), headers=headers)
        except httpx2.HTTPError as error:
            raise Unavailable(f"image {image_id} was not given up: {error!r}") from error
        if answer.is_error:
            raise Unavailable(f"the root keeps image {image_id}: {answer.status_code}")

    def _at(self, image_id: str) -> str:
        return f"{self._url}/xenith/v1/cell-images/{image_id}"

    def _headers(self, image_id: str, method: str) -> dict[str, str]:
        now = self._world.clock.now()
        word = sign_word(self._cell_id, self._key, image_id, now_s=now, method=method)
        return {HEADER: word}

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()
