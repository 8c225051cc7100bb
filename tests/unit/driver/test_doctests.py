"""The examples in driver's docstrings hold."""

import doctest
import importlib
import pkgutil

import pytest

import xenith.driver

MODULES = [module.name for module in pkgutil.iter_modules(xenith.driver.__path__, "xenith.driver.")]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_hold(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
