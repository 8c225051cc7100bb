"""Gives saga tests the harness that lies beside this file."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def saga_harness() -> ModuleType:
    """The module ``saga_harness``: ``Trial`` and the three ways of trying a saga."""
    spec = importlib.util.spec_from_file_location(
        "saga_harness", Path(__file__).parent / "saga_harness.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["saga_harness"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
