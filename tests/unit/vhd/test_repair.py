"""Damaged files are told apart, put right where that is possible, and never cost more than that."""

import contextlib
import random
import struct
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenith.core.clock import ManualClock
from xenith.core.errors import Invalid, XenithError
from xenith.core.ids import Ids
from xenith.core.units import MIB
from xenith.core.world import World
from xenith.vhd.alter import set_hidden
from xenith.vhd.chain import open_chain
from xenith.vhd.create import create_differencing, create_dynamic, create_fixed
from xenith.vhd.files import Directory
from xenith.vhd.footer import EPOCH_S, checksum
from xenith.vhd.image import open_image
from xenith.vhd.repair import check, repair
from xenith.vhd.tree import scan

SIZE = MIB
BLOCK = 65536


@pytest.fixture(scope="module")
def world():
    return World(clock=ManualClock(), ids=Ids(seed=1))


@pytest.fixture
def files(tmp_path):
    directory = Directory(tmp_path)
    yield directory
    directory.close()


@pytest.fixture
def path(files, tmp_path, world):
    create_dynamic(files, "a.vhd", size_bytes=SIZE, world=world, block_bytes=BLOCK)
    chain = open_chain(files, "a.vhd", writable=True)
    chain.write(0, b"first".ljust(512))
    chain.write(SIZE - 512, b"last".ljust(512))
    chain.flush()
    chain.close()
    return tmp_path / "a.vhd"


def texts(files, world, name="a.vhd"):
    return [one.text for one in check(files, name, clock=world.clock)]


def read(files, name="a.vhd"):
    chain = open_chain(files, name)
    try:
        return chain.read(0, chain.size_bytes)
    finally:
        chain.close()


def test_a_sound_disk_has_no_findings_and_needs_no_repair(files, path, world):
    assert texts(files, world) == []
    before = path.read_bytes()
    assert repair(files, "a.vhd").done == ()
    assert path.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 100, 512])
def test_a_footer_is_made_from_its_copy(files, path, world, cut):
    before = path.read_bytes()
    path.write_bytes(before[:-cut] if cut == 512 else before[: -cut - 1])
    data = read(files)
    assert data.startswith(b"first")
    (told,) = texts(files, world)
    assert "the footer at its end is lost" in told
    assert repair(files, "a.vhd").done == ("its footer is made from the copy",)
    assert texts(files, world) == []
    assert path.read_bytes()[-512:] == before[-512:]
    assert read(files) == data


def test_a_copy_is_made_from_the_footer(files, path, world):
    before = path.read_bytes()
    path.write_bytes(bytes(512) + before[512:])
    assert "copy of its footer is not like" in texts(files, world)[0]
    assert repair(files, "a.vhd").done == ("the copy of its footer is made from its footer",)
    assert path.read_bytes() == before


def test_a_footer_of_511_bytes_is_read_as_virtual_pc_wrote_it(files, path, world):
    before = path.read_bytes()
    path.write_bytes(before[:-1])
    assert "511" in texts(files, world)[0]
    assert read(files).startswith(b"first")
    assert repair(files, "a.vhd").done == ("its footer of 511 bytes has all 512",)
    assert path.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 0])
def test_a_fixed_disk_with_a_short_footer_is_written_to(files, tmp_path, world, cut):
    create_fixed(files, "f.vhd", size_bytes=SIZE, world=world)
    file = tmp_path / "f.vhd"
    file.write_bytes(file.read_bytes()[: SIZE + 512 - cut])
    chain = open_chain(files, "f.vhd", writable=True)
    chain.write(SIZE - 512, b"end".ljust(512))
    set_hidden(chain.leaf, True)
    chain.flush()
    chain.close()
    assert read(files, "f.vhd")[-512:] == b"end".ljust(512)
    assert open_image(files, "f.vhd").footer.hidden


def test_a_fixed_disk_without_its_footer_is_not_read_by_what_its_guest_wrote(files, world):
    create_fixed(files, "f.vhd", size_bytes=SIZE, world=world)
    chain = open_chain(files, "f.vhd", writable=True)
    chain.write(0, chain.leaf.footer.encode())
    chain.leaf.file.truncate(SIZE)
    chain.close()
    with pytest.raises(Invalid):
        open_image(files, "f.vhd")


def test_blocks_that_were_cut_off_become_holes_only_when_that_is_asked_for(files, path, world):
    before = path.read_bytes()
    path.write_bytes(before[: -512 - 4096])
    assert "behind the end" in texts(files, world)[0]
    with pytest.raises(Invalid, match="behind the end"):
        open_chain(files, "a.vhd")
    with pytest.raises(Invalid, match="1 of its blocks are gone"):
        repair(files, "a.vhd")
    assert path.stat().st_size == len(before) - 512 - 4096
    done = repair(files, "a.vhd", accept_loss=True)
    assert done.lost == ((SIZE - BLOCK, SIZE),)
    assert texts(files, world) == []
    assert read(files) == b"first".ljust(512) + bytes(SIZE - 512)


