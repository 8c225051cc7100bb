"""Round-robin archives of the data sources of one host or VM: numpy arrays of a fixed size.

What is measured holds from the measurement before it to its own moment. That signal is averaged
over steps of five seconds (a point), and points are consolidated into rows of four levels:

    level    points of a row    rows    reaches
    5 s               1          120    10 minutes
    1 min            12          120    2 hours
    1 h             720          168    a week
    1 day        17,280          366    a year

A row ends at a multiple of its length, so all archives of a step have their rows at the same times.
It is unknown (NaN) when more than half of it is. However long the time between two measurements,
what is done about it is bounded by the number of rows. The arrays of a level are made with its
first known row: of a VM that lived for an hour there are no days.

Source: rrdtool's rrdcreate; xen-api, rrdd_shared.ml, for the levels.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xenith.toolstack.rrd.sources import HEARTBEAT_S, source

Floats = NDArray[np.float64]

#: Seconds of a point.
STEP_S = 5
#: The ways in which points are made a row, in the order in which they lie in arrays.
CFS = ("AVERAGE", "MIN", "MAX")
#: The part of a row that may be unknown. Source: rrdtool, xff.
XFF = 0.5
#: Data sources of one host or VM; more are left out. A VM has 28 devices at most.
SOURCES_MAX = 512


class Level(NamedTuple):
    """How many points make a row, and how many rows there are."""

    points: int
    rows: int

    @property
    def row_s(self) -> int:
        """Seconds of a row."""
        return self.points * STEP_S

    @property
    def span_s(self) -> int:
        """Seconds that it reaches back."""
        return self.row_s * self.rows


LEVELS = (Level(1, 120), Level(12, 120), Level(720, 168), Level(17280, 366))


class Archive:
    """The rows of one level. Arrays are of shape (way of consolidation, source[, row])."""

    def __init__(self, level: Level, source_count: int) -> None:
        self.level = level
        self._count = source_count
        self._ring: Floats | None = None
        #: The place of the next row.
        self._at = 0
        self.reset()

    def reset(self) -> None:
        """Begin the row that is being made anew."""
        self._sum = np.zeros(self._count)
        self._least = np.full(self._count, np.inf)
        self._most = np.full(self._count, -np.inf)
        self._known = np.zeros(self._count)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever known."""
        return self._ring is None

    def push(self, points: Floats, *, index: int, count: int) -> None:
        """Take a point of each source so many times; ``index`` is the number of the first."""
        per_row = self.level.points
        left = per_row - index % per_row
        first = min(left, count)
        self._gather(points, first)
        if first < left:
            return
        self._append(self._consolidated(), 1)
        self.reset()
        whole, rest = divmod(count - first, per_row)
        if whole:
            self._append(np.broadcast_to(points, (len(CFS), self._count)), whole)
        if rest:
            self._gather(points, rest)

    def rows(self, count: int) -> Floats:
        """Give the newest rows, newest first: (row, way, source)."""
        if self._ring is None:
            return np.full((count, len(CFS), self._count), np.nan)
        places = (self._at - 1 - np.arange(count)) % self.level.rows
        return np.moveaxis(self._ring[:, :, places], 2, 0)

    def widen(self, source_count: int) -> None:
        """Make room for more sources, of which nothing is known."""
        more = source_count - self._count
        self._count = source_count
        self._sum = np.pad(self._sum, (0, more))
        self._known = np.pad(self._known, (0, more))
        self._least = np.pad(self._least, (0, more), constant_values=np.inf)
        self._most = np.pad(self._most, (0, more), constant_values=-np.inf)
        if self._ring is not None:
            wide = ((0, 0), (0, more), (0, 0))
            self._ring = np.pad(self._ring, wide, constant_values=np.nan)

    def forget(self, at: int) -> None:
        """Leave a source out."""
        self._count -= 1
        self._sum, self._known = np.delete(self._sum, at), np.delete(self._known, at)
        self._least, self._most = np.delete(self._least, at), np.delete(self._most, at)
        if self._ring is not None:
            self._ring = np.delete(self._ring, at, axis=1)

    def prepared(self) -> tuple[Floats, Floats]:
        """Give what the row that is being made would be, and the points known of it."""
        return self._consolidated(), self._known

    def dump(self) -> list[bytes]:
        """Give all that is known, as bytes."""
        parts = [self._sum, self._least, self._most, self._known]
        if self._ring is not None:
            parts.append(np.roll(self._ring, -self._at, axis=2))
        return [part.astype("<f8").tobytes() for part in parts]

    def load(self, parts: Sequence[bytes]) -> None:
        """Take what ``dump`` gave.

        Raises:
            ValueError: it is not that, or of other sources.
        """
        arrays = [np.frombuffer(part, "<f8").astype(np.float64) for part in parts]
        if len(arrays) not in (4, 5) or any(part.size != self._count for part in arrays[:4]):
            raise ValueError("an archive of other sources")
        self._sum, self._least, self._most, self._known = arrays[:4]
        if len(arrays) == 5:
            shape = (len(CFS), self._count, self.level.rows)
            self._ring, self._at = arrays[4].reshape(shape), 0

    def _gather(self, points: Floats, count: int) -> None:
        is_known = ~np.isnan(points)
        self._sum += np.where(is_known, points, 0.0) * count
        self._least = np.fmin(self._least, points)
        self._most = np.fmax(self._most, points)
        self._known += is_known * count

    def _consolidated(self) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self._sum / self._known
        row = np.stack([mean, self._least, self._most])
        unknown = self.level.points - self._known
        return np.where((unknown > XFF * self.level.points) | (self._known == 0), np.nan, row)

    def _append(self, row: Floats, count: int) -> None:
        if self._ring is None:
            if np.isnan(row).all():
                return
            self._ring = np.full((len(CFS), self._count, self.level.rows), np.nan)
        places = (self._at + np.arange(min(count, self.level.rows))) % self.level.rows
        self._ring[:, :, places] = row[:, :, np.newaxis]
        self._at = (self._at + count) % self.level.rows


