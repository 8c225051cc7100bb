"""How old an answer is, where it shows rows of cells that were not heard of late.

A list goes on while a cell is dark, and shows what was last known there. A header says so,
``Xenith-Cell-Age: name;seconds, name;seconds``, the oldest first; where all is fresh there is none.
Whoever is no admin is told cells by a hash, as hosts by their ``hostId``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from xenith.compute.operations import Compute
from xenith.core.ids import CellId
from xenith.http import Answer, Call

HEADER = "Xenith-Cell-Age"
#: Rows are told of once a second; a cell that is silent for this long is held to be dead.
FRESH_S = 5.0
#: Cells that the header names; it stays below a kilobyte or so, and the rest is dots.
CELLS_TOLD_MAX = 20
_MORE = "..."


def with_ages(call: Call[Compute], body: Any, cell_ids: Iterable[str | None]) -> Any:
    """Give an answer's body, with a header where rows of these cells are old in it.

    None stands for what the API cell itself has.
    """
    node = call.service.context.node
    # A cell is asked once, however many rows it has in the answer.
    ages = {cell_id: node.age_of(cell_id) for cell_id in set(cell_ids) if cell_id is not None}
    old = sorted(
        ((age_s, cell_id) for cell_id, age_s in ages.items() if age_s > FRESH_S), reverse=True
    )
    if not old:
        return body
    told = [f"{_label(call, cell_id)};{int(age_s)}" for age_s, cell_id in old[:CELLS_TOLD_MAX]]
    if len(old) > CELLS_TOLD_MAX:
        told.append(_MORE)
    return Answer(body, headers={HEADER: ", ".join(told)})


def _label(call: Call[Compute], cell_id: str) -> str:
    if not call.principal.is_admin:
        salted = (call.principal.project_id or "") + cell_id
        return hashlib.sha224(salted.encode()).hexdigest()[:8]
    entry = call.service.context.node.topology.find(CellId(cell_id))
    return cell_id if entry is None else entry.name
