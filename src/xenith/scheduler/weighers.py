"""The weighers: how good each host that passed is, and how the goods add up.

A weigher gives one raw number a host. The numbers of the hosts that passed are normalised to
[0, 1], multiplied by the weigher's multiplier and summed; a negative multiplier makes less better.
Source: nova "Weights" in the administrator's guide, for names and multipliers; ProjectSpreadWeigher
is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xenith.scheduler.hosts import HostTable
from xenith.scheduler.request import (
    SOFT_AFFINITY,
    SOFT_ANTI_AFFINITY,
    PlacementRequest,
)

Column = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Weigher:
    """A row of the table of weighers."""

    name: str
    multiplier: float
    #: Raw numbers, one a row of the table; None when it makes no difference between hosts.
    column: Callable[[HostTable, PlacementRequest], Column | None]


class Term(NamedTuple):
    """One weigher's part in a sum: ``(column - low) * scale`` for each host."""

    weigher: Weigher
    column: Column
    low: int
    scale: float

    def at(self, row: int) -> float:
        """Give the part of one host."""
        return (int(self.column[row]) - self.low) * self.scale


def weigh(
    table: HostTable,
    request: PlacementRequest,
    *,
    rows: NDArray[np.int64] | None,
    weighers: tuple[Weigher, ...],
) -> tuple[NDArray[np.float64], list[Term]]:
    """Weigh the hosts of ``rows`` (None: all rows); give the weights, and what they are made of.

    The weights are the sums of the terms but for one addend that is the same for every host.
    Elementwise steps only, in a fixed order, so that hosts that are alike weigh exactly the same
    on every machine; a matrix product would be faster and would not promise that. The weights
    stand in the table's scratch memory, until the next call.
    """
    # Fresh arrays of 50,000 numbers come from mmap, and their page faults cost more than the sums.
    count = table.row_count if rows is None else len(rows)
    weights, part, values = table.scratch(count)
    weights.fill(0.0)
    terms: list[Term] = []
    for weigher in weighers:
        column = weigher.column(table, request) if weigher.multiplier else None
        if column is None:
            continue
        if rows is not None:  # "clip" because numpy buffers the output of a checked take
            column.take(rows, out=values, mode="clip")
        passed = column if rows is None else values
        low, high = int(np.minimum.reduce(passed)), int(np.maximum.reduce(passed))
        if low == high:
            continue
        scale = weigher.multiplier / (high - low)
        # Less ``low`` everywhere would move all alike: it is left to ``Term.at``.
        np.multiply(passed, scale, out=part)
        np.add(weights, part, out=weights)
        terms.append(Term(weigher=weigher, column=column, low=low, scale=scale))
    return weights, terms


def _soft(policy: str) -> Callable[[HostTable, PlacementRequest], Column | None]:
    def column(table: HostTable, request: PlacementRequest) -> Column | None:
        if request.group_id is None or request.group_policy != policy:
            return None
        return table.groups.column(request.group_id, table.row_count)

    return column


#: All weighers, in the order in which they are summed.
WEIGHERS: tuple[Weigher, ...] = (
    Weigher(name="RAMWeigher", multiplier=1.0, column=lambda table, _: table.ram_free),
    Weigher(name="CPUWeigher", multiplier=1.0, column=lambda table, _: table.vcpus_free),
    Weigher(name="DiskWeigher", multiplier=1.0, column=lambda table, _: table.disk_free),
    Weigher(
        name="IoOpsWeigher",
        multiplier=-1.0,
        column=lambda table, _: table.io_ops if table.io_ops_total else None,
    ),
    # Nova's default too: counting instances says little where memory is counted already.
    Weigher(
        name="NumInstancesWeigher", multiplier=0.0, column=lambda table, _: table.instance_count
    ),
    Weigher(
        name="ProjectSpreadWeigher",
        multiplier=-1.0,
        column=lambda table, request: table.projects.column(request.project_id, table.row_count),
    ),
    Weigher(name="ServerGroupSoftAffinityWeigher", multiplier=1.0, column=_soft(SOFT_AFFINITY)),
    Weigher(
        name="ServerGroupSoftAntiAffinityWeigher",
        multiplier=-1.0,
        column=_soft(SOFT_ANTI_AFFINITY),
    ),
    # So large that a host that fails builds comes after every one that does not.
    Weigher(
        name="BuildFailureWeigher",
        multiplier=-1_000_000.0,
        column=lambda table, _: table.build_failures if table.build_failures_total else None,
    ),
)
