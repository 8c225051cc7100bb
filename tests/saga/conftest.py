"""Gives saga tests the modules that lie beside this file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def load(name: str) -> ModuleType:
    """Load a module of this folder: tests are no package, and import none of each other."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def saga_harness() -> ModuleType:
    """The module ``saga_harness``: ``Trial`` and the three ways of trying a saga."""
    return load("saga_harness")


@pytest.fixture(scope="session")
def small_cloud() -> ModuleType:
    """The module ``small_cloud``: compute, network and simulated hosts in one process."""
    return load("small_cloud")


@pytest.fixture(scope="session")
def invariants() -> ModuleType:
    """The module ``invariants``: what must hold when a cloud has settled."""
    return importlib.import_module("xenith.dev.invariants")
