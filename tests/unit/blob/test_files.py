"""What only a directory can get wrong: drafts, modes, a full disk."""

from __future__ import annotations

import asyncio
import errno
import os
import stat

import pytest

from xenith.blob import FileStore, open_store
from xenith.blob.s3 import S3Store
from xenith.core.errors import Conflict, Invalid, Unavailable


async def stream(*pieces):
    for piece in pieces:
        yield piece


async def test_drafts_of_a_process_that_died_are_removed_at_start(tmp_path):
    (tmp_path / "a.part").write_bytes(b"half")
    (tmp_path / "b").write_bytes(b"whole")
    store = FileStore(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]
    assert await store.list() == ["b"]


async def test_what_is_still_being_written_is_not_listed(tmp_path):
    store = FileStore(tmp_path)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow():
        yield b"x"
        begun.set()
        await go_on.wait()

    writing = asyncio.create_task(store.write("slow", slow()))
    await begun.wait()
    assert (tmp_path / "slow.part").exists()
    assert await store.list() == []
    go_on.set()
    assert await writing == 1
    assert await store.list() == ["slow"]


async def test_a_live_writers_draft_outlives_another_start_and_is_no_one_elses(tmp_path):
    store = FileStore(tmp_path)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow():
        begun.set()
        await go_on.wait()
        yield b"whole"

    writing = asyncio.create_task(store.write("live", slow()))
    await begun.wait()
    FileStore(tmp_path)
    with pytest.raises(Conflict):
        await store.write("live", stream(b"other"))
    go_on.set()
    assert await writing == 5
    assert (tmp_path / "live").read_bytes() == b"whole"


async def test_a_write_that_is_cancelled_leaves_nothing(tmp_path):
    store = FileStore(tmp_path)

    begun = asyncio.Event()

    async def endless():
        yield b"x"
        begun.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(store.write("endless", endless()))
    await begun.wait()
    assert (tmp_path / "endless.part").exists()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert list(tmp_path.iterdir()) == []


async def test_a_full_disk_is_unavailable_and_leaves_nothing(tmp_path, monkeypatch):
    store = FileStore(tmp_path)
    real = os.write

    def full(descriptor, data):
        if bytes(data[:4]) == b"full":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Unavailable, match="No space left on device"):
        await store.write("big", stream(b"full" * 100))
    assert list(tmp_path.iterdir()) == []


async def test_a_write_that_the_kernel_takes_in_parts_is_whole(tmp_path, monkeypatch):
    store = FileStore(tmp_path)
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    assert await store.write("one", stream(b"0123456789" * 10)) == 100
    assert (tmp_path / "one").read_bytes() == b"0123456789" * 10


async def test_only_the_owner_may_read_the_bytes(tmp_path):
    store = FileStore(tmp_path / "images")
    await store.write("one", stream(b"secret"))
    assert stat.S_IMODE((tmp_path / "images").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "images" / "one").stat().st_mode) == 0o600


def test_an_empty_address_is_the_directory_and_s3_is_opened_by_name(tmp_path):
    assert isinstance(open_store("", tmp_path), FileStore)
    assert isinstance(open_store("s3://bucket/prefix", tmp_path), S3Store)


@pytest.mark.parametrize(
    "url", ["http://x", "s3://", "/a/path", "bucket", "s3://key@b/x", "s3://b?x"]
)
def test_another_address_is_refused(tmp_path, url):
    with pytest.raises(Invalid):
        open_store(url, tmp_path)


async def test_a_store_that_is_away_is_unavailable():
    from obstore.store import S3Store as Remote

    nowhere = Remote(
        "bucket",
        endpoint="http://127.0.0.1:9",
        access_key_id="x",
        secret_access_key="y",
        region="z",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    store = S3Store(nowhere)
    with pytest.raises(Unavailable):
        await store.size("one")
    with pytest.raises(Unavailable):
        await store.write("one", stream(b"x"))
    with pytest.raises(Unavailable):
        await store.delete("one")
    with pytest.raises(Unavailable):
        await store.list()
    with pytest.raises(Unavailable):
        [piece async for piece in store.read("one")]
