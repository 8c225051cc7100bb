"""A repository on a disk that loses power, or a process that is killed, at any moment.

The disk behind these tests keeps what was synced. Of what was not, a crash keeps each sector or
not, each length or not, and the names' changes up to some one of them; a write that is under way
is torn. What a life of writes, snapshots, deletes, growth and coalesces must leave is what the
same writes leave on a flat array of bytes: of what was flushed all, of the rest each sector as it
was or as it became.
"""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenith.core.clock import ManualClock
from xenith.core.errors import Conflict, NotFound
from xenith.core.ids import Ids
from xenith.core.world import World
from xenith.vhd.alter import resize
from xenith.vhd.chain import open_chain
from xenith.vhd.coalesce import begin_coalesce, coalesce, recover
from xenith.vhd.create import create_dynamic, create_fixed
from xenith.vhd.snapshot import delete, snapshot
from xenith.vhd.tree import children, scan

SECTOR = 512
BLOCK = 4096
SECTORS = 80


class PowerLost(Exception):
    """The moment came."""


class Node:
    """A file: what its readers see, what is on the disk, and what was not synced since."""

    def __init__(self, data=b""):
        self.seen, self.kept, self.pending = bytearray(data), bytes(data), []

    def apply(self, data, operation):
        kind, offset, value = operation
        if kind == "cut":
            data[offset:] = bytes(0)
            data.extend(bytes(offset - len(data)))
            return
        data.extend(bytes(max(0, offset + len(value) - len(data))))
        data[offset : offset + len(value)] = value

    def survive(self, luck):
        if luck is None:
            return Node(self.seen)
        data = bytearray(self.kept)
        for kind, offset, value in self.pending:
            if kind == "cut":
                if luck() and luck():
                    self.apply(data, (kind, offset, value))
                continue
            end = offset + len(value)
            edges = [offset, *range(offset - offset % SECTOR + SECTOR, end, SECTOR), end]
            for begin, stop in itertools.pairwise(edges):
                if luck():
                    self.apply(data, (kind, begin, value[begin - offset : stop - offset]))
        return Node(data)


class SimulatedFiles:
    """The port ``Files``; it dies before its ``moment``-th effect, in the middle of a write."""

    path = "/repository"

    def __init__(self, nodes=None, *, moment=None, seed=0):
        self.seen = dict(nodes or {})
        self.history = [dict(self.seen)]
        self.moment, self.effects, self.dead = moment, 0, False
        self.random = random.Random(seed)

    def effect(self):
        if self.dead or self.effects == self.moment:
            self.dead = True
            raise PowerLost
        self.effects += 1

    def restart(self, *, kept, moment=None):
        """What a machine finds; ``kept`` is "all" after a kill, "none" or "some" of the rest."""
        luck = {
            "all": None,
            "none": lambda: False,
            "some": lambda: self.random.random() < 0.5,
        }[kept]
        at = {"all": -1, "none": 0, "some": self.random.randrange(len(self.history))}[kept]
        survivors = {}
        names = self.history[at]
        for node in names.values():
            survivors.setdefault(id(node), node.survive(luck))
        nodes = {name: survivors[id(node)] for name, node in names.items()}
        return SimulatedFiles(nodes, moment=moment, seed=self.random.random())

    def open(self, name, *, writable=False, create=False):
        if create:
            if name in self.seen:
                raise Conflict(name)
            self.change(lambda: self.seen.__setitem__(name, Node()))
        if name not in self.seen:
            raise NotFound(name)
        return SimulatedFile(self, self.seen[name])

    def change(self, action):
        self.effect()
        action()
        self.history.append(dict(self.seen))

    def names(self):
        return sorted(self.seen)

    def modified_s(self, name):
        return 1_700_000_000.0

    def is_same(self, one, other):
        return self.seen[one] is self.seen[other]

    def link(self, old, new):
        if new in self.seen:
            raise Conflict(new)
        self.change(lambda: self.seen.__setitem__(new, self.seen[old]))

    def rename(self, old, new):
        self.change(lambda: self.seen.__setitem__(new, self.seen.pop(old)))

    def unlink(self, name):
        if name not in self.seen:
            raise NotFound(name)
        self.change(lambda: self.seen.pop(name))

    def sync(self):
        self.effect()
        self.history = [dict(self.seen)]


