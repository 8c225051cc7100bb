"""Gives unit tests of the room the nodes that ``tests/cells`` builds trees of."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def nodes() -> ModuleType:
    """The module ``tests/cells/nodes.py``: trees of bare nodes on virtual time."""
    if "nodes" not in sys.modules:
        path = Path(__file__).parents[2] / "cells" / "nodes.py"
        spec = importlib.util.spec_from_file_location("nodes", path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules["nodes"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["nodes"])
    return sys.modules["nodes"]
