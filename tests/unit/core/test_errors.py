"""Errors carry what a program needs besides the words."""

import inspect

import pytest

from xenith.core import errors

CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.XenithError)
]


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_keeps_its_message_its_kind_and_its_fields(kind):
    error = kind("server x is gone", kind="ServerGone", server_id="x")
    assert str(error) == error.message == "server x is gone"
    assert error.kind == "ServerGone"
    assert error.fields == {"server_id": "x"}
    assert isinstance(error, errors.XenithError)


def test_what_is_away_says_when_to_ask_again():
    assert errors.Unavailable("x").retry_after_s > 0
    error = errors.Unavailable("the broker is away", retry_after_s=5, broker="c0001")
    assert error.retry_after_s == 5
    assert error.fields == {"broker": "c0001"}


def test_no_class_of_error_is_another_so_that_a_table_has_one_row_for_each():
    leaves = [kind for kind in CLASSES if kind is not errors.XenithError]
    assert all(kind.__bases__ == (errors.XenithError,) for kind in leaves)
