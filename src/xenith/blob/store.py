"""What a store of bytes does. Names are ours (ids), never a tenant's."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Protocol

from xenith.core.errors import NotFound

#: Ids and what we append to them: nothing that a path or a listing reads otherwise.
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,200}")
#: What a name of bytes that are not whole yet ends with; no whole bytes may be called so.
DRAFT = ".part"


class BlobStore(Protocol):
    """Named sequences of bytes, written once and whole."""

    async def write(
        self, name: str, chunks: AsyncIterator[bytes], *, size_bytes: int | None = None
    ) -> int:
        """Store a stream under a name and tell its size; what fails half way leaves nothing.

        ``size_bytes`` is the size that was announced, if one was: a hint, not a check. What the
        stream raises is raised on.

        Raises:
            Unavailable: the store is full or away.
        """

    def read(
        self, name: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """Give the bytes, or a range of them, piece by piece.

        Raises:
            NotFound: there is nothing of that name.
            Unavailable: the store is away.
        """

    async def size(self, name: str) -> int:
        """Tell a size in bytes.

        Raises:
            NotFound: there is nothing of that name.
            Unavailable: the store is away.
        """

    async def delete(self, name: str) -> None:
        """Remove; what is not there is no error.

        Raises:
            NotFound: the name cannot be one of ours.
            Unavailable: the store is away.
        """

    async def list(self) -> list[str]:
        """List all names, sorted."""

    async def close(self) -> None:
        """Let go of what is held."""


def checked_name(name: str) -> str:
    """Give a name back if it may be one of ours.

    Raises:
        NotFound: it may not, so nothing can be stored under it.

    >>> checked_name("1f2e-3d.part-1")
    '1f2e-3d.part-1'
    """
    if _NAME.fullmatch(name) is None or name.endswith(DRAFT):
        raise NotFound("no bytes are stored under such a name")
    return name
