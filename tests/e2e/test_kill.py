"""Real processes killed and hung at random moments; what must hold, holds at the end.

The moments come from a seed, which is printed; XENITH_TEST_SEED repeats one.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from xenith.core.errors import NotFound, XenithError
from xenith.db import open_database
from xenith.dev.client import ApiClient
from xenith.driver.names import IMAGE_KEY

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

SETTLE_TIMEOUT_S = 240.0
POLL_S = 0.1
#: Seconds of each simulated operation: enough for a kill to fall into every step of a build.
LATENCY_S = "0.03"


@pytest.fixture(scope="module")
def invariants() -> ModuleType:
    return importlib.import_module("xenith.dev.invariants")


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("XENITH_TEST_SEED") or random.SystemRandom().randrange(10**6))
    print(f"XENITH_TEST_SEED={seed}")  # noqa: T201 - it is shown when the test fails
    return random.Random(seed)


class Process:
    """One ``xenith`` command that runs until it is killed."""

    def __init__(self, *arguments: str, data: Path) -> None:
        self.data, self._arguments = data, arguments
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self.data.mkdir(parents=True, exist_ok=True)
        with (self.data.parent / f"{self.data.name}.log").open("a") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "xenith.cli", *self._arguments, "--data", str(self.data)],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "XENITH_SIM_LATENCY_S": LATENCY_S},
            )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("ready "):
                self.url = line.split()[1]
                return
        raise AssertionError(f"it did not start: {errors.name}")

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    with contextlib.ExitStack() as stack:

        def begin(name: str, *arguments: str) -> Process:
            process = Process(*arguments, data=tmp_path / name)
            stack.callback(process.kill)
            process.start()
            return process

        yield begin


def xenith(*arguments: str) -> None:
    """Run one command to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "xenith.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


async def zeros() -> AsyncIterator[bytes]:
    yield bytes(2**20)


async def prepare(api: ApiClient, *, projects: list[str]) -> dict[str, Any]:
    """Upload an image that everyone may use, lift quotas, and give the body of a create."""
    image = await api.post(
        "/image/v2/images",
        {
            "name": "zeros",
            "disk_format": "raw",
            "container_format": "bare",
            "visibility": "public",
        },
    )
    await api.upload(f"/image/v2/images/{image['id']}/file", zeros(), 2**20)
    for project in projects:
        limits = {"instances": -1, "cores": -1, "ram": -1}
        await api.put(f"/compute/v2.1/os-quota-sets/{project}", {"quota_set": limits})
        await api.put(f"/network/v2.0/quotas/{project}", {"quota": {"port": -1}})
    return {
        "server": {
            "name": "web",
            "imageRef": image["id"],
            "flavorRef": "64",
            "networks": "auto",
            "config_drive": True,
        }
    }


async def project_of(api: ApiClient) -> str:
    return str((await api.get("/identity/v3/auth/projects"))["projects"][0]["id"])


async def ask(api: ApiClient, body: dict[str, Any], accepted: list[str], count: int) -> None:
    """Ask for servers and note which were accepted; the cloud may be killed meanwhile."""

    async def one() -> None:
        with contextlib.suppress(XenithError):
            made = await api.post("/compute/v2.1/servers", body)
            accepted.append(made["server"]["id"])

    await asyncio.gather(*(one() for _ in range(count)))


async def until(holds: Callable[[], Awaitable[Any]], what: Callable[[], object]) -> None:
    """Wait for other processes: nothing of ours could bring it on."""
    deadline = asyncio.get_running_loop().time() + SETTLE_TIMEOUT_S
    while not await holds():
        assert asyncio.get_running_loop().time() < deadline, what()
        await asyncio.sleep(POLL_S)


async def servers(api: ApiClient) -> dict[str, dict[str, Any]]:
    page = await api.get("/compute/v2.1/servers/detail", limit=1000)
    return {server["id"]: server for server in page["servers"]}


async def settle(
    api: ApiClient, invariants: ModuleType, data: Path, hosts: dict[str, str], password: str
) -> None:
    """Wait until no server is being worked on and nothing is wrong anywhere."""
    db = open_database(f"sqlite:///{data / 'xenith.db'}")
    found: list[str] = []

    async def is_sound() -> bool:
        nonlocal found
        listed = (await servers(api)).values()
        found = [
            f"{server['id']} is {server['status']}, {server['OS-EXT-STS:task_state']}"
            for server in listed
            if server["status"] == "BUILD" or server["OS-EXT-STS:task_state"]
        ]
        if not found:
            records = await invariants.records_of(hosts, password=password)
            found = await invariants.find_problems(db, records)
        return not found

    try:
        await until(is_sound, lambda: found[:10])
    finally:
        await db.close()


async def own_hosts(api: ApiClient) -> dict[str, str]:
    return {host["name"]: host["url"] for host in (await api.get("/xenith/v1/hosts"))["hosts"]}


async def assert_nothing_left(invariants: ModuleType, hosts: dict[str, str], password: str) -> None:
    for host in await invariants.records_of(hosts, password=password):
        assert [vm["name_label"] for vm in host.of("VM").values() if not _is_own(vm)] == []
        assert list(host.of("VBD")) == list(host.of("VIF")) == []
        # The parents of clones are the storage's own, and collected later.
        left = [
            d["name_label"]
            for d in host.of("VDI").values()
            if d["managed"] and IMAGE_KEY not in d["other_config"]
        ]
        assert left == []


def _is_own(vm: dict[str, Any]) -> bool:
    return bool(vm["is_control_domain"])


