"""The client, against a server of ours: over a socket, and over a character device."""

import asyncio
import contextlib
import os
import stat
import tty

import pytest

from xenith.xenstore import Permission, XenstoreError, client, connect

HOME = "/local/domain/3"
DEADLINE_S = 60


@pytest.fixture
async def place(served, tmp_path):
    path = tmp_path / ("long-name-" * 12) / "socket"
    path.parent.mkdir()
    await served.server.listen(path)
    return path


async def test_nodes(place):
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    async with await connect(place) as tool:
        await tool.write("/a/b", b"\0binary\xff")
        assert await tool.read("/a/b") == b"\0binary\xff"
        await tool.mkdir("/a/c")
        assert await tool.directory("/a") == ["b", "c"]
        await tool.set_perms("/a/b", [Permission(3, 0), Permission(0, 3)])
        assert await tool.get_perms("/a/b") == [Permission(3, 0), Permission(0, 3)]
        await tool.rm("/a")
        with pytest.raises(XenstoreError, match="ENOENT"):
            await tool.read("/a")
        with pytest.raises(XenstoreError, match="E2BIG"):
            await tool.write("/a", b"x" * 4096)


async def test_a_long_directory_is_listed_whole(served, place):
    names = [f"{index}-{'x' * 60}" for index in range(500)]
    for name in names:
        served.tool.mkdir(f"/long/{name}")
    async with await connect(place) as tool:
        assert await tool.directory("/long") == names
        served.tool.mkdir("/empty")
        assert await tool.directory("/empty") == []


async def test_a_watch_tells_of_changes_and_its_end_of_none(served, place):
    async with await connect(place) as tool, asyncio.timeout(DEADLINE_S):
        async with contextlib.aclosing(tool.events("/watched")) as events:
            assert await anext(events) == "/watched"
            served.tool.write("/watched/x", b"1")
            assert await anext(events) == "/watched/x"
        assert served.store.watching != {}
        served.tool.write("/watched/x", b"2")
        assert await tool.read("/watched/x") == b"2"


async def test_a_watch_that_nobody_hears_is_joined(served, place, monkeypatch):
    monkeypatch.setattr(client, "PATHS_WAITING_MAX", 10)
    async with await connect(place) as tool, asyncio.timeout(DEADLINE_S):
        async with contextlib.aclosing(tool.events("/w")) as events:
            assert await anext(events) == "/w"
            for number in range(15):
                served.tool.mkdir(f"/w/{number}")
            await tool.read("/w")
            heard = [await anext(events) for _ in range(6)]
        assert heard[0] == "/w", "something below has changed"


async def test_transactions_conflict_and_are_dropped_when_they_fail(served, place):
    async with await connect(place) as tool:
        async with tool.transaction() as within:
            await within.write("/t/a", b"1")
            await within.mkdir("/t/b")
            assert await within.directory("/t") == ["a", "b"]
            with pytest.raises(XenstoreError, match="ENOENT"):
                await tool.read("/t/a")
        assert await tool.read("/t/a") == b"1"

        async def conflict():
            async with tool.transaction() as within:
                assert await within.read("/t/a") == b"1"
                await tool.write("/t/a", b"2")
                await within.rm("/t/b")

        async def fail():
            async with tool.transaction() as within:
                await within.write("/t/a", b"lost")
                raise KeyError

        with pytest.raises(XenstoreError, match="EAGAIN"):
            await conflict()
        with pytest.raises(KeyError):
            await fail()
        assert await tool.read("/t/a") == b"2"


async def test_a_store_that_goes_away_is_told_to_all_who_wait(served, place):
    tool = await connect(place)
    async with asyncio.timeout(DEADLINE_S):
        events = tool.events("/x")
        assert await anext(events) == "/x"
        waiting = asyncio.create_task(anext(events))
        await served.server.stop()
        with pytest.raises(ConnectionError, match="xenstore is gone"):
            await waiting
        with pytest.raises(ConnectionError, match="xenstore is gone"):
            await tool.read("/")
    await tool.close()


async def test_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("XENSTORED_PATH", str(tmp_path / "none"))
    with pytest.raises(ConnectionError, match="no xenstore at"):
        await connect()


async def test_a_guest_speaks_over_a_character_device(served):
    """A pseudo-terminal is one, and what we hold of it is the host's end of the port."""
    ours, theirs = os.openpty()
    tty.setraw(ours)
    tty.setraw(theirs)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(ours), "rb", buffering=0)
    )
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()),
        os.fdopen(ours, "wb", buffering=0),
    )
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    served.ended.append(asyncio.create_task(served.server.serve_guest(3, reader, writer)))
    async with asyncio.timeout(DEADLINE_S), await connect(os.ttyname(theirs)) as guest:
        await guest.write("data/x", b"1")
        assert served.tool.read(f"{HOME}/data/x") == b"1"
        async with contextlib.aclosing(guest.events("data")) as events:
            assert await anext(events) == "data"
            served.tool.write(f"{HOME}/data/y", b"")
            assert await anext(events) == "data/y"
        with pytest.raises(XenstoreError, match="EACCES"):
            await guest.write("/local/domain/4/data/x", b"1")
    os.close(theirs)
