"""What every store of bytes does, whatever is behind it."""

from __future__ import annotations

import asyncio

import pytest
from obstore.store import LocalStore, MemoryStore

from xenith.blob import FileStore
from xenith.blob.s3 import S3Store
from xenith.core.errors import NotFound, TooLarge
from xenith.core.limits import STREAM_CHUNK_BYTES

HOSTILE = (
    "../out",
    "a/b",
    "/etc/passwd",
    "",
    ".",
    "..",
    ".hidden",
    "a\n",
    "a\x00b",
    "a.part",
    "é",
    "x" * 300,
)


@pytest.fixture(params=["files", "s3 in memory", "s3 in files"])
def store(request, tmp_path):
    if request.param == "files":
        return FileStore(tmp_path / "blobs")
    return S3Store(MemoryStore() if "memory" in request.param else LocalStore(tmp_path))


async def stream(*pieces, error=None):
    for piece in pieces:
        yield piece
    if error is not None:
        raise error


async def bytes_of(store, name, **where):
    return b"".join([piece async for piece in store.read(name, **where)])


async def test_what_is_written_is_read_again_and_has_its_size(store):
    assert await store.write("one", stream(b"ab", b"", b"cde")) == 5
    assert await bytes_of(store, "one") == b"abcde"
    assert await store.size("one") == 5
    assert await store.list() == ["one"]


async def test_many_pieces_come_back_in_order(store):
    pieces = [bytes([at]) * (STREAM_CHUNK_BYTES // 3 + at) for at in range(10)]
    await store.write("big", stream(*pieces))
    assert await bytes_of(store, "big") == b"".join(pieces)


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, 3, b"012"),
        (4, 3, b"456"),
        (8, 100, b"89"),
        (7, None, b"789"),
        (10, None, b""),
        (50, 5, b""),
        (3, 0, b""),
    ],
)
async def test_a_range_is_what_lies_in_it(store, offset, length, expected):
    await store.write("digits", stream(b"0123456789"))
    assert await bytes_of(store, "digits", offset=offset, length=length) == expected


async def test_nothing_is_a_whole_too(store):
    assert await store.write("empty", stream()) == 0
    assert await store.size("empty") == 0
    assert await bytes_of(store, "empty") == b""


async def test_a_second_write_takes_the_place_of_the_first(store):
    await store.write("one", stream(b"first and long"))
    await store.write("one", stream(b"second"))
    assert await bytes_of(store, "one") == b"second"


async def test_a_stream_that_fails_half_way_leaves_nothing_and_says_why(store):
    with pytest.raises(TooLarge, match="enough"):
        await store.write("half", stream(b"x" * 1000, error=TooLarge("enough")))
    assert await store.list() == []
    with pytest.raises(NotFound):
        await store.size("half")


async def test_a_second_write_that_fails_leaves_the_first(store):
    await store.write("one", stream(b"good"))
    with pytest.raises(TooLarge):
        await store.write("one", stream(b"bad", error=TooLarge("enough")))
    assert await bytes_of(store, "one") == b"good"


async def test_a_write_that_is_cancelled_leaves_nothing(store):
    begun = asyncio.Event()

    async def endless():
        yield b"x" * (STREAM_CHUNK_BYTES + 1)
        begun.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(store.write("one", endless()))
    await begun.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await store.list() == []


@pytest.mark.parametrize("announced", [0, 5, 10**12])
async def test_an_announced_size_is_a_hint_and_no_check(store, announced):
    assert await store.write("one", stream(b"abcde"), size_bytes=announced) == 5
    assert await bytes_of(store, "one") == b"abcde"


async def test_a_client_that_hangs_up_is_no_fault_of_the_store(store):
    with pytest.raises(ConnectionResetError):
        await store.write("half", stream(b"x", error=ConnectionResetError("gone")))
    assert await store.list() == []


async def test_what_is_not_there_is_not_found_and_may_be_deleted(store):
    with pytest.raises(NotFound):
        await store.size("none")
    with pytest.raises(NotFound):
        await bytes_of(store, "none")
    await store.delete("none")


async def test_what_is_deleted_is_gone(store):
    await store.write("one", stream(b"x"))
    await store.write("two", stream(b"y"))
    await store.delete("one")
    assert await store.list() == ["two"]
    with pytest.raises(NotFound):
        await bytes_of(store, "one")


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_name_that_is_not_ours_leads_nowhere(store, name):
    await store.write("one", stream(b"x"))
    for attempt in (
        store.write(name, stream(b"evil")),
        bytes_of(store, name),
        store.size(name),
        store.delete(name),
    ):
        with pytest.raises(NotFound):
            await attempt
    assert await store.list() == ["one"]
