"""What a cell has free, told in few words: histograms of free vectors by class of host.

A host's room is a vector, so sums of each resource would promise what no host can hold. A digest
counts hosts by vector instead, and where there are too many vectors it rounds them down together:
it may promise less than there is, never more.

    host a: 4096 MiB, 2 vCPUs, 40 GiB ─┐
    host b: 4096 MiB, 2 vCPUs, 40 GiB ─┴─▶ (4096, 2, 40, 2 hosts)
    host c:  512 MiB, 8 vCPUs,  9 GiB ───▶ ( 512, 8,  9, 1 host)

Pure; knows nothing of links or of choosing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from xenith.core.errors import Conflict

Ints = NDArray[np.int64]

#: A class of 64 bins is about 1 KiB on the wire, so a cell of ten classes tells itself in ten.
BINS_PER_CLASS_MAX = 64
#: The most that a number of a digest may be: 2 PiB of RAM, and products of two still fit 64 bits.
AMOUNT_MAX = 2**31 - 1
#: Leading bits of RAM, vCPUs and disk that tell bins apart, tried in turn until the bins are few.
#: RAM is what a Xen host runs out of first, as it is not overcommitted, so it is told most finely.
#: The last leaves one bin an octave of RAM: 31 at most, which is always few enough.
_PRECISIONS = (
    *((8, 6, 4), (7, 5, 3), (6, 4, 3), (5, 4, 2), (5, 3, 2), (4, 3, 2), (4, 3, 1)),
    *((4, 2, 1), (3, 2, 1), (3, 1, 1), (2, 1, 1), (2, 1, 0), (1, 1, 0), (1, 0, 0)),
)

Amount = Annotated[int, msgspec.Meta(ge=0, le=AMOUNT_MAX)]
#: RAM in MiB, vCPUs and disk in GiB free on each host, and how many such hosts.
Bin = tuple[Amount, Amount, Amount, Amount]


class ClassKey(msgspec.Struct, frozen=True):
    """What hosts of one class have in common."""

    zone: str
    #: Empty: the hosts take any flavor.
    flavor_classes: tuple[str, ...] = ()
    #: Dedicated to these projects; empty: to nobody.
    projects: tuple[str, ...] = ()
    #: ``name=value``, sorted.
    capabilities: tuple[str, ...] = ()

    def order(self) -> tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Give what keys are sorted by."""
        return self.zone, self.flavor_classes, self.projects, self.capabilities


class CapacityClass(msgspec.Struct, frozen=True):
    """One class of hosts and its histogram; without bins when all of them are full."""

    key: ClassKey
    bins: tuple[Bin, ...] = ()


class Digest(msgspec.Struct, frozen=True, kw_only=True):
    """All that a cell tells its parents of its capacity."""

    cell_id: str
    #: Changes when the cell's process starts anew; sequence and decisions begin again with it.
    session: str = ""
    sequence: int = 0
    #: Builds that the cell had accepted in this session when it counted.
    decisions: int = 0
    host_count: int = 0
    hosts_up_count: int = 0
    server_count: int = 0
    classes: tuple[CapacityClass, ...] = ()


class DigestDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What became different since the digest numbered ``base`` of the same session."""

    cell_id: str
    session: str
    base: int
    sequence: int
    decisions: int = 0
    host_count: int = 0
    hosts_up_count: int = 0
    server_count: int = 0
    changed: tuple[CapacityClass, ...] = ()
    gone: tuple[ClassKey, ...] = ()


def histogram(
    keys: Sequence[ClassKey],
    codes: ArrayLike,
    ram_free: ArrayLike,
    vcpus_free: ArrayLike,
    disk_free: ArrayLike,
) -> tuple[CapacityClass, ...]:
    """Count usable hosts by class and free vector; arrays are (hosts,) int64, MiB and GiB.

    ``codes`` index into ``keys``. A key that no host has is left out; one whose hosts are all
    full stays, so that a full zone can be told from one that does not exist.

    >>> keys = [ClassKey("nova")]
    >>> histogram(keys, [0, 0, 0], [4096, 4096, 512], [2, 2, 8], [40, 40, 9])[0].bins
    ((512, 8, 9, 1), (4096, 2, 40, 2))
    """
    vectors = np.array([ram_free, vcpus_free, disk_free], np.int64).reshape(3, -1)
    of_class = np.asarray(codes, np.int64)
    return classes_of(keys, of_class, vectors, np.ones(len(of_class), np.int64))


def classes_of(
    keys: Sequence[ClassKey], codes: Ints, vectors: Ints, counts: Ints
) -> tuple[CapacityClass, ...]:
    """Make classes of weighted free vectors, few bins each; vectors is (3, n), the others (n,)."""
    bins: dict[int, list[Bin]] = {code: [] for code in np.unique(codes).tolist()}
    vectors = np.clip(vectors, 0, AMOUNT_MAX)
    # A host without RAM or vCPUs holds no server, whatever else it has.
    has_room = (vectors[0] > 0) & (vectors[1] > 0) & (counts > 0)
    if not has_room.all():
        codes, vectors, counts = codes[has_room], vectors[:, has_room], counts[has_room]
    for code, *rest in np.vstack(_few(codes, vectors, counts)).T.tolist():
        bins[code].append(tuple(rest))
    made = (CapacityClass(keys[code], tuple(sorted(rows))) for code, rows in bins.items())
    return tuple(sorted(made, key=lambda made: made.key.order()))


def merge(classes: Iterable[CapacityClass]) -> tuple[CapacityClass, ...]:
    """Add up classes of the same key, as a cell does with those of its children.

    >>> key = ClassKey("nova")
    >>> one, two = CapacityClass(key, ((512, 1, 9, 2),)), CapacityClass(key, ((512, 1, 9, 3),))
    >>> merge([one, two])[0].bins
    ((512, 1, 9, 5),)
    """
    code_of: dict[ClassKey, int] = {}
    rows = [
        (code_of.setdefault(one.key, len(code_of)), *bin_)
        for one in classes
        for bin_ in (one.bins or ((0, 0, 0, 0),))
    ]
    columns = np.array(rows, np.int64).reshape(-1, 5).T
    return classes_of(list(code_of), columns[0], columns[1:4], columns[4])


def slots(classes: Iterable[CapacityClass], ram_mib: int, vcpus: int, disk_gib: int) -> int:
    """Count the servers of this size that fit, each host by the resource that it runs out of.

    >>> slots([CapacityClass(ClassKey("nova"), ((4096, 2, 40, 3),))], 1024, 1, 10)
    6
    """
    size = (ram_mib, vcpus, disk_gib)
    return sum(bin_[3] * per_host(bin_, size) for one in classes for bin_ in one.bins)


def per_host(free: Sequence[int], size: tuple[int, int, int]) -> int:
    """Count the servers of a size that one host holds; what is not asked for is not lacking."""
    # Who asks for nothing at all is counted once a host, not without end.
    return min((have // need for have, need in zip(free, size, strict=False) if need), default=1)


def delta(old: Digest, new: Digest) -> DigestDelta:
    """Tell what became different from one digest to a later one of the same session.

    Raises:
        Conflict: they are of two cells or two sessions; the whole new one has to be sent.
    """
    if (old.cell_id, old.session) != (new.cell_id, new.session):
        raise Conflict(f"digests of cell {new.cell_id} are of two sessions", cell_id=new.cell_id)
    before = {one.key: one for one in old.classes}
    changed = tuple(one for one in new.classes if before.pop(one.key, None) != one)
    return DigestDelta(
        cell_id=new.cell_id,
        session=new.session,
        base=old.sequence,
        sequence=new.sequence,
        decisions=new.decisions,
        host_count=new.host_count,
        hosts_up_count=new.hosts_up_count,
        server_count=new.server_count,
        changed=changed,
        gone=tuple(before),
    )


def apply_delta(old: Digest, change: DigestDelta) -> Digest:
    """Make the later digest of the one that the delta was taken from.

    Raises:
        Conflict: it was taken from another one; ask the cell for a whole digest.
    """
    if (old.cell_id, old.session, old.sequence) != (change.cell_id, change.session, change.base):
        raise Conflict(
            f"delta of cell {change.cell_id} is to digest {change.base}, not {old.sequence}",
            cell_id=change.cell_id,
            base=change.base,
            sequence=old.sequence,
        )
    classes = {one.key: one for one in old.classes}
    for key in change.gone:
        classes.pop(key, None)
    classes.update((one.key, one) for one in change.changed)
    return Digest(
        cell_id=change.cell_id,
        session=change.session,
        sequence=change.sequence,
        decisions=change.decisions,
        host_count=change.host_count,
        hosts_up_count=change.hosts_up_count,
        server_count=change.server_count,
        classes=tuple(sorted(classes.values(), key=lambda one: one.key.order())),
    )


def _few(codes: Ints, vectors: Ints, counts: Ints) -> tuple[Ints, Ints, Ints]:
    # Classes that are small enough at one precision are done; the others go on to a coarser one.
    order = np.lexsort((*vectors, codes))
    codes, vectors, counts = codes[order], vectors[:, order], counts[order]
    is_new = (codes[1:] != codes[:-1]) | (vectors[:, 1:] != vectors[:, :-1]).any(axis=0)
    label = np.concatenate([np.zeros(1, np.int64), np.cumsum(is_new)])[: len(codes)]
    codes, vectors, counts = _grouped(label, codes, vectors, counts)
    for precision in _PRECISIONS:
        is_many = np.bincount(codes) > BINS_PER_CLASS_MAX
        if not is_many.any():
            break
        many = is_many[codes]
        some = codes[many], vectors[:, many], counts[many]
        coarse = _grouped(_label(some[0], some[1], precision), *some)
        codes = np.concatenate([codes[~many], coarse[0]])
        vectors = np.concatenate([vectors[:, ~many], coarse[1]], axis=1)
        counts = np.concatenate([counts[~many], coarse[2]])
    return codes, vectors, np.minimum(counts, AMOUNT_MAX)


def _grouped(label: Ints, codes: Ints, vectors: Ints, counts: Ints) -> tuple[Ints, Ints, Ints]:
    # A group has the least of each resource in it: what every one of its hosts has for sure.
    if not len(codes):
        return codes, vectors, counts
    order = np.argsort(label, kind="stable")
    label, codes, vectors, counts = label[order], codes[order], vectors[:, order], counts[order]
    starts = np.flatnonzero(np.concatenate([[True], label[1:] != label[:-1]]))
    return (
        codes[starts],
        np.minimum.reduceat(vectors, starts, axis=1),
        np.add.reduceat(counts, starts),
    )


def _label(codes: Ints, vectors: Ints, precision: tuple[int, int, int]) -> Ints:
    # One number a group, as one number sorts faster than four: the class, then the octave and
    # leading bits of each resource, in 14 bits at most. To no bits, all amounts are alike.
    label = codes
    for values, bits in zip(vectors, precision, strict=True):
        if bits:
            octave = np.frexp(values)[1].astype(np.int64)
            leading = values >> np.maximum(octave - bits, 0)
            label = label << (5 + bits + 1) | octave << bits | leading
    return label


class BinTable:
    """The bins of many cells in one set of columns, each cell's in a segment of its own.

    Room for servers of a size, for all cells, is then a few passes over a few columns; a draw
    from one cell touches its segment alone. Rows left over in a segment count no hosts.
    """

    _RAM, _VCPUS, _DISK, _COUNT, _CLASS, _CELL = range(6)

    def __init__(self) -> None:
        self._columns: Ints = np.zeros((6, 64), np.int64)
        self._end = 0
        self._starts: dict[int, int] = {}
        self._lengths: dict[int, int] = {}
        self._rooms: dict[int, int] = {}

    def load(self, cell: int, rows: Ints) -> None:
        """Take over a cell's bins: (5, n), being RAM, vCPUs, disk, hosts and code of the class."""
        length = rows.shape[1]
        if length > self._rooms.get(cell, -1):
            self._allot(cell, length)
        start = self._starts[cell]
        self._lengths[cell] = length
        self._columns[:5, start : start + length] = rows
        self._empty(start + length, start + self._rooms[cell])

    def clear(self, cell: int) -> None:
        """Forget a cell's bins."""
        if cell in self._starts:
            self.load(cell, np.zeros((5, 0), np.int64))

    def rows(self) -> Ints:
        """Give all bins with hosts: (6, n), the sixth being the cell."""
        used = self._columns[:, : self._end]
        return used[:, used[self._COUNT] > 0]

    def slots(
        self, size: tuple[int, int, int], is_class_fit: NDArray[np.bool_], cell_count: int
    ) -> NDArray[np.float64]:
        """Count how many servers of a size each cell holds, in hosts of the classes that fit."""
        used = self._columns[:, : self._end]
        # Sums are floats: those of absurd numbers lose digits there, and integers would turn over.
        weights = self._slots(used, size, is_class_fit)
        counted: NDArray[np.float64] = np.bincount(
            used[self._CELL], weights=weights, minlength=cell_count
        ).astype(np.float64, copy=False)
        return counted

    def slots_of(
        self, cell: int, size: tuple[int, int, int], is_class_fit: NDArray[np.bool_]
    ) -> float:
        """Count how many servers of a size one cell holds."""
        if cell not in self._starts:
            return 0.0
        return float(self._slots(self._segment(cell), size, is_class_fit).sum())

    def take(
        self,
        cell: int,
        size: tuple[int, int, int],
        is_class_fit: NDArray[np.bool_],
        *,
        count: int = 1,
    ) -> int:
        """Take room for servers off the hosts of a cell that they fill best; give how many fit."""
        if cell not in self._starts or not any(size):
            return 0
        segment = self._segment(cell)[:5]
        counts = segment[self._COUNT].copy()
        fitting = np.flatnonzero(self._slots(segment, size, is_class_fit))
        least_first = fitting[np.lexsort(segment[2::-1, fitting])]
        left, begun = count, []
        # The least free first, RAM before the rest: a host begun is filled before another is
        # broken into, and large rooms stay whole for large flavors.
        for index in least_first.tolist():
            if not left:
                break
            *free, hosts, of_class = segment[:, index].tolist()
            each = per_host(free, size)
            taken = min(left, each * hosts)
            left -= taken
            full, rest = divmod(taken, each)
            counts[index] -= full + (rest > 0)
            for host_count, servers in ((full, each), (1, rest)):
                if host_count and servers:
                    room = (have - need * servers for have, need in zip(free, size, strict=True))
                    begun.append((*room, host_count, of_class))
        kept = segment[:, counts > 0]
        kept[self._COUNT] = counts[counts > 0]
        self.load(cell, np.hstack([kept, np.array(begun, np.int64).reshape(-1, 5).T]))
        return count - left

    def _empty(self, start: int, end: int) -> None:
        # The class too: its code may be none any more when that is looked up.
        self._columns[[self._COUNT, self._CLASS], start:end] = 0

    def _segment(self, cell: int) -> Ints:
        start = self._starts[cell]
        return self._columns[:, start : start + self._lengths[cell]]

    def _slots(
        self, columns: Ints, size: tuple[int, int, int], is_class_fit: NDArray[np.bool_]
    ) -> Ints:
        if not is_class_fit.size:
            # Cells that have told of no hosts at all; even code 0 is then none.
            return np.zeros(columns.shape[1], np.int64)
        slots: Ints = columns[self._COUNT] * is_class_fit[columns[self._CLASS]]
        needed = [(column, need) for column, need in zip(columns, size, strict=False) if need]
        if not needed:
            return slots
        column, need = needed[0]
        each: Ints = column // need
        for column, need in needed[1:]:
            np.minimum(each, column // need, out=each)
        each *= slots
        return each

    def _allot(self, cell: int, length: int) -> None:
        # Twice the need, as draws break bins up. What the cell had before is left behind, without
        # hosts; segments double, so what is left behind is less than what is in use.
        room = max(16, 2 * length)
        if cell in self._starts:
            self._empty(self._starts[cell], self._starts[cell] + self._rooms[cell])
        while self._end + room > self._columns.shape[1]:
            self._columns = np.hstack([self._columns, np.zeros_like(self._columns)])
        self._starts[cell], self._rooms[cell] = self._end, room
        self._columns[self._CELL, self._end : self._end + room] = cell
        self._end += room
