"""What every store of bytes does: files, and obstore as S3 is reached, on memory and on a disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from obstore.store import LocalStore, MemoryStore

from xenith.blob import BlobStore, FileStore
from xenith.blob.s3 import S3Store
from xenith.core.errors import NotFound, TooLarge


@pytest.fixture(params=["files", "s3-memory", "s3-disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "files":
        return FileStore(tmp_path / "images")
    if request.param == "s3-memory":
        return S3Store(MemoryStore())
    return S3Store(LocalStore(tmp_path / "images", mkdir=True))


async def stream(*pieces: bytes, then: BaseException | None = None) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
    if then is not None:
        raise then


async def bytes_of(store: BlobStore, name: str, **ask: int) -> bytes:
    return b"".join([piece async for piece in store.read(name, **ask)])


async def test_what_is_written_is_read_back_whole(store: BlobStore) -> None:
    big = bytes(range(256)) * 4096
    assert await store.write("a-1.x", stream(b"ab", big, b"c"), size_bytes=len(big) + 3) == (
        len(big) + 3
    )
    assert await bytes_of(store, "a-1.x") == b"ab" + big + b"c"
    assert await store.size("a-1.x") == len(big) + 3


async def test_nothing_at_all_can_be_stored(store: BlobStore) -> None:
    assert await store.write("empty", stream()) == 0
    assert await bytes_of(store, "empty") == b""
    assert await store.size("empty") == 0


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        ({"offset": 3}, b"3456789"),
        ({"offset": 3, "length": 2}, b"34"),
        ({"length": 1}, b"0"),
        ({"length": 0}, b""),
        ({"offset": 8, "length": 100}, b"89"),
        ({"offset": 10}, b""),
        ({"offset": 99}, b""),
    ],
)
async def test_a_range_is_read_as_far_as_there_are_bytes(
    store: BlobStore, ask: dict[str, int], expected: bytes
) -> None:
    await store.write("a", stream(b"0123456789"))
    assert await bytes_of(store, "a", **ask) == expected


async def test_a_second_write_replaces_the_first(store: BlobStore) -> None:
    await store.write("a", stream(b"first and long"))
    await store.write("a", stream(b"second"))
    assert await bytes_of(store, "a") == b"second"


async def test_a_stream_that_fails_half_way_leaves_nothing_and_its_own_error(
    store: BlobStore,
) -> None:
    with pytest.raises(TooLarge, match="enough"):
        await store.write("a", stream(b"x" * 300_000, then=TooLarge("enough")))
    assert await store.list() == []
    with pytest.raises(NotFound):
        await bytes_of(store, "a")


async def test_a_write_that_fails_leaves_what_was_there_before(store: BlobStore) -> None:
    await store.write("a", stream(b"old"))
    with pytest.raises(TooLarge):
        await store.write("a", stream(b"new", then=TooLarge("enough")))
    assert await bytes_of(store, "a") == b"old"


async def test_a_cancelled_write_leaves_nothing(store: BlobStore) -> None:
    is_waiting = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * 300_000
        is_waiting.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(store.write("a", endless()))
    await is_waiting.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await store.list() == []


async def test_deleting_is_repeatable(store: BlobStore) -> None:
    await store.write("a", stream(b"x"))
    await store.delete("a")
    await store.delete("a")
    assert await store.list() == []
    with pytest.raises(NotFound):
        await store.size("a")


async def test_the_names_are_listed_in_order(store: BlobStore) -> None:
    for name in ("b", "a", "c.d"):
        await store.write(name, stream(b"x"))
    assert await store.list() == ["a", "b", "c.d"]


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "a\n", "a\x00", "a" * 300, "é"])
async def test_a_name_that_is_none_of_ours_is_not_found(store: BlobStore, name: str) -> None:
    with pytest.raises(NotFound):
        await store.write(name, stream(b"x"))
    with pytest.raises(NotFound):
        await bytes_of(store, name)
    await store.delete(name)
    assert await store.list() == []
