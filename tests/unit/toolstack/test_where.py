"""The language of get_all_records_where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenith.toolstack.where import DEPTH_MAX, LENGTH_MAX, parse
from xenith.xapi import XapiFault

RECORD = {"name_label": 'a "b"', "is_a_template": False, "domid": 7, "resident_on": "OpaqueRef:h"}


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("true", True),
        ("false", False),
        ("not true", False),
        ("not (not true)", True),
        ('field "is_a_template"="false"', True),
        ('field "is_a_template" = "False"', False),
        ('field "domid"="7"', True),
        ('field "name__label"="a \\"b\\""', True),
        ('field "name_label"="a \\"b\\""', True),
        ('"7"=field "domid"', True),
        ('"x"="x"', True),
        ('field "domid"="7" and field "resident_on"="OpaqueRef:h"', True),
        ('field "domid"="8" or field "resident_on"="OpaqueRef:h"', True),
        ("true or true and false", True),
        ("(true or true) and false", False),
        ("not true or true", True),
        ('  ( field  "domid" = "7" )  ', True),
    ],
)
def test_an_expression_means_what_it_says(expression, holds):
    assert parse(expression, "VM")(RECORD) is holds


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "(",
        ")",
        "true true",
        "and",
        "true and",
        "field",
        'field "domid"',
        'field "domid"=',
        'field "no_such"="x"',
        'field "domid"="7',
        'field domid="7"',
        "not",
        "import os",
        "(" * (DEPTH_MAX + 1) + "true" + ")" * (DEPTH_MAX + 1),
        "not " * 2000 + "true",
        "true or " * LENGTH_MAX + "true",
    ],
)
def test_nonsense_is_a_fault(expression):
    with pytest.raises(XapiFault, match="INTERNAL_ERROR"):
        parse(expression, "VM")


def test_many_parts_side_by_side_are_no_depth():
    assert parse(" or ".join(["false"] * 500 + ["true"]), "VM")(RECORD) is True


WORDS = st.sampled_from(
    ["field", "and", "or", "not", "true", "false", "(", ")", "=", '"domid"', '"7"', '"', "\\", "é"]
)


@given(st.text(max_size=60) | st.lists(WORDS, max_size=30).map(" ".join))
def test_no_text_is_more_than_a_fault(text):
    try:
        holds = parse(text, "VM")
    except XapiFault as fault:
        assert fault.code == "INTERNAL_ERROR"  # noqa: PT017 - not every text ends in it
    else:
        assert holds(RECORD) in (True, False)
