"""The directory store's own promises: modes, drafts, and a disk that fails."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from xenith.blob import FileStore, open_store
from xenith.core.errors import Conflict, Invalid, Unavailable


def _names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def stream(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_bytes_are_for_their_owner_only(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "images")
    await store.write("a", stream(b"x"))
    assert stat.S_IMODE((tmp_path / "images").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "images" / "a").stat().st_mode) == 0o600


async def test_a_dead_writers_draft_goes_at_the_next_start_and_a_live_ones_stays(
    tmp_path: Path,
) -> None:
    store = FileStore(tmp_path)
    (tmp_path / "dead.part").write_bytes(b"half")
    is_waiting, may_end = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        is_waiting.set()
        await may_end.wait()
        yield b"whole"

    writing = asyncio.create_task(store.write("live", slow()))
    await is_waiting.wait()
    FileStore(tmp_path)
    assert _names(tmp_path) == ["live.part"]
    with pytest.raises(Conflict):
        await store.write("live", stream(b"other"))
    may_end.set()
    assert await writing == 5
    assert await store.list() == ["live"]


async def test_a_disk_that_fails_is_unavailable_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int, _data: object) -> int:
        raise OSError(28, "No space left on device")

    store = FileStore(tmp_path)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Unavailable, match="No space left"):
        await store.write("a", stream(b"x"))
    assert _names(tmp_path) == []


@pytest.mark.parametrize("url", ["http://x/y", "file:///x", "s3:///x", "s3://key@b/x", "s3://b?x"])
def test_an_address_of_no_store_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        open_store(url, tmp_path)


def test_no_address_is_the_directory(tmp_path: Path) -> None:
    assert isinstance(open_store("", tmp_path / "images"), FileStore)
    assert (tmp_path / "images").is_dir()
