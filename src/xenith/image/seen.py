"""The bytes of an image as they pass on their way to the store: counted, hashed and inspected."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from xenith.core.errors import TooLarge
from xenith.core.limits import IMAGE_BYTES_MAX
from xenith.image.formats import Inspector
from xenith.image.tarball import TarballReader, TarballReaders
from xenith.vhd import is_tarball


class Seen:
    """One image's bytes while they pass."""

    def __init__(
        self, disk_format: str, chunks: AsyncIterator[bytes], tarball: TarballReader | None
    ) -> None:
        self._inspector = Inspector(disk_format)
        self._chunks = chunks if tarball is None else tarball.seen(chunks)
        self._tarball = tarball
        self._digests = hashlib.md5(usedforsecurity=False), hashlib.sha512()

    @property
    def size_bytes(self) -> int:
        """How many have passed."""
        return self._inspector.size_bytes

    async def pieces(self) -> AsyncIterator[bytes]:
        """Give the bytes on.

        Raises:
            TooLarge: there are more than the limit.
            Invalid: they are not what they claim to be.
        """
        async for piece in self._chunks:
            self._inspector.see(piece)
            if self.size_bytes > IMAGE_BYTES_MAX:
                raise TooLarge(f"An image may have at most {IMAGE_BYTES_MAX} bytes.")
            for digest in self._digests:
                digest.update(piece)
            yield piece

    async def described(self) -> dict[str, Any]:
        """Give what an image's record says of bytes that have all passed.

        Raises:
            Invalid: they are not what they claim to be.
        """
        if self._tarball is None:
            virtual = self._inspector.virtual_size_bytes()
        else:
            virtual = await self._tarball.size_bytes()
        return {
            "size": self.size_bytes,
            "virtual_size": virtual,
            "checksum": self._digests[0].hexdigest(),
            "os_hash_value": self._digests[1].hexdigest(),
        }


@contextlib.asynccontextmanager
async def seeing(
    disk_format: str,
    container_format: str | None,
    chunks: AsyncIterator[bytes],
    readers: TarballReaders,
) -> AsyncGenerator[Seen]:
    """See an image's bytes pass, for the length of the block.

    Raises:
        Unavailable: too many tarballs are being read.
    """
    if not is_tarball(disk_format, container_format):
        yield Seen(disk_format, chunks, None)
        return
    async with readers.reading() as tarball:
        yield Seen(disk_format, chunks, tarball)
