"""Arrows run only downward, and the contract that says so really catches one that does not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def lint(source: Path) -> subprocess.CompletedProcess[str]:
    """Check the floors of the package under a directory."""
    code = "import sys; from importlinter.cli import lint_imports_command as c; c(sys.argv[1:])"
    config = ["--config", str(ROOT / ".importlinter"), "--no-cache"]
    return subprocess.run(
        [sys.executable, "-c", code, *config],
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path):
    """A copy of the package to break."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src" / "xenith", tmp_path / "xenith", ignore=ignored)
    return tmp_path


def test_no_room_imports_a_room_above_it_or_beside_it():
    done = lint(ROOT / "src")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("room", "imported"),
    [
        ("core", "db"),
        ("db", "saga"),
        ("http", "compute"),
        ("compute", "identity"),
        ("scheduler", "cells"),
        ("driver", "toolstack"),
        ("compute", "dev"),
        ("dev", "cli"),
    ],
)
def test_an_arrow_upward_or_sideways_is_caught(room, imported, copy):
    for name in (room, imported):
        (copy / "xenith" / name).mkdir(exist_ok=True)
        (copy / "xenith" / name / "__init__.py").touch()
    (copy / "xenith" / imported / "bait.py").write_text('"""Imported by a room that must not."""\n')
    (copy / "xenith" / room / "thief.py").write_text(f"import xenith.{imported}.bait\n")
    done = lint(copy)
    assert done.returncode == 1, done.stdout
    assert f"xenith.{room}.thief -> xenith.{imported}.bait" in done.stdout


def test_a_room_that_no_floor_names_is_caught(copy):
    (copy / "xenith" / "attic").mkdir()
    (copy / "xenith" / "attic" / "__init__.py").write_text('"""A room nobody placed."""\n')
    done = lint(copy)
    assert done.returncode == 1, done.stdout
    assert "attic" in done.stdout
