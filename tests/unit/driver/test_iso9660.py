"""An image of ours is read by others' readers, names and bytes as they were given."""

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenith.driver.iso9660 import SECTOR_BYTES, build_iso9660

FILES = {
    "openstack/latest/meta_data.json": b'{"uuid": "x"}',
    "openstack/2018-08-27/meta_data.json": b'{"uuid": "x"}',
    "openstack/content/0000": b"y" * 5000,
    "user data.With.Dots": b"#!/bin/sh\n",
    "empty": b"",
}

needs_isoinfo = pytest.mark.skipif(
    shutil.which("isoinfo") is None, reason="isoinfo (package genisoimage) is not installed"
)


def isoinfo(path, *arguments):
    return subprocess.run(
        ["isoinfo", *arguments, "-i", str(path)], capture_output=True, check=True, timeout=20
    ).stdout


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "drive.iso"
    path.write_bytes(build_iso9660(FILES, label="config-2"))
    return path


@needs_isoinfo
def test_the_label_is_what_guests_look_for(image):
    about = isoinfo(image, "-d")
    assert b"Volume id: config-2\n" in about
    assert b"Rock Ridge signatures version 1 found" in about
    assert b"Joliet with UCS level 3 found" in about


@needs_isoinfo
@pytest.mark.parametrize(("flag", "ending"), [("-R", ""), ("-J", ";1")])
def test_long_lower_case_names_are_read_through_both_extensions(image, flag, ending):
    listed = set(isoinfo(image, flag, "-f").decode().split("\n"))
    assert {f"/{path}{ending}" for path in FILES} <= listed
    for path, content in FILES.items():
        if content:
            assert isoinfo(image, flag, "-x", f"/{path}{ending}") == content


@needs_isoinfo
def test_a_directory_of_many_sectors_is_listed_whole(tmp_path):
    files = {f"many/a-name-that-takes-room-{n:04}.txt": b"%d" % n for n in range(500)}
    path = tmp_path / "many.iso"
    path.write_bytes(build_iso9660(files, label="x"))
    listed = set(isoinfo(path, "-R", "-f").decode().split())
    assert {"/" + name for name in files} <= listed


def test_equal_contents_are_stored_once():
    once = build_iso9660({"a": b"z" * 9000}, label="x")
    twice = build_iso9660({"a": b"z" * 9000, "b": b"z" * 9000}, label="x")
    assert len(once) == len(twice)


def test_the_same_files_give_the_same_bytes():
    backwards = dict(reversed(FILES.items()))
    assert build_iso9660(FILES, label="x") == build_iso9660(backwards, label="x")


@pytest.mark.parametrize("path", ["", "a//b", "../x", "a/.", "n" * 65])
def test_a_name_that_cannot_be_written_is_refused(path):
    with pytest.raises(ValueError, match="cannot be a name"):
        build_iso9660({path: b""}, label="x")


@given(
    st.dictionaries(
        st.lists(st.text("abcXYZ0.-_é", min_size=1, max_size=20), min_size=1, max_size=4).map(
            "/".join
        ),
        st.binary(max_size=5000),
        max_size=8,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_tree_reads_back_through_rock_ridge(files):
    names = set(files)
    is_tree = not any(a != b and b.startswith(a + "/") for a in names for b in names)
    is_plain = not any(part in (".", "..") for name in names for part in name.split("/"))
    if is_tree and is_plain:
        image = build_iso9660(files, label="x")
        assert read_back(image) == files
        assert int.from_bytes(image[16 * 2048 + 80 : 16 * 2048 + 84], "little") * 2048 == len(image)


def read_back(image):
    """Read an image as Linux does: the root's record, then NM entries of each directory."""
    root = image[16 * SECTOR_BYTES + 156 : 16 * SECTOR_BYTES + 190]
    found = {}
    waiting = [("", root)]
    while waiting:
        path, record = waiting.pop()
        for name, child in entries(extent_of(image, record)):
            if child[25] & 2:
                waiting.append((f"{path}{name}/", child))
            else:
                found[path + name] = extent_of(image, child)
    return found


def extent_of(image, record):
    start = int.from_bytes(record[2:6], "little") * SECTOR_BYTES
    return image[start : start + int.from_bytes(record[10:14], "little")]


def entries(directory):
    position = 0
    while position < len(directory):
        length = directory[position]
        if length == 0:  # the rest of this sector is unused
            position += SECTOR_BYTES - position % SECTOR_BYTES
            continue
        record = directory[position : position + length]
        assert position // SECTOR_BYTES == (position + length - 1) // SECTOR_BYTES
        position += length
        if record[33:34] in (b"\x00", b"\x01") and record[32] == 1:
            continue
        use = record[33 + record[32] + (1 - record[32] % 2) :]
        while len(use) > 4:
            if use[:2] == b"NM":
                yield use[5 : use[2]].decode(), record
            use = use[use[2] :]
