"""A lab as users run it: the unmodified client builds on cells that it never hears of."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
COMMAND_TIMEOUT_S = 120.0
LEAVES = {"r1-c1", "r1-c2", "r2-c1", "r2-c2"}


def xenith(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "xenith.cli", *words],
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def running_lab(data: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `xenith lab up` until the end, by force if the test has not ended it."""
    log_path = data.with_suffix(".log")
    (data / "ready").unlink(missing_ok=True)
    command = [sys.executable, "-m", "xenith.cli", "lab", "up", "--data", str(data)]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*command, "--listen", "127.0.0.1:0", *options], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (data / "ready").exists():
            assert process.poll() is None, log_path.read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline, "the lab is not ready"
            # Another process's readiness is the one thing that no clock of ours can bring on.
            time.sleep(0.05)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail("the lab did not end when asked to")


class Client:
    """The official command, pointed at a lab by the file that the lab wrote."""

    def __init__(self, data: Path) -> None:
        self._clouds = data / "clouds.yaml"

    def run(self, *words: str, cloud: str = "xenith-demo") -> str:
        environment = {key: value for key, value in os.environ.items() if key[:3] != "OS_"}
        done = subprocess.run(
            [Path(sys.executable).with_name("openstack"), *words],
            env=environment | {"OS_CLIENT_CONFIG_FILE": str(self._clouds), "OS_CLOUD": cloud},
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"openstack {' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def json(self, *words: str, cloud: str = "xenith-demo") -> Any:
        return json.loads(self.run(*words, "-f", "json", cloud=cloud))


def test_a_server_lives_its_life_in_a_region_of_seven_cells(tmp_path: Path) -> None:
    data, blank = tmp_path / "lab", tmp_path / "blank.raw"
    blank.write_bytes(bytes(2**20))
    client = Client(data)
    with running_lab(data, "--tree", "1x2x2", "--hosts-per-cell", "2") as process:
        hypervisors = client.json("hypervisor", "list", cloud="xenith")
        assert len(hypervisors) == 8
        assert {row["State"] for row in hypervisors} == {"up"}
        names = {row["Hypervisor Hostname"].rsplit("-host-", 1)[0] for row in hypervisors}
        assert names == LEAVES
        image = client.json(
            "image", "create", "blank", "--file", str(blank), "--disk-format", "raw"
        )
        client.run(
            "server", "create", "sea", "--image", image["id"], "--flavor", "m1.tiny",
            "--network", "shared", "--wait",
        )  # fmt: skip
        assert [row["Status"] for row in client.json("server", "list")] == ["ACTIVE"]
        client.run("console", "log", "show", "sea")
        client.run("server", "reboot", "sea", "--wait")
        shown = client.json("server", "show", "sea", cloud="xenith-demo")
        assert (shown["status"], shown["OS-EXT-STS:task_state"]) == ("ACTIVE", None)
        assert shown["addresses"]["shared"]
        process.kill()
        process.wait()
    with running_lab(data):
        # No --tree: the directory says what there is. The server was there all along.
        assert client.json("server", "show", "sea")["id"] == shown["id"]
        client.run("server", "reboot", "--hard", "sea", "--wait")
        client.run("server", "delete", "sea", "--wait")
        assert client.json("server", "list") == []
        assert xenith("down", "--data", str(data)).startswith("stopped")
    assert xenith("down", "--data", str(data)).startswith("no cloud runs")


def test_each_part_of_the_bench_of_cells_gives_its_figures() -> None:
    found = json.loads(xenith("bench", "cells", "--small", "-o", "json"))
    builds = [found["builds"], *found["width"]]
    assert all(each["rounds"][0]["builds_per_s"] > 0 for each in builds)
    assert all(each["rounds"][0]["post"]["p99_ms"] > 0 for each in builds)
    (changes,) = found["changes"]
    assert changes["changes"] > 0
    assert changes["lag"]["p99_ms"] > 0
    assert changes["rows_applied_at_root"] <= changes["changes"]
    assert (found["lists"]["dead_cells"], found["lists"]["servers"]) == (1, 60)
    assert found["lists"]["get"]["p50_ms"] > 0
    assert found["choosing"]["choose"]["p50_ms"] > 0
    assert found["deaths"]["moved"] > 0
    assert found["deaths"]["excluded_s"]["worst"] <= found["deaths"]["all_active_s"]["worst"]
    assert found["memory"]["mib_per_thousand_hosts"] > 0
