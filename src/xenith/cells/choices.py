"""What is asked of the chooser of cells, the rules that it is held to, and what it answers.

The explanation is kept with the build request at each level of the tree, for ``xenith explain``;
so it is small, and made of nothing that JSON does not have. Knows nothing of time or of amounts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from xenith.cells.capacity import ClassKey

Flags = NDArray[np.bool_]

#: What of a request rules speak of: project (if any rule names it), flavor class, zone, abilities.
FitKey = tuple[str, str | None, str | None, tuple[str, ...]]

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


def miss_text(name: str, *, state: str, silent_s: float, death: str, in_flight: int) -> str:
    """Say what keeps a cell from passing the filter of this name.

    >>> miss_text("alive", state="open", silent_s=7, death="", in_flight=0)
    'silent for 7.0 s'
    """
    silence = f"silent for {silent_s:.1f} s" if silent_s < np.inf else "never heard of"
    return {
        "state": f"is {state}",
        "alive": f"dead: {death}, {silence}" if death else silence,
        "digest": "has not told its capacity",
        "tried": "has refused the build",
        "project": "is not open to the project",
        "flavor_class": "does not take the flavor's class",
        "hints": "is not what the hints ask for",
        "zone": "has no hosts in the zone",
        "capabilities": "has no hosts with the capabilities",
        "room": f"has no host with room, {in_flight} builds in flight",
    }[name]


@dataclass(frozen=True, slots=True)
class Fit:
    """Which cells and classes of hosts let a request through, by rules and the last digests."""

    project_rules: Flags  # (cells,)
    flavor_rules: Flags  # (cells,)
    #: By project, then flavor class too, then zone, then capabilities: each (cells,), telling
    #: which cells have a class of hosts that passes all up to here.
    some: tuple[Flags, Flags, Flags, Flags]
    is_class_fit: Flags  # (classes,)


class RuleBook:
    """All that cells and their classes are restricted to, gathered once after each change."""

    def __init__(
        self,
        *,
        keys: tuple[ClassKey, ...],
        is_ruled: Flags,
        pairs: Sequence[tuple[int, int]],
        rules: Sequence[tuple[int, CellRules]],
    ) -> None:
        """Take keys by code, rows with rules, (row, code) of each cell's classes, and rules."""
        self._keys = keys
        self._is_ruled = is_ruled
        self._rows, self._codes = np.array(pairs, np.intp).reshape(-1, 2).T
        self._restricted = [
            (row, each) for row, each in rules if each.projects or each.flavor_classes
        ]
        named = {project for key in keys for project in key.projects}
        self._projects = named.union(*(each.projects for _, each in self._restricted))

    def key(self, wanted: Wanted) -> FitKey:
        """Give what of a request the rules speak of; projects that none names are all alike."""
        project = wanted.project_id if wanted.project_id in self._projects else ""
        return project, wanted.flavor_class, wanted.zone, tuple(sorted(wanted.capabilities))

    def fit(self, key: FitKey) -> Fit:
        """Find the cells and the classes that let such a request through."""
        project, flavor_class, zone, capabilities = key
        needed = frozenset(capabilities)
        projects = self._narrow(
            np.ones(len(self._keys), np.bool_),
            [_is_open_to(each.projects, project) for each in self._keys],
        )
        flavors = self._narrow(
            projects[0], [_is_open_to(each.flavor_classes, flavor_class) for each in self._keys]
        )
        zones = self._narrow(flavors[0], [zone in (None, each.zone) for each in self._keys])
        able = self._narrow(zones[0], [needed.issubset(each.capabilities) for each in self._keys])
        project_rules, flavor_rules = self._is_ruled.copy(), self._is_ruled.copy()
        for row, each in self._restricted:
            project_rules[row] = _is_open_to(each.projects, project)
            flavor_rules[row] = _is_open_to(each.flavor_classes, flavor_class)
        some = projects[1], flavors[1], zones[1], able[1]
        return Fit(project_rules, flavor_rules, some, is_class_fit=able[0])

    def _narrow(self, is_fit: Flags, passed: list[bool]) -> tuple[Flags, Flags]:
        """Give the classes that are left, and the cells that have one of them."""
        is_fit = is_fit & np.array(passed, np.bool_)
        has_some = np.zeros(len(self._is_ruled), np.bool_)
        has_some[self._rows[is_fit[self._codes]]] = True
        return is_fit, has_some


def _is_open_to(dedicated: tuple[str, ...], one: str | None) -> bool:
    return not dedicated or one in dedicated


def restricted(key: ClassKey, rules: CellRules | None) -> ClassKey | None:
    """Give the class as the cell's own rules leave it, or None when they leave nothing."""
    if rules is None or not (rules.projects or rules.flavor_classes):
        return key
    projects = _both(key.projects, rules.projects)
    flavor_classes = _both(key.flavor_classes, rules.flavor_classes)
    if projects is None or flavor_classes is None:
        return None
    return msgspec.structs.replace(key, projects=projects, flavor_classes=flavor_classes)


def _both(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...] | None:
    if not one or not other:
        return one or other
    return tuple(sorted(set(one) & set(other))) or None
