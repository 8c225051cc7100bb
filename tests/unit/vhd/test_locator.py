"""Spellings of a parent's path are read as others write them, and never lead outside."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenith.core.errors import Invalid
from xenith.vhd.header import Header, decode_header
from xenith.vhd.locator import (
    ABSOLUTE,
    CODES,
    RELATIVE,
    URL,
    decode_text,
    encode_text,
    inside,
    is_name,
    parent_candidates,
    place,
)

HEADER = Header(table_offset=1536, entries=1)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("name", ["a.vhd", "größe und maß.vhd", "100%41#?.vhd", "\U0001f427.vhd"])
def test_a_name_is_read_back_from_every_spelling(code, name):
    assert inside(decode_text(code, encode_text(code, name)), "/sr") == name


def test_the_spellings_are_those_of_blktap_and_microsoft():
    assert encode_text(RELATIVE, "b.vhd") == ".\\b.vhd".encode("utf-16-le")
    assert encode_text(URL, "b.vhd") == b"file://./b.vhd"
    locators, stored = place("b.vhd", 4096)
    assert [one.code for one in locators] == [URL, ABSOLUTE, RELATIVE]
    assert [one.offset for one in locators] == [4096, 4608, 5120]
    assert stored[:14] == b"file://./b.vhd"


@pytest.mark.parametrize(
    ("code", "path"),
    [
        (URL, b"file:///run/sr-mount/1/b.vhd"),
        (URL, b"file://localhost/run/sr-mount/1/b.vhd"),
        (URL, b"file://./b.vhd\0\0"),
        (RELATIVE, "b.vhd\0junk".encode("utf-16-le")),
        (ABSOLUTE, "/run/sr-mount/1/b.vhd".encode("utf-16-le")),
    ],
)
def test_a_path_into_the_repository_is_its_last_part(code, path):
    assert inside(decode_text(code, path), "/run/sr-mount/1") == "b.vhd"


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../b.vhd",
        "./../b.vhd",
        "x/b.vhd",
        "/run/sr-mount/1/../2/b.vhd",
        "/run/sr-mount/1/x/b.vhd",
        "/run/sr-mount/12",
        "C:/disks/b.vhd",
        "..",
        ".",
        "",
        "a\nb",
        "x" * 256,
    ],
)
def test_a_path_elsewhere_is_nothing(path):
    assert inside(path, "/run/sr-mount/1") is None


def test_a_relative_path_is_believed_before_an_absolute_one_and_the_header_last():
    texts = {
        ABSOLUTE: "/sr/third.vhd".encode("utf-16-le"),
        RELATIVE: ".\\first.vhd".encode("utf-16-le"),
        URL: b"file://./second.vhd",
        b"Wi2k": b"x",
    }
    header = Header(table_offset=1536, entries=1, parent_name="fourth.vhd")
    names = ["first.vhd", "second.vhd", "third.vhd", "fourth.vhd"]
    assert parent_candidates(header, texts, "/sr") == names


def test_half_of_a_surrogate_pair_is_refused_and_not_raised_as_something_else():
    with pytest.raises(Invalid, match="surrogate"):
        encode_text(RELATIVE, "\ud800.vhd")
    with pytest.raises(Invalid, match="surrogate"):
        Header(table_offset=1536, entries=1, parent_name="\ud800").encode()
    assert not is_name("\ud800")
    whole = HEADER.encode()
    assert decode_header(whole).parent_name == ""


@given(code=st.sampled_from([*CODES, b"Wi2r", b"Mac "]), data=st.binary(max_size=64))
def test_any_bytes_of_a_locator_are_a_name_or_nothing(code, data):
    name = inside(decode_text(code, data), "/sr")
    assert name is None or is_name(name)
