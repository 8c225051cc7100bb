"""``xenith vhd convert``, ``diff``, ``pack`` and ``unpack``: real files and pipes, beside peers."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tarfile
import time

import pytest

from xenith.cli import run
from xenith.core.clock import SystemClock
from xenith.core.ids import Ids
from xenith.core.units import MIB
from xenith.core.world import World
from xenith.vhd.chain import open_chain
from xenith.vhd.create import create_dynamic
from xenith.vhd.files import Directory
from xenith.vhd.snapshot import snapshot

SIZE = 9 * MIB + 512
#: Where each link of the chain is written to, leaf last, and how many bytes. Whole bytes of the
#: bitmaps: libvhdi 20210425 misreads others.
WRITES = ((0, 3 * MIB), (MIB + 4096, 69_632), (5 * MIB - 4096, 8192))
READ_CHAIN = """
import sys, pyvhdi
files = []
for path in sys.argv[1:]:
    file = pyvhdi.file()
    file.open(path)
    files.append(file)
for child, parent in zip(files, files[1:]):
    assert child.parent_identifier == parent.identifier
    child.set_parent(parent)
left = files[0].get_media_size()
while left:
    data = files[0].read_buffer(min(left, 1 << 20))
    assert data
    left -= len(data)
    sys.stdout.buffer.write(data)
"""


@pytest.fixture
def xenith(capfd):
    """A function that runs the command and gives its exit code and complaints."""

    def call(*words):
        code = 0
        try:
            code = run([str(word) for word in words]) or 0
        except SystemExit as end:
            code = end.code or 0
        return code, capfd.readouterr().err

    return call


def piped(*words, stdin=b""):
    """Run the command in a process of its own, with pipes at both ends; give what it wrote."""
    command = [sys.executable, "-m", "xenith.cli", "vhd", *map(str, words)]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def peer(program, package, *arguments):
    assert shutil.which(program), f"{program} is not installed: apt-get install {package}"
    done = subprocess.run([program, *arguments], capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return done.stdout


def libvhdi(*paths):
    """Read a chain, leaf first; with Debian's own Python, which python3-libvhdi is made for."""
    return peer("/usr/bin/python3", "python3-libvhdi", "-c", READ_CHAIN, *map(str, paths))


@pytest.fixture
def sr(tmp_path):
    directory = tmp_path / "sr"
    directory.mkdir()
    return directory


@pytest.fixture
def disks(sr):
    """A chain of three, by its files' names: what each reads."""
    files, world, chance = Directory(sr), World(clock=SystemClock(), ids=Ids()), random.Random(5)
    create_dynamic(files, "disk.vhd", size_bytes=SIZE, world=world)
    data, found = bytearray(SIZE), {}
    for name, (offset, length) in zip(("base.vhd", "mid.vhd", ""), WRITES, strict=True):
        part = chance.randbytes(length)
        data[offset : offset + length] = part
        chain = open_chain(files, "disk.vhd", writable=True)
        chain.write(offset, part)
        chain.flush()
        chain.close()
        found[name or "disk.vhd"] = bytes(data)
        if name:
            snapshot(files, "disk.vhd", base=name, world=world)
    files.close()
    return found


@pytest.fixture
def raw(tmp_path, disks):
    path = tmp_path / "disk.raw"
    path.write_bytes(disks["disk.vhd"])
    return path


def read(path):
    """Give what a raw file or a VHD reads."""
    if path.suffix == ".raw":
        return path.read_bytes()
    files = Directory(path.parent)
    chain = open_chain(files, path.name)
    data = chain.read(0, chain.size_bytes)
    chain.close()
    files.close()
    return data


@pytest.mark.parametrize(
    ("target", "to", "peers_name"),
    [
        ("out.raw", (), "raw"),
        ("out.vhd", (), "vpc"),
        ("out.disk", ("--to", "vhd-fixed"), "vpc"),
        ("out.qcow2", (), "qcow2"),
    ],
)
def test_a_chain_becomes_one_file_of_any_format(
    xenith, tmp_path, sr, disks, raw, target, to, peers_name
):
    out = tmp_path / target
    assert xenith("vhd", "convert", sr / "disk.vhd", out, *to) == (0, "")
    peer("qemu-img", "qemu-utils", "compare", "-f", "raw", "-F", peers_name, raw, out)
    if peers_name == "vpc":
        assert read(out) == libvhdi(out) == disks["disk.vhd"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["sr", raw.name, target])


@pytest.mark.slow
def test_what_qemu_img_made_is_read(xenith, tmp_path, disks, raw):
    for name, options in (
        ("qcow2", ("-O", "qcow2")),
        ("vhd", ("-O", "vpc", "-o", "force_size=on")),
        ("vhd-fixed", ("-O", "vpc", "-o", "force_size=on,subformat=fixed")),
    ):
        made, out = tmp_path / f"peers.{name}", tmp_path / f"{name}.raw"
        peer("qemu-img", "qemu-utils", "convert", "-f", "raw", *options, raw, made)
        assert xenith("vhd", "convert", made, out, "--from", name) == (0, "")
        assert read(out) == disks["disk.vhd"]
    assert xenith("vhd", "convert", tmp_path / "peers.qcow2", tmp_path / "last.vhd") == (0, "")
    assert read(tmp_path / "last.vhd") == disks["disk.vhd"]


