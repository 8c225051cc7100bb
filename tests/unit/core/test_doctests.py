"""The examples in core's docstrings hold."""

import doctest
import importlib
import pkgutil

import pytest

import xenith.core

MODULES = [module.name for module in pkgutil.iter_modules(xenith.core.__path__, "xenith.core.")]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_hold(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
