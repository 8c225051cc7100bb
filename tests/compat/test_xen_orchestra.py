"""Clients of XenAPI that are not ours lead a server's life on a pool of our hosts, unmodified.

They are Xen Orchestra's own (npm: xen-api) and the official package (PyPI: XenAPI).
"""

import asyncio
import hashlib
import json
import os
import random
import shutil
import ssl
import subprocess
import tempfile
import threading
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

import pytest
import uvloop
import XenAPI

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
    *("export delta", "restore", "archive", "migrate", "migrate storage", "destroy"),
]

pytestmark = [pytest.mark.slow, pytest.mark.e2e]


@pytest.fixture(scope="module")
def packages(pytestconfig, tmp_path_factory):
    """The directory of the client's packages, as the lock has them, kept between runs."""
    for program, package in (("node", "nodejs"), ("npm", "npm")):
        if shutil.which(program) is None:
            leave_out(
                f"{program} is not installed (Debian: {package}), and Xen Orchestra's client runs"
                " on it; `make setup` installs it as root"
            )
    lock = (HERE / "package-lock.json").read_bytes()
    name = f"xen-orchestra-{hashlib.sha256(lock).hexdigest()[:16]}"
    cache = getattr(pytestconfig, "cache", None)
    kept = (cache.mkdir("npm") if cache else tmp_path_factory.mktemp("npm")) / name
    if not kept.exists():
        install(kept)
    return kept / "node_modules"


def install(kept):
    """Bring the packages of the lock into a directory, which is there whole or not at all."""
    # It is moved away when it is whole.
    with tempfile.TemporaryDirectory(dir=kept.parent, ignore_cleanup_errors=True) as working:
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
        self._loop = uvloop.new_event_loop()
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
    archived = [f"archived {number}.raw" for number in range(4)]
    for name in ("second.raw", "restored.raw", "unmeasured.raw", "migrated.raw", *archived):
        assert read(name) == changed, name
    assert len(read("delta.vhd")) < len(read("full.vhd"))
    assert [*(tmp_path / "near").glob("*.vhd"), *(tmp_path / "far").glob("*.vhd")] == []


class Official:
    """The official package with what its users write around it: tasks, events, plain HTTP."""

    def __init__(self, url):
        self.url = url
        self.session = XenAPI.Session(url, ignore_ssl=True)
        self.session.xenapi.login_with_password("root", PASSWORD, "1.0", "walk")
        self.api = self.session.xenapi
        self.token = ""
        self.told = {}
        self.look()

    def look(self):
        """Take what the events tell: by reference, each object as it is now."""
        batch = self.session.xenapi_request("event.from", (["*"], self.token, 0.0))
        self.token = batch["token"]
        for event in batch["events"]:
            if event["operation"] == "del":
                self.told.pop(event["ref"], None)
            else:
                self.told[event["ref"]] = event["snapshot"]

    def named(self, name):
        (ref,) = (ref for ref, record in self.told.items() if record.get("name_label") == name)
        return ref

    def run(self, method, *params):
        """Run a method as a task, and follow it by its events; give what it made."""
        task = self.session.xenapi_request(f"Async.{method}", params)
        token, status = "", "pending"
        while status == "pending":
            given = ([f"task/{task}"], token, 10.0)
            batch = self.session.xenapi_request("event.from", given)
            token = batch["token"]
            status = batch["events"][-1]["snapshot"]["status"]
        assert status == "success", self.api.task.get_error_info(task)
        result = self.api.task.get_result(task)
        self.api.task.destroy(task)
        self.look()
        return result.removeprefix("<value>").removesuffix("</value>")

    def transfer(self, verb, path, *, data=None, **query):
        words = urlencode({"session_id": self.session.handle, **query})
        asked = urllib.request.Request(f"{self.url}{path}?{words}", data=data, method=verb)
        # As with `allowUnauthorized`: the certificate is the host's own.
        trust = ssl._create_unverified_context() if self.url.startswith("https") else None
        with urllib.request.urlopen(asked, timeout=30, context=trust) as reply:
            return reply.read()

    def fill(self, vdi, data, disk_format):
        self.transfer("PUT", "/import_raw_vdi", data=data, vdi=vdi, format=disk_format)

    def read(self, vdi, disk_format, **query):
        return self.transfer("GET", "/export_raw_vdi", vdi=vdi, format=disk_format, **query)

    def make_disk(self, sr, name):
        fields = {"type": "user", "sharable": False, "read_only": False, "other_config": {}}
        wanted = {"SR": sr, "name_label": name, "virtual_size": str(SIZE), **fields}
        return self.api.VDI.create(wanted)

    def keep(self, vm, name):
        """Keep a server as it is; give the snapshot and its disk."""
        made = self.run("VM.snapshot", vm, name)
        (vbd,) = self.told[made]["VBDs"]
        return made, self.told[vbd]["VDI"]


