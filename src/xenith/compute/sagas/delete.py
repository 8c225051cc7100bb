"""Delete: a server leaves its host and its claims, in whatever state it was.

A host that is away does not hold a delete up: the rows go, and what is left on the host is removed
when it is back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenith.compute.records.actions import finish_event
from xenith.compute.records.claims import release_claim
from xenith.compute.records.instances import change_instance, instances
from xenith.compute.states import NOSTATE
from xenith.core.errors import XenithError
from xenith.core.log import logger
from xenith.db import Tx
from xenith.saga import Outcome, Run, Saga, Step

if TYPE_CHECKING:
    from xenith.compute.cell import ComputeCell

_log = logger("compute.delete")

EVENT = "compute_terminate_instance"


async def remove(cell: ComputeCell, run: Run) -> Outcome | None:
    """Take the VM and its disks off the host."""
    row = await cell.db.read(lambda tx: tx.find(instances, id=run.subject))
    if row is None or row.host_id is None:
        return None
    try:
        await cell.hosts.up_driver(row.host_id).destroy_instance(run.subject)
    except XenithError as error:
        # Away, or refusing: it has no say in whether the tenant's server is deleted.
        _log.warning("left for later on a host", instance=run.subject, error=str(error))
        cell.clean_later()
    return Outcome({"host_name": row.host_name})


async def forget(cell: ComputeCell, run: Run) -> Outcome:
    """Give the claim back and mark the server deleted."""
    now = cell.world.clock.now()

    def record(tx: Tx) -> None:
        tx.on_commit(lambda: cell.hosts.release(run.subject))
        tx.on_commit(lambda: cell.end_request(run.subject))
        release_claim(tx, run.subject)
        change_instance(
            tx,
            run.subject,
            now_s=now,
            vm_state="deleted",
            task_state=None,
            power_state=NOSTATE,
            terminated_at=now,
            request=None,
            host_id=None,
        )
        finish_event(
            tx,
            instance_id=run.subject,
            request_id=run.request_id or "",
            event=EVENT,
            attempt=1,
            host=run.data.get("host_name"),
            started_s=run.params["started_s"],
            now_s=now,
        )

    return Outcome(record=record)


def unwound(tx: Tx, run: Run) -> None:
    """Leave a server that can be deleted again; the action says why it was not."""
    row = tx.find(instances, id=run.subject)
    if row is None or row.vm_state == "deleted" or run.is_cancelled:
        return
    now = tx.world.clock.now()
    error = run.error or {}
    message = "The server could not be deleted; ask for it again."
    change_instance(
        tx,
        run.subject,
        now_s=now,
        vm_state="error",
        task_state=None,
        fault={
            "code": 500,
            "created": now,
            "message": message,
            "details": error.get("detail", ""),
        },
    )
    finish_event(
        tx,
        instance_id=run.subject,
        request_id=run.request_id or "",
        event=EVENT,
        attempt=1,
        host=row.host_name,
        started_s=run.params["started_s"],
        now_s=now,
        error=error.get("detail", "failed"),
        details=message,
    )


DELETE: Saga[ComputeCell] = Saga(
    name="delete",
    steps=(Step(name="remove", do=remove), Step(name="forget", do=forget)),
    on_unwound=unwound,
)
