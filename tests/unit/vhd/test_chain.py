"""Disks are made, written, mapped and grown, and chains stay inside their repository."""

import dataclasses
import errno
import os
import random
import shutil
import signal
import tracemalloc
from pathlib import Path

import pytest

from xenith.core.clock import ManualClock
from xenith.core.errors import Conflict, Exhausted, Invalid, NotFound
from xenith.core.ids import Ids
from xenith.core.units import GIB, MIB
from xenith.core.world import World
from xenith.vhd.alter import reparent, resize, set_hidden
from xenith.vhd.chain import Run, open_chain
from xenith.vhd.coalesce import begin_coalesce, coalesce, recover
from xenith.vhd.create import create_differencing, create_dynamic, create_fixed
from xenith.vhd.files import Directory
from xenith.vhd.footer import SIZE_BYTES_MAX
from xenith.vhd.image import open_image
from xenith.vhd.snapshot import delete, snapshot
from xenith.vhd.tree import children, scan


@pytest.fixture
def world():
    return World(clock=ManualClock(), ids=Ids(seed=1))


@pytest.fixture
def files(tmp_path):
    directory = Directory(tmp_path / "sr")
    yield directory
    directory.close()


@pytest.fixture(autouse=True)
def repository(tmp_path):
    (tmp_path / "sr").mkdir()


def write(files, name, offset, data):
    chain = open_chain(files, name, writable=True)
    chain.write(offset, data)
    chain.flush()
    chain.close()


def read(files, name, offset, length):
    chain = open_chain(files, name)
    try:
        return chain.read(offset, length)
    finally:
        chain.close()


@pytest.mark.parametrize("create", [create_fixed, create_dynamic])
def test_a_new_disk_is_zeros_and_keeps_what_is_written(files, world, create):
    create(files, "a.vhd", size_bytes=5 * MIB, world=world)
    assert read(files, "a.vhd", 0, 5 * MIB) == bytes(5 * MIB)
    data = random.Random(1).randbytes(3 * MIB)
    write(files, "a.vhd", MIB + 512, data)
    assert read(files, "a.vhd", MIB, 4 * MIB) == bytes(512) + data + bytes(MIB - 512)


def test_the_largest_disk_takes_a_few_mib_and_no_larger_one_is_made(files, world, tmp_path):
    create_dynamic(files, "a.vhd", size_bytes=SIZE_BYTES_MAX, world=world)
    write(files, "a.vhd", SIZE_BYTES_MAX - 512, b"e" * 512)
    assert read(files, "a.vhd", SIZE_BYTES_MAX - 1024, 1024) == bytes(512) + b"e" * 512
    assert (tmp_path / "sr" / "a.vhd").stat().st_size < 8 * MIB
    with pytest.raises(Invalid, match="2040 GiB"):
        create_dynamic(files, "b.vhd", size_bytes=SIZE_BYTES_MAX + 512, world=world)
    image = open_image(files, "a.vhd", writable=True)
    with pytest.raises(Invalid, match="2040 GiB"):
        resize(image, SIZE_BYTES_MAX + 512)
    image.close()


def test_blocks_begin_on_a_page_and_the_file_ends_with_its_footer(files, world, tmp_path):
    create_dynamic(files, "a.vhd", size_bytes=9 * MIB, world=world)
    for at in (8, 2, 0):
        write(files, "a.vhd", at * MIB, b"x" * 512)
    image = open_image(files, "a.vhd")
    assert all(int(place) * 512 % 4096 == 3584 for place in image.table[image.blocks()])
    data = (tmp_path / "sr" / "a.vhd").read_bytes()
    assert data[-512:] == data[:512] == image.footer.encode()
    image.close()


def test_what_is_not_flushed_is_read_back_and_lost_when_the_disk_is_closed(files, world):
    create_dynamic(files, "a.vhd", size_bytes=MIB, world=world)
    chain = open_chain(files, "a.vhd", writable=True)
    chain.write(0, b"n" * 512)
    assert chain.read(0, 512) == b"n" * 512
    chain.close()
    assert read(files, "a.vhd", 0, 512) == bytes(512)


