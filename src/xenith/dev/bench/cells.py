"""What a tree of cells costs and bears, in parts: each a plain mapping with its conditions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from xenith.core.errors import Invalid
from xenith.dev.bench import (
    cells_builds,
    cells_changes,
    cells_choosing,
    cells_deaths,
    cells_lists,
    cells_memory,
)


class Sizes(msgspec.Struct, frozen=True):
    """How large each part is."""

    tree: str
    hosts_per_cell: int
    servers: int
    rounds: int
    clients: int
    #: Trees of the same number of hosts, by their leaves.
    width_trees: tuple[tuple[str, int], ...]
    width_servers: int
    changes_per_s: tuple[int, ...]
    change_seconds: float
    change_rows_per_cell: int
    change_rows_per_commit: int
    list_cells: int
    list_dead: int
    list_servers: int
    list_calls: int
    choices: int
    choosing_cells: int
    deaths: int
    death_builds: int
    memory_hosts: tuple[int, int]


#: What issue 3 asks for.
FULL = Sizes(
    tree="1x2x10",
    hosts_per_cell=100,
    servers=2000,
    rounds=2,
    clients=8,
    width_trees=(("1x1x1", 1000), ("1x2x5", 100), ("1x4x25", 10), ("1x10x50", 2)),
    width_servers=1000,
    changes_per_s=(1000, 2500, 5000),
    change_seconds=15.0,
    change_rows_per_cell=250,
    change_rows_per_commit=10,
    list_cells=200,
    list_dead=5,
    list_servers=250_000,
    list_calls=300,
    choices=20_000,
    choosing_cells=500,
    deaths=3,
    death_builds=60,
    memory_hosts=(50, 100),
)
#: Each part in seconds, to see that it works; the figures mean nothing.
SMALL = Sizes(
    tree="1x1x2",
    hosts_per_cell=3,
    servers=12,
    rounds=1,
    clients=2,
    width_trees=(("1x1x1", 4), ("1x2x2", 1)),
    width_servers=8,
    changes_per_s=(100,),
    change_seconds=1.0,
    change_rows_per_cell=10,
    change_rows_per_commit=2,
    list_cells=3,
    list_dead=1,
    list_servers=60,
    list_calls=5,
    choices=50,
    choosing_cells=20,
    deaths=1,
    death_builds=16,
    memory_hosts=(2, 12),
)

Part = Literal["builds", "width", "changes", "lists", "choosing", "deaths", "memory"]


def measure(parts: Sequence[str], *, is_small: bool) -> dict[str, Any]:
    """Measure the named parts, or all of them, one after another.

    Raises:
        Invalid: there is no part of that name.
    """
    sizes = SMALL if is_small else FULL
    for name in parts:
        if name not in PARTS:
            raise Invalid(f"there is no part {name}: it is one of {', '.join(PARTS)}")
    return {"bench": "cells", **{name: PARTS[name](sizes) for name in parts or PARTS}}


def _builds(sizes: Sizes) -> Any:
    return cells_builds.measure(
        sizes.tree,
        hosts_per_cell=sizes.hosts_per_cell,
        servers=sizes.servers,
        rounds=sizes.rounds,
        clients=sizes.clients,
    )


def _width(sizes: Sizes) -> Any:
    return [
        cells_builds.measure(
            tree,
            hosts_per_cell=hosts_per_cell,
            servers=sizes.width_servers,
            rounds=2,
            clients=sizes.clients,
        )
        for tree, hosts_per_cell in sizes.width_trees
    ]


def _changes(sizes: Sizes) -> Any:
    return [
        cells_changes.measure(
            sizes.tree,
            changes_per_s=changes_per_s,
            seconds=sizes.change_seconds,
            rows_per_cell=sizes.change_rows_per_cell,
            rows_per_commit=sizes.change_rows_per_commit,
        )
        for changes_per_s in sizes.changes_per_s
    ]


def _lists(sizes: Sizes) -> Any:
    return cells_lists.measure(
        cells=sizes.list_cells,
        dead=sizes.list_dead,
        servers=sizes.list_servers,
        page=min(100, sizes.list_servers // sizes.list_calls),
        calls=sizes.list_calls,
    )


def _choosing(sizes: Sizes) -> Any:
    return cells_choosing.measure(cells=sizes.choosing_cells, choices=sizes.choices)


def _deaths(sizes: Sizes) -> Any:
    return cells_deaths.measure(deaths=sizes.deaths, builds=sizes.death_builds, hosts_per_cell=10)


def _memory(sizes: Sizes) -> Any:
    few, many = sizes.memory_hosts
    return cells_memory.measure(sizes.tree, few=few, many=many)


PARTS: dict[str, Callable[[Sizes], Any]] = {
    "builds": _builds,
    "width": _width,
    "changes": _changes,
    "lists": _lists,
    "choosing": _choosing,
    "deaths": _deaths,
    "memory": _memory,
}