class SimulatedFile:
    def __init__(self, files, node):
        self.files, self.node = files, node

    def size(self):
        return len(self.node.seen)

    def read_into(self, offset, view):
        assert offset + len(view) <= len(self.node.seen)
        view[:] = self.node.seen[offset : offset + len(view)]

    def write(self, offset, data):
        data = bytes(data)
        try:
            self.files.effect()
        except PowerLost:
            whole = len(data) // SECTOR
            torn = data[: SECTOR * self.files.random.randrange(whole + 1)] if whole else b""
            if torn:
                self._do(("write", offset, torn))
            raise
        self._do(("write", offset, data))

    def truncate(self, size_bytes):
        self.files.effect()
        self._do(("cut", size_bytes, b""))

    def _do(self, operation):
        self.node.pending.append(operation)
        self.node.apply(self.node.seen, operation)

    def sync(self):
        self.files.effect()
        self.node.kept, self.node.pending = bytes(self.node.seen), []

    def close(self):
        pass


class Life:
    """A repository beside the flat arrays that it has to equal, through any number of crashes."""

    def __init__(self, *, moment=None, seed=0):
        self.world = World(clock=ManualClock(), ids=Ids(seed=seed))
        self.files = SimulatedFiles(seed=seed)
        self.flat = {"disk.vhd": bytearray(SECTORS * SECTOR)}
        self.loose = {"disk.vhd": {}}
        self.chains = {}
        self.count = 0
        create_dynamic(
            self.files,
            "disk.vhd",
            size_bytes=SECTORS * SECTOR,
            world=self.world,
            block_bytes=BLOCK,
        )
        self.files.moment = None if moment is None else self.files.effects + moment

    def chain(self, name):
        if name not in self.chains:
            self.chains[name] = open_chain(self.files, name, writable=True)
        return self.chains[name]

    def pick(self, which):
        return sorted(self.flat)[which % len(self.flat)]

    def write(self, which, at, length):
        name = self.pick(which)
        chain, flat = self.chain(name), self.flat[name]
        total = len(flat) // SECTOR
        first = at % total
        end = min(first + 1 + length, total)
        self.count += 1
        value = self.count.to_bytes(4) * (SECTOR // 4)
        for sector in range(first, end):
            old = bytes(flat[sector * SECTOR : (sector + 1) * SECTOR])
            self.loose[name].setdefault(sector, {old}).add(value)
        chain.write(first * SECTOR, value * (end - first))
        flat[first * SECTOR : end * SECTOR] = value * (end - first)

    def flush(self, which=0, name=None):
        name = name or self.pick(which)
        if name in self.chains:
            self.chains[name].flush()
            self.loose[name] = {}

    def settle(self, name):
        self.flush(name=name)
        self.chains.pop(name, None)

    def snapshot(self, which):
        leaf = self.pick(which)
        if len(self.flat) > 4:
            return
        self.settle(leaf)
        self.count += 1
        # Names of many lengths: a header that is replaced differs in both of its sectors.
        base = f"base{'x' * (self.count % 7)}{self.count}.vhd"
        other = f"snap{self.count:03}.vhd"
        self.pending = (other, bytes(self.flat[leaf]))
        snapshot(self.files, leaf, base=base, other=other, world=self.world)
        self.adopt()

    def adopt(self):
        name, data = self.pending
        self.flat[name], self.loose[name], self.pending = bytearray(data), {}, None

    pending = None

    def delete(self, which):
        if len(self.flat) < 2:
            return
        name = self.pick(which)
        self.chains.pop(name, None)
        self.doomed = name
        delete(self.files, name)
        del self.flat[name], self.loose[name]
        self.doomed = None

    doomed = None
    growing = None

    def grow(self, which):
        name = self.pick(which)
        leaf = self.chain(name).leaf
        size = min(leaf.size_bytes + 40 * SECTOR, 2000 * SECTOR)
        self.flush(name=name)
        self.growing = (name, size)
        resize(leaf, size)
        self.flat[name].extend(bytes(size - len(self.flat[name])))
        self.growing = None

    def coalesce(self, which, at):
        tree = scan(self.files)
        fit = [
            name
            for name, one in tree.items()
            if one.parent_uuid
            and bool(children(tree, name)) == one.footer.hidden
            and len(children(tree, one.parent_names[0])) == 1
        ]
        if not fit:
            return
        name = fit[which % len(fit)]
        if name in self.flat:
            self.coalesce_leaf(name, at)
        else:
            self.coalesce_middle(name)

    def coalesce_leaf(self, name, at):
        work = begin_coalesce(self.files, name, leaf=self.chain(name).leaf)
        index = sorted(self.flat).index(name)
        for turn in range(3):
            if not work.step(blocks=1):
                break
            self.write(index, at + turn * 7, turn)
        work.finish()
        # What was written is on the disk now: the leaf was flushed before it was merged.
        self.loose[name] = {}
        self.chains.pop(name)

    def coalesce_middle(self, name):
        live = {one: chain.leaf for one, chain in self.chains.items()}
        work = begin_coalesce(self.files, name)
        while work.step(blocks=1):
            pass
        work.finish(live)
        for one in list(self.chains):
            self.settle(one)

    def crash(self, kept, moments=()):
        """Lose power, and again while recovering, then compare everything."""
        for moment in (*moments, None):
            self.files = self.files.restart(kept=kept, moment=moment)
            self.chains = {}
            try:
                recover(self.files)
            except PowerLost:
                continue
            break
        self.check_after_crash()

    def check_after_crash(self):
        if self.pending:
            if self.pending[0] in self.files.names():
                self.adopt()
            self.pending = None
        if self.doomed is not None:
            if self.doomed not in self.files.names():
                del self.flat[self.doomed], self.loose[self.doomed]
            self.doomed = None
        for name, flat in self.flat.items():
            chain = open_chain(self.files, name)
            if self.growing and self.growing[0] == name and chain.size_bytes != len(flat):
                assert chain.size_bytes == self.growing[1]
                flat.extend(bytes(chain.size_bytes - len(flat)))
            found = chain.read(0, chain.size_bytes)
            for sector in range(len(flat) // SECTOR):
                piece = slice(sector * SECTOR, (sector + 1) * SECTOR)
                allowed = self.loose[name].get(sector, {bytes(flat[piece])})
                assert found[piece] in allowed, f"sector {sector} of {name}"
            assert len(found) == len(flat)
            flat[:] = found
            self.loose[name] = {}
        self.growing = None
        assert not [name for name in self.files.names() if not name.endswith(".vhd")]

    def check(self):
        for name in list(self.flat):
            chain = self.chain(name)
            assert chain.read(0, chain.size_bytes) == self.flat[name]


def whole_life(life):
    """All that can happen to a chain, once."""
    for at in (0, 9, 30, 33, 79):
        life.write(0, at, 2)
    life.flush(0)
    life.write(0, 9, 20)
    life.snapshot(0)
    for at in (1, 10, 50):
        life.write(0, at, 3)
    life.flush(0)
    life.snapshot(0)
    life.write(0, 20, 12)
    life.grow(0)
    life.write(0, 100, 5)
    life.flush(0)
    life.delete(1)
    assert len(life.files.names()) == 4
    # The middle first, on which a disk that is in use and a snapshot stand.
    life.coalesce(0, 3)
    assert len(life.files.names()) == 3
    life.delete(1)
    life.write(0, 60, 3)
    life.coalesce(0, 5)
    life.check()


def effects_of_a_whole_life():
    life = Life()
    before = life.files.effects
    whole_life(life)
    return life.files.effects - before


def test_a_life_without_a_crash_equals_a_flat_array():
    life = Life()
    whole_life(life)
    assert life.files.names() == ["disk.vhd"]


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["all", "none", "some"])
def test_no_moment_of_a_life_loses_a_sector(kept):
    total = effects_of_a_whole_life()
    assert total > 150
    for moment in range(total):
        for seed in range(4 if kept == "some" else 1):
            life = Life(moment=moment, seed=moment * 4 + seed)
            with pytest.raises(PowerLost):
                whole_life(life)
            life.crash(kept)
            life.write(0, 5, 30)
            life.flush(0)
            life.check()


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["all", "some"])
def test_a_recovery_may_itself_be_cut_off_at_any_moment(kept):
    total = effects_of_a_whole_life()
    for moment in range(0, total, 3):
        for second in range(0, 40, 4):
            life = Life(moment=moment)
            with pytest.raises(PowerLost):
                whole_life(life)
            life.crash(kept, moments=(second, second // 2))


@pytest.mark.parametrize("kept", ["all", "none", "some"])
def test_a_fixed_disk_that_grows_has_its_bytes_and_zeros_at_every_moment(kept):
    world = World(clock=ManualClock(), ids=Ids(seed=1))
    ended = False
    for moment in range(40):
        files = SimulatedFiles(seed=moment)
        create_fixed(files, "disk.vhd", size_bytes=4 * SECTOR, world=world)
        chain = open_chain(files, "disk.vhd", writable=True)
        chain.write(0, b"d" * 4 * SECTOR)
        chain.flush()
        files.moment = files.effects + moment // 4
        try:
            resize(chain.leaf, 9 * SECTOR)
            ended, files.moment = True, None
        except PowerLost:
            files = files.restart(kept=kept)
        chain = open_chain(files, "disk.vhd", writable=True)
        assert chain.size_bytes in {4 * SECTOR, 9 * SECTOR}
        for size in (chain.size_bytes, 7 * SECTOR, 12 * SECTOR):
            if size > chain.size_bytes:
                resize(chain.leaf, size)
            grown = bytes(chain.size_bytes - 4 * SECTOR)
            assert chain.read(0, chain.size_bytes) == b"d" * 4 * SECTOR + grown
    assert ended


STEPS = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 9), st.integers(0, 200), st.integers(0, 30)),
    st.tuples(st.just("flush"), st.integers(0, 9)),
    st.tuples(st.just("snapshot"), st.integers(0, 9)),
    st.tuples(st.just("delete"), st.integers(0, 9)),
    st.tuples(st.just("grow"), st.integers(0, 9)),
    st.tuples(st.just("coalesce"), st.integers(0, 9), st.integers(0, 99)),
    st.tuples(st.just("die_in"), st.integers(0, 60), st.sampled_from(["all", "none", "some"])),
)


