"""A page of servers of many cells, some of them dead, through the root's API.

The rows are filled in directly, at the root and in each cell, as if they had travelled up. The
measured process is the root and every living cell.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from xenith.cells.changes import cell_self, cursors, ensure_self
from xenith.compute.records.instances import instances
from xenith.compute.records.servers import servers as server_table
from xenith.core.ids import CellId
from xenith.core.settings import Settings
from xenith.core.world import World
from xenith.db import Database, Tx, open_database
from xenith.db.migrate import prepare
from xenith.dev.bench.cells_rows import BenchServer, instance_row, server_row
from xenith.dev.bench.lists import _measure as _measure_pages
from xenith.dev.bench.lists import _project
from xenith.dev.bench.region import region
from xenith.dev.tree import plan_tree, read_shape

EPOCH = 1


def measure(*, cells: int, dead: int, servers: int, page: int, calls: int) -> dict[str, Any]:
    """Fill the rows, start the region without its dead cells, and time pages of its list."""
    tree = f"1x{cells}"
    # Ids follow from the region and the names; nothing is signed with this secret.
    plan = plan_tree(read_shape(tree), region=Settings().region, secret=b"")
    names = [entry.name for entry in plan.leaves]
    with tempfile.TemporaryDirectory(prefix="xenith-bench-") as place:
        directory = Path(place)
        with region(tree, hosts_per_cell=0, directory=directory, without=names) as running:
            project = asyncio.run(_project(running))
        leaves = {entry.name: entry.id for entry in plan.leaves}
        asyncio.run(_fill(directory, leaves, project=project, servers=servers))
        with region(tree, hosts_per_cell=0, directory=directory, without=names[:dead]) as running:
            found = asyncio.run(_measure_pages(running, servers=servers, page=page, calls=calls))
            memory_mib = round(running.memory_mib(), 1)
    return {"cells": cells, "dead_cells": dead, **found, "memory_mib": memory_mib}


async def _fill(directory: Path, leaves: dict[str, CellId], *, project: str, servers: int) -> None:
    world = World()
    root = open_database(f"sqlite:///{directory / 'xenith.db'}")
    began = world.clock.now() - 1_000_000
    names = list(leaves)
    for at, name in enumerate(names):
        # Neighbours in the list are of different cells, as they are where builds are spread.
        made = [
            BenchServer(
                id=world.ids.uuid(),
                project_id=project,
                cell_id=leaves[name],
                number=number,
                created_s=began + number,
            )
            for number in range(at, servers, len(names))
        ]
        rows = [
            {
                **instance_row(server),
                "cell_id": server.cell_id,
                "change_number": change_number,
                "extra": None,
            }
            for change_number, server in enumerate(made, start=1)
        ]
        await root.run(_fill_root, leaves[name], made, rows)
        leaf = _open_leaf(directory / "cells" / name)
        await leaf.run(_fill_leaf, leaves[name], rows)
        await leaf.close()
    await root.close()


def _open_leaf(directory: Path) -> Database:
    directory.mkdir(parents=True, mode=0o700)
    db = open_database(f"sqlite:///{directory / 'xenith.db'}")
    prepare(db, trees=("cell",))
    return db


def _fill_root(tx: Tx, cell_id: CellId, made: list[BenchServer], rows: list[Any]) -> None:
    tx.insert_many(server_table, [server_row(server) for server in made])
    tx.insert_many(instances, rows)
    values = {"origin": cell_id, "epoch": EPOCH, "number": len(rows), "has_stale": False}
    tx.upsert(cursors, values)


def _fill_leaf(tx: Tx, cell_id: CellId, rows: list[Any]) -> None:
    ensure_self(tx, cell_id)
    tx.update(cell_self, {"id": 1}, number=len(rows))
    tx.insert_many(instances, rows)
