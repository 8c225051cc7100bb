"""The choice of a child cell for a build, from copies of capacity digests that are always old.

    children ──filters──▶ those that may ──odds──▶ three drawn ──fewest in flight──▶ one
                 counts                  slots                                        │
    digest  ◀── given back when the digest shows it, when refused, or in time ── reservation

The copy is drawn down by each choice, so the chooser never promises one slot twice; the cell
itself has the last word. Holds no rows and sends nothing: it is filled again by its children.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from xenith.cells.capacity import (
    BinTable,
    CapacityClass,
    ClassKey,
    Digest,
    DigestDelta,
    Ints,
    apply_delta,
    classes_of,
)
from xenith.cells.choices import (
    MISSES_TOLD_MAX,
    CellMiss,
    CellRules,
    Choice,
    Explanation,
    FilterLeft,
    Fit,
    FitKey,
    NoCell,
    RuleBook,
    SampledCell,
    Wanted,
    admin_reason,
    miss_text,
    restricted,
    tenant_reason,
)
from xenith.core.errors import Conflict
from xenith.core.world import World

__all__ = ["CellRules", "Choice", "Chooser", "Explanation", "NoCell", "Wanted"]

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]

#: A cell that has not answered for this long is left out; its digests come each second.
CELL_SILENCE_MAX_S = 5.0
#: A cell that came back gets its full share only after this long: what felled it may be there yet.
SLOW_START_S = 30.0
SLOW_START_LEAST = 0.1
#: Cells drawn for one choice. Two choices already even out queues; the third is for slow cells.
SAMPLES = 3
#: How long room is held for a build whose cell tells nothing of it; ten digests.
RESERVATION_LEASE_S = 10.0
#: Odds of a cell whose weight an operator took down to nothing: only when no other fits.
WEIGHT_LEAST = 1e-9
#: Whatever an operator writes, sums of weights stay numbers.
WEIGHT_MOST = 1e15
#: Sizes, and sets of rules, whose passes over the table are kept; a cloud has tens of flavors.
SIZES_KEPT_MAX = 64
FITS_KEPT_MAX = 256
#: Cells recomputed one by one; from here on one pass over all of them is cheaper.
_STALE_ONE_BY_ONE_MAX = 16
#: Classes that no cell has any more are kept up to this many above twice those in use.
_STALE_CLASSES_MAX = 64


@dataclass(slots=True)
class _Reservation:
    cell: _Cell
    size: tuple[int, int, int]
    fit_key: FitKey
    #: Set when the cell has accepted: digests of that session count it from this decision on.
    decision: int | None = None
    session: str = ""


@dataclass(slots=True, eq=False)
class _Cell:
    id: str
    row: int
    rules: CellRules | None = None
    digest: Digest | None = None
    #: The digest's bins, before reservations: (5, n).
    bins: Ints = field(default_factory=lambda: np.zeros((5, 0), np.int64))
    class_codes: frozenset[int] = frozenset()
    reservations: dict[str, _Reservation] = field(default_factory=dict)
    death: str = ""

    @property
    def name(self) -> str:
        return self.rules.name if self.rules else self.id


@dataclass(slots=True)
class _Slots:
    """Servers of one size that each cell holds, and the state of the bins they were counted at."""

    counts: Floats  # (cells,)
    versions: Ints  # (cells,)


class Chooser:
    """Knows the children of one cell and picks one for each build."""

    # Each is (rows,), a row a cell; a row without rules is free or not in the topology yet.
    is_ruled: Flags
    is_open: Flags
    has_digest: Flags
    is_felled: Flags  # held to be dead until it gives a sign of life
    alive_at: Floats  # monotonic seconds
    back_at: Floats  # monotonic seconds; when it was last found alive after death
    weight: Floats
    weight_offset: Floats
    in_flight: Ints
    version: Ints  # rises with each change of the cell's bins
    _everyone: Flags  # what a filter gives that has nothing to do; never written

    def __init__(self, world: World, *, own_names: frozenset[str] = frozenset()) -> None:
        self.world = world
        #: Ids and names of the choosing cell and those above it: a hint that names one is met.
        self.own_names = own_names
        self._cells: dict[str, _Cell] = {}
        self._rows: list[_Cell | None] = []
        self._free_rows: list[int] = []
        self._keys: list[ClassKey] = []
        self._code_of: dict[ClassKey, int] = {}
        self._bins = BinTable()
        self._reservations: dict[str, _Reservation] = {}
        self._leases: list[tuple[float, str]] = []
        self._fits: dict[FitKey, Fit] = {}
        self._rules: RuleBook | None = None
        self._slots: dict[tuple[tuple[int, int, int], FitKey], _Slots] = {}
        self._grow(8)

    # What is known of the cells.

    def set_rules(self, cell_id: str, rules: CellRules) -> None:
        """Take over what the operator says of a child; a new one is thereby added."""
        cell = self._cell(cell_id)
        if cell.rules == rules:
            return
        cell.rules = rules
        self.is_ruled[cell.row] = True
        self.is_open[cell.row] = rules.state == "open"
        self.weight[cell.row] = rules.weight
        self.weight_offset[cell.row] = rules.weight_offset
        self._drop_fits()

    def forget(self, cell_id: str) -> None:
        """Drop a cell that is no child any more, with its reservations; safe to repeat."""
        cell = self._cells.pop(cell_id, None)
        if cell is None:
            return
        for reservation_id in cell.reservations:
            del self._reservations[reservation_id]
        self._bins.clear(cell.row)
        self._rows[cell.row] = None
        self._free_rows.append(cell.row)
        self._blank(cell.row)
        self._drop_fits()

    def hear(self, digest: Digest) -> None:
        """Take over a whole digest; one that is older than what is held is let pass."""
        cell = self._cell(digest.cell_id)
        held = cell.digest
        if held and held.session == digest.session and held.sequence >= digest.sequence:
            return
        self._take_over(cell, digest)

    def hear_delta(self, change: DigestDelta) -> None:
        """Take over what changed in a cell; what was heard before is let pass.

        Raises:
            Conflict: it does not follow the digest that is held; ask the cell for a whole one.
        """
        cell = self._cells.get(change.cell_id)
        held = cell.digest if cell else None
        if cell is None or held is None:
            raise Conflict(f"no digest of cell {change.cell_id} is held", cell_id=change.cell_id)
        if held.session == change.session and held.sequence >= change.sequence:
            return
        self._take_over(cell, apply_delta(held, change))

    def note_alive(self, cell_id: str) -> None:
        """Note a sign of life: a round trip of work, or a digest."""
        cell = self._cells.get(cell_id)
        if cell is None:
            return
        now = self.world.clock.monotonic()
        was_known = cell.death or self.alive_at[cell.row] > -np.inf
        if was_known and self._is_silent(cell.row, now):
            self.back_at[cell.row] = now
        self.is_felled[cell.row] = False
        self.alive_at[cell.row] = now
        cell.death = ""

    def note_dead(self, cell_id: str, reason: str) -> None:
        """Leave a cell out until its next sign of life, and say why."""
        cell = self._cells.get(cell_id)
        if cell is not None:
            self.is_felled[cell.row] = True
            cell.death = reason

    def is_dead(self, cell_id: str) -> bool:
        """Tell whether a cell is left out for its silence; so is one never heard of."""
        cell = self._cells.get(cell_id)
        return cell is None or self._is_silent(cell.row, self.world.clock.monotonic())

    # The life of a reservation.

    def accepted(self, reservation_id: str, decision: int, *, session: str | None = None) -> None:
        """Note that the cell said yes, as the given decision of its session (the one held)."""
        reservation = self._reservations.get(reservation_id)
        if reservation is None:
            return
        held = reservation.cell.digest
        reservation.decision = decision
        reservation.session = session if session is not None else held.session if held else ""
        # The digest may have been faster than the answer.
        if held and _is_shown(reservation, held, is_new_session=False):
            self._give_back([reservation_id])

    def refused(self, reservation_id: str) -> None:
        """Note that the cell said no, or was never asked; safe to repeat."""
        if reservation_id in self._reservations:
            self._give_back([reservation_id])

    def _reserve(self, cell: _Cell, wanted: Wanted, fit_key: FitKey) -> str:
        reservation_id = self.world.ids.uuid()
        reservation = _Reservation(cell, wanted.size, fit_key)
        self._reservations[reservation_id] = cell.reservations[reservation_id] = reservation
        until = self.world.clock.monotonic() + RESERVATION_LEASE_S
        heapq.heappush(self._leases, (until, reservation_id))
        self.in_flight[cell.row] += 1
        if self._bins.take(cell.row, wanted.size, self._fit(fit_key).is_class_fit):
            self.version[cell.row] += 1
        return reservation_id

    def _give_back(self, reservation_ids: list[str]) -> None:
        cells = {}
        for reservation_id in reservation_ids:
            cell = self._reservations.pop(reservation_id).cell
            del cell.reservations[reservation_id]
            cells[cell.row] = cell
        for cell in cells.values():
            self._draw_down(cell)

    def _expire(self, now: float) -> None:
        ended = []
        while self._leases and self._leases[0][0] <= now:
            reservation_id = heapq.heappop(self._leases)[1]
            if reservation_id in self._reservations:
                ended.append(reservation_id)
        if ended:
            self._give_back(ended)

    def _take_over(self, cell: _Cell, digest: Digest) -> None:
        is_new_session = cell.digest is None or cell.digest.session != digest.session
        cell.digest = digest
        self._intern(cell)
        for reservation_id, reservation in list(cell.reservations.items()):
            if _is_shown(reservation, digest, is_new_session=is_new_session):
                del cell.reservations[reservation_id], self._reservations[reservation_id]
        self._draw_down(cell)
        self.note_alive(cell.id)

    def _draw_down(self, cell: _Cell) -> None:
        # What is reserved is counted by kind: a burst is of few flavors, and a kind costs one take.
        kinds: dict[tuple[tuple[int, int, int], FitKey], int] = {}
        for one in cell.reservations.values():
            kinds[one.size, one.fit_key] = kinds.get((one.size, one.fit_key), 0) + 1
        self._bins.load(cell.row, cell.bins)
        for (size, fit_key), count in kinds.items():
            self._bins.take(cell.row, size, self._fit(fit_key).is_class_fit, count=count)
        self.in_flight[cell.row] = len(cell.reservations)
        self.version[cell.row] += 1

    # The choice.

    def choose(self, wanted: Wanted) -> Choice | NoCell:
        """Choose a cell for a build and hold room in it, or say why there is none.

        A build that its cell refuses comes again, with that cell among ``tried``.
        """
        now = self.world.clock.monotonic()
        self._expire(now)
        fit_key = self._get_rules().key(wanted)
        slots = self._count_slots(wanted.size, fit_key)
        passes = dict(self._filters(wanted, fit_key, slots, now))
        mask, left, filters = self.is_ruled, int(np.count_nonzero(self.is_ruled)), []
        cell_count = left
        for name, passed in passes.items():
            if left == 0:
                break
            if passed is not self._everyone:
                mask = mask & passed
                left = int(np.count_nonzero(mask))
            filters.append(FilterLeft(name, left))
        explanation = Explanation(cell_count=cell_count, filters=tuple(filters))
        if left == 0:
            return self._no_cell(passes, explanation, now)
        drawn, sampled = self._draw(np.flatnonzero(mask), slots, now)
        cell = self._row(drawn)
        is_unheard = self.is_ruled & passes["state"] & ~passes["alive"]
        return Choice(
            cell_id=cell.id,
            reservation_id=self._reserve(cell, wanted, fit_key),
            explanation=msgspec.structs.replace(
                explanation,
                sampled=sampled,
                misses=self._misses(np.flatnonzero(is_unheard), passes, now),
            ),
        )

    def classes(self) -> tuple[CapacityClass, ...]:
        """Add up what the cells that may be built on have free, less what is reserved."""
        now = self.world.clock.monotonic()
        self._expire(now)
        told = self.is_ruled & self.is_open & self.has_digest & ~self._are_silent(now)
        keys = list(self._keys)
        code_of = dict(self._code_of)
        code_as_told = np.full((len(self._rows), len(keys)), -1, np.int64)
        present: list[int] = []
        for row in np.flatnonzero(told).tolist():
            cell = self._row(row)
            for code in cell.class_codes:
                key = restricted(self._keys[code], cell.rules)
                if key is None:
                    continue
                if key not in code_of:
                    code_of[key] = len(keys)
                    keys.append(key)
                code_as_told[row, code] = code_of[key]
                present.append(code_of[key])
        rows = self._bins.rows()
        codes = code_as_told[rows[5], rows[4]]
        is_told = codes >= 0
        # A class whose hosts are all full is told as well, by a bin that counts none.
        nothing = np.zeros((3, len(present)), np.int64)
        return classes_of(
            keys,
            np.concatenate([codes[is_told], np.array(present, np.int64)]),
            np.hstack([rows[:3, is_told], nothing]),
            np.concatenate([rows[3, is_told], nothing[0]]),
        )

    def totals(self, classes: tuple[CapacityClass, ...] | None = None) -> Digest:
        """Add up the digests of all children, to be told under this cell's own name and numbers.

        Hosts of a cell that does not answer are counted, and not as up.
        """
        is_silent = self._are_silent(self.world.clock.monotonic())
        heard = [cell for cell in self._cells.values() if cell.rules and cell.digest]
        digests = [(cell.digest, bool(is_silent[cell.row])) for cell in heard if cell.digest]
        return Digest(
            cell_id="",
            host_count=sum(one.host_count for one, _ in digests),
            hosts_up_count=sum(one.hosts_up_count for one, silent in digests if not silent),
            server_count=sum(one.server_count for one, _ in digests),
            classes=self.classes() if classes is None else classes,
        )

    def _filters(
        self, wanted: Wanted, fit_key: FitKey, slots: Floats, now: float
    ) -> Iterator[tuple[str, Flags]]:
        fit = self._fit(fit_key)
        project, flavor_class, zone, capabilities = fit.some
        named, reached, hinted = self._hinted(wanted)
        # A digest speaks of all of a cell, and not at all of the closed ones below it; so it can
        # not tell whether a target below the cell has room. The cell's own chooser can.
        unknown = reached | ~self.has_digest
        yield "state", self.is_open | named
        yield "alive", ~self._are_silent(now)
        yield "digest", self.has_digest
        yield "tried", self._untried(wanted)
        yield "project", fit.project_rules & (project | unknown)
        yield "flavor_class", fit.flavor_rules & (flavor_class | unknown)
        yield "hints", hinted
        yield "zone", zone | unknown
        yield "capabilities", capabilities | unknown
        yield "room", (slots >= 1) | unknown

    def _hinted(self, wanted: Wanted) -> tuple[Flags, Flags, Flags]:
        """Tell which cells a target names or lies below, those it lies below, and those left."""
        named, reached = self._nothing(), self._nothing()
        if not wanted.target_cells and not wanted.different_cells:
            return named, reached, self._everyone
        hinted = self._everyone.copy()
        targets = set(wanted.target_cells)
        is_met = not targets or not targets.isdisjoint(self.own_names)
        for cell in self._cells.values():
            own = {cell.id, cell.name}
            below = cell.rules.below if cell.rules else frozenset()
            is_closed = cell.rules is not None and cell.rules.state == "closed"
            is_target = not targets.isdisjoint(own)
            reached[cell.row] = not is_target and not targets.isdisjoint(below)
            # Nothing is built on a cell that is being emptied, whoever asks.
            named[cell.row] = is_closed and (is_target or reached[cell.row])
            hinted[cell.row] = (is_met or is_target or reached[cell.row]) and own.isdisjoint(
                wanted.different_cells
            )
        return named, reached, hinted

    def _untried(self, wanted: Wanted) -> Flags:
        if not wanted.tried:
            return self._everyone
        untried = self._everyone.copy()
        for cell in self._cells.values():
            untried[cell.row] = cell.id not in wanted.tried and cell.name not in wanted.tried
        return untried

    def _draw(
        self, rows: NDArray[np.intp], slots: Floats, now: float
    ) -> tuple[int, tuple[SampledCell, ...]]:
        # Many choosers hold the same stale digests. If each took the emptiest cell, all would take
        # the same one; so what they share sets only the odds. What decides among the drawn is
        # what this chooser alone knows: a cell with more than its share of the builds in flight
        # from here (it had a run of luck, or is slow to answer) lets the next one drawn go first.
        started = (now - self.back_at[rows]) / SLOW_START_S
        slow_start = SLOW_START_LEAST + (1 - SLOW_START_LEAST) * np.clip(started, 0, 1)
        weights = np.maximum(slots[rows], 1) * self.weight[rows] + self.weight_offset[rows]
        weights = np.clip(weights * slow_start, WEIGHT_LEAST, WEIGHT_MOST)
        in_flight = self.in_flight[rows]
        share = (int(in_flight.sum()) + 1) / float(weights.sum())
        drawn: list[int] = []
        odds = weights.copy()
        for _ in range(min(SAMPLES, len(rows))):
            sums = odds.cumsum()
            at = int(sums.searchsorted(self.world.ids.uniform() * sums[-1], "right"))
            at = at if at < len(rows) else int(odds.argmax())  # the product may round up to the sum
            odds[at] = 0
            drawn.append(at)
        best = min(drawn, key=lambda at: max(in_flight[at] / weights[at], share))
        sampled = tuple(
            SampledCell(
                self._row(rows[at]).id,
                self._row(rows[at]).name,
                int(slots[rows[at]]),
                round(float(weights[at]), 3),
                int(in_flight[at]),
            )
            for at in drawn
        )
        return int(rows[best]), sampled

    def _no_cell(self, passes: dict[str, Flags], explanation: Explanation, now: float) -> NoCell:
        # Of a cell that has told nothing, nothing is known against it: not even a lack of room.
        may_wait = self.is_ruled & ~(passes["alive"] & passes["digest"])
        for name, passed in passes.items():
            if name == "room":
                may_wait = may_wait & (passed | ~self.has_digest)
            elif name not in ("alive", "digest"):
                may_wait = may_wait & passed
        steps = np.cumsum(~np.array(list(passes.values())), axis=0) == 0
        rows = np.flatnonzero(self.is_ruled)
        nearest = rows[np.argsort(-steps[:, rows].sum(axis=0), kind="stable")]
        explanation = msgspec.structs.replace(
            explanation, misses=self._misses(nearest, passes, now)
        )
        return NoCell(
            reason=tenant_reason(explanation),
            detail=admin_reason(explanation),
            explanation=explanation,
            is_waiting=bool(may_wait.any()),
        )

    def _misses(
        self, rows: NDArray[np.intp], passes: dict[str, Flags], now: float
    ) -> tuple[CellMiss, ...]:
        return tuple(
            self._miss(self._row(row), passes, now) for row in rows[:MISSES_TOLD_MAX].tolist()
        )

    def _miss(self, cell: _Cell, passes: dict[str, Flags], now: float) -> CellMiss:
        name = next(name for name, passed in passes.items() if not passed[cell.row])
        text = miss_text(
            name,
            state=cell.rules.state if cell.rules else "not in the topology",
            silent_s=now - float(self.alive_at[cell.row]),
            death=cell.death,
            in_flight=int(self.in_flight[cell.row]),
        )
        return CellMiss(cell.id, cell.name, name, text)

    # What is kept between choices.

    def _count_slots(self, size: tuple[int, int, int], fit_key: FitKey) -> Floats:
        is_class_fit = self._fit(fit_key).is_class_fit
        kept = self._slots.get((size, fit_key))
        if kept is not None:
            stale = np.flatnonzero(kept.versions != self.version).tolist()
            if len(stale) < _STALE_ONE_BY_ONE_MAX:
                for row in stale:
                    kept.counts[row] = self._bins.slots_of(row, size, is_class_fit)
                kept.versions[stale] = self.version[stale]
                return kept.counts
        elif len(self._slots) >= SIZES_KEPT_MAX:
            del self._slots[next(iter(self._slots))]
        counts = self._bins.slots(size, is_class_fit, len(self._rows))
        self._slots[size, fit_key] = _Slots(counts, self.version.copy())
        return counts

    def _fit(self, fit_key: FitKey) -> Fit:
        kept = self._fits.get(fit_key)
        if kept is None:
            if len(self._fits) >= FITS_KEPT_MAX:
                del self._fits[next(iter(self._fits))]
            kept = self._fits[fit_key] = self._get_rules().fit(fit_key)
        return kept

    def _get_rules(self) -> RuleBook:
        if self._rules is None:
            cells = self._cells.values()
            self._rules = RuleBook(
                keys=tuple(self._keys),
                is_ruled=self.is_ruled.copy(),
                pairs=[(cell.row, code) for cell in cells for code in cell.class_codes],
                rules=[(cell.row, cell.rules) for cell in cells if cell.rules],
            )
        return self._rules

    def _drop_fits(self) -> None:
        self._fits.clear()
        self._slots.clear()
        self._rules = None

    def _intern(self, cell: _Cell) -> None:
        """Read the digest's classes into numbers, and drop numbers that nobody uses."""
        before = cell.class_codes
        self._read_classes(cell)
        if cell.class_codes == before and self.has_digest[cell.row]:
            return
        self.has_digest[cell.row] = True
        heard = [one for one in self._cells.values() if one.digest]
        is_stale = len(self._keys) > _STALE_CLASSES_MAX + 2 * sum(
            len(one.class_codes) for one in heard
        )
        if is_stale:
            self._keys.clear()
            self._code_of.clear()
            for one in heard:
                self._read_classes(one)
        self._drop_fits()
        for one in heard if is_stale else ():
            self._draw_down(one)

    def _read_classes(self, cell: _Cell) -> None:
        rows: list[tuple[int, ...]] = []
        codes = []
        for one in cell.digest.classes if cell.digest else ():
            code = self._code_of.get(one.key)
            if code is None:
                code = self._code_of[one.key] = len(self._keys)
                self._keys.append(one.key)
            codes.append(code)
            rows.extend((*bin_, code) for bin_ in one.bins)
        cell.bins = np.array(rows, np.int64).reshape(-1, 5).T
        cell.class_codes = frozenset(codes)

    # Rows.

    def _cell(self, cell_id: str) -> _Cell:
        cell = self._cells.get(cell_id)
        if cell is None:
            if not self._free_rows:
                self._grow(len(self._rows))
            row = self._free_rows.pop()
            cell = self._rows[row] = self._cells[cell_id] = _Cell(cell_id, row)
        return cell

    def _row(self, row: int) -> _Cell:
        cell = self._rows[row]
        assert cell is not None, "only rows of cells are ruled"
        return cell

    def _nothing(self) -> Flags:
        return np.zeros(len(self._rows), np.bool_)

    def _is_silent(self, row: int, now: float) -> bool:
        return bool(self.is_felled[row]) or now - self.alive_at[row] >= CELL_SILENCE_MAX_S

    def _are_silent(self, now: float) -> Flags:
        return self.is_felled | (now - self.alive_at >= CELL_SILENCE_MAX_S)

    def _blank(self, row: int) -> None:
        for name in ("is_ruled", "is_open", "has_digest", "is_felled"):
            getattr(self, name)[row] = False
        for name in ("weight", "weight_offset", "in_flight"):
            getattr(self, name)[row] = 0
        self.alive_at[row] = self.back_at[row] = -np.inf
        self.version[row] += 1

    def _grow(self, count: int) -> None:
        old = len(self._rows)
        for name, kind in (
            *((name, np.bool_) for name in ("is_ruled", "is_open", "has_digest", "is_felled")),
            *((name, np.float64) for name in ("alive_at", "back_at", "weight", "weight_offset")),
            *((name, np.int64) for name in ("in_flight", "version")),
        ):
            column: NDArray[Any] = np.zeros(old + count, kind)
            column[:old] = getattr(self, name, column[:old])
            setattr(self, name, column)
        self._rows += [None] * count
        self._everyone = np.ones(old + count, np.bool_)
        new = range(old, old + count)
        for row in new:
            self._blank(row)
        self._free_rows += reversed(new)
        self._drop_fits()


def _is_shown(reservation: _Reservation, digest: Digest, *, is_new_session: bool) -> bool:
    """Tell whether a digest counts the build that room was reserved for."""
    if reservation.decision is None:
        return False
    if reservation.session == digest.session:
        return reservation.decision <= digest.decisions
    # A new session counts from rows all that the last one accepted.
    return is_new_session
