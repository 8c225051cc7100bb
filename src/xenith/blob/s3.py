"""A store in any S3, through obstore. Credentials come from the usual AWS_… environment."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self
from urllib.parse import urlsplit

from xenith.blob.store import checked_name
from xenith.core.errors import Invalid, NotFound, Unavailable
from xenith.core.limits import MIB, STREAM_CHUNK_BYTES

#: Bytes of one part of an upload. Source: S3 takes at least 5 MiB and at most 10,000 parts.
PART_BYTES = 64 * MIB


class S3Store:
    """Bytes as objects under a prefix; ``store`` is any of obstore's."""

    def __init__(self, store: Any) -> None:
        self._store = store

    @classmethod
    def open(cls, url: str) -> Self:
        """Open ``s3://bucket/prefix``.

        Raises:
            Invalid: obstore is not installed, or the address is wrong.
        """
        try:
            from obstore.store import S3Store as Remote  # noqa: PLC0415 - an optional extra
        except ImportError as error:
            raise Invalid(
                "an image store in S3 needs the extra `s3`: pip install 'xenith[s3]'"
            ) from error
        parts = urlsplit(url)
        if not parts.netloc:
            raise Invalid(f"image_store {url} names no bucket")
        return cls(Remote(parts.netloc, prefix=parts.path.strip("/") or None))

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        """Upload in parts; S3 shows nothing before all are there."""
        import obstore  # noqa: PLC0415 - an optional extra

        size = 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal size
            async for piece in chunks:
                size += len(piece)
                yield piece

        checked_name(name)
        with _worded(name):
            await obstore.put_async(self._store, name, counted(), chunk_size=PART_BYTES)
        return size

    async def read(
        self, name: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """Download in pieces."""
        import obstore  # noqa: PLC0415

        whole = await self.size(name)
        end = whole if length is None else min(whole, offset + length)
        if offset >= end:
            return
        with _worded(name):
            found = await obstore.get_async(self._store, name, options={"range": (offset, end)})
        pieces = aiter(found.stream(min_chunk_size=STREAM_CHUNK_BYTES))
        while True:
            with _worded(name):
                piece = await anext(pieces, None)
            if piece is None:
                return
            yield bytes(piece)

    async def size(self, name: str) -> int:
        """Ask for the object's head."""
        import obstore  # noqa: PLC0415

        with _worded(name):
            head = await obstore.head_async(self._store, checked_name(name))
        return int(head["size"])

    async def delete(self, name: str) -> None:
        """Remove the object."""
        import obstore  # noqa: PLC0415

        with _worded(name), contextlib.suppress(FileNotFoundError):
            await obstore.delete_async(self._store, checked_name(name))

    async def list(self) -> list[str]:
        """List the objects."""
        import obstore  # noqa: PLC0415

        names: list[str] = []
        with _worded("the prefix"):
            async for batch in obstore.list(self._store):
                names += [str(item["path"]) for item in batch]
        return sorted(names)

    async def close(self) -> None:
        """Nothing is held."""


@contextlib.contextmanager
def _worded(name: str) -> Iterator[None]:
    """Say what S3 said in words of ours; what the uploaded stream itself raised passes through."""
    from obstore.exceptions import BaseError  # noqa: PLC0415 - an optional extra

    try:
        yield
    except FileNotFoundError:
        raise NotFound(f"no bytes are stored under {name}") from None
    except (BaseError, OSError) as error:
        if isinstance(error, ConnectionError):
            raise
        raise Unavailable(f"the image store does not answer: {type(error).__name__}") from error
