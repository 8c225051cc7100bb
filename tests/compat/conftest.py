"""A real `xenith up` on simulated hosts, and how a user's own tools are pointed at it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openstack.config import OpenStackConfig
from openstack.connection import Connection

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
#: Seconds for one command of the official client, `--wait` included.
COMMAND_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class RunningCloud:
    """A cloud in a process of its own, which ends with the test that asked for it."""

    data: Path

    @property
    def clouds_file(self) -> Path:
        """The file that clients find it by."""
        return self.data / "clouds.yaml"

    def connect(self, cloud: str) -> Connection:
        """Sign in with the official SDK as one of the clouds of the file."""
        config = OpenStackConfig(config_files=[str(self.clouds_file)], load_envvars=False)
        return Connection(config=config.get_one(cloud=cloud))

    def openstack(self, *words: str, cloud: str = "xenith") -> str:
        """Run the official command, which must succeed, and give what it printed."""
        environment = {key: value for key, value in os.environ.items() if key[:3] != "OS_"}
        done = subprocess.run(
            [Path(sys.executable).with_name("openstack"), *words],
            env=environment | {"OS_CLIENT_CONFIG_FILE": str(self.clouds_file), "OS_CLOUD": cloud},
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"openstack {' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def openstack_json(self, *words: str, cloud: str = "xenith") -> Any:
        """Run the official command and give the object or list that it printed."""
        return json.loads(self.openstack(*words, "-f", "json", cloud=cloud))


@contextlib.contextmanager
def running_cloud(data: Path, *options: str) -> Iterator[RunningCloud]:
    """Start a cloud on a port of its own choosing, wait until it serves, and end it."""
    log_path = data.with_suffix(".log")
    command = [sys.executable, "-m", "xenith.cli", "up", "--backend", "sim", "--data", str(data)]
    command += ["--listen", "127.0.0.1:0", *options]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
        )
    try:
        _await_ready(process, data, log_path)
        yield RunningCloud(data)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail("the cloud did not end when asked to")


def _await_ready(process: subprocess.Popen[bytes], data: Path, log_path: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        if (data / "ready").exists():
            return
        # Another process's readiness is the one thing that no clock of ours can bring on.
        time.sleep(0.05)
    pytest.fail(f"the cloud does not serve: {log_path.read_text(errors='replace')[-2000:]}")


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCloud]:
    """A cloud on SQLite that the tests of this process share."""
    with running_cloud(tmp_path_factory.mktemp("compat") / "cloud") as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def cloud_of_each_database(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[RunningCloud]:
    """A cloud on SQLite, and one on PostgreSQL."""
    if request.param == "sqlite":
        yield request.getfixturevalue("cloud")
        return
    url = request.getfixturevalue("fresh_postgres_url")
    with running_cloud(tmp_path / "cloud", "--database", url) as running:
        yield running