@pytest.mark.parametrize("is_tls", [False, True], ids=["HTTP", "HTTPS"])
def test_the_official_package_walks_the_same_life(is_tls, quick_collection, content, tmp_path):
    write_vhd(tmp_path, "image.vhd", content)
    with Pool(tmp_path, is_tls=is_tls) as pool:
        official = Official(pool.url)
        api, told = official.api, official.told
        near, far = official.named("near"), official.named("far")
        home, there = official.named("a"), official.named("b")

        wanted = {"name_label": "template", "is_a_template": True, "other_config": {}}
        wanted["memory_static_max"] = str(256 * MIB)
        template = api.VM.create(wanted)
        vm = official.run("VM.clone", template, "server")
        official.run("VM.provision", vm)
        assert told[vm]["is_a_template"] is False

        disk = official.make_disk(near, "disk")
        official.fill(disk, (tmp_path / "image.vhd").read_bytes(), "vhd")
        assert official.read(disk, "raw") == content
        api.VBD.create({"VM": vm, "VDI": disk, "userdevice": "0", "mode": "RW", "type": "Disk"})
        official.run("VM.start_on", vm, home, False, False)
        assert (told[vm]["power_state"], told[vm]["resident_on"]) == ("Running", home)

        first, before = official.keep(vm, "first")
        full = official.read(before, "vhd")
        change = random.Random(8).randbytes(100 * 1024)
        official.run("VM.clean_shutdown", vm)
        official.fill(disk, change, "raw")
        official.run("VM.start", vm, False, False)
        second, after = official.keep(vm, "second")
        delta = official.read(after, "vhd", base=before)
        assert len(delta) < len(full)

        restored = official.make_disk(far, "restored")
        official.fill(restored, full, "vhd")
        official.fill(restored, delta, "vhd")
        changed = change + content[len(change) :]
        assert official.read(restored, "raw") == official.read(after, "raw") == changed

        official.run("VM.pool_migrate", vm, there, {})
        assert told[vm]["resident_on"] == there
        dest = api.host.migrate_receive(there, api.network.get_all()[0], {})
        official.run("VM.migrate_send", vm, dest, True, {disk: far}, {}, {})
        assert told[disk]["SR"] == far
        third, moved = official.keep(vm, "third")
        assert official.read(moved, "raw") == changed

        official.run("VM.hard_shutdown", vm)
        for ref in (first, second, third, vm, template):
            official.run("VM.destroy", ref)
        for ref in (before, after, moved, disk, restored):
            official.run("VDI.destroy", ref)
        token, left = "", api.VDI.get_all()
        while left:
            # What the disks stood on is collected in the background, which the events tell.
            token = official.session.xenapi_request("event.from", (["vdi"], token, 10.0))["token"]
            left = api.VDI.get_all()
        official.session.xenapi.session.logout()
    assert [*(tmp_path / "near").glob("*.vhd"), *(tmp_path / "far").glob("*.vhd")] == []
