"""Images for the cells of a tree: they fetch them from the root with a word that they signed."""

from __future__ import annotations

from collections.abc import AsyncIterator

from xenith.cells.keys import CellKey
from xenith.compute.operations.context import Context
from xenith.core.errors import Forbidden
from xenith.core.ids import CellId

#: The header that says which cell asks: its id, the time, and its signature, with spaces between.
HEADER = "Xenith-Cell"
#: Seconds that a signed word is good for; clocks of cells may differ by as much.
WORD_LIFE_S = 300.0


def sign_word(cell_id: str, key: CellKey, image_id: str, *, now_s: float) -> str:
    """Give the header's value with which a cell asks for an image."""
    return f"{cell_id} {now_s:.0f} {key.sign(_text(image_id, f'{now_s:.0f}')).hex()}"


class CellImages:
    """Operations that cells ask for, rather than people."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def open(self, word: str, image_id: str) -> AsyncIterator[bytes]:
        """Stream an image to a cell of this tree.

        Raises:
            Forbidden: the word is not a cell's, is too old, or is for another image.
        """
        parts = word.split(" ")
        if len(parts) != 3 or not self._is_good(parts[0], parts[1], parts[2], image_id=image_id):
            raise Forbidden("A cell of this region fetches images with a word signed by its key.")
        return self._context.images.open_image(image_id)

    def _is_good(self, cell_id: str, at: str, signature: str, *, image_id: str) -> bool:
        key = self._context.node.topology.public_key_of(CellId(cell_id))
        if key is None or not at.isdecimal() or len(at) > 12:
            return False
        if abs(self._context.world.clock.now() - int(at)) > WORD_LIFE_S:
            return False
        try:
            return key.verify(_text(image_id, at), bytes.fromhex(signature))
        except ValueError:
            return False


def _text(image_id: str, at: str) -> bytes:
    return f"xenith image {image_id} {at}".encode()
