"""What a cell does with the wish to make a server anew of an image: it begins, or refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenith import saga
from xenith.cells import intents as kinds
from xenith.cells.intents import Intent, Verdict
from xenith.compute.states import RUNNING
from xenith.db import Row, Tx

if TYPE_CHECKING:
    from xenith.compute.cell import ComputeCell

#: The kind of the intent, and of the saga.
REBUILD = "rebuild"
#: Source: nova, ``API.rebuild``.
REBUILT_VM_STATES = ("active", "stopped", "error")


def accept_rebuild(cell: ComputeCell, tx: Tx, intent: Intent, row: Row) -> Verdict:
    """Keep what the server is to be made of, and begin."""
    if row.vm_state not in REBUILT_VM_STATES or row.task_state is not None or row.host_id is None:
        cell.refuse(tx, intent, row, "rebuild")
        return Verdict(id=intent.id, answer=kinds.DONE)
    cell.take(tx, intent, task_state="rebuilding", request=intent.params)
    # What is kept of an earlier build is not what this one is made of.
    tx.on_commit(lambda: cell.end_request(intent.subject))
    saga.start(
        tx,
        REBUILD,
        subject=intent.subject,
        request_id=intent.request_id,  # type: ignore[arg-type]
        params={
            "host_id": row.host_id,
            "host_name": row.host_name,
            # One that was in error is wanted to run.
            "is_run": row.vm_state == "error" or row.power_state == RUNNING,
            "started_s": intent.created_at,
        },
    )
    return Verdict(id=intent.id, answer=kinds.DONE)