@pytest.mark.slow
@settings(max_examples=400)
@given(steps=st.lists(STEPS, min_size=5, max_size=40), seed=st.integers(0, 999))
def test_any_life_with_any_crashes_equals_a_flat_array(steps, seed):
    life = Life(seed=seed)
    kept = "all"
    for name, *arguments in steps:
        if name == "die_in":
            life.files.moment, kept = life.files.effects + arguments[0], arguments[1]
            continue
        try:
            getattr(life, name)(*arguments)
        except PowerLost:
            life.crash(kept)
    life.files.moment = None
    life.check()


def test_the_simulated_disk_does_forget():
    files = SimulatedFiles()
    file = files.open("a", create=True)
    file.write(0, b"x" * SECTOR)
    assert files.restart(kept="none").names() == []
    files.sync()
    assert bytes(files.restart(kept="none").seen["a"].seen) == b""
    file.sync()
    file.write(0, b"y" * SECTOR)
    assert bytes(files.restart(kept="none").seen["a"].seen) == b"x" * SECTOR
    assert bytes(files.restart(kept="all").seen["a"].seen) == b"y" * SECTOR


def test_a_coalesce_carried_on_begins_where_its_note_says():
    life = Life()
    for at in range(0, 80, 8):
        life.write(0, at, 7)
    life.snapshot(0)
    for at in range(0, 80, 8):
        life.write(0, at, 3)
    life.snapshot(0)
    tree = scan(life.files)
    (middle,) = tree["disk.vhd"].parent_names
    while len(life.flat) > 1:
        life.delete(1)
    work = begin_coalesce(life.files, middle)
    assert work.step(blocks=4)
    assert work.note.next_block == 4
    life.crash("none")
    assert middle not in life.files.names()


def test_a_child_with_siblings_is_not_merged():
    life = Life()
    life.write(0, 3, 3)
    life.snapshot(0)
    with pytest.raises(Conflict, match="beside"):
        coalesce(life.files, "disk.vhd")
