"""Disks become streams that others read byte for byte, into pipes and into files."""

import io
import os
import random
import shutil
import subprocess
import tempfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenith.core.clock import ManualClock
from xenith.core.errors import Invalid
from xenith.core.ids import Ids
from xenith.core.units import GIB, MIB
from xenith.core.world import World
from xenith.vhd.alter import resize
from xenith.vhd.chain import open_chain
from xenith.vhd.create import create_differencing, create_dynamic
from xenith.vhd.disk import PipeDisk, RawDisk, allocated
from xenith.vhd.encoder import dynamic_bytes, encode_dynamic, encode_fixed, encode_raw
from xenith.vhd.files import Directory
from xenith.vhd.image import open_image
from xenith.vhd.pipe import BlankFile, PipeSink

SIZE = 11 * MIB + 512


@pytest.fixture
def world():
    return World(clock=ManualClock(), ids=Ids(seed=1))


@pytest.fixture
def files(tmp_path):
    directory = Directory(tmp_path)
    yield directory
    directory.close()


@pytest.fixture
def flat():
    """Blocks of data, of zeros, of both, and a last one that is cut off."""
    chance = random.Random(3)
    data = bytearray(SIZE)
    data[: 2 * MIB] = chance.randbytes(2 * MIB)
    data[4 * MIB + 70_000 : 4 * MIB + 90_000] = chance.randbytes(20_000)
    data[-512:] = chance.randbytes(512)
    return bytes(data)


