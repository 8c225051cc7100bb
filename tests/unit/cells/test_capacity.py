"""A digest may promise less than there is, never more, and a delta makes the same digest."""

import doctest
import time

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenith.cells import capacity, choices
from xenith.cells.capacity import (
    BINS_PER_CLASS_MAX,
    BinTable,
    CapacityClass,
    ClassKey,
    Digest,
    DigestDelta,
    apply_delta,
    delta,
    histogram,
    merge,
    per_host,
    slots,
)
from xenith.core.errors import Conflict

KEYS = [ClassKey("east"), ClassKey("west"), ClassKey("west", projects=("blue",))]

few = st.sampled_from([-3, 0, 1, 2, 512, 4096])


def crowd(seed):
    """More different hosts than a class has bins for."""
    chance = np.random.default_rng(seed)
    most = chance.integers(1, [300_000, 256, 9000])
    free = chance.integers(-most // 20, most, (int(chance.integers(70, 200)), 3))
    return [(0, *row) for row in free.tolist()]


# Few amounts make bins that count several hosts; many make bins that must be rounded.
hosts = st.one_of(
    st.lists(st.tuples(st.integers(0, 2), few, few, few), max_size=20),
    st.integers(0, 2**32).map(crowd),
)
sizes = st.tuples(st.integers(1, 5000), st.integers(1, 8), st.integers(0, 500))


def histogram_of(rows):
    codes, ram, vcpus, disk = np.array(rows, np.int64).reshape(-1, 4).T
    return histogram(KEYS, codes, ram, vcpus, disk)


def holds(free, size):
    return all(max(0, have) >= need for have, need in zip(free, size, strict=True))


def true_slots(rows, code, size):
    return sum(max(0, per_host(free, size)) for of, *free in rows if of == code)


@pytest.mark.parametrize("module", [capacity, choices])
def test_the_examples_in_the_docstrings_hold(module):
    assert doctest.testmod(module).failed == 0


@given(hosts, sizes)
@settings(max_examples=25, deadline=None)
def test_a_histogram_never_promises_what_the_hosts_do_not_have(rows, size):
    for one in histogram_of(rows):
        code = KEYS.index(one.key)
        free = [free for of, *free in rows if of == code]
        assert len(one.bins) <= BINS_PER_CLASS_MAX
        assert list(one.bins) == sorted(one.bins)
        assert sum(count for *_, count in one.bins) <= len(free)
        assert slots([one], *size) <= true_slots(rows, code, size)
        for *room, count in one.bins:
            assert sum(holds(have, room) for have in free) >= count


@given(st.lists(hosts, max_size=4), sizes)
@settings(max_examples=30, deadline=None)
def test_merged_histograms_never_promise_what_the_hosts_do_not_have(groups, size):
    merged = merge(one for rows in groups for one in histogram_of(rows))
    everyone = [row for rows in groups for row in rows]
    assert {one.key for one in merged} == {KEYS[code] for code, *_ in everyone}
    for one in merged:
        assert len(one.bins) <= BINS_PER_CLASS_MAX
        assert slots([one], *size) <= true_slots(everyone, KEYS.index(one.key), size)


def test_few_vectors_are_told_exactly():
    rows = [(0, 4096, 2, 40)] * 3 + [(0, 512, 8, 9), (1, 1024, 1, 10)]
    assert histogram_of(rows) == (
        CapacityClass(KEYS[0], ((512, 8, 9, 1), (4096, 2, 40, 3))),
        CapacityClass(KEYS[1], ((1024, 1, 10, 1),)),
    )


def test_a_thousand_different_hosts_keep_nine_tenths_of_their_slots():
    chance = np.random.default_rng(7)
    sizes_built = [(512, 1, 20), (2048, 2, 80), (8192, 8, 320)]
    rows = []
    for _ in range(1000):
        free = np.array([131_072, 128, 4000])
        for built in chance.integers(0, 3, chance.integers(0, 30)):
            if (free >= sizes_built[built]).all():
                free = free - sizes_built[built]
        rows.append((0, *free.tolist()))
    told = histogram_of(rows)
    for size in sizes_built:
        assert slots(told, *size) >= 0.9 * true_slots(rows, 0, size)


def test_a_full_class_is_told_without_bins():
    full = histogram_of([(2, 0, 4, 100), (2, -5, 4, 100), (2, 100, 0, 100)])
    assert full == (CapacityClass(KEYS[2], ()),)
    assert merge(full) == full


def test_no_hosts_make_no_classes():
    assert histogram([], [], [], [], []) == ()
    assert merge([]) == ()


def test_resources_of_one_host_are_not_counted_twice():
    one = CapacityClass(KEYS[0], ((8192, 1, 1000, 1), (512, 16, 1000, 1)))
    assert slots([one], 1024, 2, 10) == 0  # 8.5 GiB and 17 vCPUs in sum
    assert slots([one], 512, 1, 0) == 2


def test_counting_a_thousand_hosts_takes_less_than_five_milliseconds():
    chance = np.random.default_rng(1)
    codes = chance.integers(0, 3, 1000)
    free = [chance.integers(0, most, 1000) for most in (200_000, 128, 4000)]

    def measure():
        start = time.perf_counter()
        histogram(KEYS, codes, *free)
        return time.perf_counter() - start

    assert min(measure() for _ in range(10)) < 0.005


def digest_of(sequence, *classes, session="s", **more):
    return Digest(cell_id="c", session=session, sequence=sequence, classes=classes, **more)


A, A2, B, C = (
    CapacityClass(KEYS[0], ((1, 1, 1, 1),)),
    CapacityClass(KEYS[0], ((2, 2, 2, 2),)),
    CapacityClass(KEYS[1], ((3, 3, 3, 3),)),
    CapacityClass(KEYS[2], ()),
)


def test_a_delta_tells_only_what_changed_and_makes_the_later_digest():
    old = digest_of(1, A, B, decisions=4, host_count=2)
    new = digest_of(3, A2, C, decisions=6, host_count=3, hosts_up_count=2, server_count=9)
    change = delta(old, new)
    assert change.changed == (A2, C)
    assert change.gone == (KEYS[1],)
    assert apply_delta(old, change) == new
    assert delta(old, msgspec.structs.replace(old, sequence=2)).changed == ()


@pytest.mark.parametrize(
    "held", [digest_of(2, A), digest_of(1, A, session="t"), Digest(cell_id="d", sequence=1)]
)
def test_a_delta_to_another_digest_is_refused(held):
    change = delta(digest_of(1, A), digest_of(3, B))
    with pytest.raises(Conflict):
        apply_delta(held, change)


def test_there_is_no_delta_between_two_sessions():
    with pytest.raises(Conflict):
        delta(digest_of(1, A), digest_of(1, A, session="t"))


def test_a_digest_of_a_newer_version_is_read():
    told = msgspec.to_builtins(digest_of(5, A)) | {"new_field": [1]}
    del told["server_count"]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(told), type=Digest) == digest_of(5, A)
    change = delta(digest_of(1, A), digest_of(2, B))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(change), type=DigestDelta) == change


