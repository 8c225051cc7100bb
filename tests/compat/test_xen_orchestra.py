"""Xen Orchestra's own client, unmodified, leads a server's life on a pool of our hosts."""

import asyncio
import hashlib
import json
import os
import random
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

from xenith.core.units import GIB, MIB
from xenith.core.world import World
from xenith.toolstack.backends.sim import SimBackend
from xenith.toolstack.fleet import Fleet
from xenith.toolstack.storage import attached
from xenith.vhd.chain import open_chain
from xenith.vhd.create import create_dynamic
from xenith.vhd.files import Directory
from xenith.xapi import XapiSession

HERE = Path(__file__).parent / "xen_orchestra"
PASSWORD = "pass-the-salt"
SIZE = 8 * MIB
START_TIMEOUT_S = 30.0
INSTALL_TIMEOUT_S = 300.0
WALK_TIMEOUT_S = 180.0
STEPS = [
    *("connect", "create from template", "import", "start", "snapshot", "export full", "change"),
    *("export delta", "restore", "migrate", "migrate storage", "destroy"),
]

pytestmark = [pytest.mark.slow, pytest.mark.e2e]


@pytest.fixture(scope="module")
def packages(pytestconfig, tmp_path_factory):
    """The directory of the client's packages, as the lock has them, kept between runs."""
    for program, package in (("node", "nodejs"), ("npm", "npm")):
        if shutil.which(program) is None:
            leave_out(f"{program} is not installed (Debian: {package}); `make setup` installs it")
    lock = (HERE / "package-lock.json").read_bytes()
    name = f"xen-orchestra-{hashlib.sha256(lock).hexdigest()[:16]}"
    cache = getattr(pytestconfig, "cache", None)
    kept = (cache.mkdir("npm") if cache else tmp_path_factory.mktemp("npm")) / name
    if not kept.exists():
        install(kept)
    return kept / "node_modules"


def install(kept):
    """Bring the packages of the lock into a directory, which is there whole or not at all."""
    with tempfile.TemporaryDirectory(dir=kept.parent) as working:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, working)
        # None of them has anything to build, and what a package would run is not looked at.
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(
            command,
            cwd=working,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            said = (done.stdout + done.stderr)[-800:]
            leave_out(
                f"npm cannot install xen-api, and Xen Orchestra's client is left out:\n{said}"
            )
        if not kept.exists():
            Path(working).rename(kept)
            Path(working).mkdir()


def leave_out(reason):
    """Say why the client does not run here; CI runs every test."""
    if os.environ.get("CI") in {"true", "1"}:
        pytest.fail(f"{reason}\nCI runs every test", pytrace=False)
    pytest.skip(reason)


class Pool:
    """Two hosts of one pool, each with a directory; one of them is shared."""

    def __init__(self, directory, *, is_tls):
        self.directory = directory
        self.is_tls = is_tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(self, *_error):
        self._run(self.fleet.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_TIMEOUT_S)
        self._loop.close()

    def _run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_TIMEOUT_S)

    async def _start(self):
        world = World()
        self.fleet = Fleet(world, self.directory / "hosts")
        for name in ("a", "b"):
            backend = SimBackend(
                world, memory_bytes=2 * GIB, cpu_count=4, disk_bytes=GIB, latency_s=0.001
            )
            await self.fleet.add_host(name, backend, password=PASSWORD, is_tls=self.is_tls)
        await self.fleet.start()
        a, b = self.fleet.hosts["a"], self.fleet.hosts["b"]
        self.url = a.url
        await self._call(b, "pool.join", a.address, "root", PASSWORD)
        for name, host, is_shared in (("near", a, True), ("far", b, False)):
            config = {"location": str(self.directory / name)}
            params = (host.ref, config, 0, name, "", "file", "user", is_shared, {})
            await self._call(a, "SR.create", *params)

    async def _call(self, host, method, *params):
        session = await XapiSession.login(host.url, user="root", password=PASSWORD, pin=host.pin)
        try:
            return await session.call(method, *params, timeout_s=START_TIMEOUT_S)
        finally:
            await session.close()


@pytest.fixture
def content():
    """A disk's bytes: data, zeros, both, and data at the very end."""
    chance = random.Random(7)
    made = bytearray(SIZE)
    made[: 3 * MIB] = chance.randbytes(3 * MIB)
    made[5 * MIB + 700 : 5 * MIB + 9000] = chance.randbytes(8300)
    made[-512:] = chance.randbytes(512)
    return bytes(made)


@pytest.fixture
def quick_collection(monkeypatch):
    """What disks leave behind is collected while the client walks, not long after."""
    monkeypatch.setattr(attached, "COLLECT_DELAY_S", 0.1)


def write_vhd(directory, name, content):
    files = Directory(directory)
    create_dynamic(files, name, size_bytes=len(content), world=World())
    chain = open_chain(files, name, writable=True)
    chain.write(0, content)
    chain.flush()
    chain.close()
    files.close()


@pytest.mark.parametrize(
    ("is_tls", "transport"),
    [
        pytest.param(False, "json-rpc", id="JSON-RPC over HTTP"),
        pytest.param(True, "auto", id="HTTPS"),
        pytest.param(False, "xml-rpc", id="XML-RPC"),
    ],
)
def test_xen_orchestra_s_client_walks_a_server_s_life(
    is_tls, transport, packages, quick_collection, content, tmp_path
):
    change = random.Random(8).randbytes(100 * 1024)
    write_vhd(tmp_path, "image.vhd", content)
    (tmp_path / "change.raw").write_bytes(change)
    shutil.copy(HERE / "walk.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(packages)
    with Pool(tmp_path, is_tls=is_tls) as pool:
        given = {
            "url": pool.url,
            "password": PASSWORD,
            "allowUnauthorized": is_tls,
            "transport": transport,
            "directory": str(tmp_path),
            "sizeBytes": SIZE,
        }
        done = subprocess.run(
            ["node", tmp_path / "walk.mjs"],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=WALK_TIMEOUT_S,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["steps"] == STEPS
    assert [line for line in seen["warnings"] if "missing length" not in line] == []

    def read(name):
        return (tmp_path / name).read_bytes()

    assert read("imported.raw") == read("unmeasured again.raw") == content
    changed = change + content[len(change) :]
    for name in ("second.raw", "restored.raw", "unmeasured.raw", "migrated.raw"):
        assert read(name) == changed, name
    assert len(read("delta.vhd")) < len(read("full.vhd"))
    assert [*(tmp_path / "near").glob("*.vhd"), *(tmp_path / "far").glob("*.vhd")] == []