@pytest.fixture
def raw(tmp_path, flat):
    """The same as a file with holes."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.write(flat[: 2 * MIB])
        file.seek(4 * MIB)
        file.write(flat[4 * MIB : 6 * MIB])
        # Zeros that are there, and no hole.
        file.write(bytes(2 * MIB))
        file.seek(SIZE - 512)
        file.write(flat[-512:])
    return path


@pytest.fixture
def raw_disk(raw):
    descriptor = os.open(raw, os.O_RDONLY)
    yield RawDisk(descriptor)
    os.close(descriptor)


def qemu_img(*arguments):
    assert shutil.which("qemu-img"), "qemu-img is not installed: apt-get install qemu-utils"
    done = subprocess.run(["qemu-img", *arguments], capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def blank(files, name):
    file = files.open(name, create=True)
    return file, BlankFile(file)


def encode_both(files, tmp_path, encode, disk, **options):
    """Encode into a pipe and into a file; give both paths, once lengths are what they say."""
    pipe = tmp_path / "pipe.vhd"
    with pipe.open("wb", buffering=0) as out:
        length = encode(disk, PipeSink(out), **options)
    assert pipe.stat().st_size == length
    file, sink = blank(files, "file.vhd")
    assert encode(disk, sink, **options) == file.size()
    file.close()
    return pipe, tmp_path / "file.vhd"


@pytest.mark.parametrize("encode", [encode_dynamic, encode_fixed])
def test_a_raw_disk_becomes_a_vhd_that_qemu_and_we_read(
    encode, files, tmp_path, world, raw, raw_disk, flat
):
    for path in encode_both(files, tmp_path, encode, raw_disk, world=world):
        qemu_img("compare", "-f", "vpc", "-F", "raw", path, raw)
        chain = open_chain(files, path.name)
        assert chain.read(0, SIZE) == flat
        chain.close()


def test_holes_and_blocks_of_zeros_are_left_out(files, tmp_path, world, raw_disk):
    pipe, file = encode_both(files, tmp_path, encode_dynamic, raw_disk, world=world)
    looked = io.BytesIO()
    encode_dynamic(raw_disk, PipeSink(looked), world=world, find_zeros=True)
    (tmp_path / "looked.vhd").write_bytes(looked.getvalue())
    told = {}
    for name in (pipe.name, file.name, "looked.vhd"):
        chain = open_chain(files, name)
        told[name] = chain.leaf.blocks()
        chain.close()
    # The pipe is told of the map only: the zeros that are written count as data.
    assert told == {"pipe.vhd": [0, 2, 3, 5], "file.vhd": [0, 2, 5], "looked.vhd": [0, 2, 5]}
    assert file.stat().st_blocks * 512 < 3 * MIB, "zeros in blocks are holes"
    assert pipe.stat().st_size == dynamic_bytes(raw_disk)


def test_a_raw_disk_through_a_pipe_is_encoded_into_a_pipe_and_into_a_file(
    files, tmp_path, world, raw, flat
):
    out = tmp_path / "out.vhd"
    with out.open("wb", buffering=0) as stream:
        encode_dynamic(PipeDisk(io.BytesIO(flat), size_bytes=SIZE), PipeSink(stream), world=world)
    file, sink = blank(files, "sparse.vhd")
    encode_dynamic(PipeDisk(io.BytesIO(flat), size_bytes=SIZE), sink, world=world)
    file.close()
    for path in (out, tmp_path / "sparse.vhd"):
        qemu_img("compare", "-f", "vpc", "-F", "raw", path, raw)
    assert out.stat().st_size > 12 * MIB, "nothing can be left out of a pipe unseen"
    assert (tmp_path / "sparse.vhd").stat().st_size < 7 * MIB


def test_a_pipe_that_ends_early_or_is_read_twice_is_refused(world, flat):
    with pytest.raises(Invalid, match="ends at byte"):
        encode_dynamic(
            PipeDisk(io.BytesIO(flat[:-512]), size_bytes=SIZE), PipeSink(io.BytesIO()), world=world
        )
    with pytest.raises(Invalid, match="read once"):
        encode_dynamic(
            PipeDisk(io.BytesIO(flat), size_bytes=SIZE),
            PipeSink(io.BytesIO()),
            world=world,
            find_zeros=True,
        )


def test_a_raw_disk_of_odd_bytes_gets_whole_sectors(tmp_path, files, world):
    (tmp_path / "odd.raw").write_bytes(b"x" * 1000)
    descriptor = os.open(tmp_path / "odd.raw", os.O_RDONLY)
    for disk in (RawDisk(descriptor), PipeDisk(io.BytesIO(b"x" * 1000), size_bytes=1000)):
        out = io.BytesIO()
        assert encode_raw(disk, PipeSink(out)) == 1024
        assert out.getvalue() == b"x" * 1000 + bytes(24)
    os.close(descriptor)


def test_a_chain_is_flattened(files, tmp_path, world):
    chance = random.Random(5)
    flat = bytearray(SIZE)
    create_dynamic(files, "0.vhd", size_bytes=SIZE, world=world)
    for level in range(5):
        if level:
            create_differencing(files, f"{level}.vhd", parent=f"{level - 1}.vhd", world=world)
        chain = open_chain(files, f"{level}.vhd", writable=True)
        for _ in range(4):
            at = chance.randrange(SIZE // 512 - 300) * 512
            data = chance.randbytes(512 * chance.choice([1, 8, 300]))
            chain.write(at, data)
            flat[at : at + len(data)] = data
        chain.flush()
        chain.close()
    (tmp_path / "flat.raw").write_bytes(flat)
    chain = open_chain(files, "4.vhd")
    for path in encode_both(files, tmp_path, encode_dynamic, chain, world=world):
        qemu_img("compare", "-f", "vpc", "-F", "raw", path, tmp_path / "flat.raw")
        path.unlink()
    for path in encode_both(files, tmp_path, encode_raw, chain):
        assert path.read_bytes() == flat
    chain.close()


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
@pytest.mark.slow
def test_links_laid_over_each_other_are_the_chain(seed):
    chance, world = random.Random(seed), World(clock=ManualClock(), ids=Ids(seed=seed))
    with tempfile.TemporaryDirectory() as place:
        files = Directory(place)
        size = chance.choice([MIB, 3 * MIB + 512])
        block = chance.choice([65536, 2 * MIB, 4 * MIB])
        create_dynamic(files, "0.vhd", size_bytes=size, world=world, block_bytes=block)
        for level in range(1, 4):
            size += chance.choice([0, 0, 512 * 1111])
            parent = f"{level - 1}.vhd"
            create_differencing(files, f"{level}.vhd", parent=parent, world=world, size_bytes=size)
        # Parents are written after their children were made, and one has grown past its child.
        for level in chance.choices(range(4), k=12):
            image = open_image(files, f"{level}.vhd", writable=True)
            if level == 1 and chance.random() < 0.3:
                resize(image, max(image.size_bytes, size + 512 * 99))
            first = chance.randrange(image.sectors)
            count = min(chance.choice([1, 5, 300]), image.sectors - first)
            image.write(first * 512, chance.randbytes(512 * count))
            image.flush()
            image.close()
        chain, out = open_chain(files, "3.vhd"), io.BytesIO()
        encode_raw(chain, PipeSink(out))
        assert out.getvalue() == chain.read(0, chain.size_bytes)
        chain.close()
        files.close()


def test_a_file_with_bytes_is_no_place_for_a_stream(files):
    file = files.open("a.vhd", create=True)
    file.write(0, b"here")
    with pytest.raises(Invalid, match="new file"):
        BlankFile(file)
    file.close()


def test_a_large_empty_disk_takes_neither_time_nor_memory(files, tmp_path, world):
    with (tmp_path / "large.raw").open("wb") as file:
        file.truncate(2040 * GIB)
    descriptor = os.open(tmp_path / "large.raw", os.O_RDONLY)
    disk = RawDisk(descriptor)
    assert not allocated(disk, 2 * MIB).any()
    file, sink = blank(files, "large.vhd")
    tracemalloc.start()
    encode_dynamic(disk, sink, world=world)
    assert tracemalloc.get_traced_memory()[1] < 64 * MIB
    tracemalloc.stop()
    assert file.size() < 8 * MIB
    file.close()
    os.close(descriptor)
