"""PostgreSQL servers of single cells: small, durable, and each ended by its process id.

A cluster is made once and copied, which takes a tenth of the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
LOOK_PERIOD_S = 0.05
HOST = "127.0.0.1"
#: What a cell of a few hundred servers needs. Commits are on the disk, as in earnest.
OPTIONS = {
    "listen_addresses": HOST,
    # The path of a socket may be too long, and a port is enough.
    "unix_socket_directories": "",
    "shared_buffers": "16MB",
    "max_connections": "24",
    "max_wal_size": "64MB",
    "max_worker_processes": "2",
    "max_parallel_workers": "0",
    "autovacuum_max_workers": "1",
    "jit": "off",
}


def account() -> dict[str, object]:
    """Say as whom PostgreSQL runs: it refuses root, and Debian makes it an account."""
    if os.geteuid() != 0:
        return {}
    try:
        found = pwd.getpwnam("postgres")
    except KeyError:
        found = pwd.getpwnam("nobody")
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


def make_home() -> Path:
    """Make a directory into which the account can reach, wherever TMPDIR points."""
    for base in (tempfile.gettempdir(), "/var/tmp", "/dev/shm"):
        home = Path(tempfile.mkdtemp(prefix="xenith-region-", dir=base))
        home.chmod(0o711)
        probe = subprocess.run(["test", "-x", str(home)], check=False, **account())
        if probe.returncode == 0:
            return home
        home.rmdir()
    pytest.fail("no temporary directory that the postgres account can reach", pytrace=False)


class Cluster:
    """The data directory that the servers are copies of, and their binaries."""

    def __init__(self, home: Path) -> None:
        self.password = secrets.token_hex(16)
        self.binaries = _find_binaries()
        self.data = home / "template" / "data"
        place = self.data.parent
        place.mkdir()
        (place / "password").write_text(self.password)
        _give(place, place / "password")
        command = [self.binaries / "initdb", "--pgdata", self.data, "--username", "xenith"]
        command += ["--encoding", "UTF8", "--locale", "C", "--auth", "scram-sha-256"]
        command += ["--pwfile", place / "password", "--no-sync"]
        made = subprocess.run(
            command, cwd=place, capture_output=True, text=True, check=False, **account()
        )
        assert made.returncode == 0, made.stderr[-800:]


class Postgres:
    """The server of one cell, at the same port and with the same data each time it is started."""

    def __init__(self, home: Path, cluster: Cluster, port: int) -> None:
        self._cluster = cluster
        self._port = port
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None
        home.mkdir()
        _give(home)
        subprocess.run(["cp", "-a", cluster.data, home / "data"], check=True)

    @property
    def url(self) -> str:
        """The address of its one database."""
        return f"postgresql://xenith:{self._cluster.password}@{HOST}:{self._port}/postgres"

    def begin(self) -> None:
        """Start it without waiting until it answers."""
        assert self._process is None, "a server is started once"
        command = [self._cluster.binaries / "postgres", "-D", self._home / "data"]
        options = {**OPTIONS, "port": self._port}
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._home, stdout=log, stderr=log, **account()
            )

    async def start(self) -> None:
        """Start it and wait until it answers."""
        self.begin()
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while not self._answers():
            log = self._home / "log"
            assert self._process is not None
            assert self._process.poll() is None, log.read_text()[-2000:]
            assert asyncio.get_running_loop().time() < deadline, log.read_text()[-2000:]
            await asyncio.sleep(LOOK_PERIOD_S)

    async def stop(self) -> None:
        """End it at once for its clients; what they committed is kept."""
        await self._end(signal.SIGINT)

    async def kill(self) -> None:
        """End it as a power cut would."""
        await self._end(signal.SIGKILL)

    async def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            await asyncio.to_thread(process.wait, STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(self.url, connect_timeout=2).close()
            return True
        return False


def free_port() -> int:
    """Find a port that nobody has."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def _give(*paths: Path) -> None:
    who = account()
    for path in paths if who else ():
        os.chown(path, who["user"], who["group"])


def _find_binaries() -> Path:
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    )
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    reason = "PostgreSQL is not installed (Debian: postgresql); `make setup` installs it as root"
    if os.environ.get("CI") in {"true", "1"}:
        pytest.fail(f"{reason}, and CI runs every test", pytrace=False)
    pytest.skip(reason)
