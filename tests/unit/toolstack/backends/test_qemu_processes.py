"""Processes are held by handle and known by their command line, never by number alone."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from xenith.toolstack.backends.qemu import console, machine
from xenith.toolstack.backends.qemu.processes import (
    Process,
    find_qemus,
    has_ended,
    spawn_detached,
)


@pytest.fixture
async def spawn(tmp_path):
    """A function that starts a false QEMU for a domain and gives its pid and its pipe."""
    domains = tmp_path / "domains"
    pipes = []

    async def start(name="vm", *, directory=None):
        directory = directory or domains / name
        directory.mkdir(parents=True, exist_ok=True)
        program = tmp_path / "qemu-false"
        if not program.exists():
            program.symlink_to(sys.executable)
        command = [str(program), "-c", "import time; time.sleep(60)"]
        words = ["-pidfile", str(directory / "pid")]
        alive = await spawn_detached(
            [*command, *words], directory=directory, log=directory / "qemu.log"
        )
        pipes.append(alive)
        while not (found := find_qemus(directory.parent).get(name)) or not is_past_setsid(found[0]):
            assert not has_ended(alive), (directory / "qemu.log").read_text()
        return found[0], alive

    yield start
    for pids in find_qemus(domains).values():
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    for pipe in pipes:
        os.close(pipe)


def is_past_setsid(pid):
    """Whether a process runs its program; while it becomes that, it has no command line."""
    return b"qemu-false" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]


def children():
    task = f"/proc/self/task/{os.getpid()}/children"
    return Path(task).read_text().split()


async def test_a_spawned_process_is_no_child_of_ours_and_its_end_is_seen(spawn, tmp_path):
    pid, alive = await spawn()
    assert os.getsid(pid) != os.getsid(0)
    assert str(pid) not in children()
    process = Process(pid, tmp_path / "domains" / "vm")
    assert not await process.wait(0.01)
    process.kill()
    assert await process.wait()
    assert find_qemus(tmp_path / "domains") == {}
    assert has_ended(alive)
    process.kill()  # of what has ended is nothing


async def test_a_process_of_another_domain_or_of_nobody_is_not_believed(spawn, tmp_path):
    pid, _ = await spawn()
    with pytest.raises(ProcessLookupError, match="is not the QEMU"):
        Process(pid, tmp_path / "domains" / "other")
    with pytest.raises(ProcessLookupError):
        Process(os.getpid(), tmp_path / "domains" / "vm")
    assert find_qemus(tmp_path / "elsewhere") == {}


async def test_a_released_process_runs_on(spawn, tmp_path):
    pid, alive = await spawn()
    process = Process(pid, tmp_path / "domains" / "vm")
    process.release()
    process.release()
    process.kill()
    assert not has_ended(alive)


def test_a_log_is_read_from_its_end_and_cut_when_it_outgrows_its_limit(tmp_path):
    log = tmp_path / "console.log"
    assert console.tail(log, 10) == b""
    console.trim(log)
    log.write_bytes(b"x" * console.LOG_BYTES_MAX)
    console.trim(log)
    assert log.stat().st_size == console.LOG_BYTES_MAX
    with log.open("ab") as file:
        file.write(b"the end")
    console.trim(log)
    assert log.stat().st_size == 100 * 1024
    assert console.tail(log, 7) == b"the end"


def test_logs_of_the_dead_are_kept_up_to_a_number(tmp_path):
    for number in range(console.ENDED_LOGS_MAX + 3):
        directory = tmp_path / f"dead-{number}"
        directory.mkdir()
        os.utime(directory, (number, number))
    (tmp_path / "living").mkdir()
    (tmp_path / "living" / "domain.json").touch()
    os.utime(tmp_path / "living", (0, 0))
    console.keep_newest(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == console.ENDED_LOGS_MAX + 1
    assert "living" in left
    assert "dead-2" not in left


def test_capacity_is_what_is_given_else_a_share_of_the_machine(tmp_path):
    given = machine.capacity(tmp_path, memory_bytes=1, cpu_count=2, disk_bytes=3)
    assert (given.memory_bytes, given.cpu_count, given.disk_bytes) == (1, 2, 3)
    found = machine.capacity(tmp_path)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert total // 2 < found.memory_bytes < total
    assert 0 < found.disk_bytes < shutil.disk_usage(tmp_path).total