async def test_a_cloud_killed_at_random_moments_of_a_hundred_builds_leaves_nothing_half_made(
    start, invariants, chance
):
    cloud = start("cloud", "up", "--backend", "sim", "--listen", "127.0.0.1:0", "--hosts", "3")
    accepted: list[str] = []
    async with ApiClient.of_directory(cloud.data) as api:
        body = await prepare(api, projects=[await project_of(api)])
        asking = asyncio.create_task(ask(api, body, accepted, 100))
        await asyncio.sleep(chance.uniform(0.05, 0.6))
        cloud.kill()
        await asking
    for _ in range(4):
        cloud.start()
        async with ApiClient.of_directory(cloud.data) as api:
            asking = asyncio.create_task(ask(api, body, accepted, 10))
            await asyncio.sleep(chance.uniform(0.0, 0.8))
            cloud.kill()
            await asking
    cloud.start()
    password = (cloud.data / "hosts.password").read_text().strip()
    async with ApiClient.of_directory(cloud.data) as api:
        hosts = await own_hosts(api)
        await ask(api, body, accepted, 140 - len(accepted))
        await settle(api, invariants, cloud.data, hosts, password)
        found = await servers(api)
        assert set(accepted) <= set(found)
        for server in found.values():
            assert server["status"] == "ACTIVE" or server["fault"]["message"], server
        assert sum(server["status"] == "ACTIVE" for server in found.values()) > 0
        # Deletes are accepted and killed just the same.
        deleting = asyncio.gather(
            *(api.delete(f"/compute/v2.1/servers/{each}") for each in found),
            return_exceptions=True,
        )
        await asyncio.sleep(chance.uniform(0.05, 0.5))
        cloud.kill()
        await deleting
    cloud.start()
    async with ApiClient.of_directory(cloud.data) as api:
        for server_id in await servers(api):
            with contextlib.suppress(NotFound):
                await api.delete(f"/compute/v2.1/servers/{server_id}")

        async def is_empty() -> bool:
            return not await servers(api)

        await until(is_empty, lambda: "servers stay")
        await settle(api, invariants, cloud.data, hosts, password)
        await assert_nothing_left(invariants, hosts, password)


async def test_hosts_killed_and_hung_in_the_middle_of_builds_are_left_and_cleaned_when_back(
    start, invariants, chance, monkeypatch
):
    monkeypatch.setenv("XENITH_HOST_PASSWORD", password := f"pw-{chance.random()}")
    cloud = start("cloud", "up", "--backend", "sim", "--listen", "127.0.0.1:0", "--hosts", "0")
    hosts = [
        start(name, "serve", "--name", name, "--backend", "sim")
        for name in ("host-1", "host-2", "host-3")
    ]
    addresses = {host.data.name: host.url for host in hosts}
    for host in hosts:
        xenith("host", "add", host.url, "--name", host.data.name, "--data", str(cloud.data))
    async with (
        ApiClient.of_directory(cloud.data) as admin,
        ApiClient.of_directory(cloud.data, cloud="xenith-demo") as tenant,
    ):

        async def are_up() -> bool:
            listed = (await admin.get("/xenith/v1/hosts"))["hosts"]
            return [host["state"] for host in listed] == ["up"] * 3

        await until(are_up, lambda: "hosts do not come up")
        body = await prepare(admin, projects=[await project_of(tenant)])
        accepted: list[str] = []

        # One is killed, another hangs.
        asking = asyncio.create_task(ask(tenant, body, accepted, 60))
        await asyncio.sleep(chance.uniform(0.1, 0.8))
        hosts[0].kill()
        await asyncio.sleep(chance.uniform(0.0, 0.3))
        hosts[1].signal(signal.SIGSTOP)
        await asking
        assert len(accepted) == 60

        async def are_built() -> bool:
            return all(server["status"] != "BUILD" for server in (await servers(tenant)).values())

        await until(are_built, lambda: "builds do not end")
        for server in (await servers(tenant)).values():
            # Whose host went away as it was told to run may run there, and so nowhere else.
            if server["status"] != "ACTIVE":
                assert "went away as the server began to run" in server["fault"]["message"]
        hosts[0].start()
        hosts[1].signal(signal.SIGCONT)
        await until(are_up, lambda: "hosts do not come back")

        async def are_active() -> bool:
            return all(each["status"] == "ACTIVE" for each in (await servers(tenant)).values())

        await until(are_active, lambda: "what was about to run does not")
        await settle(tenant, invariants, cloud.data, addresses, password)

        # No host is left.
        for host in hosts:
            host.kill()
        await ask(tenant, body, accepted, 1)
        await until(are_built, lambda: "the last build does not end")
        path = f"/compute/v2.1/servers/{accepted[-1]}"
        told = (await tenant.get(path))["server"]
        assert told["status"] == "ERROR"
        assert "No valid host was found" in told["fault"]["message"]
        for secret in (*addresses, *addresses.values(), "127.0.0.1"):
            assert secret not in str(told["fault"])
        full = (await admin.get(path))["server"]
        assert "ComputeFilter" in full["fault"]["details"]

        # Deletes do not wait for them; what is on them goes when they are back.
        for server_id in accepted:
            await tenant.delete(f"/compute/v2.1/servers/{server_id}")

        async def is_empty() -> bool:
            return not await servers(tenant)

        await until(is_empty, lambda: "servers stay")
        for host in hosts:
            host.start()
        await until(are_up, lambda: "hosts do not come back")
        await settle(tenant, invariants, cloud.data, addresses, password)
        await assert_nothing_left(invariants, addresses, password)