def test_a_disk_of_the_future_and_a_parent_of_another_size_are_found(files, path, world):
    create_differencing(files, "b.vhd", parent="a.vhd", world=world)
    told = texts(files, world, "b.vhd")
    assert any("not hidden" in one for one in told)
    early = ManualClock(start_s=EPOCH_S + 1000)
    assert any("future" in one.text for one in check(files, "b.vhd", clock=early))
    path.unlink()
    assert any("not in the repository" in one for one in texts(files, world, "b.vhd"))


def sealed(data, at, form, value, *, header_at=512):
    """Change a field and make the sums fit, as one who means harm would."""
    data = bytearray(data)
    struct.pack_into(form, data, at, value)
    struct.pack_into(">I", data, header_at + 36, checksum(data[header_at : header_at + 1024], 36))
    struct.pack_into(">I", data, 64, checksum(data[:512], 64))
    data[-512:] = data[:512]
    return bytes(data)


@pytest.mark.parametrize(
    ("at", "form", "value", "reason"),
    [
        (48, ">Q", 2 * MIB, "do not hold"),
        (16, ">Q", 1 << 62, "behind the end"),
        (528, ">Q", 1 << 62, "behind the end"),
        (528, ">Q", 1 << 40, "behind the end"),
        (528, ">Q", 1024, "over its header"),
        (540, ">I", 4 * 1024 * 1024, "behind the end"),
        (540, ">I", 0xFFFFFFFF, "are read"),
        (1536, ">I", 0, "over a footer"),
        (1536, ">I", 1, "over a footer"),
        (1536, ">I", 3, "over its table"),
        (1536, ">I", 0xFFFFFFFE, "behind the end"),
    ],
)
def test_a_hostile_file_is_refused_with_its_reason(files, path, at, form, value, reason):
    path.write_bytes(sealed(path.read_bytes(), at, form, value))
    with pytest.raises(Invalid, match=reason):
        open_chain(files, "a.vhd")


def test_a_block_over_the_footer_at_the_end_is_refused(files, path):
    data = path.read_bytes()
    place = (len(data) - 512 - BLOCK) // 512
    path.write_bytes(sealed(data, 1536, ">I", place))
    with pytest.raises(Invalid, match="behind the end"):
        open_chain(files, "a.vhd")


def test_a_block_over_a_locator_is_refused(files, path, tmp_path, world):
    create_differencing(files, "b.vhd", parent="a.vhd", world=world)
    child = tmp_path / "b.vhd"
    image = open_image(files, "b.vhd")
    place = image.header.locators[1].offset // 512
    image.close()
    data = child.read_bytes()
    grown = data[:-512] + bytes(4 * MIB) + data[-512:]
    child.write_bytes(sealed(grown, 1536, ">I", place))
    with pytest.raises(Invalid, match="parent locator"):
        open_chain(files, "b.vhd")


def test_a_locator_behind_the_end_or_of_gigabytes_is_refused_at_once(files, path, tmp_path, world):
    create_differencing(files, "b.vhd", parent="a.vhd", world=world)
    child = tmp_path / "b.vhd"
    child.write_bytes(sealed(child.read_bytes(), 512 + 576 + 8, ">I", 0xFFFFFFFF))
    with pytest.raises(Invalid, match="locator lies behind"):
        open_chain(files, "b.vhd")
    assert "locator" in scan(files)["b.vhd"].error


@pytest.mark.slow
@settings(max_examples=300)
@given(seed=st.integers(0, 1 << 32), resealed=st.booleans(), cut=st.integers(0, 3))
def test_a_damaged_file_gives_bytes_or_one_error_in_bounded_time_and_memory(
    tmp_path_factory, world, seed, resealed, cut
):
    directory = tmp_path_factory.mktemp("sr")
    files = Directory(directory)
    create_dynamic(files, "p.vhd", size_bytes=SIZE, world=world, block_bytes=BLOCK)
    create_differencing(files, "a.vhd", parent="p.vhd", world=world)
    chain = open_chain(files, "a.vhd", writable=True)
    chain.write(BLOCK, b"x" * 3 * 512)
    chain.flush()
    chain.close()
    file = directory / "a.vhd"
    data, rng = bytearray(file.read_bytes()), random.Random(seed)
    for _ in range(rng.randrange(1, 6)):
        at = rng.choice([rng.randrange(512), rng.randrange(512, 1600), rng.randrange(len(data))])
        data[at : at + rng.choice([1, 2, 4, 8])] = rng.randbytes(rng.choice([1, 4, 8]))
    if resealed:
        data = bytearray(sealed(data, 8, ">I", 2))
    file.write_bytes(data[: rng.randrange(len(data))] if cut == 0 else data)
    tracemalloc.start()
    began = time.process_time()
    try:
        for use in (scan, lambda one: check(one, "a.vhd", clock=world.clock), read_all):
            with contextlib.suppress(XenithError):
                use(files)
        assert time.process_time() - began < 5
        assert tracemalloc.get_traced_memory()[1] < 64 * MIB
    finally:
        tracemalloc.stop()
        files.close()


def read_all(files):
    chain = open_chain(files, "a.vhd", writable=True)
    try:
        for run in chain.runs(0, min(chain.leaf.sectors, 4096)):
            assert run.length > 0
        chain.read(0, min(chain.size_bytes, MIB))
        chain.write(0, b"w" * 512)
        chain.flush()
        assert chain.read(0, 512) == b"w" * 512
    finally:
        chain.close()
