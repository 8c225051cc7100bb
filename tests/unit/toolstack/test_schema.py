"""What a client's value becomes, by the type of its field."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenith.toolstack.schema import CLASSES, EPOCH, coerce, convert
from xenith.xapi import NULL, XapiFault

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("kind", "value", "becomes"),
    [
        ("int", "1024", 1024),
        ("int", "-1", -1),
        ("int", 7, 7),
        ("int", 7.0, 7),
        ("bool", True, True),
        ("float", "0.5", 0.5),
        ("float", 1, 1.0),
        ("ref", "", NULL),
        ("ref", "OpaqueRef:x", "OpaqueRef:x"),
        ("map", {"a": 1, "b": True}, {"a": "1", "b": "true"}),
        ("set", ["b", "a", "b"], ["b", "a"]),
        ("str", 5, "5"),
        ("text", "x", "x"),
        ("texts", ["x", "x"], ["x", "x"]),
    ],
)
def test_a_value_takes_the_type_of_its_field(kind, value, becomes):
    got = convert(kind, value, name="field")
    assert got == becomes
    assert type(got) is type(becomes)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int", True),
        ("int", "1_000"),
        ("int", " 1"),
        ("int", "٣"),
        ("int", 1.5),
        ("int", float("inf")),
        ("int", float("nan")),
        ("int", 2**63),
        ("int", "9" * 20),
        ("int", None),
        ("bool", "true"),
        ("bool", 1),
        ("float", True),
        ("float", []),
        ("ref", 5),
        ("map", []),
        ("map", {"a": {}}),
        ("set", "abc"),
        ("set", [[]]),
        ("text", 5),
        ("texts", [5]),
    ],
)
def test_a_value_of_another_type_is_refused_by_the_field_s_name(kind, value):
    with pytest.raises(XapiFault) as caught:
        convert(kind, value, name="memory")
    assert caught.value.description == ["FIELD_TYPE_ERROR", "memory"]


@given(value=JSON, field=st.sampled_from([(c, f) for c in CLASSES for f in CLASSES[c]]))
def test_no_value_is_more_than_a_fault(value, field):
    class_name, name = field
    try:
        got = coerce(class_name, name, value)
    except XapiFault as fault:
        assert fault.code == "FIELD_TYPE_ERROR"  # noqa: PT017 - not every value ends in it
    else:
        kinds = {"int": int, "bool": bool, "float": float, "map": dict, "set": list}
        assert type(got) is kinds.get(CLASSES[class_name][name].kind, str)


def test_every_default_is_of_its_own_type():
    for class_name, fields in CLASSES.items():
        for name, field in fields.items():
            default = field.make_default()
            assert coerce(class_name, name, default) == default, f"{class_name}.{name}"


def test_dates_that_are_not_set_are_the_epoch():
    assert CLASSES["VM"]["snapshot_time"].make_default() == EPOCH
