"""``xenith vhd`` on real files."""

from __future__ import annotations

import doctest
import json

import pytest

from xenith.cli import run, vhd
from xenith.core.clock import SystemClock
from xenith.core.ids import Ids
from xenith.core.world import World
from xenith.vhd.chain import open_chain
from xenith.vhd.files import Directory
from xenith.vhd.snapshot import snapshot

MIB = 1024 * 1024


@pytest.fixture
def xenith(capsys):
    """A function that runs the command and gives its exit code, output and complaints."""

    def call(*words):
        code = 0
        try:
            code = run([str(word) for word in words]) or 0
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def files(tmp_path):
    directory = Directory(tmp_path)
    yield directory
    directory.close()


def write(files, name, offset, data):
    chain = open_chain(files, name, writable=True)
    chain.write(offset, data)
    chain.flush()
    chain.close()


def test_the_examples_hold():
    assert doctest.testmod(vhd).failed == 0


def test_a_disk_is_made_written_snapshotted_mapped_and_merged(xenith, files, tmp_path):
    disk = tmp_path / "disk.vhd"
    assert xenith("vhd", "create", disk, "64M") == (0, "", "")
    write(files, "disk.vhd", 0, b"a" * MIB)
    snapshot(files, "disk.vhd", base="base.vhd", world=World(clock=SystemClock(), ids=Ids()))
    write(files, "disk.vhd", 4 * MIB, b"b" * 4096)
    code, out, _ = xenith("vhd", "map", disk, "-o", "json")
    found = [(row["first_byte"], row["bytes"], row["file"]) for row in json.loads(out)]
    assert (code, found) == (0, [(0, MIB, "base.vhd"), (4 * MIB, 4096, "disk.vhd")])
    code, out, _ = xenith("vhd", "tree", tmp_path)
    lines = out.splitlines()
    assert lines[1].split()[:2] == ["base.vhd", "dynamic"]
    assert lines[2].split()[:3] == ["└─", "disk.vhd", "differencing"]
    assert xenith("vhd", "coalesce", disk)[0] == 0
    code, out, _ = xenith("vhd", "info", disk, "-o", "json")
    shown = json.loads(out)
    assert (shown["kind"], shown["size_bytes"], shown["is_hidden"]) == ("dynamic", 64 * MIB, False)
    chain = open_chain(files, "disk.vhd")
    assert chain.read(0, MIB) == b"a" * MIB
    assert chain.read(4 * MIB, 4096) == b"b" * 4096
    chain.close()
    assert xenith("vhd", "check", disk) == (0, "disk.vhd is sound\n", "")


def test_a_lost_footer_is_found_with_an_exit_code_and_mended(xenith, tmp_path):
    disk = tmp_path / "disk.vhd"
    xenith("vhd", "create", disk, "8M")
    with disk.open("r+b") as file:
        file.seek(-512, 2)
        file.write(bytes(512))
    code, out, complaint = xenith("vhd", "check", disk)
    assert (code, "its copy at the beginning is sound" in out) == (4, True)
    assert "xenith vhd repair" in complaint
    assert xenith("vhd", "repair", disk)[0] == 0
    assert xenith("vhd", "check", disk)[0] == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("info", "none.vhd"), 3),
        (("info", "text.vhd"), 2),
        (("check", "text.vhd"), 4),
        (("create", "text.vhd", "1M"), 4),
        (("create", "new.vhd", "much"), 2),
        (("create", "new.vhd", "0"), 2),
        (("create", "new.vhd", "--parent", "text.vhd"), 2),
        (("create", "new.vhd", "--parent", "../text.vhd"), 2),
        (("coalesce", "alone.vhd"), 4),
    ],
)
def test_what_cannot_be_is_said_in_one_line_and_leaves_nothing(xenith, tmp_path, words, code):
    (tmp_path / "text.vhd").write_bytes(b"no disk" * 200)
    xenith("vhd", "create", tmp_path / "alone.vhd", "1M")
    before = sorted(path.name for path in tmp_path.iterdir())
    paths = [tmp_path / word if word.endswith(".vhd") else word for word in words]
    found, _, complaint = xenith("vhd", *paths)
    assert (found, complaint.count("error: ")) == (code, 1)
    assert "Traceback" not in complaint
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_damaged_file_and_a_stray_child_are_drawn_with_their_reasons(xenith, tmp_path):
    xenith("vhd", "create", tmp_path / "base.vhd", "1M")
    xenith("vhd", "create", tmp_path / "child.vhd", "--parent", tmp_path / "base.vhd")
    (tmp_path / "base.vhd").unlink()
    (tmp_path / "text.vhd").write_bytes(b"no disk" * 200)
    code, out, _ = xenith("vhd", "tree", tmp_path)
    assert code == 0
    child, text = out.splitlines()[1:]
    assert child.startswith("child.vhd")
    assert child.endswith("is not here")
    assert "damaged" in text
    assert "no sound VHD" in text
