"""The doctor says what is there, what is missing, and what to do."""

import json
import socket
from typing import NamedTuple

import pytest

from xenith import cli
from xenith.cli import doctor
from xenith.core.limits import GIB, MIB
from xenith.core.settings import Settings


class Usage(NamedTuple):
    """What is left of a disk."""

    free: int


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine with no programs at all."""
    monkeypatch.setenv("PATH", str(tmp_path))


def test_every_check_gives_a_finding_and_what_is_not_ok_has_a_next_step():
    findings = [check(Settings()) for check in doctor.CHECKS]
    assert len({finding.check for finding in findings}) == len(doctor.CHECKS)
    assert all(finding.found for finding in findings)
    assert all(finding.next for finding in findings if finding.state != "ok")


def test_the_answer_for_programs_is_json(capsys, tmp_path):
    assert cli.run(["doctor", "-o", "json", "--data", str(tmp_path)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [set(row) for row in rows] == [{"check", "state", "found", "next"}] * len(rows)


def test_a_machine_without_qemu_is_told_what_to_install(bare):
    finding = doctor.check_qemu(Settings())
    assert finding.state == "warn"
    assert "simulated hosts only" in finding.found
    assert "qemu-system-x86" in finding.next


def test_every_missing_disk_tool_is_named_with_its_package(bare):
    finding = doctor.check_disk_tools(Settings())
    assert finding.state == "warn"
    assert "qemu-img" in finding.found
    assert "qemu-utils" in finding.next


def test_a_qemu_that_does_not_run_is_not_taken_for_one(tmp_path, monkeypatch):
    broken = tmp_path / f"qemu-system-{doctor.platform.machine()}"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.check_qemu(Settings()).state == "warn"


def test_a_port_that_is_taken_is_said_with_the_way_out():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        finding = doctor.check_port(Settings(listen=f"127.0.0.1:{taken.getsockname()[1]}"))
    assert finding.state == "warn"
    assert "--listen" in finding.next


@pytest.mark.parametrize("listen", ["[::1]:0", "127.0.0.1:0"])
def test_a_port_that_is_free_is_said_to_be(listen):
    assert doctor.check_port(Settings(listen=listen)).state in {"ok", "warn"}


@pytest.mark.parametrize("listen", ["5000", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:99999"])
def test_an_address_that_is_none_ends_without_a_trace(listen, capsys):
    assert cli.run(["doctor", "--listen", listen]) in {0, 2}
    captured = capsys.readouterr()
    assert listen in captured.out + captured.err


@pytest.mark.parametrize(
    ("free_bytes", "state"), [(10 * MIB, "missing"), (GIB, "warn"), (50 * GIB, "ok")]
)
def test_the_room_on_the_data_disk_decides(free_bytes, state, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage(free_bytes))
    finding = doctor.check_disk(Settings(data=str(tmp_path / "not" / "yet")))
    assert finding.state == state
    assert str(tmp_path) in finding.found


def test_what_is_missing_makes_the_exit_code(monkeypatch, capsys):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage(0))
    assert cli.run(["doctor"]) == 1
    assert "missing" in capsys.readouterr().out
