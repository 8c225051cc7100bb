"""Debian's own xenstore tools against our server, and our client against real xenstored."""

import asyncio
import contextlib
import subprocess

import pytest

from xenith.core.clock import SystemClock
from xenith.xenstore import Permission, Server, Store, XenstoreError, connect

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

TIMEOUT_S = 120


@pytest.fixture
async def ours(tmp_path):
    server = Server(Store(), SystemClock())
    await server.listen(tmp_path / "socket")
    yield tmp_path / "socket"
    await server.stop()


@pytest.fixture
def run(xenstored, ours):
    """Run one of the tools against our server."""

    async def run(name, *arguments):
        is_control = name == "xenstore-control"  # elsewhere, since it is a given Xen's
        process = await asyncio.create_subprocess_exec(
            xenstored / ("usr/lib/xen-4.17/bin" if is_control else "usr/bin") / name,
            *arguments,
            env={
                "XENSTORED_PATH": str(ours),
                "LD_LIBRARY_PATH": str(xenstored / "usr/lib/x86_64-linux-gnu"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        async with asyncio.timeout(TIMEOUT_S):
            said, complaint = await process.communicate()
        return process.returncode, said.decode(), complaint.decode()

    return run


async def test_debian_s_tools_speak_to_our_server(run):
    assert (await run("xenstore-write", "/a/b", "1", "/a/c", "two words"))[0] == 0
    assert await run("xenstore-read", "/a/b", "/a/c") == (0, "1\ntwo words\n", "")
    assert (await run("xenstore-list", "/a"))[1] == "b\nc\n"
    assert (await run("xenstore-chmod", "/a/b", "n0", "r4"))[0] == 0
    code, said, _ = await run("xenstore-ls", "-f", "-p", "/a")
    assert (code, said.splitlines()) == (
        0,
        ['/a/b = "1"   (n0,r4)', '/a/c = "two words"   (n0)'],
    )
    assert (await run("xenstore-exists", "/a/b"))[0] == 0
    assert (await run("xenstore-rm", "/a"))[0] == 0
    assert (await run("xenstore-exists", "/a/b"))[0] == 1
    assert (await run("xenstore-read", "/a/b"))[0] == 1
    assert "Domain 0:" in (await run("xenstore-control", "quota", "0"))[1]
    assert (await run("xenstore-watch", "-n", "1", "/a"))[1] == "/a\n"


async def test_our_client_speaks_to_real_xenstored(make_pair):
    pair = make_pair()
    try:
        place = pair.stores[1].daemon.socket
        async with asyncio.timeout(TIMEOUT_S), await connect(place) as tool:
            for number in range(300):
                await tool.mkdir(f"/long/{number}-{'x' * 40}")
            assert len(await tool.directory("/long")) == 300
            await tool.set_perms("/long", [Permission(0, 0), Permission(3, 1)])
            assert await tool.get_perms("/long") == [Permission(0, 0), Permission(3, 1)]
            async with contextlib.aclosing(tool.events("/local/domain/3/data")) as events:
                assert await anext(events) == "/local/domain/3/data"
                pair.write(3, "data/x", b"1")
                assert await anext(events) == "/local/domain/3/data/x"

            async def conflict():
                async with tool.transaction() as within:
                    assert await within.read("/local/domain/3/data/x") == b"1"
                    pair.write(3, "data/x", b"2")
                    await within.write("/local/domain/3/data/y", b"")

            with pytest.raises(XenstoreError, match="EAGAIN"):
                await conflict()
    finally:
        pair.stop()
