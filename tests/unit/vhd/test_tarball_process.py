"""A tenant's tarball is read in a process of its own, and is one sound chain or refused."""

import gzip
import io
import subprocess
import sys
import tarfile

import pytest

from xenith.core.clock import ManualClock
from xenith.core.errors import Invalid
from xenith.core.ids import Ids
from xenith.core.units import GIB, MIB
from xenith.core.world import World
from xenith.vhd.chain import open_chain
from xenith.vhd.create import create_dynamic
from xenith.vhd.files import Directory
from xenith.vhd.image import open_image
from xenith.vhd.tarball_process import FLAT_NAME, flatten, inspect_tarball

SIZE = 5 * MIB
#: What each link of a chain holds, the base first.
LINKS = [{0: b"base" * 128, 3 * MIB: b"gone" * 128}, {3 * MIB: b"leaf" * 128}]


@pytest.fixture
def packed(tarball_of):
    return tarball_of(LINKS, SIZE)


def members(packed):
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive}


def tar(*named):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in named:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def one_vhd(tmp_path, *, size=SIZE, seed=5):
    place = tmp_path / f"one-{seed}"
    place.mkdir()
    files = Directory(place)
    world = World(clock=ManualClock(), ids=Ids(seed=seed))
    create_dynamic(files, "one.vhd", size_bytes=size, world=world)
    files.close()
    return (place / "one.vhd").read_bytes()


@pytest.mark.parametrize("level", [None, 1])
def test_the_disk_of_a_chain_is_as_large_as_its_leaf(tarball_of, level):
    assert inspect_tarball(io.BytesIO(tarball_of(LINKS, SIZE, gzip_level=level))) == SIZE


def test_a_chain_becomes_one_vhd_that_reads_as_its_leaf(packed, tmp_path):
    tarball = tmp_path / "image.tar"
    tarball.write_bytes(packed)
    assert flatten(tarball, tmp_path) == SIZE
    assert not tarball.exists(), "its room is needed for the disk"
    (tmp_path / "alone").mkdir()
    (tmp_path / FLAT_NAME).rename(tmp_path / "alone" / FLAT_NAME)
    files = Directory(tmp_path / "alone")
    chain = open_chain(files, FLAT_NAME)
    assert len(chain.images) == 1
    data = chain.read(0, SIZE)
    chain.close()
    files.close()
    assert (data[:512], data[3 * MIB : 3 * MIB + 512]) == (b"base" * 128, b"leaf" * 128)
    assert sum(map(bool, data)) == 1024


def hostile_chains(packed, tmp_path):
    found = members(packed)
    leaf, base = found["0.vhd"], found["1.vhd"]
    other = one_vhd(tmp_path)
    yield "a base that is missing", tar(("0.vhd", leaf)), "it is the last"
    yield "a parent that is another", tar(("0.vhd", leaf), ("1.vhd", other)), "stands on"
    yield "two disks of no relation", tar(("0.vhd", base), ("1.vhd", other)), "stands on nothing"
    yield "a chain upside down", tar(("0.vhd", base), ("1.vhd", leaf)), "stands on nothing"
    yield "a leaf on itself", tar(("0.vhd", leaf), ("1.vhd", leaf)), "stands on"
    yield "no VHD", tar(("0.vhd", b"x" * 4096)), "no sound VHD"
    yield "a way out", tar(("../../etc/passwd", base)), "no plain file"
    link = tarfile.TarInfo("0.vhd")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    yield "a link", tar((link, b"")), "no plain file"
    yield "nothing", tar(), "not numbered"
    yield "no tarball", b"conectix" * 512, "no tar's"
    yield "one that is cut off", packed[: len(packed) // 2], "ends"
    yield "a gzip that is cut off", gzip.compress(packed)[:-12], "cut off"
    huge = tarfile.TarInfo("0.vhd")
    huge.size = 4096 * GIB
    yield "a size that is announced", huge.tobuf(tarfile.GNU_FORMAT) + bytes(4096), "are taken"


def test_what_is_no_sound_chain_is_refused(packed, tmp_path):
    for what, data, why in hostile_chains(packed, tmp_path):
        with pytest.raises(Invalid) as refused:
            inspect_tarball(io.BytesIO(data))
        assert why in refused.value.message, what


def test_a_loop_has_no_ground(packed, tmp_path):
    """Two that stand on each other: the last one stands on something, whatever that is."""
    found = members(packed)
    for name, data in found.items():
        (tmp_path / name).write_bytes(data)
    files = Directory(tmp_path)
    leaf, base = open_image(files, "0.vhd"), open_image(files, "1.vhd")
    leaf_uuid, base_uuid = leaf.footer.uuid.bytes, base.footer.uuid.bytes
    leaf.close()
    base.close()
    files.close()
    # The leaf once more, with both names exchanged.
    turned = found["0.vhd"].replace(leaf_uuid, b"?" * 16).replace(base_uuid, leaf_uuid)
    turned = resummed(turned.replace(b"?" * 16, base_uuid))
    with pytest.raises(Invalid, match=r"1\.vhd stands on .*, and it is the last"):
        inspect_tarball(io.BytesIO(tar(("0.vhd", found["0.vhd"]), ("1.vhd", turned))))


def resummed(vhd):
    """Make the checksums of a VHD's footer, its copy and its header right."""
    data = bytearray(vhd)
    for begin, length, at in ((0, 512, 64), (512, 1024, 36), (len(data) - 512, 512, 64)):
        data[begin + at : begin + at + 4] = bytes(4)
        right = ~sum(data[begin : begin + length]) & 0xFFFFFFFF
        data[begin + at : begin + at + 4] = right.to_bytes(4, "big")
    return bytes(data)


def test_a_parents_path_is_not_looked_at(packed, tmp_path):
    """What names another file names a stranger's, and the numbers alone tell the parent."""
    found = members(packed)
    away = found["0.vhd"]
    for code in ("utf-16-be", "utf-8"):
        assert "link0.vhd".encode(code) in away
        away = away.replace("link0.vhd".encode(code), "/etc/pass".encode(code))
    data = tar(("0.vhd", resummed(away)), ("1.vhd", found["1.vhd"]))
    assert inspect_tarball(io.BytesIO(data)) == SIZE
    (tmp_path / "image.tar").write_bytes(data)
    assert flatten(tmp_path / "image.tar", tmp_path) == SIZE


def ran(*arguments, data=b""):
    command = [sys.executable, "-m", "xenith.vhd.tarball_process", *arguments]
    return subprocess.run(command, input=data, capture_output=True, timeout=120, check=False)


@pytest.mark.slow
def test_the_process_says_the_size_or_why_not(packed):
    done = ran("inspect", data=packed)
    assert (done.returncode, done.stdout) == (0, f"{SIZE}\n".encode())
    done = ran("inspect", data=b"no tarball" * 100)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"This is no sound tarball of VHDs: ")
    assert done.stderr.count(b"\n") == 1
    assert ran("upload").returncode == 2


@pytest.mark.slow
def test_a_gzip_that_unpacks_to_far_more_costs_what_its_files_may(tmp_path):
    """A member's size is known before its bytes: what it announces too much of is not unpacked."""
    bomb = tmp_path / "bomb.gz"
    huge = tarfile.TarInfo("0.vhd")
    huge.size = 2**45
    with gzip.open(bomb, "wb", compresslevel=9) as file:
        file.write(huge.tobuf(tarfile.GNU_FORMAT))
        for _ in range(64):
            file.write(bytes(MIB))
    done = ran("inspect", data=bomb.read_bytes())
    assert done.returncode == 1
    assert b"are taken" in done.stderr
