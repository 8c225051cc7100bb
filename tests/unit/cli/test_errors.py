"""Every class of error has its row: an exit code and a next step."""

import inspect
from pathlib import Path

import pytest

from xenith.cli.errors import TABLE, exit_code, explain
from xenith.core import errors

CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.XenithError)
]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_of_error_has_a_row(kind):
    assert kind in TABLE
    assert 0 < exit_code(kind("x")) < 128


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_ends_in_a_next_step(kind):
    first, *_, last = explain(kind("the thing is so"))
    assert first == "error: the thing is so"
    assert last.startswith("next: ")
    assert len(last) > len("next: ")


def test_what_is_derived_from_a_class_ends_as_it_does():
    class ServerNotFound(errors.NotFound):
        pass

    assert exit_code(ServerNotFound("x")) == exit_code(errors.NotFound("x"))
    assert exit_code(ConnectionRefusedError()) == exit_code(OSError())


def test_a_cause_that_the_message_holds_already_is_not_said_again():
    error = errors.Invalid("the file cannot be read: ValueError: broken")
    error.__cause__ = ValueError("broken")
    assert [line.split(":")[0] for line in explain(error)] == ["error", "next"]


def test_an_operating_system_error_without_words_is_still_said():
    assert explain(TimeoutError())[0] == "error: TimeoutError"


def test_the_page_of_commands_lists_every_exit_code():
    page = (Path(__file__).parents[3] / "docs" / "commands.md").read_text()
    assert all(f"| {row.exit_code} |" in page for row in TABLE.values())
