"""Why a host was chosen, or why none was: plain data, kept with the server for ``explain``.

Counts per filter come with every choice. The nearest misses cost another run of every filter, so
they are sought only when nothing is left, or when somebody asks.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from xenith.core.ids import HostId
from xenith.scheduler.filters import FILTERS, Filter
from xenith.scheduler.hosts import HostTable
from xenith.scheduler.request import PlacementRequest

#: Nearest misses that are told; more would bury the answer.
MISSES_TOLD_MAX = 3


class FilterCount(msgspec.Struct, frozen=True, gc=False):
    """How many hosts a filter got and how many it left."""

    name: str
    before: int
    after: int


class Lack(msgspec.Struct, frozen=True):
    """One thing that keeps a host from passing; amount and unit where it can be counted."""

    filter: str
    text: str
    amount: int | None = None
    unit: str = ""


class Miss(msgspec.Struct, frozen=True):
    """A host that came close, and all that it lacks."""

    host_id: HostId
    host_name: str
    lacks: tuple[Lack, ...]


class HostWeight(msgspec.Struct, frozen=True):
    """What a host weighed, in all and by weigher (those that told hosts apart)."""

    host_id: HostId
    host_name: str
    total: float
    by_weigher: dict[str, float]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The account of one choice."""

    host_count: int
    #: In order; it ends at the filter that left none.
    filters: tuple[FilterCount, ...]
    #: The chosen host and the runner-up, as far as there are any.
    weights: tuple[HostWeight, ...] = ()
    #: The nearest misses, nearest first.
    misses: tuple[Miss, ...] = ()


def nearest_misses(
    table: HostTable, request: PlacementRequest, filters: Sequence[Filter] = FILTERS
) -> tuple[Miss, ...]:
    """Find the hosts that fail the fewest filters and lack the least; empty when some pass all."""
    if not table.host_count:
        return ()
    failures = np.zeros(table.row_count, np.int64)
    distance = np.zeros(table.row_count)
    passed_by: list[NDArray[np.bool_]] = []
    for row in filters:
        passed = row.apply(table, request, table.is_present)
        passed_by.append(passed)
        failures += ~passed
        if row.shortfall is not None:
            # Amounts of different units are made comparable by the worst of each.
            lacking = np.where(passed, 0, row.shortfall(table, request))
            distance += lacking / max(1, int(lacking.max()))
    failures[~table.is_present] = len(filters) + 1
    fewest = int(failures.min())
    if fewest == 0:
        return ()
    candidates = np.flatnonzero(failures == fewest)
    # Sorted by distance, then by row: the same answer every time.
    nearest = candidates[np.argsort(distance[candidates], kind="stable")[:MISSES_TOLD_MAX]]
    return tuple(
        Miss(
            host_id=table.ids[index],
            host_name=table.names[index],
            lacks=tuple(
                _lack(row, table, request, index)
                for row, passed in zip(filters, passed_by, strict=True)
                if not passed[index]
            ),
        )
        for index in nearest.tolist()
    )


def _lack(row: Filter, table: HostTable, request: PlacementRequest, index: int) -> Lack:
    if row.shortfall is not None:
        amount = int(row.shortfall(table, request)[index])
        text = f"lacks {amount} {row.unit}"
        return Lack(filter=row.name, text=text, amount=amount, unit=row.unit)
    text = row.admin if row.detail is None else row.detail(table, request, index)
    return Lack(filter=row.name, text=text)


def tenant_reason(explanation: Explanation, filters: Sequence[Filter] = FILTERS) -> str:
    """Say in a line why there is no host, without naming hosts or amounts.

    >>> tenant_reason(Explanation(host_count=2, filters=(FilterCount("RamFilter", 2, 0),)))
    'No valid host was found: no host has enough memory free for the flavor.'
    >>> tenant_reason(Explanation(host_count=0, filters=()))
    'No valid host was found: no host is in service.'
    """
    last = explanation.filters[-1].name if explanation.filters else "ComputeFilter"
    wording = {row.name: row.tenant for row in filters}
    return f"No valid host was found: {wording.get(last, 'no host is in service')}."


def admin_reason(explanation: Explanation) -> str:
    """Say what each filter left, what the nearest hosts lack, and what the chosen one weighed.

    >>> miss = Miss("h", "host-3", (Lack("RamFilter", "lacks 512 MiB of RAM"),))
    >>> counts = (FilterCount("ComputeFilter", 3, 2), FilterCount("RamFilter", 2, 0))
    >>> print(admin_reason(Explanation(host_count=3, filters=counts, misses=(miss,))))
    3 hosts; ComputeFilter 3 to 2; RamFilter 2 to 0. Nearest: host-3 lacks 512 MiB of RAM.
    """
    narrowed = [
        f"{count.name} {count.before} to {count.after}"
        for count in explanation.filters
        if count.before != count.after
    ]
    noun = "host" if explanation.host_count == 1 else "hosts"
    sentences = ["; ".join([f"{explanation.host_count} {noun}", *narrowed]) + "."]
    if explanation.misses:
        told = (
            f"{miss.host_name} {' and '.join(lack.text for lack in miss.lacks)}"
            for miss in explanation.misses
        )
        sentences.append(f"Nearest: {'; '.join(told)}.")
    for title, weight in zip(("Chosen", "Runner-up"), explanation.weights, strict=False):
        parts = ", ".join(f"{name} {part:+.3f}" for name, part in weight.by_weigher.items())
        made_of = f" ({parts})" if parts else ""
        sentences.append(f"{title}: {weight.host_name} with {weight.total:.3f}{made_of}.")
    return " ".join(sentences)
