"""The tar of an XVA, written and read as a stream; what is read is taken for hostile."""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

from xenith.toolstack.xva.checksums import SHA1_SUFFIX, XXH64_SUFFIX, sha1, xxh64
from xenith.xapi.faults import XapiFault

#: Bytes of a disk in one member. Source: xen-api, stream_vdi.ml.
PIECE_BYTES = 1024 * 1024
MANIFEST = "ova.xml"
#: A VM with all that it may have makes some hundred KiB of records.
MANIFEST_BYTES_MAX = 16 * 1024 * 1024

_RECORD_BYTES = 512
_INFLATED_BYTES = 256 * 1024
_CHECKSUM_BYTES_MAX = 128
_PIECE = re.compile(r"(Ref:[0-9]{1,10})/([0-9]{8,12})")
_ZEROS = bytes(PIECE_BYTES)
_GZIP = b"\x1f\x8b"
_GZIP_WBITS = zlib.MAX_WBITS | 16
_ZSTD = b"\x28\xb5\x2f\xfd"
_PLAIN = frozenset((tarfile.REGTYPE, tarfile.AREGTYPE))


class Piece(NamedTuple):
    """A part of a disk: of which, its number, and its bytes."""

    prefix: str
    number: int
    data: bytes


def member(name: str, data: bytes) -> bytes:
    """Give a member with its header, filled up to whole records."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % _RECORD_BYTES)


def end() -> bytes:
    """Give what an archive ends with."""
    return bytes(2 * _RECORD_BYTES)


async def pack_disk(prefix: str, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Give a disk's members of its bytes, which come in chunks of any size."""
    number, last = 0, b""
    async for data in _cut(chunks):
        # Whether a piece is the last one is known with the next.
        if last and (number == 1 or last != _ZEROS):
            yield _pair(prefix, number - 1, last)
        number, last = number + 1, data
    if last:
        yield _pair(prefix, number - 1, last)


def _pair(prefix: str, number: int, data: bytes) -> bytes:
    name = f"{prefix}/{number:08d}"
    return member(name, data) + member(name + SHA1_SUFFIX, sha1(data).encode())


