"""Images of one server share their blocks: each keeps what the one before it did not have.

A dynamic VHD is cut at its blocks. What is new is written one after the other into the image's
layer; a map says of each block in which layer it lies, and holds all that is between the blocks. So
an image is given byte for byte as it came, whatever became of the others.

    <id>.layer     the blocks that no earlier image had, each with its bitmap
    <id>.map       where each block of the image lies: in this layer, or in one of another image
    <id>           an image that is no dynamic VHD, whole

A layer is removed with the last image that needs it; ``image_layers`` says which need it.
Source: Virtual Hard Disk Image Format Specification 1.0 for the form of the stream.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import NamedTuple

import msgspec
import numpy as np
import sqlalchemy as sa

from xenith.blob import BlobStore
from xenith.core.errors import Invalid, NotFound, Unavailable
from xenith.db import GLOBAL, Tx
from xenith.vhd.footer import DYNAMIC, FOOTER_BYTES, SECTOR_BYTES, SIZE_BYTES_MAX, decode_footer
from xenith.vhd.header import ABSENT, BLOCK_BYTES, HEADER_BYTES, Header, decode_header

image_layers = sa.Table(
    "image_layers",
    GLOBAL,
    sa.Column("image_id", sa.Text, primary_key=True),
    #: The image with which the layer came, which may be gone by now.
    sa.Column("layer_id", sa.Text, primary_key=True),
)
sa.Index("image_layers_by_layer", image_layers.c.layer_id)

LAYER, MAP = ".layer", ".map"
_HEAD_BYTES = FOOTER_BYTES + HEADER_BYTES
#: Bytes of a block in the stream, its bitmap before it.
STRIDE_BYTES = SECTOR_BYTES + BLOCK_BYTES
_ENTRIES_MAX = -(-SIZE_BYTES_MAX // BLOCK_BYTES)
#: Bytes between the blocks, the table being most of them.
_BETWEEN_BYTES_MAX = 16 * 1024 * 1024
_HASH_BYTES = 20


class Map(msgspec.Struct, frozen=True, array_like=True):
    """Where the parts of an image lie. All lists go by the blocks as they stand in the stream."""

    size_bytes: int
    layers: list[str]
    #: The blocks' numbers on the disk.
    numbers: list[int]
    #: Where in the stream each begins.
    starts: list[int]
    #: Which of ``layers`` has it, and where in that.
    layer_of: list[int]
    places: list[int]
    hashes: bytes
    #: All that is between the blocks.
    between: bytes

    def hash_at(self, index: int) -> bytes:
        """Give the hash of a block, its bitmap included."""
        return self.hashes[index * _HASH_BYTES : (index + 1) * _HASH_BYTES]


class _Part(NamedTuple):
    """A piece of the stream: bytes between blocks, or a block by its place in the map."""

    start: int
    length: int
    block: int | None
    #: Of bytes between blocks: where they begin in ``between``.
    at: int


class Layers:
    """Images in a store, cut into layers."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store

    async def write(
        self, image_id: str, chunks: AsyncIterator[bytes], *, base_id: str | None
    ) -> list[str]:
        """Store an image beside an earlier one; give the layers that it needs, none if it is whole.

        Raises:
            Invalid: it begins as a dynamic VHD and does not go on as one.
            Unavailable: the store is full or away.
        """
        stream = _Stream(chunks)
        head = await stream.peek(_HEAD_BYTES)
        header = _dynamic(head)
        if header is None:
            await self._store.write(image_id, stream.rest())
            return []
        base = None if base_id is None else await self._find_map(base_id)
        cut = _Cut(image_id, base)
        async with aclosing(cut.new_blocks(stream, header)) as blocks:
            await self._store.write(image_id + LAYER, blocks)
        found = cut.map(stream.at)
        await self._store.write(image_id + MAP, _whole(msgspec.msgpack.encode(found)))
        return found.layers

    async def read(
        self, image_id: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """Give an image that is in layers, or a range of it, piece by piece.

        Raises:
            NotFound: there is none.
        """
        found = await self._map(image_id)
        end = found.size_bytes if length is None else min(offset + length, found.size_bytes)
        for part in _parts(found):
            begin, stop = max(offset, part.start), min(end, part.start + part.length)
            if begin >= stop:
                continue
            skip, count = begin - part.start, stop - begin
            if part.block is None:
                yield found.between[part.at + skip : part.at + skip + count]
                continue
            layer = found.layers[found.layer_of[part.block]] + LAYER
            place = found.places[part.block] + skip
            got = 0
            async for piece in self._store.read(layer, offset=place, length=count):
                got += len(piece)
                yield piece
            if got != count:
                raise Unavailable(f"the layer {layer} of image {image_id} is cut off")

    async def _map(self, image_id: str) -> Map:
        data = b"".join([piece async for piece in self._store.read(image_id + MAP)])
        try:
            return _decode(data)
        except msgspec.MsgspecError as error:
            raise Unavailable(f"the map of image {image_id} cannot be read") from error

    async def _find_map(self, image_id: str) -> Map | None:
        try:
            return await self._map(image_id)
        except NotFound:
            return None


def use_layers(tx: Tx, image_id: str, layers: Sequence[str]) -> None:
    """Note which layers an image needs.

    Raises:
        Unavailable: one of another image was removed meanwhile; the image is to be stored anew.
    """
    for layer in layers:
        if layer != image_id and tx.first(_users(layer)) is None:
            raise Unavailable(f"what image {image_id} stands on was removed: store it again")
        tx.insert(image_layers, {"image_id": image_id, "layer_id": layer})


def leave_layers(tx: Tx, image_id: str) -> list[str]:
    """Note that an image is no more, and give the names of what nobody needs now."""
    rows = tx.list(image_layers, image_id=image_id)
    tx.delete(image_layers, image_id=image_id)
    free = [row.layer_id + LAYER for row in rows if tx.first(_users(row.layer_id)) is None]
    return [image_id + MAP, *free] if rows else []


def _users(layer: str) -> sa.Select[tuple[str]]:
    return sa.select(image_layers.c.image_id).where(image_layers.c.layer_id == layer).limit(1)


_decode = msgspec.msgpack.Decoder(Map).decode


class _Stream:
    """What comes, in pieces of any length, taken in pieces of the length that is wanted."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._held = bytearray()
        #: Bytes that were taken.
        self.at = 0

    async def peek(self, length: int) -> bytes:
        """Give the next bytes, fewer at the end, and take none."""
        while len(self._held) < length:
            piece = await anext(self._chunks, None)
            if piece is None:
                break
            self._held += piece
        return bytes(self._held[:length])

    async def take(self, length: int) -> bytes:
        """Take so many bytes.

        Raises:
            Invalid: the stream has ended.
        """
        data = await self.peek(length)
        if len(data) < length:
            raise Invalid(f"The VHD is cut off at {self.at + len(data)} bytes.")
        del self._held[:length]
        self.at += length
        return data

    async def rest(self) -> AsyncIterator[bytes]:
        """Take all that is left."""
        while data := await self.peek(max(1, len(self._held))):
            del self._held[: len(data)]
            self.at += len(data)
            yield data


class _Cut:
    """A stream while it is cut: what is new goes into the layer, and all of it into the map."""

    def __init__(self, image_id: str, base: Map | None) -> None:
        self._layers = [image_id]
        self._base = base
        self._known = (
            {} if base is None else {number: index for index, number in enumerate(base.numbers)}
        )
        self._numbers: list[int] = []
        self._starts: list[int] = []
        self._layer_of: list[int] = []
        self._places: list[int] = []
        self._hashes = bytearray()
        self._between = bytearray()
        self._length = 0

    async def new_blocks(self, stream: _Stream, header: Header) -> AsyncGenerator[bytes]:
        """Give the blocks that the base does not have, in their order."""
        await self._keep(stream, header.table_offset)
        table = await stream.take(header.entries * 4)
        self._between += table
        for place, number in _places(table):
            if place < stream.at:
                raise Invalid("The VHD has blocks that lie over each other, or over its table.")
            await self._keep(stream, place - stream.at)
            start = stream.at
            data = await stream.take(STRIDE_BYTES)
            if self._is_new(number, start, hashlib.blake2b(data, digest_size=_HASH_BYTES).digest()):
                yield data
        async for piece in stream.rest():
            self._hold(piece)

    async def _keep(self, stream: _Stream, length: int) -> None:
        if length > _BETWEEN_BYTES_MAX:
            raise Invalid("The VHD has too much between its blocks.")
        self._hold(await stream.take(length))

    def _hold(self, data: bytes) -> None:
        self._between += data
        if len(self._between) > _BETWEEN_BYTES_MAX:
            raise Invalid("The VHD has too much between its blocks.")

    def _is_new(self, number: int, start: int, digest: bytes) -> bool:
        self._numbers.append(number)
        self._starts.append(start)
        self._hashes += digest
        index, base = self._known.get(number), self._base
        if base is not None and index is not None and base.hash_at(index) == digest:
            layer = base.layers[base.layer_of[index]]
            if layer not in self._layers:
                self._layers.append(layer)
            self._layer_of.append(self._layers.index(layer))
            self._places.append(base.places[index])
            return False
        self._layer_of.append(0)
        self._places.append(self._length)
        self._length += STRIDE_BYTES
        return True

    def map(self, size_bytes: int) -> Map:
        """Give the map of a stream that has come to its end."""
        return Map(
            size_bytes,
            self._layers,
            self._numbers,
            self._starts,
            self._layer_of,
            self._places,
            bytes(self._hashes),
            bytes(self._between),
        )


def _dynamic(head: bytes) -> Header | None:
    """Read the header of a dynamic VHD with blocks of the usual size; None of anything else."""
    try:
        footer = decode_footer(head[:FOOTER_BYTES])
        if footer.kind != DYNAMIC or footer.data_offset != FOOTER_BYTES:
            return None
        header = decode_header(head[FOOTER_BYTES:])
    except Invalid:
        return None
    is_usual = header.block_bytes == BLOCK_BYTES and header.entries <= _ENTRIES_MAX
    return header if is_usual and header.table_offset >= _HEAD_BYTES else None


def _places(table: bytes) -> list[tuple[int, int]]:
    """Give where blocks begin and their numbers, in the order of the stream."""
    entries = np.frombuffer(table, dtype=">u4").astype(np.int64)
    numbers = np.flatnonzero(entries != ABSENT)
    order = numbers[np.argsort(entries[numbers], kind="stable")]
    return list(zip((entries[order] * SECTOR_BYTES).tolist(), order.tolist(), strict=True))


def _parts(found: Map) -> Iterator[_Part]:
    at, between = 0, 0
    for index, start in enumerate(found.starts):
        if start > at:
            yield _Part(at, start - at, None, between)
            between += start - at
        yield _Part(start, STRIDE_BYTES, index, 0)
        at = start + STRIDE_BYTES
    if found.size_bytes > at:
        yield _Part(at, found.size_bytes - at, None, between)


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    yield data
