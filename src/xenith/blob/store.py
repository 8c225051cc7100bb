"""What a store of bytes does. Names are ours (ids), never a tenant's."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Protocol

from xenith.core.errors import NotFound

_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,200}")
#: What a name of bytes that are not whole yet ends with; no whole bytes may be called so.
DRAFT = ".part"


def checked_name(name: str) -> str:
    """Check that a name is one of ours; anything else could lead out of the store.

    Raises:
        NotFound: it is none.
    """
    if not _NAME.fullmatch(name) or name.endswith(DRAFT):
        raise NotFound("no bytes are stored under such a name")
    return name


class BlobStore(Protocol):
    """Named sequences of bytes, written once and whole."""

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        """Store a stream under a name and tell its size; what fails half way leaves nothing.

        Raises:
            Unavailable: the store is full or away.
        """

    def read(
        self, name: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """Give the bytes, or a range of them, piece by piece.

        Raises:
            NotFound: there is nothing of that name.
        """

    async def size(self, name: str) -> int:
        """Tell a size in bytes.

        Raises:
            NotFound: there is nothing of that name.
        """

    async def delete(self, name: str) -> None:
        """Remove; what is not there is no error."""

    async def list(self) -> list[str]:
        """List all names."""

    async def close(self) -> None:
        """Let go of what is held."""