class Archives:
    """All levels of one host or VM."""

    def __init__(self, begun_s: float) -> None:
        self.names: list[str] = []
        #: Seconds since the epoch of the last measurement.
        self.updated_s = begun_s
        self.levels = tuple(Archive(level, 0) for level in LEVELS)
        #: What each source was at the last measurement, and how fast it grew, or is.
        self.raw = np.empty(0)
        self.latest = np.empty(0)
        #: The point that is being made: what was, times the seconds for which it was known.
        self._sum = np.empty(0)
        self._known_s = np.empty(0)
        self._know_sources()

    def update(
        self,
        now_s: float,
        figures: Mapping[str, float],
        *,
        since_s: float | None = None,
        fresh: Collection[str] = (),
    ) -> None:
        """Take a measurement.

        With ``since_s`` nothing has changed since then, which is so for all of that time; what was
        between the last measurement and that is not known. ``fresh`` is what was measured now all
        the same; without ``since_s`` all is.
        """
        self._add([name for name in figures if name not in self.names])
        values = np.array([figures.get(name, np.nan) for name in self.names])
        passed_s = now_s - self.updated_s
        if since_s is None:
            rates = self._rates(values, passed_s)
            is_known = np.full(len(rates), passed_s <= HEARTBEAT_S)
        else:
            if since_s > self.updated_s:
                self._advance(min(since_s, now_s), np.full(len(values), np.nan))
            rates = np.where(self._is_counter, values * 0.0, values)
            is_fresh = np.array([name in fresh for name in self.names], dtype=bool)
            is_known = ~is_fresh | (now_s - self.updated_s <= HEARTBEAT_S)
        self._advance(now_s, np.where(is_known, rates, np.nan))
        self.raw, self.latest = values, rates

    def value(self, name: str) -> float:
        """Tell how a source stands, NaN if that is not known."""
        return float(self.latest[self.names.index(name)]) if name in self.names else math.nan

    def present(self) -> list[str]:
        """List the sources that the last measurement had."""
        return [name for name, raw in zip(self.names, self.raw, strict=True) if not math.isnan(raw)]

    def forget(self, name: str) -> None:
        """Forget all of a source; when it is measured again it begins anew."""
        if name not in self.names:
            return
        at = self.names.index(name)
        del self.names[at]
        self.raw, self.latest = np.delete(self.raw, at), np.delete(self.latest, at)
        self._sum, self._known_s = np.delete(self._sum, at), np.delete(self._known_s, at)
        self._know_sources()
        for archive in self.levels:
            archive.forget(at)

    def dump(self) -> dict[str, object]:
        """Give all that is known, to be kept."""
        return {
            "names": list(self.names),
            "updated_s": self.updated_s,
            "arrays": [
                part.astype("<f8").tobytes()
                for part in (self.raw, self.latest, self._sum, self._known_s)
            ],
            "levels": [archive.dump() for archive in self.levels],
        }

    @classmethod
    def load(
        cls,
        names: Sequence[str],
        updated_s: float,
        arrays: Sequence[bytes],
        levels: Sequence[Sequence[bytes]],
    ) -> Archives:
        """Make of it again what ``dump`` gave.

        Raises:
            ValueError: it is not that.
        """
        made = cls(updated_s)
        made._add(list(names))
        parts = [np.frombuffer(part, "<f8").astype(np.float64) for part in arrays]
        wanted = len(made.names)
        if len(parts) != 4 or any(part.size != wanted for part in parts) or wanted != len(names):
            raise ValueError("archives of other sources")
        made.raw, made.latest, made._sum, made._known_s = parts
        for archive, kept in zip(made.levels, levels, strict=True):
            archive.load(kept)
        return made

    def _add(self, names: list[str]) -> None:
        more = min(len(names), SOURCES_MAX - len(self.names))
        if more <= 0:
            return
        self.names += names[:more]
        self.raw = np.pad(self.raw, (0, more), constant_values=np.nan)
        self.latest = np.pad(self.latest, (0, more), constant_values=np.nan)
        self._sum = np.pad(self._sum, (0, more))
        self._known_s = np.pad(self._known_s, (0, more))
        self._know_sources()
        for archive in self.levels:
            archive.widen(len(self.names))

    def _know_sources(self) -> None:
        told = [source(name) for name in self.names]
        self._is_counter = np.array([one.is_counter for one in told], dtype=bool)
        self._tops = np.array([one.maximum for one in told])

    def _rates(self, values: Floats, passed_s: float) -> Floats:
        """Tell how fast counters grew, and how gauges stand; a counter that fell began anew."""
        if passed_s <= 0:
            return np.where(self._is_counter, self.latest, values)
        grown = values - self.raw
        rates = np.where(self._is_counter, np.where(grown < 0, np.nan, grown) / passed_s, values)
        tops = self._tops
        # Measured a little late, a processor seems to have done more than it can. What is far
        # beyond is no measurement.
        rates = np.where((rates > tops) & (rates <= tops * 1.05), tops, rates)
        return np.where(rates > tops, np.nan, rates)

    def _advance(self, now_s: float, rates: Floats) -> None:
        """Have it be that ``rates`` held from the last time to this one.

        When the clock went back, what was made stays, and time goes on from where it is now.
        """
        if now_s <= self.updated_s:
            self.updated_s = now_s
            return
        first, last = int(self.updated_s // STEP_S), int(now_s // STEP_S)
        if first == last:
            self._hold(rates, now_s - self.updated_s)
        else:
            self._hold(rates, (first + 1) * STEP_S - self.updated_s)
            self._push(self._point(), index=first, count=1)
            if last - first > 1:
                self._push(rates, index=first + 1, count=last - first - 1)
            self._sum, self._known_s = np.zeros_like(rates), np.zeros_like(rates)
            self._hold(rates, now_s - last * STEP_S)
        self.updated_s = now_s

    def _hold(self, rates: Floats, seconds: float) -> None:
        is_known = ~np.isnan(rates)
        self._sum += np.where(is_known, rates, 0.0) * seconds
        self._known_s += is_known * seconds

    def _point(self) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self._sum / self._known_s
        return np.where(self._known_s < XFF * STEP_S, np.nan, mean)

    def _push(self, points: Floats, *, index: int, count: int) -> None:
        for archive in self.levels:
            archive.push(points, index=index, count=count)
