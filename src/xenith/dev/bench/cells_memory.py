"""Memory of a region by its hosts: two regions that differ in nothing else.

Simulated hosts live in the same process, so a host's figure is both sides of it: the toolstack
that it runs, and what its cell keeps of it. What servers take is read in the bench of builds.
"""

from __future__ import annotations

from typing import Any

from xenith.dev.bench.region import region


def measure(tree: str, *, few: int, many: int) -> dict[str, Any]:
    """Start a region with few hosts in each cell, then with many, and compare."""
    figures = []
    for hosts_per_cell in (few, many):
        with region(tree, hosts_per_cell=hosts_per_cell) as running:
            figures.append((running.memory_mib(), running.ready_s, running.cpu_s()))
    (memory_few, _, _), (memory_many, ready_s, cpu_s) = figures
    leaves = 1
    for width in tree.split("x"):
        leaves *= int(width)
    hosts = leaves * (many - few)
    return {
        "tree": tree,
        "hosts": [leaves * few, leaves * many],
        "memory_mib": [round(memory_few, 1), round(memory_many, 1)],
        "mib_per_thousand_hosts": round((memory_many - memory_few) / hosts * 1000, 1),
        "ready_s": round(ready_s, 2),
        "start_cpu_s": round(cpu_s, 2),
    }
