"""A store in any S3, through obstore. Credentials come from the usual ``AWS_…`` environment.

An upload is made of parts and is seen only when all of them are there, so nothing half-made ever
shows. The library is imported when a store is opened: who keeps images in files need not have it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any, Self
from urllib.parse import urlsplit

from xenith.blob.store import checked_name
from xenith.core.errors import Invalid, NotFound, Unavailable
from xenith.core.limits import MIB, STREAM_CHUNK_BYTES

#: One part of an upload, held in memory. Source: S3 takes 5 MiB at least, 10,000 parts at most.
PART_BYTES_MIN = 8 * MIB
PARTS_MAX = 10_000
#: A part when no size was announced: up to 625 GiB can then come.
PART_BYTES_UNANNOUNCED = 64 * MIB
#: Parts on their way at a time; each is held in memory.
PARTS_AT_A_TIME = 2
#: One request, a part's bytes included: 64 MiB at 1 MiB/s fit in.
REQUEST_TIMEOUT = timedelta(seconds=120)
CONNECT_TIMEOUT = timedelta(seconds=5)
#: All tries of one request.
RETRY_TIMEOUT = timedelta(seconds=180)


class S3Store:
    """Bytes as objects under a prefix; ``store`` is any of obstore's."""

    def __init__(self, store: Any) -> None:
        import obstore  # noqa: PLC0415 - an optional extra
        import obstore.exceptions as failures  # noqa: PLC0415

        self._store = store
        self._library = obstore
        self._failure = failures.BaseError

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
        if not parts.netloc or parts.query or parts.fragment or "@" in parts.netloc:
            raise Invalid("image_store is not of the form s3://bucket/prefix")
        return cls(
            Remote(
                parts.netloc,
                prefix=parts.path.strip("/") or None,
                client_options={
                    "timeout": REQUEST_TIMEOUT,
                    "connect_timeout": CONNECT_TIMEOUT,
                    # Options given here make the library forget this one of the environment.
                    "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true"),
                },
                retry_config={"max_retries": 5, "retry_timeout": RETRY_TIMEOUT},
            )
        )

    async def write(
        self, name: str, chunks: AsyncIterator[bytes], *, size_bytes: int | None = None
    ) -> int:
        """Upload in parts; S3 shows nothing before all are there."""
        size = 0
        failure: BaseException | None = None

        async def counted() -> AsyncIterator[bytes]:
            # The library may word what the stream raises in its own way; the caller's own counts.
            nonlocal size, failure
            try:
                async for piece in chunks:
                    size += len(piece)
                    yield piece
            except BaseException as error:
                failure = error
                raise

        try:
            with self._as_unavailable():
                await self._library.put_async(
                    self._store,
                    checked_name(name),
                    counted(),
                    chunk_size=part_bytes(size_bytes),
                    max_concurrency=PARTS_AT_A_TIME,
                )
        except BaseException as error:
            if failure is not None and failure is not error:
                raise failure from None
            raise
        return size

    async def read(
        self, name: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """Download in pieces."""
        whole = await self.size(name)
        end = whole if length is None else min(whole, offset + length)
        if offset >= end:
            return
        with self._as_unavailable():
            found = await self._library.get_async(
                self._store, name, options={"range": (offset, end)}
            )
            async for piece in found.stream(min_chunk_size=STREAM_CHUNK_BYTES):
                yield bytes(piece)

    async def size(self, name: str) -> int:
        """Ask for the object's head."""
        try:
            with self._as_unavailable():
                head = await self._library.head_async(self._store, checked_name(name))
        except FileNotFoundError:
            raise NotFound(f"no bytes are stored under {name}") from None
        return int(head["size"])

    async def delete(self, name: str) -> None:
        """Remove the object."""
        checked_name(name)
        with contextlib.suppress(FileNotFoundError), self._as_unavailable():
            await self._library.delete_async(self._store, name)

    async def list(self) -> list[str]:
        """List the objects."""
        names: list[str] = []
        with self._as_unavailable():
            async for batch in self._library.list(self._store):
                names += [str(item["path"]) for item in batch]
        return sorted(names)

    async def close(self) -> None:
        """Nothing is held."""

    @contextlib.contextmanager
    def _as_unavailable(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except (self._failure, OSError) as error:
            # The library's text may carry the request's address; its class is enough to act on.
            raise Unavailable(f"the image store fails: {type(error).__name__}") from error


def part_bytes(size_bytes: int | None) -> int:
    """Choose the size of the parts of an upload.

    >>> part_bytes(1), part_bytes(1000 * 2**30) // 2**20
    (8388608, 102)
    """
    if size_bytes is None:
        return PART_BYTES_UNANNOUNCED
    return max(PART_BYTES_MIN, -(-size_bytes // PARTS_MAX))
