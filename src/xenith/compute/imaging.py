"""What a cell does with the wish for an image of a server: it begins, or says no to the root."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenith import saga
from xenith.cells import intents as kinds
from xenith.cells.intents import Intent, Verdict
from xenith.db import Row, Tx

if TYPE_CHECKING:
    from xenith.compute.cell import ComputeCell

#: The kind of the intent, and of the saga.
IMAGE = "image"
#: Source: nova, ``API.snapshot`` and ``API.backup``.
IMAGED_VM_STATES = ("active", "stopped", "paused", "suspended")
#: What the server's task is at first, by the action. Source: nova, task states.
TASKS = {"createImage": "image_snapshot_pending", "createBackup": "image_backup"}


def accept_image(cell: ComputeCell, tx: Tx, intent: Intent, row: Row) -> Verdict:
    """Begin to make an image, or say no: the root then removes the image's record."""
    if row.vm_state not in IMAGED_VM_STATES or row.task_state is not None or row.host_id is None:
        cell.take(tx, intent)
        return Verdict(
            id=intent.id,
            answer=kinds.NO,
            reason="The server was busy, or in a state without an image.",
            detail=f"vm_state {row.vm_state}, task_state {row.task_state}",
        )
    cell.take(tx, intent, task_state=TASKS[intent.params["action"]])
    saga.start(
        tx,
        IMAGE,
        subject=intent.subject,
        request_id=intent.request_id,  # type: ignore[arg-type]
        params={**intent.params, "started_s": intent.created_at},
    )
    return Verdict(id=intent.id, answer=kinds.DONE)
