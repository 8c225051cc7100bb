"""Round-robin archives: what is consolidated is what a plain computation says it is."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xenith.toolstack.rrd.archive import (
    CFS,
    LEVELS,
    SOURCES_MAX,
    STEP_S,
    Archive,
    Archives,
    Level,
)
from xenith.toolstack.rrd.sources import source

NAN = math.nan
BEGUN_S = 1_700_000_000.0 // 86400 * 86400
point = st.one_of(st.just(NAN), st.integers(-50, 50).map(float))


def plainly(points, first, level):
    """Make rows of points, one after the other; the newest first."""
    rows, row = [], [NAN] * (first % level.points)
    for value in points:
        row.append(value)
        if len(row) == level.points:
            known = [one for one in row if not math.isnan(one)]
            is_known = len(known) * 2 >= level.points and known
            rows.append((sum(known) / len(known), min(known), max(known)) if is_known else None)
            row = []
    rows = [(NAN, NAN, NAN) if one is None else one for one in rows[::-1]]
    return (rows + [(NAN, NAN, NAN)] * level.rows)[: level.rows]


@pytest.mark.slow
@given(
    first=st.integers(0, 1000),
    runs=st.lists(st.tuples(point, st.integers(1, 40)), max_size=12),
    per_row=st.integers(1, 7),
    row_count=st.integers(1, 9),
)
@example(first=0, runs=[(1.0, 40), (NAN, 40), (3.0, 3)], per_row=4, row_count=3)
@settings(max_examples=200, deadline=None)
def test_rows_are_what_a_plain_computation_makes_of_all_points(first, runs, per_row, row_count):
    archive = Archive(Level(per_row, row_count), 2)
    points, index = [], first
    for value, count in runs:
        archive.push(np.array([value, -value]), index=index, count=count)
        points += [value] * count
        index += count
    wanted = np.array(plainly(points, first, archive.level))
    found = archive.rows(row_count)
    np.testing.assert_allclose(found[:, :, 0], wanted)
    np.testing.assert_allclose(found[:, :, 1], -wanted[:, [0, 2, 1]])


@pytest.mark.slow
@given(
    times=st.lists(st.floats(0.01, 30.0), min_size=1, max_size=20),
    values=st.lists(st.integers(0, 1000), min_size=20, max_size=20),
)
@settings(max_examples=200, deadline=None)
def test_points_are_the_mean_of_what_held_in_their_five_seconds(times, values):
    archives = Archives(BEGUN_S)
    moments = [BEGUN_S + sum(times[: at + 1]) for at in range(len(times))]
    for moment, value in zip(moments, values, strict=False):
        archives.update(moment, {"memory": float(value)})

    def mean(begin):
        total, left = 0.0, BEGUN_S
        for moment, value in zip(moments, values, strict=False):
            total += value * max(0.0, min(moment, begin + STEP_S) - max(left, begin))
            left = moment
        return total / STEP_S

    found = archives.levels[0].rows(120)[:, CFS.index("AVERAGE"), 0]
    last = int(moments[-1] // STEP_S) * STEP_S
    for at in range(120):
        begin = last - (at + 1) * STEP_S
        if begin >= BEGUN_S:
            assert found[at] == pytest.approx(mean(begin), abs=1e-6)
        else:
            assert math.isnan(found[at])


def test_the_levels_are_those_of_xapi():
    assert [(level.row_s, level.rows) for level in LEVELS] == [
        (5, 120),
        (60, 120),
        (3600, 168),
        (86400, 366),
    ]


def test_of_a_counter_it_is_kept_how_fast_it_grows_and_a_fall_is_a_new_beginning():
    archives = Archives(BEGUN_S)
    for at, total in enumerate([1000, 2000, 4000, 100, 600], start=1):
        archives.update(BEGUN_S + 5 * at, {"vbd_xvda_read": float(total)})
    rows = archives.levels[0].rows(5)[:, 0, 0]
    np.testing.assert_allclose(rows, [100.0, NAN, 400.0, 200.0, NAN])
    assert archives.value("vbd_xvda_read") == 100.0


def test_a_processor_does_not_do_more_than_it_can():
    archives = Archives(BEGUN_S)
    for at, seconds in enumerate([0.0, 5.1, 5.1, 30.0], start=1):
        archives.update(BEGUN_S + 5 * at, {"cpu0": seconds})
    np.testing.assert_allclose(archives.levels[0].rows(3)[:, 0, 0], [NAN, 0.0, 1.0])


def test_what_was_not_measured_for_long_is_not_known():
    archives = Archives(BEGUN_S)
    archives.update(BEGUN_S + 5, {"memory": 1.0})
    archives.update(BEGUN_S + 305, {"memory": 1.0})
    assert not np.isnan(archives.levels[0].rows(61)[:, 0, 0]).any()
    archives.update(BEGUN_S + 606, {"memory": 1.0})
    assert np.isnan(archives.levels[0].rows(60)[:, 0, 0]).all()
    assert archives.value("memory") == 1.0


def test_a_clock_that_goes_back_takes_nothing_away():
    archives = Archives(BEGUN_S)
    for at in (5, 10, 2, 5, 10):
        archives.update(BEGUN_S + at, {"memory": float(at)})
    assert archives.value("memory") == 10.0
    assert archives.updated_s == BEGUN_S + 10
    assert not np.isnan(archives.levels[0].rows(2)[:, 0, 0]).any()


def test_what_has_not_changed_for_a_year_is_filled_in_at_once():
    since_s = BEGUN_S - LEVELS[-1].span_s
    archives = Archives(since_s)
    archives.update(BEGUN_S, {"memory": 7.0, "cpu0": 3.0}, since_s=since_s)
    for archive in archives.levels:
        rows = archive.rows(archive.level.rows)
        assert (rows[:, :, 0] == 7.0).all()
        assert (rows[:, :, 1] == 0.0).all()


def test_between_a_look_and_a_later_change_nothing_is_known():
    archives = Archives(BEGUN_S)
    archives.update(BEGUN_S + 10, {"memory": 1.0}, since_s=BEGUN_S)
    archives.update(BEGUN_S + 30, {"memory": 2.0}, since_s=BEGUN_S + 20)
    rows = archives.levels[0].rows(6)[:, 0, 0]
    np.testing.assert_allclose(rows, [2.0, 2.0, NAN, NAN, 1.0, 1.0])


def test_what_is_measured_now_says_nothing_of_long_ago():
    archives = Archives(BEGUN_S)
    figures = {"memory": 1.0, "disk_physical": 2.0}
    archives.update(BEGUN_S + 900, figures, since_s=BEGUN_S, fresh={"disk_physical"})
    assert np.isnan(archives.levels[0].rows(120)[:, 0, 1]).all()
    archives.update(BEGUN_S + 905, figures, since_s=BEGUN_S, fresh={"disk_physical"})
    assert archives.levels[0].rows(1)[0, :, 1].tolist() == [2.0] * 3


def test_a_source_may_come_go_and_be_forgotten():
    archives = Archives(BEGUN_S)
    archives.update(BEGUN_S + 5, {"memory": 1.0})
    archives.update(BEGUN_S + 10, {"memory": 1.0, "memory_target": 2.0})
    archives.update(BEGUN_S + 15, {"memory_target": 3.0})
    rows = archives.levels[0].rows(3)[:, 0, :]
    np.testing.assert_allclose(rows, [[NAN, 3.0], [1.0, 2.0], [1.0, NAN]])
    assert archives.present() == ["memory_target"]
    archives.forget("memory")
    archives.forget("nothing")
    np.testing.assert_allclose(archives.levels[0].rows(2)[:, 0, :], [[3.0], [2.0]])
    archives.update(BEGUN_S + 20, {"memory": 4.0})
    np.testing.assert_allclose(archives.levels[0].rows(2)[:, 0, :], [[NAN, 4.0], [3.0, NAN]])
    assert math.isnan(archives.value("memory_target"))
    assert math.isnan(archives.value("nothing"))


def test_rows_are_made_with_the_first_that_is_known():
    archives = Archives(BEGUN_S)
    archives.update(BEGUN_S + 5, {"memory": 1.0})
    assert [archive.is_empty for archive in archives.levels] == [False, True, True, True]
    for at in range(2, 13):
        archives.update(BEGUN_S + 5 * at, {"memory": 1.0})
    assert [archive.is_empty for archive in archives.levels] == [False, False, True, True]


def test_there_is_an_end_to_the_sources_of_one_vm():
    archives = Archives(BEGUN_S)
    archives.update(BEGUN_S + 5, {f"x{number}": 1.0 for number in range(SOURCES_MAX + 9)})
    assert len(archives.names) == SOURCES_MAX


@pytest.mark.parametrize(
    ("name", "is_counter", "units", "maximum"),
    [
        ("cpu12", True, "(fraction)", 1.0),
        ("memory", False, "B", math.inf),
        ("vbd_xvda_read", True, "B/s", math.inf),
        ("vbd_xvda_iops_write", True, "requests/s", math.inf),
        ("vbd_xvdaa_physical", False, "B", math.inf),
        ("vif_0_rx", True, "B/s", math.inf),
        ("what_is_this", False, "unknown", math.inf),
    ],
)
def test_a_source_is_known_by_its_name(name, is_counter, units, maximum):
    found = source(name)
    assert (found.is_counter, found.units, found.maximum) == (is_counter, units, maximum)
    assert found.description
