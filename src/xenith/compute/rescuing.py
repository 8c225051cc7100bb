"""What a cell does with the wish to rescue a server, and to end that: it begins, or refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenith import saga
from xenith.cells import intents as kinds
from xenith.cells.intents import Intent, Verdict
from xenith.compute.states import RUNNING
from xenith.db import Row, Tx

if TYPE_CHECKING:
    from xenith.compute.cell import ComputeCell

#: The kinds of the intents, and of the sagas.
RESCUE, UNRESCUE = "rescue", "unrescue"
#: Source: nova, ``API.rescue`` and ``API.unrescue``.
RESCUED_VM_STATES, UNRESCUED_VM_STATES = ("active", "stopped", "error"), ("rescued",)


def accept_rescue(cell: ComputeCell, tx: Tx, intent: Intent, row: Row) -> Verdict:
    """Keep what the server is to be rescued with, and begin."""
    if not _is_free(row, RESCUED_VM_STATES):
        cell.refuse(tx, intent, row, RESCUE)
        return Verdict(id=intent.id, answer=kinds.DONE)
    cell.take(tx, intent, task_state="rescuing", request=intent.params)
    # What is kept of an earlier build is not what this disk is made of.
    tx.on_commit(lambda: cell.end_request(intent.subject))
    _begin(tx, intent, row, vm_state=row.vm_state, is_run=row.power_state == RUNNING)
    return Verdict(id=intent.id, answer=kinds.DONE)


def accept_unrescue(cell: ComputeCell, tx: Tx, intent: Intent, row: Row) -> Verdict:
    """Begin to bring the server back to its own disk."""
    if not _is_free(row, UNRESCUED_VM_STATES):
        cell.refuse(tx, intent, row, UNRESCUE)
        return Verdict(id=intent.id, answer=kinds.DONE)
    cell.take(tx, intent, task_state="unrescuing")
    _begin(tx, intent, row, is_run=row.power_state == RUNNING)
    return Verdict(id=intent.id, answer=kinds.DONE)


def _is_free(row: Row, vm_states: tuple[str, ...]) -> bool:
    return row.vm_state in vm_states and row.task_state is None and row.host_id is not None


def _begin(tx: Tx, intent: Intent, row: Row, **params: Any) -> None:
    saga.start(
        tx,
        intent.kind,
        subject=intent.subject,
        request_id=intent.request_id,  # type: ignore[arg-type]
        params={
            "host_id": row.host_id,
            "host_name": row.host_name,
            "started_s": intent.created_at,
            **params,
        },
    )
