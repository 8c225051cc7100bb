"""The examples in the scheduler's docstrings hold."""

import doctest
import importlib
import pkgutil

import pytest

import xenith.scheduler

MODULES = [
    f"xenith.scheduler.{module.name}" for module in pkgutil.iter_modules(xenith.scheduler.__path__)
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