async def _cut(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    held = bytearray()
    async for chunk in chunks:
        held += chunk
        while len(held) >= PIECE_BYTES:
            yield bytes(memoryview(held)[:PIECE_BYTES])
            del held[:PIECE_BYTES]
    if held:
        yield bytes(held)


class Archive:
    """An XVA that comes in: first its manifest, then the pieces of its disks in order."""

    def __init__(self, chunks: AsyncIterator[bytes], *, is_forced: bool = False) -> None:
        """Read from ``chunks``; with ``is_forced`` checksums that are wrong pass."""
        self._chunks = _unpacked(chunks)
        self._held = bytearray()
        self._is_forced = is_forced
        self._ahead: Piece | None = None
        self._is_over = False

    async def manifest(self) -> bytes:
        """Read the manifest.

        Raises:
            XapiFault: IMPORT_ERROR_…: there is none, or it is too large.
        """
        info = await self._next()
        if info is None or info.name != MANIFEST:
            raise _unexpected(MANIFEST, info)
        if info.size > MANIFEST_BYTES_MAX:
            raise _refuse(f"{MANIFEST} has {info.size} bytes")
        return await self._body(info)

    async def peek(self) -> Piece | None:
        """Give the next piece and leave it there; None at the archive's end."""
        if self._ahead is None and not self._is_over:
            self._ahead = await self._read()
            self._is_over = self._ahead is None
        return self._ahead

    async def disk(self, prefix: str, size_bytes: int) -> AsyncGenerator[bytes]:
        """Give a disk's bytes, those that were left out too.

        Raises:
            XapiFault: IMPORT_ERROR_…: it is not whole, is damaged, or is of another size.
        """
        at, next_number = 0, 0
        while (piece := await self.peek()) is not None and piece.prefix == prefix:
            if piece.number < next_number:
                raise _refuse(f"{prefix}/{piece.number:08d} comes late, or twice")
            gap = (piece.number - next_number) * PIECE_BYTES
            if at + gap + len(piece.data) > size_bytes:
                raise _refuse(f"{prefix} is longer than the {size_bytes} bytes of its disk")
            at += gap + len(piece.data)
            for _ in range(gap // PIECE_BYTES):
                yield _ZEROS
            yield piece.data
            next_number, self._ahead = piece.number + 1, None
        if at != size_bytes:
            raise _refuse(f"{prefix} ends after {at} of {size_bytes} bytes")

    async def finish(self) -> None:
        """Check that nothing is left.

        Raises:
            XapiFault: IMPORT_ERROR_UNEXPECTED_FILE.
        """
        piece = await self.peek()
        if piece is not None:
            raise XapiFault("IMPORT_ERROR_UNEXPECTED_FILE", "the end", piece.prefix)

    async def _read(self) -> Piece | None:
        info = await self._next()
        if info is None:
            return None
        found = _PIECE.fullmatch(info.name)
        if found is None:
            raise _unexpected("Ref:…/00000000", info)
        if info.size > PIECE_BYTES:
            raise _refuse(f"{info.name} has {info.size} bytes")
        data = await self._body(info)
        stated = await self._next()
        hashes = {info.name + SHA1_SUFFIX: sha1, info.name + XXH64_SUFFIX: xxh64}
        if stated is None or stated.name not in hashes or stated.size > _CHECKSUM_BYTES_MAX:
            raise _unexpected(info.name + XXH64_SUFFIX, stated)
        said = (await self._body(stated)).decode("ascii", "replace").strip()
        if said != hashes[stated.name](data) and not self._is_forced:
            raise XapiFault("IMPORT_ERROR_SOME_CHECKSUMS_FAILED")
        return Piece(found[1], int(found[2]), data)

    async def _next(self) -> tarfile.TarInfo | None:
        record = await self._take(_RECORD_BYTES)
        if not any(record):
            return None
        try:
            info = tarfile.TarInfo.frombuf(record, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            raise _refuse("it is no tar, or is damaged") from None
        if info.type not in _PLAIN or info.size < 0:
            raise _refuse(f"{info.name[:80]!r} in it is no plain file")
        return info

    async def _body(self, info: tarfile.TarInfo) -> bytes:
        padded = info.size + -info.size % _RECORD_BYTES
        return (await self._take(padded))[: info.size]

    async def _take(self, count: int) -> bytes:
        while len(self._held) < count:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                raise XapiFault("IMPORT_ERROR_PREMATURE_EOF")
            self._held += chunk
        taken = bytes(memoryview(self._held)[:count])
        del self._held[:count]
        return taken


async def _unpacked(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Give what a stream holds, be it packed with gzip or not."""
    first = b""
    while len(first) < len(_ZSTD) and (chunk := await anext(chunks, None)) is not None:
        first += chunk
    if first.startswith(_ZSTD):
        raise XapiFault("VALUE_NOT_SUPPORTED", "use_compression", "zstd", "unpack it, or use gzip")
    if not first.startswith(_GZIP):
        if first:
            yield first
        async for chunk in chunks:
            yield chunk
        return
    inflate = zlib.decompressobj(wbits=_GZIP_WBITS)
    waiting: bytes | None = first
    while waiting is not None:
        while waiting:
            if inflate.eof:
                # Several that stand behind each other are one. Source: RFC 1952, 2.2.
                inflate = zlib.decompressobj(wbits=_GZIP_WBITS)
            try:
                data = inflate.decompress(waiting, _INFLATED_BYTES)
            except zlib.error:
                raise _refuse("it is damaged: no gzip") from None
            waiting = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            if data:
                yield data
        waiting = await anext(chunks, None)


def _unexpected(wanted: str, found: tarfile.TarInfo | None) -> XapiFault:
    name = "the end" if found is None else found.name[:80].encode("ascii", "replace").decode()
    return XapiFault("IMPORT_ERROR_UNEXPECTED_FILE", wanted, name)


def _refuse(text: str) -> XapiFault:
    return XapiFault("IMPORT_ERROR_GENERIC", text)
