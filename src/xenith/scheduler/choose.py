"""The choice of a host: filter, weigh, take the best, and say why.

    all hosts --filters--> those that can --weighers--> weights --> best, then alternates
                 counts                       parts                     tie: by chance

Pure but for the draws from ``ids``. Claim the result before the next choice is made.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from xenith.core.ids import HostId, Ids
from xenith.scheduler.explanation import (
    Explanation,
    FilterCount,
    HostWeight,
    admin_reason,
    nearest_misses,
    tenant_reason,
)
from xenith.scheduler.filters import FILTERS, Filter
from xenith.scheduler.hosts import HostTable
from xenith.scheduler.request import PlacementRequest
from xenith.scheduler.weighers import WEIGHERS, Term, Weigher, weigh

#: Hosts that follow the chosen one, for builds that fail. Source: nova ``max_attempts`` 3, and one.
ALTERNATES = 3
#: Best hosts among which chance may choose; each distinct weight costs a pass over all weights.
HOST_SUBSET_SIZE_MAX = 64


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Hosts for a server, best first: the chosen one, then alternates."""

    hosts: tuple[HostId, ...]
    #: Their rows in the table, good until a host is removed.
    indices: tuple[int, ...]
    explanation: Explanation


class NoValidHost(msgspec.Struct, frozen=True, kw_only=True):
    """No host passed; why, for the tenant and for the admin."""

    reason: str
    detail: str
    #: Builds in flight are all that is in the way: ask again when one has finished.
    is_transient: bool
    explanation: Explanation


def choose(
    table: HostTable,
    request: PlacementRequest,
    *,
    ids: Ids,
    filters: Sequence[Filter] = FILTERS,
    weighers: tuple[Weigher, ...] = WEIGHERS,
    alternates: int = ALTERNATES,
    host_subset_size: int = 1,
) -> Placement | NoValidHost:
    """Choose a host for the request; among equals, and among the best N, by chance.

    >>> from xenith.scheduler.hosts import Host
    >>> table = HostTable()
    >>> for n, ram in ((1, 512), (2, 4096), (3, 2048)):
    ...     _ = table.add(Host(id=f"h{n}", name=f"host-{n}", ram_mib=ram, vcpus=4, disk_gib=9))
    >>> ask = PlacementRequest(instance_id="i", project_id="p", ram_mib=1024, vcpus=1, disk_gib=1)
    >>> choose(table, ask, ids=Ids(seed=1)).hosts
    ('h2', 'h3')
    """
    mask, count, counts = _filter(table, request, filters)
    if count == 0:
        return _no_valid_host(table, request, filters, counts)
    rows = None if count == table.row_count else np.flatnonzero(mask)
    weights, terms = weigh(table, request, rows=rows, weighers=weighers)
    subset = max(1, min(host_subset_size, count, HOST_SUBSET_SIZE_MAX))
    best = _best(weights, max(1 + alternates, subset), ids)
    if subset > 1:
        best.insert(0, best.pop(ids.below(subset)))
    best = best[: 1 + alternates]
    indices = tuple(best) if rows is None else tuple(rows[best].tolist())
    return Placement(
        hosts=tuple([table.ids[index] for index in indices]),
        indices=indices,
        explanation=Explanation(
            host_count=table.host_count,
            filters=counts,
            weights=tuple([_weight_of(table, terms, index) for index in indices[:2]]),
        ),
    )


def _filter(
    table: HostTable, request: PlacementRequest, filters: Sequence[Filter]
) -> tuple[NDArray[np.bool_], int, tuple[FilterCount, ...]]:
    mask, count = table.is_present, table.host_count
    counts = []
    for row in filters:
        if count == 0:
            break
        before, given = count, mask
        mask = row.apply(table, request, given)
        if mask is not given:
            count = int(np.count_nonzero(mask))
        counts.append(FilterCount(row.name, before, count))
    return mask, count, tuple(counts)


def _best(weights: NDArray[np.float64], wanted: int, ids: Ids) -> list[int]:
    # A sort of 50,000 weights takes longer than all the rest; a few passes for the greatest do
    # not, and each pass takes all that are equally great, as in an empty fleet everyone is.
    best: list[int] = []
    wanted = min(wanted, len(weights))
    while True:
        equals = np.flatnonzero(weights == np.maximum.reduce(weights))
        last = len(equals)
        for drawn in range(min(last, wanted - len(best))):
            other = drawn + ids.below(last - drawn) if last - drawn > 1 else drawn
            row = int(equals[other])
            equals[other] = equals[drawn]
            best.append(row)
        if len(best) == wanted:
            return best
        weights[best] = -np.inf


def _weight_of(table: HostTable, terms: list[Term], index: int) -> HostWeight:
    parts = {term.weigher.name: term.at(index) for term in terms}
    return HostWeight(table.ids[index], table.names[index], sum(parts.values()), parts)


def _no_valid_host(
    table: HostTable,
    request: PlacementRequest,
    filters: Sequence[Filter],
    counts: tuple[FilterCount, ...],
) -> NoValidHost:
    lasting = [row for row in filters if not row.is_transient]
    misses = nearest_misses(table, request, filters)
    explanation = Explanation(host_count=table.host_count, filters=counts, misses=misses)
    return NoValidHost(
        reason=tenant_reason(explanation, filters),
        detail=admin_reason(explanation),
        is_transient=_filter(table, request, lasting)[1] > 0,
        explanation=explanation,
    )
