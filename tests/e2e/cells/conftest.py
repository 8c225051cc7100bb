"""Gives tests of regions of real processes the modules that lie beside this file."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

FAILED = pytest.StashKey[bool]()

# Tests are no package; these are known by their names before a test module asks for them.
for _name in ("postgres", "network", "region", "checks", "tenants"):
    _path = Path(__file__).parent / f"{_name}.py"
    _spec = importlib.util.spec_from_file_location(_name, _path)
    assert _spec is not None
    assert _spec.loader is not None
    _module = importlib.util.module_from_spec(_spec)
    sys.modules[_name] = _module
    _spec.loader.exec_module(_module)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note that a test has failed, for the fixture that keeps its logs."""
    report = yield
    if report.failed:
        item.session.stash[FAILED] = True
    return report


@pytest.fixture(scope="module")
def keep_logs(request: pytest.FixtureRequest) -> Callable[[Any], None]:
    """What keeps the logs of a region, if a test of the module has failed."""

    def keep(region: Any) -> None:
        if request.session.stash.get(FAILED, False) or os.environ.get("XENITH_E2E_LOGS"):
            region.keep_logs()

    return keep
