"""What all tests may ask for: a PostgreSQL and a RabbitMQ of their own, and a tree of cells.

A server belongs to one process of the test run. It has a private directory and a free port on
loopback, is reached with a password made for it, and ends with the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import psycopg
import pytest
from hypothesis import settings as hypothesis_settings

# Machines are shared and slow at times: how long an example takes says nothing.
hypothesis_settings.register_profile("xenith", deadline=None)
hypothesis_settings.load_profile("xenith")

if TYPE_CHECKING:
    from xenith.dev.rabbitmq import Rabbit

#: PostgreSQL starts in about a second here; a loaded machine may need many.
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that start real components one after another, in one process."""
    for item in items:
        if item.get_closest_marker("e2e") and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group("e2e"))


@dataclass(frozen=True)
class PostgresServer:
    """A running PostgreSQL; ``create`` makes a fresh database and gives its address."""

    port: int
    password: str

    def url(self, name: str) -> str:
        """Give the address of one of its databases."""
        return f"postgresql://xenith:{self.password}@127.0.0.1:{self.port}/{name}"

    def create(self) -> str:
        """Make an empty database and give its address."""
        name = "t" + secrets.token_hex(8)
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)


@pytest.fixture(scope="session")
def tree_of_cells() -> ModuleType:
    """The module ``tree``: whole trees of cells in one process, by its ``small_tree``."""
    return _module("tree")


@pytest.fixture
def tarball_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """Gives a chain of VHDs in an OVF tarball: ``tarballs.make`` without its place."""
    make = _module("tarballs").make
    return lambda *links, **options: make(tmp_path_factory.mktemp("chain"), *links, **options)


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this test process; where there is none: fail in CI, else skip."""
    binaries = _postgres_binaries()
    with contextlib.ExitStack() as ends:
        home = _private_directory()
        ends.callback(shutil.rmtree, home, ignore_errors=True)
        server = PostgresServer(port=_free_port(), password=secrets.token_hex(16))
        process = _start(server, home, binaries)
        ends.callback(_stop, process)
        _await_answer(server, process, home)
        yield server


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> str:
    """The address of an empty PostgreSQL database that the tests of this process share."""
    return postgres_server.create()


@pytest.fixture
def fresh_postgres_url(postgres_server: PostgresServer) -> str:
    """The address of an empty PostgreSQL database for one test."""
    return postgres_server.create()


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[Rabbit]:
    """A broker of this test process; where there is none, its tests fail and say why."""
    from xenith.core.errors import XenithError
    from xenith.core.world import World
    from xenith.dev.rabbitmq import Rabbit

    with contextlib.ExitStack() as ends:
        home = Path(tempfile.mkdtemp(prefix="xenith-rabbitmq-"))
        ends.callback(shutil.rmtree, home, ignore_errors=True)
        broker = Rabbit(home, World())
        ends.callback(broker.kill)
        try:
            asyncio.run(broker.start())
        except XenithError as error:
            pytest.fail(error.message, pytrace=False)
        yield broker


def _postgres_binaries() -> Path:
    """Find the newest PostgreSQL of the machine; Debian keeps its binaries out of PATH."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    )
    on_path = shutil.which("initdb")
    if found:
        return found[-1].parent
    if on_path:
        return Path(on_path).resolve().parent
    reason = "PostgreSQL is not installed (Debian: postgresql); `make setup` installs it as root"
    if os.environ.get("CI") in {"true", "1"}:
        pytest.fail(f"{reason}, and CI runs every test", pytrace=False)
    pytest.skip(reason)


def _account() -> dict[str, object]:
    """Say as whom PostgreSQL runs: it refuses root, and Debian makes it an account."""
    if os.geteuid() != 0:
        return {}
    try:
        account = pwd.getpwnam("postgres")
    except KeyError:
        account = pwd.getpwnam("nobody")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _private_directory() -> Path:
    """Make a directory that the account can reach, wherever TMPDIR points."""
    account = _account()
    for base in (tempfile.gettempdir(), "/var/tmp", "/dev/shm"):
        home = Path(tempfile.mkdtemp(prefix="xenith-pg-", dir=base))
        if account:
            os.chown(home, account["user"], account["group"])
        probe = subprocess.run(["test", "-w", str(home)], check=False, **account)
        if probe.returncode == 0:
            return home
        home.rmdir()
    pytest.fail("no temporary directory that the postgres account can write to", pytrace=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _start(server: PostgresServer, home: Path, binaries: Path) -> subprocess.Popen[bytes]:
    """Make the cluster and start its server; nothing but loopback and a password gets in."""
    account, data, password = _account(), home / "data", home / "password"
    password.write_text(server.password)
    if account:
        os.chown(password, account["user"], account["group"])
    initdb = [binaries / "initdb", "--pgdata", data, "--username", "xenith", "--encoding", "UTF8"]
    initdb += ["--locale", "C", "--auth", "scram-sha-256", "--pwfile", password, "--no-sync"]
    made = subprocess.run(initdb, cwd=home, capture_output=True, text=True, check=False, **account)
    if made.returncode != 0:
        pytest.fail(f"initdb failed: {made.stderr[-800:]}", pytrace=False)
    options = {
        "listen_addresses": "127.0.0.1",
        "port": server.port,
        # The path of a socket may be too long, and a port is enough.
        "unix_socket_directories": "",
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "shared_buffers": "32MB",
        "max_connections": 60,
    }
    command = [binaries / "postgres", "-D", data]
    command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    with (home / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=home, stdout=log, stderr=log, **account)


def _await_answer(server: PostgresServer, process: subprocess.Popen[bytes], home: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            psycopg.connect(server.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            # Another program's readiness is the one thing that no clock of ours can bring on.
            time.sleep(0.05)
        else:
            return
    log = (home / "log").read_text(errors="replace")[-800:]
    pytest.fail(f"PostgreSQL does not answer: {log}", pytrace=False)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server by its pid: at once for its clients, then by force."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
