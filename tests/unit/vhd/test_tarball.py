"""Chains travel as tarballs, and a hostile tarball is refused before it costs anything."""

import gzip
import io
import random
import subprocess
import tarfile
import tracemalloc

import pytest

from xenith.core.clock import ManualClock
from xenith.core.errors import Invalid
from xenith.core.ids import Ids
from xenith.core.units import GIB, MIB
from xenith.core.world import World
from xenith.vhd.alter import set_hidden
from xenith.vhd.chain import open_chain
from xenith.vhd.create import create_differencing, create_dynamic
from xenith.vhd.files import Directory
from xenith.vhd.image import open_image
from xenith.vhd.tarball import member_head, read_tarball, unpack_tarball, write_tarball

SIZE = 5 * MIB
NAMES = [f"new{number}.vhd" for number in range(4)]


@pytest.fixture
def world():
    return World(clock=ManualClock(), ids=Ids(seed=1))


@pytest.fixture
def files(tmp_path):
    (tmp_path / "sr").mkdir()
    directory = Directory(tmp_path / "sr")
    yield directory
    directory.close()


@pytest.fixture
def staging(tmp_path):
    (tmp_path / "staging").mkdir()
    directory = Directory(tmp_path / "staging")
    yield directory
    directory.close()


@pytest.fixture
def flat(files, world):
    """A chain of three, and what its leaf reads."""
    chance, data = random.Random(2), bytearray(SIZE)
    create_dynamic(files, "base.vhd", size_bytes=SIZE, world=world)
    create_differencing(files, "mid.vhd", parent="base.vhd", world=world)
    create_differencing(files, "leaf.vhd", parent="mid.vhd", world=world)
    for at, name in enumerate(("base.vhd", "mid.vhd", "leaf.vhd")):
        # Each child is made before its parent is written, which nobody does but a test.
        image = open_image(files, name, writable=True)
        part = chance.randbytes(8192)
        image.write(at * MIB + 4096 * at, part)
        image.flush()
        image.close()
        data[at * MIB + 4096 * at : at * MIB + 4096 * at + 8192] = part
    return bytes(data)


def packed(files, *, gzip_level=None):
    chain = open_chain(files, "leaf.vhd")
    out = io.BytesIO()
    write_tarball(chain, out, gzip_level=gzip_level)
    chain.close()
    return out.getvalue()


def tar(*members, **options):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", **options) as archive:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def read_all(data, **options):
    found = {}
    for member in read_tarball(io.BytesIO(data), **options):
        buffer = bytearray(member.size_bytes)
        assert member.readinto(memoryview(buffer)) == member.size_bytes
        found[member.number] = bytes(buffer)
    return found


@pytest.mark.parametrize("gzip_level", [None, 1])
def test_a_chain_is_packed_and_unpacked_elsewhere(
    files, staging, world, tmp_path, flat, gzip_level
):
    data = packed(files, gzip_level=gzip_level)
    assert unpack_tarball(io.BytesIO(data), staging, NAMES, clock=world.clock) == NAMES[:3]
    chain = open_chain(staging, NAMES[0])
    assert [image.name for image in chain.images] == NAMES[:3]
    assert chain.read(0, SIZE) == flat
    chain.close()
    assert packed(files, gzip_level=gzip_level) == data, "the same chain makes the same bytes"


def test_tar_reads_what_we_write_and_we_read_what_tar_writes(files, tmp_path, flat):
    (tmp_path / "ours.tgz").write_bytes(packed(files, gzip_level=6))
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "-xzf", tmp_path / "ours.tgz", "-C", out], check=True)
    names = ["0.vhd", "1.vhd", "2.vhd"]
    assert sorted(path.name for path in out.iterdir()) == names
    expected = {n: (out / name).read_bytes() for n, name in enumerate(names)}
    assert expected[0] == (tmp_path / "sr" / "leaf.vhd").read_bytes()
    # As the dom0 plugin did it: the directory itself is a member too, in any order.
    for arguments in (["-czf"], ["-cf"], ["--format=pax", "-cf"]):
        subprocess.run(["tar", *arguments, tmp_path / "t", "-C", out, "."], check=True)
        assert read_all((tmp_path / "t").read_bytes()) == expected


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("../0.vhd", "no plain file"),
        ("/0.vhd", "no plain file"),
        ("00.vhd", "no plain file"),
        ("0.vhd\n", "no plain file"),
        ("swap.vhd", "no plain file"),
        ("x" * 300, "is no plain file called"),
        ("1.vhd", "not numbered from 0"),
        ("30.vhd", "more than 30"),
    ],
)
def test_other_names_are_refused(name, told):
    with pytest.raises(Invalid, match=told) as caught:
        read_all(tar((name, b"x")))
    assert caught.value.kind == "VhdInvalid"


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.FIFOTYPE,
        tarfile.DIRTYPE,
        tarfile.GNUTYPE_SPARSE,
    ],
)
def test_other_kinds_of_members_are_refused(kind):
    info = tarfile.TarInfo("0.vhd")
    info.type, info.linkname = kind, "base"
    with pytest.raises(Invalid, match="no plain file"):
        read_all(info.tobuf() + bytes(1024))


