"""Bytes of images: one small port, a directory or any S3 behind it."""

from __future__ import annotations

from pathlib import Path

from xenith.blob.files import FileStore
from xenith.blob.store import BlobStore
from xenith.core.errors import Invalid

__all__ = ["BlobStore", "FileStore", "open_store"]


def open_store(url: str, directory: Path) -> BlobStore:
    """Open ``s3://bucket/prefix``, or the directory when the address is empty.

    Raises:
        Invalid: the address is neither, or S3's library is not installed.
    """
    if not url:
        return FileStore(directory)
    if not url.startswith("s3://"):
        raise Invalid(f"image_store {url} is neither empty nor s3://bucket/prefix")
    from xenith.blob.s3 import S3Store  # noqa: PLC0415 - the library is an optional extra

    return S3Store.open(url)
