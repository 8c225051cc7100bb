"""``xenith vhd`` among full disks, files that lie, and others who make the same file."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import tarfile

import pytest

from xenith.cli import run
from xenith.core.clock import SystemClock
from xenith.core.ids import Ids
from xenith.core.units import MIB
from xenith.core.world import World
from xenith.vhd.chain import open_chain
from xenith.vhd.create import create_dynamic, new_file
from xenith.vhd.files import Directory
from xenith.vhd.snapshot import snapshot

SIZE = 5 * MIB
DATA = os.urandom(3 * MIB)


@pytest.fixture
def xenith(capfd):
    """A function that runs the command and gives its exit code and complaints."""

    def call(*words):
        code = run(["vhd", *map(str, words)])
        return code, capfd.readouterr().err

    return call


@pytest.fixture
def sr(tmp_path):
    """A directory with a chain of two."""
    directory = tmp_path / "sr"
    directory.mkdir()
    world = World(clock=SystemClock(), ids=Ids())
    with contextlib.closing(Directory(directory)) as files:
        create_dynamic(files, "disk.vhd", size_bytes=SIZE, world=world)
        for offset in (0, MIB):
            with contextlib.closing(open_chain(files, "disk.vhd", writable=True)) as chain:
                chain.write(offset, DATA)
                chain.flush()
            if not offset:
                snapshot(files, "disk.vhd", base="base.vhd", world=world)
    return directory


def names(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


@pytest.fixture
def room(monkeypatch):
    """A function that says how many more writes to files find room."""
    write = os.pwrite

    def limit(count):
        left = iter(range(count))

        def pwrite(descriptor, data, offset):
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(descriptor, data, offset)

        monkeypatch.setattr(os, "pwrite", pwrite)

    return limit


@pytest.mark.parametrize("writes", [0, 1, 2])
@pytest.mark.parametrize(
    "words",
    [
        ("convert", "sr/disk.vhd", "out.raw"),
        ("convert", "sr/disk.vhd", "out.vhd"),
        ("convert", "sr/disk.vhd", "out.disk", "--to", "vhd-fixed"),
        ("convert", "sr/disk.vhd", "out.qcow2"),
        ("diff", "sr/base.vhd", "sr/disk.vhd", "out.vhd"),
        ("pack", "sr/disk.vhd", "out.tar.gz"),
        ("unpack", "chain.tar", "new"),
    ],
    ids=" ".join,
)
def test_a_full_disk_is_said_and_leaves_no_half_file(
    xenith, room, sr, tmp_path, monkeypatch, words, writes
):
    monkeypatch.chdir(tmp_path)
    assert xenith("pack", sr / "disk.vhd", "chain.tar") == (0, "")
    before = names(tmp_path)
    # What is packed well takes one write.
    room(0 if words[0] == "pack" else writes)
    code, complaint = xenith(*words)
    assert code != 0
    assert "no room" in complaint
    assert "Traceback" not in complaint
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    "words",
    [
        ("convert", "disk.vhd", "out.raw"),
        ("diff", "sr/base.vhd", "disk.vhd", "out.vhd"),
        ("pack", "disk.vhd", "out.tar"),
    ],
    ids=" ".join,
)
def test_a_parent_in_another_directory_is_not_read(xenith, sr, tmp_path, monkeypatch, words):
    # Its locators still lead to where the parent is, and a link leads there from here.
    (sr / "disk.vhd").rename(tmp_path / "disk.vhd")
    (tmp_path / "base.vhd").symlink_to(sr / "base.vhd")
    monkeypatch.chdir(tmp_path)
    before = names(tmp_path)
    code, complaint = xenith(*words)
    assert (code, complaint.count("error: ")) == (2, 1), complaint
    assert "Traceback" not in complaint
    assert names(tmp_path) == before


@pytest.mark.parametrize("suffix", ["vhd", "qcow2"])
def test_a_wrong_suffix_is_found_by_the_first_bytes(xenith, sr, tmp_path, suffix):
    source = tmp_path / f"disk.{suffix}"
    source.write_bytes(DATA)
    before = names(tmp_path)
    code, complaint = xenith("convert", source, tmp_path / "out.raw")
    assert (code, names(tmp_path)) == (2, before), complaint
    assert "Traceback" not in complaint


def test_a_target_that_is_a_stray_link_is_not_followed(xenith, sr, tmp_path):
    (tmp_path / "out.raw").symlink_to(tmp_path / "elsewhere")
    code, complaint = xenith("convert", sr / "disk.vhd", tmp_path / "out.raw")
    assert (code, "exists" in complaint) == (4, True)
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_another_is_making_is_left_to_them(xenith, sr, tmp_path):
    with contextlib.closing(Directory(tmp_path)) as files:
        with new_file(files, "out.raw") as theirs:
            theirs.write(0, b"theirs")
            assert xenith("convert", sr / "disk.vhd", tmp_path / "out.raw")[0] == 4
        assert (tmp_path / "out.raw").read_bytes() == b"theirs"
        (tmp_path / "out.raw").rename(tmp_path / "out.vhd.new")
        # Nobody has this one open: a crash left it.
        assert xenith("convert", sr / "disk.vhd", tmp_path / "out.vhd") == (0, "")
    assert names(tmp_path) == ["out.vhd", "sr", "sr/base.vhd", "sr/disk.vhd"]


@pytest.mark.parametrize("name", ["../0.vhd", "/etc/0.vhd", "0.vhd/../1.vhd", "1.vhd"])
def test_a_tarball_names_no_file_but_its_own(xenith, tmp_path, name):
    with tarfile.open(tmp_path / "chain.tar", "w") as archive:
        member = tarfile.TarInfo(name)
        member.size = 512
        archive.addfile(member, io.BytesIO(bytes(512)))
    code, complaint = xenith("unpack", tmp_path / "chain.tar", tmp_path / "new")
    assert (code, names(tmp_path)) == (2, ["chain.tar"]), complaint