def test_numbers_that_are_missing_or_come_twice_are_refused():
    with pytest.raises(Invalid, match="numbered"):
        read_all(tar(("0.vhd", b"x"), ("2.vhd", b"x")))
    with pytest.raises(Invalid, match="twice"):
        read_all(tar(("0.vhd", b"x"), ("0.vhd", b"x")))
    with pytest.raises(Invalid, match="numbered"):
        read_all(tar())


def test_sizes_are_bounded_before_a_byte_is_read():
    for size in (8 * GIB * 1024, 2**62):
        head = tarfile.TarInfo("0.vhd")
        head.size = size
        with pytest.raises(Invalid, match="are taken"):
            list(read_tarball(io.BytesIO(head.tobuf(tarfile.GNU_FORMAT))))
    with pytest.raises(Invalid, match="are taken"):
        read_all(tar(("0.vhd", b"x" * 600), ("1.vhd", b"x" * 600)), bytes_max=1000)
    assert read_all(member_head(0, 3) + b"abc".ljust(512) + bytes(1024)) == {0: b"abc"}


def test_a_size_beyond_what_old_headers_hold_is_read_from_the_extended_one():
    info = tarfile.TarInfo("0.vhd")
    info.size = 9 * GIB
    [member] = take_one(info.tobuf(tarfile.PAX_FORMAT))
    assert member.size_bytes == 9 * GIB
    info.pax_headers = {"comment": "x" * 100_000}
    with pytest.raises(Invalid, match="extended header in it has"):
        take_one(info.tobuf(tarfile.PAX_FORMAT))


def take_one(data):
    return [next(read_tarball(io.BytesIO(data)))]


def test_a_gzip_bomb_costs_what_its_member_declares():
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb", compresslevel=9) as out:
        out.write(tar(("0.vhd", b"small"))[:1024])
        for _ in range(24):
            out.write(bytes(MIB))
    tracemalloc.start()
    with pytest.raises(Invalid, match="more behind its end"):
        read_all(bomb.getvalue())
    assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    tracemalloc.stop()


@pytest.mark.parametrize("gzip_level", [None, 1])
def test_a_tarball_that_is_cut_off_or_changed_is_refused(files, flat, gzip_level):
    data = packed(files, gzip_level=gzip_level)
    for length in (0, 1, 2, 100, 512, 1000, len(data) // 2, len(data) - 1025 * 10):
        with pytest.raises(Invalid) as caught:
            read_all(data[: max(0, length)])
        assert caught.value.kind == "VhdInvalid"
    if gzip_level:
        for broken in (data[:-1], data[:-5] + b"oops!", data + b"more"):
            with pytest.raises(Invalid, match="gzip"):
                read_all(broken)


def test_what_is_not_read_of_a_member_is_skipped(files, flat):
    numbers = [member.number for member in read_tarball(io.BytesIO(packed(files)))]
    assert numbers == [0, 1, 2]


def chain_of(tmp_path, *names):
    return tar(
        *((f"{at}.vhd", (tmp_path / "sr" / name).read_bytes()) for at, name in enumerate(names))
    )


def test_a_chain_that_is_none_is_refused(files, staging, world, tmp_path, flat):
    def unpack(data):
        for name in staging.names():
            staging.unlink(name)
        unpack_tarball(io.BytesIO(data), staging, NAMES, clock=world.clock)

    with pytest.raises(Invalid, match="stands on no parent"):
        unpack(chain_of(tmp_path, "base.vhd", "base.vhd"))
    with pytest.raises(Invalid, match="not in the repository"):
        unpack(chain_of(tmp_path, "leaf.vhd", "mid.vhd"))
    with pytest.raises(Invalid) as caught:
        unpack(tar(("0.vhd", b"no VHD")))
    assert caught.value.kind == "VhdInvalid"
    with pytest.raises(Invalid, match="allow"):
        unpack(chain_of(tmp_path, *["leaf.vhd"] * 5))
    image = open_image(files, "leaf.vhd", writable=True)
    set_hidden(image, True)
    image.close()
    with pytest.raises(Invalid, match="leaf is hidden"):
        unpack(packed(files))
