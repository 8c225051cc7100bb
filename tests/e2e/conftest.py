"""Gives end-to-end tests a cloud of real guests, and what a guest of a host's own needs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xenith.toolstack.backends.qemu.processes import find_qemus


def _xenith(*arguments: str) -> None:
    command = [sys.executable, "-m", "xenith.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _guests(place: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        is_ours = "qemu-system" in command.split("\0")[0] or "xenith.toolstack.tap" in command
        if entry.name.isdigit() and is_ours and str(place) in command:
            found.append(int(entry.name))
    return found


@pytest.fixture
def make_config_drive(tmp_path: Path) -> Callable[..., Path]:
    """Makes the ISO of a config drive of a script and of what else a guest is told, as JSON."""

    def make(user_data: str, **told: object) -> Path:
        latest = tmp_path / "config" / "openstack" / "latest"
        latest.mkdir(parents=True)
        (latest / "user_data").write_text(user_data)
        for name, value in told.items():
            (latest / f"{name}.json").write_text(json.dumps(value))
        iso = tmp_path / "config.iso"
        command = ["genisoimage", "-quiet", "-V", "config-2", "-r", "-J", "-o", str(iso)]
        subprocess.run([*command, str(tmp_path / "config")], check=True)
        return iso

    return make


@pytest.fixture
def kill_guests() -> Callable[[Path], None]:
    """Kills what still runs of the guests of a host's directory."""

    def kill(directory: Path) -> None:
        for pids in find_qemus((directory / "domains").resolve()).values():
            for pid in pids:
                os.kill(pid, signal.SIGKILL)

    return kill


@pytest.fixture
def guests() -> Callable[[Path], list[int]]:
    """Lists the processes of guests and their disks below a directory of a test's."""
    return _guests


@pytest.fixture
def qemu_cloud(tmp_path: Path) -> Iterator[Path]:
    """The directory of a running cloud with two hosts of real guests."""
    if shutil.which("qemu-system-x86_64") is None:
        reason = "qemu-system-x86 is not installed: real guests are left out"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    data = tmp_path / "cloud"
    where = ("--data", str(data))
    hosts = ("--backend", "qemu", "--hosts", "2")
    _xenith("up", "--detach", *where, "--listen", "127.0.0.1:0", *hosts)
    yield data
    _xenith("down", *where)
    for pid in _guests(tmp_path):
        os.kill(pid, signal.SIGKILL)
