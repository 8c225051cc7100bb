"""Images and the cells of a tree: fetched from the root, and brought there, on a signed word."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from xenith.cells.keys import CellKey
from xenith.compute.operations.context import Context
from xenith.compute.records.servers import servers
from xenith.core.errors import Forbidden, NotFound
from xenith.core.ids import CellId
from xenith.db import Tx

#: The header that says which cell asks: its id, the time, and its signature, with spaces between.
HEADER = "Xenith-Cell"
#: Seconds that a signed word is good for; clocks of cells may differ by as much.
WORD_LIFE_S = 300.0


#: What a word is good for, by the method of the request.
FETCH, STORE, DROP = "GET", "PUT", "DELETE"


def sign_word(
    cell_id: str, key: CellKey, image_id: str, *, now_s: float, method: str = FETCH
) -> str:
    """Give the header's value with which a cell asks for an image, brings it or gives it up."""
    return f"{cell_id} {now_s:.0f} {key.sign(_text(image_id, f'{now_s:.0f}', method)).hex()}"


class CellImages:
    """Operations that cells ask for, rather than people."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def open(self, word: str, image_id: str) -> AsyncIterator[bytes]:
        """Stream an image to a cell of this tree.

        Raises:
            Forbidden: the word is not a cell's, is too old, or is for another image.
        """
        self._check(word, image_id, FETCH)
        return self._context.images.open_image(image_id)

    async def store(
        self, word: str, image_id: str, chunks: AsyncIterator[bytes], *, rotation: int | None
    ) -> None:
        """Store the bytes of an image of a server that the cell has.

        Raises:
            Forbidden: the word is no good, or the image is not of a server of that cell.
            NotFound: the image is gone.
        """
        await self._check_own(self._check(word, image_id, STORE), image_id)
        await self._context.images.store_image(image_id, chunks, rotation=rotation)

    async def drop(self, word: str, image_id: str) -> None:
        """Remove an image that the cell did not come to make; one that is gone is no error.

        Raises:
            Forbidden: the word is no good, or the image is not of a server of that cell.
        """
        cell_id = self._check(word, image_id, DROP)
        with contextlib.suppress(NotFound):
            await self._check_own(cell_id, image_id)
            await self._context.images.drop_image(image_id)

    async def _check_own(self, cell_id: str, image_id: str) -> None:
        def find(tx: Tx) -> str | None:
            server_id = self._context.images.find_imaged(tx, image_id)
            if server_id is None:
                raise NotFound(f"there is no image {image_id} of a server")
            server = tx.find(servers, id=server_id)
            return None if server is None else server.cell_id

        if await self._context.db.read(find) != cell_id:
            raise Forbidden("A cell brings images of its own servers.")

    def _check(self, word: str, image_id: str, method: str) -> str:
        """Give the cell that signed a word.

        Raises:
            Forbidden: the word is no cell's, is too old, or is for something else.
        """
        parts = word.split(" ")
        if len(parts) != 3 or not self._is_good(*parts, image_id=image_id, method=method):
            raise Forbidden("A cell of this region names images with a word signed by its key.")
        return parts[0]

    def _is_good(
        self, cell_id: str, at: str, signature: str, *, image_id: str, method: str
    ) -> bool:
        key = self._context.node.topology.public_key_of(CellId(cell_id))
        if key is None or not at.isdecimal() or len(at) > 12:
            return False
        if abs(self._context.world.clock.now() - int(at)) > WORD_LIFE_S:
            return False
        try:
            return key.verify(_text(image_id, at, method), bytes.fromhex(signature))
        except ValueError:
            return False


def _text(image_id: str, at: str, method: str) -> bytes:
    # Cells of 0.1 sign words to fetch, and those name no method.
    doing = "" if method == FETCH else f"{method} "
    return f"xenith image {doing}{image_id} {at}".encode()