def test_a_map_names_the_link_of_each_run_and_joins_what_is_nowhere(files, world):
    create_dynamic(files, "disk.vhd", size_bytes=64 * GIB, world=world)
    write(files, "disk.vhd", 512 * 8, b"b" * 512 * 8)
    snapshot(files, "disk.vhd", base="base.vhd", world=world)
    write(files, "disk.vhd", 512 * 12, b"l" * 512 * 2)
    chain = open_chain(files, "disk.vhd")
    last = 64 * GIB // 512
    found = [(run.sector, run.length, run.link) for run in chain.runs()]
    assert found == [
        (0, 8, None),
        (8, 4, 1),
        (12, 2, 0),
        (14, 2, 1),
        (16, last - 16, None),
    ]
    delta = [run for run in chain.runs(links=1) if run.link is not None]
    assert [(run.sector, run.length) for run in delta] == [(12, 2)]
    view = memoryview(bytearray(1024))
    chain.read_run(delta[0], view)
    assert view == b"l" * 1024
    assert list(chain.runs(20, 4)) == [Run(20, 4, None, 0)]
    chain.close()


def test_a_map_is_the_same_however_much_is_asked_for_at_once(files, world):
    chance, size = random.Random(6), 10 * MIB
    create_dynamic(files, "0.vhd", size_bytes=size, world=world)
    for link in range(1, 5):
        # A link that was grown hides what lies behind the end of the one below.
        size += MIB * (link == 3)
        create_differencing(
            files, f"{link}.vhd", parent=f"{link - 1}.vhd", world=world, size_bytes=size
        )
        for _ in range(20):
            first = chance.randrange(size // 512 - 40)
            write(files, f"{link}.vhd", first * 512, bytes(512 * chance.randrange(1, 40)))
    chain = open_chain(files, "4.vhd")
    for links in (None, 3):
        whole = places(chain.runs(links=links))
        assert len(whole) == size // 512
        for count in (1, 100, 4096, 12_000):
            first = chance.randrange(size // 512 - count)
            assert places(chain.runs(first, count, links=links)) == whole[first : first + count]
    chain.close()


def places(runs):
    """List the link and the place of each sector."""
    return [
        (run.link, run.place + at * 512 if run.link is not None else 0)
        for run in runs
        for at in range(run.length)
    ]


@pytest.mark.parametrize(("offset", "length"), [(1, 512), (0, 511), (MIB, 512), (-512, 512)])
def test_what_is_not_sectors_of_the_disk_is_neither_read_nor_written(files, world, offset, length):
    create_dynamic(files, "a.vhd", size_bytes=MIB, world=world)
    chain = open_chain(files, "a.vhd", writable=True)
    with pytest.raises(Invalid):
        chain.read(offset, length)
    with pytest.raises(Invalid):
        chain.write(offset, bytes(length))
    chain.close()


def test_a_disk_has_one_writer_and_a_hidden_one_has_none(files, world):
    create_dynamic(files, "a.vhd", size_bytes=MIB, world=world)
    chain = open_chain(files, "a.vhd", writable=True)
    with pytest.raises(Conflict, match="by another"):
        open_chain(files, "a.vhd", writable=True)
    set_hidden(chain.leaf, True)
    chain.close()
    with pytest.raises(Conflict, match="hidden"):
        open_chain(files, "a.vhd", writable=True)


@pytest.mark.parametrize("create", [create_fixed, create_dynamic])
def test_a_disk_grows_with_zeros_and_does_not_shrink(files, world, create):
    create(files, "a.vhd", size_bytes=3 * MIB, world=world)
    write(files, "a.vhd", 0, b"x" * 3 * MIB)
    image = open_image(files, "a.vhd", writable=True)
    resize(image, 700 * MIB if create is create_dynamic else 5 * MIB)
    with pytest.raises(Invalid, match="would be lost"):
        resize(image, 2 * MIB)
    image.close()
    assert read(files, "a.vhd", 2 * MIB, 3 * MIB) == b"x" * MIB + bytes(2 * MIB)


def test_what_a_child_has_gained_does_not_show_a_larger_ancestor(files, world):
    create_dynamic(files, "a.vhd", size_bytes=2 * MIB, world=world)
    write(files, "a.vhd", 0, b"a" * 2 * MIB)
    create_differencing(files, "b.vhd", parent="a.vhd", size_bytes=4 * MIB, world=world)
    assert read(files, "b.vhd", 0, 4 * MIB) == b"a" * 2 * MIB + bytes(2 * MIB)
    set_hidden_by_name(files, "a.vhd")
    write(files, "b.vhd", 3 * MIB, b"b" * 512)
    coalesce(files, "b.vhd")
    assert files.names() == ["b.vhd"]
    assert read(files, "b.vhd", 3 * MIB, 1024) == b"b" * 512 + bytes(512)


def set_hidden_by_name(files, name):
    image = open_image(files, name, writable=True)
    set_hidden(image, True)
    image.close()


def test_a_snapshot_leaves_two_leaves_on_a_hidden_base(files, world):
    create_dynamic(files, "disk.vhd", size_bytes=4 * MIB, world=world)
    write(files, "disk.vhd", 0, b"1" * 512)
    snapshot(files, "disk.vhd", base="base.vhd", other="snap.vhd", world=world)
    write(files, "disk.vhd", 0, b"2" * 512)
    assert read(files, "disk.vhd", 0, 512) == b"2" * 512
    assert read(files, "snap.vhd", 0, 512) == b"1" * 512
    tree = scan(files)
    assert children(tree, "base.vhd") == ["disk.vhd", "snap.vhd"]
    assert [tree[name].footer.hidden for name in sorted(tree)] == [True, False, False]
    with pytest.raises(Conflict, match=r"disk.vhd, snap.vhd stand on base.vhd"):
        delete(files, "base.vhd")
    assert files.names() == ["base.vhd", "disk.vhd", "snap.vhd"]


@pytest.mark.slow
def test_a_chain_of_thirty_is_opened_and_no_snapshot_makes_a_longer_one(files, world):
    create_dynamic(files, "disk.vhd", size_bytes=MIB, world=world)
    for depth in range(29):
        snapshot(files, "disk.vhd", base=f"base{depth}.vhd", world=world)
    chain = open_chain(files, "disk.vhd")
    assert len(chain.images) == 30
    chain.close()
    with pytest.raises(Exhausted, match="coalesce it first"):
        snapshot(files, "disk.vhd", base="more.vhd", world=world)
    with pytest.raises(Exhausted, match="deeper than 5"):
        open_chain(files, "disk.vhd", depth_max=5)


def test_a_loop_of_parents_ends(files, world):
    create_dynamic(files, "z.vhd", size_bytes=MIB, world=world)
    create_differencing(files, "a.vhd", parent="z.vhd", world=world)
    create_differencing(files, "b.vhd", parent="a.vhd", world=world)
    child, parent = open_image(files, "a.vhd", writable=True), open_image(files, "b.vhd")
    reparent(child, parent, files=files)
    child.close()
    parent.close()
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(Exhausted, match="loops"):
        open_chain(files, "b.vhd")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.vhd", "sub/secret.vhd"])
def test_a_parent_outside_the_repository_is_never_opened(files, world, monkeypatch, name):
    child_of(files, world, name)
    opened = []
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *args, **named: opened.append(path) or real(path, *args, **named)
    )
    with pytest.raises(Invalid, match="elsewhere"):
        open_chain(files, "child.vhd")
    assert opened == ["child.vhd"]


def child_of(files, world, name):
    """Make a child that names any path at all as its parent."""
    create_dynamic(files, "parent.vhd", size_bytes=MIB, world=world)
    create_differencing(
        files, "child.vhd", parent="parent.vhd", named_parent=name.replace("/", "\\"), world=world
    )


def test_a_parent_that_is_a_link_or_a_pipe_is_not_opened(files, world, tmp_path):
    create_dynamic(files, "parent.vhd", size_bytes=MIB, world=world)
    create_differencing(files, "child.vhd", parent="parent.vhd", world=world)
    here = tmp_path / "sr" / "parent.vhd"
    here.rename(tmp_path / "outside.vhd")
    here.symlink_to(tmp_path / "outside.vhd")
    with pytest.raises(Invalid, match="no plain file"):
        open_chain(files, "child.vhd")
    here.unlink()
    os.mkfifo(here)
    with pytest.raises(Invalid, match="no plain file"):
        open_chain(files, "child.vhd")
    here.unlink()
    with pytest.raises(Invalid, match="is here"):
        open_chain(files, "child.vhd")


def test_a_file_with_the_parents_name_and_another_uuid_is_not_the_parent(files, world, tmp_path):
    create_dynamic(files, "parent.vhd", size_bytes=MIB, world=world)
    create_differencing(files, "child.vhd", parent="parent.vhd", world=world)
    files.unlink("parent.vhd")
    create_dynamic(files, "parent.vhd", size_bytes=MIB, world=world)
    with pytest.raises(Invalid, match=r"parent.vhd is "):
        open_chain(files, "child.vhd")


@pytest.mark.parametrize("name", ["a/b.vhd", "..", "/etc/passwd", ""])
def test_a_path_is_not_taken_for_a_name(files, name):
    with pytest.raises(Invalid, match="not the name"):
        files.open(name)


def test_a_disk_that_is_not_there_or_is_there_already_says_so(files, world):
    with pytest.raises(NotFound):
        open_chain(files, "a.vhd")
    with pytest.raises(NotFound):
        delete(files, "a.vhd")
    create_dynamic(files, "a.vhd", size_bytes=MIB, world=world)
    with pytest.raises(Conflict, match="already"):
        create_dynamic(files, "a.vhd", size_bytes=MIB, world=world)
    with pytest.raises(Conflict, match="no other"):
        coalesce(files, "a.vhd")


def test_nothing_is_removed_while_a_file_that_may_stand_on_it_cannot_be_read(
    files, world, tmp_path
):
    create_dynamic(files, "a.vhd", size_bytes=MIB, world=world)
    (tmp_path / "sr" / "broken.vhd").write_bytes(b"x" * 4096)
    with pytest.raises(Conflict, match=r"broken.vhd cannot be"):
        delete(files, "a.vhd")
    delete(files, "broken.vhd")
    delete(files, "a.vhd")


def test_a_live_leaf_is_written_to_while_it_is_merged(files, world):
    create_dynamic(files, "disk.vhd", size_bytes=8 * MIB, world=world)
    snapshot(files, "disk.vhd", base="base.vhd", world=world)
    flat = bytearray(8 * MIB)
    chain = open_chain(files, "disk.vhd", writable=True)
    for at in (0, 3 * MIB, 7 * MIB):
        chain.write(at, b"1" * 512)
        flat[at : at + 512] = b"1" * 512
    work = begin_coalesce(files, "disk.vhd", leaf=chain.leaf)
    assert work.step(1)
    chain.write(0, b"2" * 512)
    flat[:512] = b"2" * 512
    assert chain.read(0, 8 * MIB) == flat
    while work.step(1):
        pass
    chain.write(5 * MIB, b"3" * 512)
    flat[5 * MIB : 5 * MIB + 512] = b"3" * 512
    work.finish()
    chain.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        chain.write(0, bytes(512))
    assert files.names() == ["disk.vhd"]
    assert read(files, "disk.vhd", 0, 8 * MIB) == flat
    assert recover(files) == []


def test_nothing_new_stands_on_a_parent_that_is_being_merged_into(files, world):
    create_dynamic(files, "disk.vhd", size_bytes=MIB, world=world)
    write(files, "disk.vhd", 0, b"1" * 512)
    snapshot(files, "disk.vhd", base="base.vhd", world=world)
    work = begin_coalesce(files, "disk.vhd")
    with pytest.raises(Conflict, match="by another"):
        create_differencing(files, "clone.vhd", parent="base.vhd", world=world)
    work.finish()


def test_a_merge_waits_for_one_who_writes_to_what_stands_on_it(files, world):
    create_dynamic(files, "disk.vhd", size_bytes=MIB, world=world)
    write(files, "disk.vhd", 0, b"1" * 512)
    snapshot(files, "disk.vhd", base="base.vhd", world=world)
    write(files, "disk.vhd", 512, b"2" * 512)
    snapshot(files, "disk.vhd", base="middle.vhd", world=world)
    other = open_chain(files, "disk.vhd", writable=True)
    work = begin_coalesce(files, "middle.vhd")
    with pytest.raises(Conflict, match="by another"):
        work.finish()
    other.write(1024, b"3" * 512)
    other.flush()
    expected = b"1" * 512 + b"2" * 512 + b"3" * 512
    assert other.read(0, 1536) == expected
    other.close()
    work.finish()
    assert files.names() == ["base.vhd", "disk.vhd"]
    assert read(files, "disk.vhd", 0, 1536) == expected


@pytest.mark.parametrize("name", ["disk.vhd", "middle.vhd"])
def test_a_coalesce_that_is_given_up_changes_nothing_that_is_read(files, world, name):
    create_dynamic(files, "disk.vhd", size_bytes=5 * MIB, world=world)
    write(files, "disk.vhd", 0, b"1" * 512)
    snapshot(files, "disk.vhd", base="base.vhd", world=world)
    if name == "middle.vhd":
        write(files, "disk.vhd", 512, b"m" * 4 * MIB)
        snapshot(files, "disk.vhd", base="middle.vhd", world=world)
    write(files, "disk.vhd", 512, b"2" * 4 * MIB)
    before, names = read(files, "disk.vhd", 0, 5 * MIB), files.names()
    work = begin_coalesce(files, name)
    assert work.step(1)
    work.cancel()
    assert files.names() == names
    assert read(files, "disk.vhd", 0, 5 * MIB) == before
    snapshot(files, "disk.vhd", base="next.vhd", world=world)
    assert read(files, "disk.vhd", 0, 5 * MIB) == before


def test_a_leaf_takes_over_a_fixed_base_and_one_with_blocks_of_another_size(files, world):
    flat = bytearray(b"f" * 5 * MIB)
    create_fixed(files, "base.vhd", size_bytes=5 * MIB, world=world)
    write(files, "base.vhd", 0, flat)
    create_dynamic(files, "small.vhd", size_bytes=5 * MIB, world=world, block_bytes=65536)
    write(files, "small.vhd", 0, flat)
    for parent in ("base.vhd", "small.vhd"):
        create_differencing(files, "leaf.vhd", parent=parent, world=world)
        write(files, "leaf.vhd", 2 * MIB - 512, b"l" * 3 * 512)
        coalesce(files, "leaf.vhd")
        assert parent not in files.names()
        expected = flat[: 2 * MIB - 512] + b"l" * 3 * 512 + flat[2 * MIB + 1024 :]
        assert read(files, "leaf.vhd", 0, 5 * MIB) == expected
        delete(files, "leaf.vhd")


def test_bitmaps_of_the_first_tapdisk_have_their_bits_the_other_way_round(files, world, tmp_path):
    create_dynamic(files, "old.vhd", size_bytes=MIB, world=world)
    write(files, "old.vhd", 512, b"o" * 512)
    image = open_image(files, "old.vhd")
    place = int(image.table[0]) * 512
    old = dataclasses.replace(image.footer, creator_version=1).encode()
    image.close()
    path = tmp_path / "sr" / "old.vhd"
    data = path.read_bytes()
    assert data[place] == 0b01000000
    path.write_bytes(old + data[512:place] + b"\x02" + data[place + 1 : -512] + old)
    assert read(files, "old.vhd", 0, 2048) == bytes(512) + b"o" * 512 + bytes(1024)
    write(files, "old.vhd", 1536, b"n" * 512)
    assert read(files, "old.vhd", 512, 1536) == b"o" * 512 + bytes(512) + b"n" * 512
    assert path.read_bytes()[place] == 0b00001010


@pytest.mark.slow
def test_memory_is_bounded_while_every_block_of_a_disk_is_touched(files, world):
    create_dynamic(files, "a.vhd", size_bytes=64 * MIB, world=world, block_bytes=16384)
    chain = open_chain(files, "a.vhd", writable=True)
    tracemalloc.start()
    for block in range(4096):
        chain.write(block * 16384, b"x" * 512)
    assert tracemalloc.get_traced_memory()[1] < 2 * MIB
    tracemalloc.stop()
    chain.flush()
    chain.close()


def test_a_disk_without_room_says_so(files, world, monkeypatch):
    create_dynamic(files, "a.vhd", size_bytes=MIB, world=world)
    chain = open_chain(files, "a.vhd", writable=True)

    def full(*_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(Exhausted, match="no room"):
        chain.write(0, b"x" * 512)
    monkeypatch.undo()
    chain.write(512, b"y" * 512)
    chain.flush()
    assert chain.read(0, 1024) == bytes(512) + b"y" * 512
    chain.close()


def test_a_sync_that_failed_is_not_taken_back_by_a_later_one(files, world, monkeypatch):
    create_dynamic(files, "a.vhd", size_bytes=MIB, world=world)
    chain = open_chain(files, "a.vhd", writable=True)
    chain.write(0, b"x" * 512)

    def broken(_):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(OSError, match="input/output"):
        chain.flush()
    monkeypatch.undo()
    with pytest.raises(OSError, match="input/output"):
        chain.flush()
    chain.close()


class Killed(Directory):
    """A directory whose process kills itself before its n-th write, rename or removal."""

    def __init__(self, path, moment):
        super().__init__(path)
        self.left = moment

    def count(self):
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def open(self, name, **named):
        file = super().open(name, **named)
        write, truncate = file.write, file.truncate
        file.write = lambda *args: (self.count(), write(*args))
        file.truncate = lambda *args: (self.count(), truncate(*args))
        return file

    def rename(self, old, new):
        self.count()
        super().rename(old, new)

    def unlink(self, name):
        self.count()
        super().unlink(name)


def merge_all(files):
    recover(files)
    for name in ("middle.vhd", "disk.vhd"):
        if name in files.names() and len(files.names()) > 1:
            coalesce(files, name)


@pytest.mark.slow
def test_a_coalesce_is_killed_at_each_of_its_writes_and_carried_on(files, world, tmp_path):
    create_dynamic(files, "disk.vhd", size_bytes=6 * MIB, world=world)
    write(files, "disk.vhd", 0, b"1" * MIB)
    snapshot(files, "disk.vhd", base="base.vhd", world=world)
    write(files, "disk.vhd", MIB // 2, b"2" * 3 * MIB)
    snapshot(files, "disk.vhd", base="middle.vhd", world=world)
    write(files, "disk.vhd", 2 * MIB, b"3" * 512)
    expected = read(files, "disk.vhd", 0, 6 * MIB)
    for moment in range(100):
        copy = shutil.copytree(tmp_path / "sr", tmp_path / f"sr{moment}")
        child = os.fork()
        if not child:
            try:
                merge_all(Killed(copy, moment))
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        left = Directory(copy)
        assert read(left, "disk.vhd", 0, 6 * MIB) == expected
        merge_all(left)
        assert left.names() == ["disk.vhd"]
        assert read(left, "disk.vhd", 0, 6 * MIB) == expected
        left.close()
        shutil.rmtree(copy)
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert moment > 20
