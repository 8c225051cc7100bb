"""One way to show things, to people and to programs."""

import doctest
import json

import msgspec
import pytest

from xenith.cli import nouns, output
from xenith.cli.output import cell, show, table


class Disk(msgspec.Struct):
    """A struct to show."""

    name: str
    size_bytes: int


@pytest.mark.parametrize("module", [output, nouns])
def test_the_examples_hold(module):
    assert doctest.testmod(module).failed == 0


def test_json_is_the_value_itself(capsys):
    show([Disk("a", 1), Disk("ü", 2)], "json")
    shown = capsys.readouterr().out
    assert json.loads(shown) == [{"name": "a", "size_bytes": 1}, {"name": "ü", "size_bytes": 2}]
    assert "ü" in shown


def test_one_thing_is_fields_and_values(capsys):
    show(Disk("a", 1), "table")
    assert capsys.readouterr().out.splitlines() == [
        "FIELD       VALUE",
        "name        a",
        "size_bytes  1",
    ]


def test_an_empty_list_is_said_to_people_and_stays_a_list_for_programs(capsys):
    show([], "table")
    show([], "json")
    assert capsys.readouterr().out == "(none)\n[]\n"


def test_columns_stand_under_each_other_whatever_the_script():
    lines = table([{"name": "服务器", "id": 1}, {"name": "e\u0301tage", "id": 2}]).splitlines()
    assert lines[1] == "服务器  1"
    assert lines[2] == "e\u0301tage   2"


@pytest.mark.parametrize(
    "hostile", ["\x1b]0;owned\x07", "a\nb", "a\rb", "\u202egnp.exe", "\u2028", "\x9b2J", "\x00"]
)
def test_a_tenants_name_cannot_steer_the_operators_terminal(hostile):
    assert cell(hostile).isprintable()
    assert table([{"name": hostile}]).count("\n") == 1


def test_nested_values_stay_on_their_line():
    assert cell({"a": [1, None], "b": {"c": "\n"}}) == r"a=1, -, b=c=\n"


def test_a_row_without_a_value_has_an_empty_place():
    assert table([{"a": 1, "b": 2}, {"a": 3}]).splitlines()[2] == "3  -"
