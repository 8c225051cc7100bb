"""What is asked of the chooser of cells and what it answers: plain frozen data, and its words.

The explanation is kept with the build request at each level of the tree, for ``xenith explain``;
so it is small, and made of nothing that JSON does not have.
"""

from __future__ import annotations

from typing import Literal

import msgspec

#: Cells whose misses are told; a tree of 500 would bury the answer.
MISSES_TOLD_MAX = 10


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a build asks of a cell. Cells are named by id or by name."""

    ram_mib: int
    vcpus: int
    disk_gib: int
    project_id: str
    zone: str | None = None
    flavor_class: str | None = None
    #: ``name=value``; a class of hosts must have all of them.
    capabilities: tuple[str, ...] = ()
    #: Hints ``target_cell`` and ``different_cell``.
    target_cells: tuple[str, ...] = ()
    different_cells: tuple[str, ...] = ()
    #: Cells that have said no to this build.
    tried: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int, int]:
        """RAM in MiB, vCPUs, disk in GiB."""
        return self.ram_mib, self.vcpus, self.disk_gib


class CellRules(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator says of a child cell."""

    name: str
    state: Literal["open", "closed", "draining"] = "open"
    #: Odds of the cell: free slots times weight, plus offset.
    weight: float = 1.0
    weight_offset: float = 0.0
    #: Restrict the cell as a whole; empty: to nothing.
    projects: tuple[str, ...] = ()
    flavor_classes: tuple[str, ...] = ()
    #: Ids and names of the cell and of all below it.
    below: frozenset[str] = frozenset()


class FilterLeft(msgspec.Struct, frozen=True, gc=False):
    """How many cells a filter left."""

    name: str
    cells_left: int


class SampledCell(msgspec.Struct, frozen=True, gc=False):
    """A cell that was drawn: how many such servers it has room for, and its odds."""

    cell_id: str
    name: str
    slots: int
    weight: float
    #: Builds sent there whose effect no digest shows yet.
    in_flight: int


class CellMiss(msgspec.Struct, frozen=True, gc=False):
    """A cell that did not pass, by which filter and why."""

    cell_id: str
    name: str
    filter: str
    text: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The account of one choice of a cell."""

    cell_count: int
    #: In order; it ends at the filter that left none.
    filters: tuple[FilterLeft, ...]
    #: In the order drawn.
    sampled: tuple[SampledCell, ...] = ()
    #: Those that came nearest first; of a choice that was made, only cells that do not answer.
    misses: tuple[CellMiss, ...] = ()


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The cell that the build is sent to, and the reservation that holds its room meanwhile."""

    cell_id: str
    reservation_id: str
    explanation: Explanation


class NoCell(msgspec.Struct, frozen=True, kw_only=True):
    """No cell passed; why, for the tenant and for the admin."""

    reason: str
    detail: str
    explanation: Explanation
    #: A cell that is open and may well fit is silent, or has not told its capacity yet.
    is_waiting: bool


#: What the tenant reads when a filter leaves nothing; cells are none of a tenant's business.
TENANT_WORDS = {
    "state": "no part of the cloud is open for new servers",
    "alive": "the part of the cloud that could hold it does not answer at present",
    "digest": "the capacity of the cloud is not known yet",
    "tried": "every part of the cloud that could hold it has refused it",
    "project": "no host is open to the project",
    "flavor_class": "no host takes flavors of this class",
    "hints": "no cell is as the scheduler hints ask",
    "zone": "no host is in the availability zone",
    "capabilities": "no host has the capabilities that the flavor or image asks for",
    "room": "no host has enough room free for the flavor",
}


def tenant_reason(explanation: Explanation) -> str:
    """Say in a sentence why there is no cell, without naming cells or amounts.

    >>> tenant_reason(Explanation(cell_count=2, filters=(FilterLeft("state", 0),)))
    'No valid host was found: no part of the cloud is open for new servers.'
    """
    last = explanation.filters[-1].name if explanation.filters else "state"
    return f"No valid host was found: {TENANT_WORDS[last]}."


def admin_reason(explanation: Explanation) -> str:
    """Say what each filter left, whose weights were drawn, and what each cell lacks.

    >>> miss = CellMiss("c1", "c0001", "alive", "silent for 7.0 s")
    >>> print(admin_reason(Explanation(
    ...     cell_count=2,
    ...     filters=(FilterLeft("state", 2), FilterLeft("alive", 1), FilterLeft("room", 0)),
    ...     misses=(miss,),
    ... )))
    2 cells; alive leaves 1; room leaves 0. c0001: silent for 7.0 s.
    """
    left = explanation.cell_count
    narrowed = ["1 cell" if left == 1 else f"{left} cells"]
    for one in explanation.filters:
        if one.cells_left != left:
            narrowed.append(f"{one.name} leaves {one.cells_left}")
        left = one.cells_left
    sentences = ["; ".join(narrowed)]
    sentences += [
        f"drawn {one.name}: weight {one.weight:.3f}, room for {one.slots}, "
        f"{one.in_flight} in flight"
        for one in explanation.sampled
    ]
    sentences += [f"{one.name}: {one.text}" for one in explanation.misses]
    return ". ".join(sentences) + "."