def test_zeros_take_no_room(xenith, tmp_path):
    source = tmp_path / "disk.raw"
    with source.open("wb") as file:
        file.truncate(256 * MIB)
        file.write(bytes(8 * MIB) + b"data")
    for target in ("out.vhd", "out.qcow2"):
        assert xenith("vhd", "convert", source, tmp_path / target) == (0, "")
        assert (tmp_path / target).stat().st_blocks * 512 < MIB
    assert xenith("vhd", "convert", tmp_path / "out.vhd", tmp_path / "back.raw") == (0, "")
    assert (tmp_path / "back.raw").stat().st_blocks * 512 < MIB
    peer("qemu-img", "qemu-utils", "compare", source, tmp_path / "back.raw")


@pytest.mark.slow
def test_disks_go_through_pipes(tmp_path, sr, disks, raw):
    data = disks["disk.vhd"]
    stream = piped("convert", sr / "disk.vhd", "-", "--to", "vhd")
    assert piped("convert", "-", "-", "--from", "vhd", "--to", "raw", stdin=stream) == data
    again = tmp_path / "again.vhd"
    piped("convert", "-", again, "--from", "vhd", stdin=stream)
    assert read(again) == libvhdi(again) == data
    fixed = piped("convert", "--from", "raw", "--to", "vhd-fixed", "--size", len(data), "-", "-",
                  stdin=data)  # fmt: skip
    assert (fixed[:-512], fixed[-512:-504]) == (data, b"conectix")
    with raw.open("rb") as file:
        # A file behind the standard input tells its size.
        command = [sys.executable, "-m", "xenith.cli", "vhd", "convert", "-", tmp_path / "in.vhd"]
        subprocess.run([*command, "--from", "raw"], stdin=file, check=True)
    assert read(tmp_path / "in.vhd") == data


