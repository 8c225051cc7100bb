"""A delta of two disks makes the one of the other, and reads no more than what differs."""

import io
import random

import pytest

from xenith.core.clock import ManualClock
from xenith.core.errors import Invalid
from xenith.core.ids import Ids
from xenith.core.units import MIB
from xenith.core.world import World
from xenith.vhd.alter import resize
from xenith.vhd.bitmap import set_runs
from xenith.vhd.chain import open_chain
from xenith.vhd.create import create_differencing, create_dynamic, create_fixed
from xenith.vhd.decoder import Decoder, apply, decode
from xenith.vhd.delta import encode_delta, encode_difference, find_common, parent_of
from xenith.vhd.files import Directory
from xenith.vhd.image import open_image
from xenith.vhd.pipe import BlankFile, PipeSink
from xenith.vhd.repair import check

SIZE = 8 * MIB + 512


@pytest.fixture
def world():
    return World(clock=ManualClock(), ids=Ids(seed=1))


@pytest.fixture
def files(tmp_path):
    directory = Directory(tmp_path)
    yield directory
    directory.close()


class Tree:
    """Disks that are made, written at random, and remembered."""

    def __init__(self, files, world):
        self.files, self.world, self.flat = files, world, {}
        self.chance = random.Random(6)

    def add(self, name, parent=None, *, create=create_dynamic, writes=6):
        if parent:
            create_differencing(self.files, name, parent=parent, world=self.world)
            self.flat[name] = bytearray(self.flat[parent])
        else:
            create(self.files, name, size_bytes=SIZE, world=self.world)
            self.flat[name] = bytearray(SIZE)
        chain = open_chain(self.files, name, writable=True)
        for _ in range(writes):
            first = self.chance.randrange(SIZE // 512)
            data = self.chance.randbytes(512 * self.chance.choice([1, 3, 8, 700]))
            data = data[: SIZE - first * 512]
            chain.write(first * 512, data)
            self.flat[name][first * 512 : first * 512 + len(data)] = data
        chain.flush()
        chain.close()


@pytest.fixture
def tree(files, world):
    made = Tree(files, world)
    made.add("root.vhd")
    made.add("common.vhd", "root.vhd")
    made.add("a.vhd", "common.vhd")
    made.add("leaf.vhd", "a.vhd")
    made.add("base.vhd", "common.vhd")
    return made


def opened(files, *names):
    return [open_chain(files, name) for name in names]


def delta(files, leaf, base, world, *, into="pipe", **options):
    leaf, base = opened(files, leaf, base)
    try:
        if into == "pipe":
            out = io.BytesIO()
            assert encode_delta(leaf, base, PipeSink(out), world=world, **options) == out.tell()
            return out.getvalue()
        file = files.open("delta.tmp", create=True)
        length = encode_delta(leaf, base, BlankFile(file), world=world, **options)
        assert length == file.size()
        data = bytearray(length)
        file.read_into(0, memoryview(data))
        file.close()
        files.unlink("delta.tmp")
        return bytes(data)
    finally:
        leaf.close()
        base.close()


def applied(files, data, base, world):
    """Apply a delta to a new leaf on the base, and give what that reads."""
    create_differencing(files, "restored.vhd", parent=base, world=world)
    chain = open_chain(files, "restored.vhd", writable=True)
    apply(io.BytesIO(data), chain, parent_uuid=chain.images[1].footer.uuid)
    chain.flush()
    found = chain.read(0, chain.size_bytes)
    chain.close()
    files.unlink("restored.vhd")
    return found


PAIRS = [
    ("leaf.vhd", "base.vhd"),
    ("base.vhd", "leaf.vhd"),
    ("leaf.vhd", "a.vhd"),
    ("a.vhd", "leaf.vhd"),
    ("leaf.vhd", "root.vhd"),
    ("leaf.vhd", "leaf.vhd"),
]


@pytest.mark.parametrize("into", ["pipe", "file"])
@pytest.mark.parametrize(("leaf", "base"), PAIRS)
def test_a_delta_applied_to_the_base_makes_the_leaf(files, tree, world, leaf, base, into):
    data = delta(files, leaf, base, world, into=into)
    assert applied(files, data, base, world) == tree.flat[leaf]
    if leaf == base:
        assert len(data) < 8192, "nothing differs"


@pytest.mark.parametrize("into", ["pipe", "file"])
def test_a_delta_laid_beside_its_base_is_a_disk(files, tree, world, tmp_path, into):
    data = delta(files, "leaf.vhd", "base.vhd", world, into=into)
    (tmp_path / "delta.vhd").write_bytes(data)
    [chain] = opened(files, "delta.vhd")
    assert chain.read(0, SIZE) == tree.flat["leaf.vhd"]
    chain.close()
    assert not [one for one in check(files, "delta.vhd", clock=world.clock) if one.is_error]


def test_its_bitmaps_hold_the_sectors_of_the_links_above_the_common_one_and_no_other(
    files, tree, world
):
    expected = set()
    for name, links in (("leaf.vhd", 2), ("base.vhd", 1)):
        [chain] = opened(files, name)
        for run in chain.runs(links=links):
            if run.link is not None:
                expected |= set(range(run.sector, run.sector + run.length))
        chain.close()
    found = set()
    source = Decoder(io.BytesIO(delta(files, "leaf.vhd", "base.vhd", world)))
    for offset, view in source.pieces():
        found |= set(range(offset // 512, (offset + len(view)) // 512))
    assert found == expected


def test_whole_blocks_carry_full_bitmaps_as_xapi_writes_them(files, tree, world):
    data = delta(files, "leaf.vhd", "base.vhd", world, whole_blocks=True)
    assert applied(files, data, "base.vhd", world) == tree.flat["leaf.vhd"]
    source = Decoder(io.BytesIO(data))
    for entry in source.table[source.table != 0xFFFFFFFF].tolist():
        bits = data[entry * 512 : entry * 512 + 512]
        assert set_runs(bits, 0, 4096) == [(0, 4096)]


def test_what_both_have_in_common_is_never_read(files, tree, world):
    leaf, base = opened(files, "leaf.vhd", "a.vhd")

    def refuse(*_):
        raise AssertionError("the common rest was read")

    for image in [*leaf.images[1:], *base.images]:
        image.file.read_into = refuse
    encode_delta(leaf, base, PipeSink(io.BytesIO()), world=world)
    leaf.close()
    base.close()


def test_a_leaf_that_was_grown_has_its_delta_and_one_that_is_smaller_has_none(files, tree, world):
    image = open_image(files, "leaf.vhd", writable=True)
    resize(image, SIZE + 4 * MIB)
    image.close()
    chain = open_chain(files, "leaf.vhd", writable=True)
    chain.write(SIZE + 3 * MIB, b"new!" * 1024)
    chain.flush()
    grown = chain.read(0, SIZE + 4 * MIB)
    chain.close()
    data = delta(files, "leaf.vhd", "base.vhd", world)
    create_differencing(files, "r.vhd", parent="base.vhd", world=world, size_bytes=SIZE + 4 * MIB)
    chain = open_chain(files, "r.vhd", writable=True)
    apply(io.BytesIO(data), chain)
    chain.flush()
    assert chain.read(0, SIZE + 4 * MIB) == grown
    chain.close()
    with pytest.raises(Invalid, match="no VHD stands on a larger one"):
        delta(files, "base.vhd", "leaf.vhd", world)


def test_disks_without_a_common_ancestor_are_compared(files, tree, world):
    tree.add("other.vhd", create=create_fixed)
    leaf, other = opened(files, "leaf.vhd", "other.vhd")
    assert find_common(leaf, other) is None
    with pytest.raises(Invalid, match="no common ancestor"):
        encode_delta(leaf, other, PipeSink(io.BytesIO()), world=world)
    parent = parent_of(other)
    out = io.BytesIO()
    encode_difference(leaf, other, PipeSink(out), parent=parent, world=world)
    file = files.open("difference.tmp", create=True)
    encode_difference(leaf, other, BlankFile(file), parent=parent, world=world)
    in_file = bytearray(file.size())
    file.read_into(0, memoryview(in_file))
    file.close()
    for data in (out.getvalue(), bytes(in_file)):
        assert applied(files, data, "other.vhd", world) == tree.flat["leaf.vhd"]
        for offset, view in Decoder(io.BytesIO(data)).pieces():
            for at in range(0, len(view), 512):
                there = tree.flat["other.vhd"][offset + at : offset + at + 512]
                assert bytes(view[at : at + 512]) != there, "only what differs"
    leaf.close()
    other.close()


def test_the_cost_of_a_delta_is_that_of_what_changed(files, world, tmp_path):
    create_dynamic(files, "big.vhd", size_bytes=512 * MIB, world=world)
    chain = open_chain(files, "big.vhd", writable=True)
    for block in range(0, 256, 2):
        chain.write(block * 2 * MIB, b"x" * 4096)
    chain.flush()
    chain.close()
    create_differencing(files, "top.vhd", parent="big.vhd", world=world)
    chain = open_chain(files, "top.vhd", writable=True)
    chain.write(100 * MIB, b"y" * 4096)
    chain.flush()
    chain.close()
    assert len(delta(files, "top.vhd", "big.vhd", world)) < 2 * MIB + 16 * 1024


def test_a_delta_is_not_read_without_its_parent_nor_onto_another(files, tree, world):
    data = delta(files, "leaf.vhd", "base.vhd", world)
    with pytest.raises(Invalid, match="stands on a parent"):
        decode(io.BytesIO(data), PipeSink(io.BytesIO()))
    create_differencing(files, "wrong.vhd", parent="root.vhd", world=world)
    chain = open_chain(files, "wrong.vhd", writable=True)
    with pytest.raises(Invalid, match="and not on"):
        apply(io.BytesIO(data), chain, parent_uuid=chain.images[1].footer.uuid)
    chain.close()
