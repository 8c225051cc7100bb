"""What we write others read byte for byte, and the other way round.

qemu-img and dissect.hypervisor know disks without a parent, libvhdi knows chains. All three come
with `make setup-dev`; a test without its peer fails.
"""

import importlib.util
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from xenith.core.clock import ManualClock
from xenith.core.ids import Ids
from xenith.core.units import MIB
from xenith.core.world import World
from xenith.vhd.alter import reparent, resize, set_hidden
from xenith.vhd.chain import open_chain
from xenith.vhd.coalesce import coalesce
from xenith.vhd.create import create_differencing, create_dynamic, create_fixed
from xenith.vhd.files import Directory
from xenith.vhd.image import open_image
from xenith.vhd.snapshot import delete, snapshot

SIZE = 7 * MIB + 512
#: Debian's own Python, which python3-libvhdi is made for.
SYSTEM_PYTHON = Path("/usr/bin/python3")
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


def run(program, package, *arguments):
    assert shutil.which(program), f"{program} is not installed: apt-get install {package}"
    done = subprocess.run([program, *arguments], capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return done.stdout


def qemu_img(*arguments):
    return run("qemu-img", "qemu-utils", *arguments)


def libvhdi(*paths):
    """Read a chain, leaf first, with libvhdi."""
    probe = [SYSTEM_PYTHON, "-c", "import pyvhdi"]
    found = subprocess.run(probe, capture_output=True, check=False).returncode == 0
    assert found, "pyvhdi is not installed: apt-get install python3-libvhdi"
    return run(str(SYSTEM_PYTHON), "python3", "-c", READ_CHAIN, *paths)


def dissect(path):
    spec = importlib.util.find_spec("dissect")
    assert spec is not None, "dissect.hypervisor is not installed: make setup-dev"
    from dissect.hypervisor.disk.vhd import VHD

    with path.open("rb") as file:
        return VHD(file).read()


@pytest.fixture
def world():
    return World(clock=ManualClock(), ids=Ids(seed=4))


@pytest.fixture
def files(tmp_path):
    directory = Directory(tmp_path)
    yield directory
    directory.close()


class Disk:
    """A disk that is written at random, beside the bytes that it must have."""

    def __init__(self, files, name, size_bytes):
        self.files, self.name = files, name
        self.flat = bytearray(size_bytes)
        self.random = random.Random(7)

    def scribble(self, count=12, *, in_pages=False):
        """Write at random; ``in_pages`` for libvhdi's sake.

        Where bits of one byte differ, libvhdi 20210425 takes the sectors behind the last one
        that a child has as the child's too, and reads zeros there.
        """
        chain = open_chain(self.files, self.name, writable=True)
        for _ in range(count):
            first = self.random.randrange(len(self.flat) // 512)
            count = self.random.choice([1, 3, 8, 700, 5000])
            if in_pages:
                first, count = first // 8 * 8, -(-count // 8) * 8
            data = self.random.randbytes(512 * count)
            data = data[: len(self.flat) - first * 512]
            chain.write(first * 512, data)
            self.flat[first * 512 : first * 512 + len(data)] = data
        chain.flush()
        assert chain.read(0, len(self.flat)) == self.flat
        chain.close()


def assert_peers_read(path, flat, *, made_with_bytes=None):
    """Hold a disk against three peers; libvhdi takes the size it was made with for its size."""
    raw = path.with_suffix(".raw")
    qemu_img("convert", "-f", "vpc", "-O", "raw", path, raw)
    assert raw.read_bytes() == flat
    assert dissect(path) == flat
    assert libvhdi(path) == flat[:made_with_bytes]


@pytest.mark.slow
@pytest.mark.parametrize("create", [create_fixed, create_dynamic])
def test_peers_read_what_we_write(files, tmp_path, world, create):
    create(files, "disk.vhd", size_bytes=SIZE, world=world)
    disk = Disk(files, "disk.vhd", SIZE)
    disk.scribble()
    assert_peers_read(tmp_path / "disk.vhd", disk.flat)
    told = run("vhdiinfo", "libvhdi-utils", tmp_path / "disk.vhd").decode()
    assert f"({SIZE} bytes)" in told


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
def test_peers_read_a_disk_that_was_grown(files, tmp_path, world, kind):
    if kind == "fixed":
        create_fixed(files, "disk.vhd", size_bytes=SIZE, world=world)
    else:
        # Blocks so small that the longer table does not fit where the first one was.
        create_dynamic(files, "disk.vhd", size_bytes=SIZE, world=world, block_bytes=65536)
    disk = Disk(files, "disk.vhd", SIZE)
    disk.scribble()
    image = open_image(files, "disk.vhd", writable=True)
    before = image.header
    resize(image, 12 * MIB)
    if kind == "dynamic":
        assert image.header.table_offset > before.table_offset
    image.close()
    disk.flat.extend(bytes(12 * MIB - SIZE))
    disk.scribble(40)
    assert_peers_read(tmp_path / "disk.vhd", disk.flat, made_with_bytes=SIZE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
def test_we_read_and_go_on_writing_what_qemu_img_wrote(files, tmp_path, world, kind):
    disk = Disk(files, "disk.vhd", SIZE)
    disk.flat[3 * MIB : 3 * MIB + 5000] = b"q" * 5000
    raw = tmp_path / "disk.raw"
    raw.write_bytes(disk.flat)
    options = f"subformat={kind},force_size=on"
    path = tmp_path / "disk.vhd"
    qemu_img("convert", "-f", "raw", "-O", "vpc", "-o", options, raw, path)
    chain = open_chain(files, "disk.vhd")
    assert chain.read(0, SIZE) == disk.flat
    chain.close()
    disk.scribble()
    assert_peers_read(path, disk.flat)


@pytest.mark.slow
def test_libvhdi_reads_our_chains_through_snapshots_and_coalesces(files, tmp_path, world):
    create_dynamic(files, "disk.vhd", size_bytes=SIZE, world=world)
    disk = Disk(files, "disk.vhd", SIZE)
    disk.scribble(in_pages=True)
    snapshot(files, "disk.vhd", base="base-one.vhd", other="snap.vhd", world=world)
    before = bytes(disk.flat)
    disk.scribble(in_pages=True)
    snapshot(files, "disk.vhd", base="two.vhd", world=world)
    disk.scribble(in_pages=True)
    leaf, two, one = (tmp_path / name for name in ("disk.vhd", "two.vhd", "base-one.vhd"))
    assert libvhdi(leaf, two, one) == disk.flat
    assert libvhdi(tmp_path / "snap.vhd", one) == before
    told = run("vhdiinfo", "libvhdi-utils", leaf).decode()
    assert "Parent filename\t\t: two.vhd" in told
    delete(files, "snap.vhd")
    coalesce(files, "two.vhd")
    assert libvhdi(leaf, one) == disk.flat
    assert "Parent filename\t\t: base-one.vhd" in run("vhdiinfo", "libvhdi-utils", leaf).decode()
    coalesce(files, "disk.vhd")
    assert_peers_read(leaf, disk.flat)


@pytest.mark.slow
def test_peers_read_a_child_that_got_a_parent_with_a_longer_name(files, tmp_path, world):
    create_fixed(files, "a.vhd", size_bytes=SIZE, world=world)
    disk = Disk(files, "a.vhd", SIZE)
    disk.scribble(in_pages=True)
    create_differencing(files, "c.vhd", parent="a.vhd", world=world)
    disk.name = "c.vhd"
    disk.scribble(in_pages=True)
    long = "b" * 240 + ".vhd"
    files.rename("a.vhd", long)
    child, parent = open_image(files, "c.vhd", writable=True), open_image(files, long)
    reparent(child, parent, files=files)
    set_hidden(child, True)
    child.close()
    parent.close()
    chain = open_chain(files, "c.vhd")
    assert chain.read(0, SIZE) == disk.flat
    chain.close()
    assert libvhdi(tmp_path / "c.vhd", tmp_path / long) == disk.flat
