"""Power: start, stop, reboot, pause, suspend and their opposites, as one saga of one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenith.compute.records.actions import finish_event
from xenith.compute.records.instances import change_instance, instances
from xenith.compute.states import NOSTATE, POWER_NUMBERS, TRANSITIONS, VM_STATE_OF_POWER
from xenith.core.errors import NotFound
from xenith.db import Tx
from xenith.saga import Outcome, Run, Saga, Step

if TYPE_CHECKING:
    from xenith.compute.cell import ComputeCell

#: Seconds that a guest has to shut down or reboot by itself. Source: nova `shutdown_timeout` 60.
GUEST_TIMEOUT_S = 60.0


async def act(cell: ComputeCell, run: Run) -> Outcome:
    """Tell the host, and write the state that it leads to."""
    transition = TRANSITIONS[run.params["transition"]]
    row = await cell.db.read(lambda tx: tx.find(instances, id=run.subject))
    if row is None or row.host_id is None:
        raise NotFound(f"server {run.subject} is on no host")
    power = await cell.hosts.up_driver(row.host_id).power(
        run.subject, transition.power_action, timeout_s=GUEST_TIMEOUT_S
    )
    now = cell.world.clock.now()

    def record(tx: Tx) -> None:
        change_instance(
            tx,
            run.subject,
            now_s=now,
            task_state=None,
            vm_state=VM_STATE_OF_POWER.get(power, transition.vm_state),
            power_state=POWER_NUMBERS.get(power, NOSTATE),
            fault=None,
        )
        finish_event(
            tx,
            instance_id=run.subject,
            request_id=run.request_id or "",
            event=f"compute_{transition.action}_instance",
            attempt=1,
            host=row.host_name,
            started_s=run.params["started_s"],
            now_s=now,
        )

    return Outcome(record=record)


def unwound(tx: Tx, run: Run) -> None:
    """Leave the server as it was; the action says that it failed, and why."""
    transition = TRANSITIONS[run.params["transition"]]
    row = tx.find(instances, id=run.subject)
    if row is None or row.task_state == "deleting":
        return
    now = tx.world.clock.now()
    error = run.error or {}
    change_instance(
        tx,
        run.subject,
        now_s=now,
        task_state=None,
        fault={
            "code": 500,
            "created": now,
            # The host's own words may name it; they are for admins.
            "message": f"The server could not be brought to {transition.action}.",
            "details": error.get("detail", ""),
        },
    )
    finish_event(
        tx,
        instance_id=run.subject,
        request_id=run.request_id or "",
        event=f"compute_{transition.action}_instance",
        attempt=1,
        host=row.host_name,
        started_s=run.params["started_s"],
        now_s=now,
        error=error.get("detail", "failed"),
        details=f"The {transition.action} failed.",
    )


POWER: Saga[ComputeCell] = Saga(name="power", steps=(Step(name="act", do=act),), on_unwound=unwound)
