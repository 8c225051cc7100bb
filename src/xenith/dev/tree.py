"""A tree of cells by its shape, ``1x4x8``: one root, four regions, eight leaves in each.

The plan says who there is and how they are joined; who makes them (a lab in one process, a
simulation, processes of their own) takes a seat from it for each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from xenith.cells import topology as documents
from xenith.cells.keys import CellKey
from xenith.cells.node import Buses
from xenith.cells.topology import CellEntry, Topology
from xenith.core.errors import Invalid
from xenith.core.ids import CellId, derive_uuid
from xenith.core.units import GIB
from xenith.core.world import World
from xenith.dev.cells import Cell, Seat, entry
from xenith.toolstack.backends.sim import SimBackend
from xenith.toolstack.fleet import Fleet

#: Cells of a lab: what one machine's memory holds with a few hosts each.
LAB_CELLS_MAX = 1024


@dataclass(frozen=True)
class TreePlan:
    """Who is in a tree, with their keys."""

    topology: Topology
    signed: bytes
    keys: dict[CellId, CellKey]
    root: CellId

    def seat(self, cell_id: CellId, buses: Buses) -> Seat:
        """Give a cell's place in the tree."""
        root = self.keys[self.root].public
        return Seat(cell_id, self.keys[cell_id], root, self.signed, buses)

    @property
    def leaves(self) -> list[CellEntry]:
        """The cells that hold hosts."""
        return [each for each in self.topology.cells if not self.topology.children(each.id)]

    @property
    def routers(self) -> list[CellEntry]:
        """The cells between the root and the leaves."""
        leaves = {each.id for each in self.leaves}
        return [
            each for each in self.topology.cells if each.id not in leaves and each.id != self.root
        ]


def read_shape(text: str) -> tuple[int, ...]:
    """Read ``1x4x8``; a root alone is ``1``.

    Raises:
        Invalid: it is no such shape, or too large.

    >>> read_shape("1x2x3")
    (1, 2, 3)
    """
    parts = text.lower().split("x")
    if not all(part.isdecimal() and len(part) <= 4 and int(part) > 0 for part in parts):
        raise Invalid(f"{text[:40]} is no tree: give counts by level, like 1x4x8")
    shape = tuple(int(part) for part in parts)
    if shape[0] != 1 or len(shape) > documents.DEPTH_MAX:
        raise Invalid(f"{text[:40]}: a tree has one root and at most {documents.DEPTH_MAX} levels")
    count, level = 0, 1
    for width in shape:
        level *= width
        count += level
    if count > LAB_CELLS_MAX:
        raise Invalid(f"{text[:40]} has {count} cells, and at most {LAB_CELLS_MAX} are allowed")
    return shape


def plan_tree(
    shape: Sequence[int], *, region: str, secret: bytes, second_parents: int = 0
) -> TreePlan:
    """Plan a tree; its ids follow from the region and the names, its keys from the secret.

    The first ``second_parents`` leaves have the next cell of the level above as a second parent.
    """
    levels: list[list[tuple[str, CellId, list[CellId]]]] = [[("api", _id(region, "api"), [])]]
    for depth, width in enumerate(shape[1:], start=1):
        prefix = "c" if depth == len(shape) - 1 else "r"
        above = levels[-1]
        level = []
        for parent_name, parent_id, _ in above:
            for number in range(1, width + 1):
                name = f"{prefix}{number}" if depth == 1 else f"{parent_name}-{prefix}{number}"
                level.append((name, _id(region, name), [parent_id]))
        levels.append(level)
    if len(levels) > 2:
        above = levels[-2]
        for at, (_, _, parents) in enumerate(levels[-1][:second_parents]):
            first = next(i for i, one in enumerate(above) if one[1] == parents[0])
            second = above[(first + 1) % len(above)][1]
            if second not in parents:
                parents.append(second)
            assert at < second_parents, "no more than were asked for"
    cells: list[CellEntry] = []
    keys: dict[CellId, CellKey] = {}
    for level in levels:
        for name, cell_id, parents in level:
            keys[cell_id] = CellKey.derive(hashlib.sha256(secret + name.encode()).digest())
            cells.append(entry(cell_id, name, keys[cell_id], parents))
    topology = Topology(region=region, version=1, cells=tuple(cells))
    documents.check(topology)
    root = levels[0][0][1]
    return TreePlan(topology, documents.sign(topology, keys[root]), keys, root)


async def give_sim_hosts(
    cell: Cell,
    fleet: Fleet,
    *,
    prefix: str,
    count: int,
    password: str,
    zone: str,
    world: World,
    memory_bytes: int = 128 * GIB,
    latency_s: float = 0.0,
) -> None:
    """Give a leaf simulated hosts, served by a fleet over XenAPI."""
    assert cell.compute is not None, "a leaf has hosts"
    for number in range(1, count + 1):
        name = f"{prefix}-host-{number}"
        backend = SimBackend(
            world,
            memory_bytes=memory_bytes,
            cpu_count=32,
            disk_bytes=4096 * GIB,
            latency_s=latency_s,
        )
        endpoint = await fleet.add_host(name, backend, password=password)
        await cell.compute.hosts.add(
            name=name, url=endpoint.url, user="root", password=password, zone=zone
        )


def _id(region: str, name: str) -> CellId:
    return CellId(derive_uuid("cell", region, name))