@pytest.mark.parametrize("amount", [-1, 2**31, 2**63])
def test_amounts_that_no_host_can_have_are_refused_on_the_wire(amount):
    told = msgspec.structs.asdict(digest_of(1)) | {
        "classes": [{"key": KEYS[0], "bins": [[1, 1, 1, amount]]}]
    }
    with pytest.raises(msgspec.ValidationError, match="bins"):
        msgspec.msgpack.decode(msgspec.msgpack.encode(told), type=Digest)


FITS = np.ones(1, np.bool_)


def loaded(bins):
    table = BinTable()
    table.load(0, np.array([(*bin_, 0) for bin_ in bins], np.int64).reshape(-1, 5).T)
    return table


bins_of_some_hosts = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 9), st.integers(0, 9), st.integers(1, 4)),
    max_size=8,
)
some_sizes = st.lists(
    st.tuples(st.integers(1, 9), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=8
)


@given(bins_of_some_hosts, some_sizes)
@settings(max_examples=50, deadline=None)
def test_each_draw_takes_one_slot_of_its_size_until_there_is_none(bins, drawn):
    table = loaded(bins)
    for size in drawn:
        before = table.slots_of(0, size, FITS)
        ram_before = int((table.rows()[0] * table.rows()[3]).sum())
        taken = table.take(0, size, FITS)
        assert taken == min(1, before)
        assert table.slots_of(0, size, FITS) == before - taken
        assert int((table.rows()[0] * table.rows()[3]).sum()) == ram_before - size[0] * taken


@given(bins_of_some_hosts, some_sizes, st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_draws_in_bulk_leave_what_draws_one_by_one_leave(bins, drawn, count):
    at_once, one_by_one = loaded(bins), loaded(bins)
    for size in drawn:
        taken = at_once.take(0, size, FITS, count=count)
        assert taken == sum(one_by_one.take(0, size, FITS) for _ in range(count))
        assert spread(at_once) == spread(one_by_one)


def spread(table):
    return sorted(
        tuple(room) for *room, count, _, _ in table.rows().T.tolist() for _ in range(count)
    )


@given(st.lists(st.tuples(st.integers(0, 3), bins_of_some_hosts), max_size=12))
@settings(max_examples=50, deadline=None)
def test_segments_that_grow_and_shrink_keep_their_cells_apart(loads):
    table, last = BinTable(), {}
    for cell, bins in loads:
        table.load(cell, np.array([(*bin_, 0) for bin_ in bins], np.int64).reshape(-1, 5).T)
        last[cell] = sum(per_host(bin_, (2, 1, 1)) * bin_[3] for bin_ in bins)
    counted = table.slots((2, 1, 1), FITS, 4).tolist()
    assert counted == [last.get(cell, 0) for cell in range(4)]
    assert counted == [table.slots_of(cell, (2, 1, 1), FITS) for cell in range(4)]