@pytest.mark.slow
def test_a_stream_that_is_cut_off_leaves_nothing(tmp_path, sr, disks):
    stream = piped("convert", sr / "disk.vhd", "-", "--to", "vhd")
    command = [sys.executable, "-m", "xenith.cli", "vhd", "convert", "-", tmp_path / "out.raw"]
    for data, code in ((stream[:-1000], 2), (stream, 0)):
        done = subprocess.run(
            [*command, "--from", "vhd"], input=data, capture_output=True, check=False
        )
        assert done.returncode == code
        assert b"Traceback" not in done.stderr
        assert (tmp_path / "out.raw").exists() == (code == 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.raw", "sr"]


@pytest.mark.parametrize("base", ["base.vhd", "mid.vhd"])
def test_a_delta_laid_on_its_base_is_the_leaf(xenith, sr, disks, base):
    # Beside its base, where a parent is looked for.
    assert xenith("vhd", "diff", sr / base, sr / "disk.vhd", sr / "delta.vhd") == (0, "")
    assert read(sr / "delta.vhd") == disks["disk.vhd"]
    below = {"base.vhd": ["base.vhd"], "mid.vhd": ["mid.vhd", "base.vhd"]}[base]
    assert libvhdi(sr / "delta.vhd", *(sr / name for name in below)) == disks["disk.vhd"]


def test_a_delta_costs_what_changed_and_goes_back_too(xenith, sr, disks):
    assert xenith("vhd", "diff", sr / "mid.vhd", sr / "disk.vhd", sr / "delta.vhd") == (0, "")
    assert (sr / "delta.vhd").stat().st_blocks * 512 < 64 * 1024
    assert xenith("vhd", "diff", sr / "disk.vhd", sr / "base.vhd", sr / "back.vhd") == (0, "")
    assert read(sr / "back.vhd") == disks["base.vhd"]


def test_disks_without_an_ancestor_are_compared(xenith, tmp_path, sr, disks):
    data = bytearray(disks["disk.vhd"])
    data[MIB : MIB + 512] = bytes(512)
    (tmp_path / "other.raw").write_bytes(data)
    assert xenith("vhd", "convert", tmp_path / "other.raw", sr / "other.vhd") == (0, "")
    assert xenith("vhd", "diff", sr / "disk.vhd", sr / "other.vhd", sr / "delta.vhd") == (0, "")
    assert read(sr / "delta.vhd") == bytes(data)
    peer("vhdiinfo", "libvhdi-utils", sr / "delta.vhd")


@pytest.mark.parametrize("name", ["chain.tar", "chain.tar.gz"])
def test_a_chain_travels_as_a_tarball(xenith, tmp_path, sr, disks, name):
    assert xenith("vhd", "pack", sr / "disk.vhd", tmp_path / name) == (0, "")
    with tarfile.open(tmp_path / name) as archive:
        assert archive.getnames() == ["0.vhd", "1.vhd", "2.vhd"]
    assert (tmp_path / name).read_bytes()[:2] == (b"\x1f\x8b" if name.endswith("gz") else b"0.")
    assert xenith("vhd", "unpack", tmp_path / name, tmp_path / "new") == (0, "")
    assert read(tmp_path / "new" / "0.vhd") == disks["disk.vhd"]
    assert libvhdi(*(tmp_path / "new" / f"{at}.vhd" for at in range(3))) == disks["disk.vhd"]


@pytest.mark.slow
def test_a_tarball_goes_through_pipes(tmp_path, sr, disks):
    packed = piped("pack", sr / "disk.vhd", "-", "--gzip", 1)
    piped("unpack", "-", tmp_path / "new", stdin=packed)
    assert read(tmp_path / "new" / "0.vhd") == disks["disk.vhd"]


@pytest.mark.slow
def test_what_a_killed_unpack_left_is_in_nobody_s_way(xenith, tmp_path, sr, disks):
    packed = piped("pack", sr / "disk.vhd", "-")
    staging = tmp_path / "new.new"
    command = [sys.executable, "-m", "xenith.cli", "vhd", "unpack", "-", str(tmp_path / "new")]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        process.stdin.write(packed[: len(packed) // 2])
        process.stdin.flush()
        until = time.monotonic() + 60
        while not (staging.exists() and any(staging.iterdir())):
            assert time.monotonic() < until, "nothing was unpacked"
            time.sleep(0.02)
        (tmp_path / "whole.tar").write_bytes(packed)
        # While it lives, it is not disturbed.
        code, complaint = xenith("vhd", "unpack", tmp_path / "whole.tar", tmp_path / "new")
        assert (code, "Another is writing" in complaint) == (4, True), complaint
        assert any(staging.iterdir())
        process.kill()
    assert staging.exists()
    assert xenith("vhd", "unpack", tmp_path / "whole.tar", tmp_path / "new") == (0, "")
    assert read(tmp_path / "new" / "0.vhd") == disks["disk.vhd"]
    assert not staging.exists()


def test_a_directory_that_no_unpack_has_left_is_not_touched(xenith, tmp_path, sr, disks):
    assert disks
    assert xenith("vhd", "pack", sr / "disk.vhd", tmp_path / "a.tar") == (0, "")
    staging = tmp_path / "new.new"
    staging.mkdir()
    (staging / "0.vhd").write_bytes(b"mine")
    (staging / "thesis.txt").write_bytes(b"mine")
    code, complaint = xenith("vhd", "unpack", tmp_path / "a.tar", tmp_path / "new")
    assert (code, "no unpack has left" in complaint) == (4, True), complaint
    assert sorted(path.name for path in staging.iterdir()) == ["0.vhd", "thesis.txt"]
    shutil.rmtree(staging)
    staging.symlink_to(sr)
    code, complaint = xenith("vhd", "unpack", tmp_path / "a.tar", tmp_path / "new")
    assert (code, "in the way" in complaint) == (4, True), complaint
    assert (sr / "disk.vhd").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("convert", "disk.raw", "out.disk"), 2),
        (("convert", "none.raw", "out.vhd"), 1),
        (("convert", "none.vhd", "out.raw"), 3),
        (("convert", "none.qcow2", "out.vhd"), 3),
        (("convert", "disk.raw", "there.vhd"), 4),
        (("convert", "backed.qcow2", "out.raw"), 2),
        (("convert", "-", "out.raw", "--from", "qcow2"), 2),
        (("convert", "disk.raw", "-", "--to", "qcow2"), 2),
        (("diff", "sr/disk.vhd", "there.vhd", "out.vhd"), 2),
        (("diff", "sr/disk.vhd", "sr/base.vhd", "there.vhd"), 4),
        (("pack", "sr/disk.vhd", "out.tar", "--gzip", "10"), 2),
        (("pack", "there.vhd", "out.tar"), 2),
        (("unpack", "disk.raw", "new"), 2),
        (("unpack", "disk.raw", "sr"), 4),
    ],
)
def test_what_cannot_be_is_said_in_one_line_and_leaves_nothing(
    xenith, tmp_path, monkeypatch, disks, raw, words, code
):
    (tmp_path / "there.vhd").write_bytes(b"no disk" * 200)
    peer("qemu-img", "qemu-utils", "create", "-q", "-f", "qcow2", "-b", raw, "-F", "raw",
         tmp_path / "backed.qcow2")  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    found, complaint = xenith("vhd", *words)
    assert (found, complaint.count("error: ")) == (code, 1), complaint
    assert "Traceback" not in complaint
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_what_was_made_is_as_its_words_say(xenith, tmp_path, raw):
    assert xenith("vhd", "convert", raw, tmp_path / "out.vhd", "--to", "vhd-fixed") == (0, "")
    told = json.loads(peer("qemu-img", "qemu-utils", "info", "--output=json",
                           "-f", "vpc", tmp_path / "out.vhd"))  # fmt: skip
    assert (told["virtual-size"], (tmp_path / "out.vhd").stat().st_size) == (SIZE, SIZE + 512)
