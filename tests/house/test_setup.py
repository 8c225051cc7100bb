"""The set-up runs again without harm, and says what it leaves out."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def setup(tmp_path, monkeypatch):
    """The set-up script as a module, on a machine of which each test says what it is."""
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "scripts" / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "STAMP", tmp_path / "setup.json")
    monkeypatch.setattr(module, "POLICY", tmp_path / "policy-rc.d")
    return module


def test_every_debian_package_says_what_it_is_for(setup):
    packages = setup.wanted_packages((ROOT / "scripts" / "debian-packages.txt").read_text())
    assert {"qemu-system-x86", "qemu-utils", "busybox-static", "postgresql"} <= packages.keys()
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.+-]+", name) for name in packages)
    assert all(packages.values())


def test_a_package_is_there_when_another_one_has_its_place(setup, monkeypatch):
    shown = (
        "installed nodejs, nodejs-dev, npm (= 10)\ninstalled cpio, \n"
        "config-files mtools, \nnot-installed awk, \n"
    )
    monkeypatch.setattr(
        setup.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, shown, "")
    )
    names = ("nodejs", "npm", "cpio", "mtools", "awk")
    assert [name for name in names if setup.is_installed(name)] == ["nodejs", "npm", "cpio"]


@pytest.mark.parametrize("stamp", [None, "{", "[]", "7"])
def test_an_environment_that_nobody_knows_about_is_made_again(setup, stamp):
    if stamp is not None:
        setup.STAMP.write_text(stamp)
    wanted = {"lock": setup.RUN_LOCK.name, **setup.fingerprint(setup.RUN_LOCK)}
    assert not setup.is_in_step(setup.read_stamp(), wanted)


def test_an_environment_is_in_step_with_what_it_was_made_from_and_nothing_else(setup):
    wanted = {"lock": setup.RUN_LOCK.name, **setup.fingerprint(setup.RUN_LOCK)}
    setup.STAMP.write_text(json.dumps(wanted))
    assert setup.is_in_step(setup.read_stamp(), wanted)
    for name in wanted:
        assert not setup.is_in_step(setup.read_stamp(), {**wanted, name: "another"})


def test_an_environment_made_for_tests_also_runs_the_cloud_but_not_the_other_way(setup):
    run = {"lock": setup.RUN_LOCK.name, **setup.fingerprint(setup.RUN_LOCK)}
    dev = {"lock": setup.DEV_LOCK.name, **setup.fingerprint(setup.DEV_LOCK)}
    assert setup.is_in_step(dev, run)
    assert not setup.is_in_step(run, dev)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, []),
        ({"root": "/elsewhere"}, ["venv", "pip", "pip"]),
        ({"lock_sha256": "x"}, ["pip"] * 2),
    ],
)
def test_only_what_changed_is_done_again(changes, steps, setup, monkeypatch):
    done = []
    wanted = {"lock": setup.RUN_LOCK.name, **setup.fingerprint(setup.RUN_LOCK)}
    setup.STAMP.write_text(json.dumps({**wanted, **changes}))
    monkeypatch.setattr(setup, "succeeds", lambda command: True)
    monkeypatch.setattr(setup, "run", lambda command, failure: done.append(command[2]))
    setup.prepare_environment(setup.RUN_LOCK)
    assert done == steps
    assert setup.read_stamp() == wanted


def test_without_root_what_is_missing_and_left_out_is_said(setup, monkeypatch, capsys):
    monkeypatch.setattr(setup, "privilege_prefix", lambda: None)
    monkeypatch.setattr(setup, "is_installed", lambda name: name != "postgresql")
    monkeypatch.setattr(setup.shutil, "which", lambda name: f"/usr/bin/{name}")
    setup.install_debian_packages()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "setup: neither root nor sudo without a password; missing: postgresql"
    assert lines[1].startswith("setup: without postgresql is left out: ")


def test_on_another_system_it_says_so_and_goes_on(setup, monkeypatch, capsys):
    monkeypatch.setattr(setup.shutil, "which", lambda name: None)
    setup.install_debian_packages()
    assert "not a Debian system" in capsys.readouterr().out


def test_when_packages_cannot_be_had_it_says_why_and_goes_on(setup, monkeypatch, capsys):
    monkeypatch.setattr(setup, "privilege_prefix", list)
    monkeypatch.setattr(setup, "is_installed", lambda name: name != "cpio")
    monkeypatch.setattr(setup, "apt_run", lambda command: "Could not resolve the archive")
    setup.install_debian_packages()
    captured = capsys.readouterr()
    assert "Could not resolve the archive" in captured.err
    assert "without cpio is left out" in captured.out


def test_no_daemon_starts_while_packages_are_installed_and_the_rule_goes_after(setup, monkeypatch):
    during = []

    def apt_run(command):
        answer = subprocess.run([setup.POLICY, "postgresql", "start"], check=False).returncode
        during.append(answer)
        return ""

    monkeypatch.setattr(setup, "privilege_prefix", list)
    monkeypatch.setattr(setup, "apt_run", apt_run)
    setup.apt_install(["postgresql"])
    assert during == [101, 101]
    assert not setup.POLICY.exists()


def test_a_rule_of_the_machines_own_is_left_as_it_is(setup, monkeypatch):
    setup.POLICY.write_text("#!/bin/sh\nexit 0\n")
    monkeypatch.setattr(setup, "privilege_prefix", list)
    monkeypatch.setattr(setup, "apt_run", lambda command: "")
    setup.apt_install(["postgresql"])
    assert setup.POLICY.read_text() == "#!/bin/sh\nexit 0\n"


def test_a_rule_left_by_a_run_that_was_killed_is_ours_to_remove(setup):
    setup.POLICY.write_text(f"#!/bin/sh\n{setup.POLICY_MARK}\nexit 101\n")
    assert setup.forbid_daemon_starts([])


def test_a_python_without_venv_and_no_right_to_install_it_ends_with_what_to_do(setup, monkeypatch):
    monkeypatch.setattr(setup, "succeeds", lambda command: False)
    monkeypatch.setattr(setup, "privilege_prefix", lambda: None)
    with pytest.raises(setup.SetupError, match=r"install python3\.\d+-venv"):
        setup.make_venv()


@pytest.mark.slow
def test_the_script_needs_nothing_but_the_standard_library():
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", "import runpy; runpy.run_path('scripts/setup.py')"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
