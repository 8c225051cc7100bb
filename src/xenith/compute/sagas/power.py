"""Power: start, stop, reboot, pause, suspend and their opposites, as one saga of one step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenith.compute.records.actions import finish_event
from xenith.compute.records.instances import instances, settle_instance
from xenith.compute.states import NOSTATE, POWER_NUMBERS, TRANSITIONS, VM_STATE_OF_POWER
from xenith.core.errors import NotFound, XenithError
from xenith.core.log import logger
from xenith.db import Tx
from xenith.saga import Outcome, Run, Saga, Step

if TYPE_CHECKING:
    from xenith.compute.cell import ComputeCell

_log = logger("compute.power")

#: Seconds that a guest has to shut down or reboot by itself. Source: nova `shutdown_timeout` 60.
GUEST_TIMEOUT_S = 60.0
#: Seconds for the whole action: the guest's time, then the host's for the hard way.
ACT_TIMEOUT_S = 420.0


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
        settle_instance(
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


async def look(cell: ComputeCell, run: Run) -> Outcome | None:
    """Write what the action came to: it may have done its work and failed to say so."""
    row = await cell.db.read(lambda tx: tx.find(instances, id=run.subject))
    if row is None or row.host_id is None:
        return None
    try:
        power = await cell.hosts.up_driver(row.host_id).power_state(run.subject)
    except XenithError as error:
        # The server keeps its state; when the host is back, it is compared.
        _log.warning("state not known", instance=run.subject, error=str(error))
        return None
    if power is None:
        return None
    now = cell.world.clock.now()

    def record(tx: Tx) -> None:
        write_power_found(tx, run.subject, power, now_s=now)

    return Outcome(record=record)


def write_power_found(tx: Tx, instance_id: str, power: str, *, now_s: float) -> None:
    """Write the power state that a host told, and the vm_state that follows from it."""
    row = tx.find(instances, id=instance_id)
    if row is None:
        return
    values: dict[str, Any] = {"power_state": POWER_NUMBERS.get(power, NOSTATE)}
    vm_state = VM_STATE_OF_POWER.get(power)
    if vm_state is not None and row.vm_state in ("active", "stopped", "paused", "suspended"):
        values["vm_state"] = vm_state
    settle_instance(tx, instance_id, now_s=now_s, **values)


def unwound(tx: Tx, run: Run) -> None:
    """Leave the server as it was; the action says that it failed, and why."""
    transition = TRANSITIONS[run.params["transition"]]
    row = tx.find(instances, id=run.subject)
    if row is None or row.task_state == "deleting" or row.vm_state == "deleted":
        return
    now = tx.world.clock.now()
    error = run.error or {}
    settle_instance(
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


POWER: Saga[ComputeCell] = Saga(
    name="power",
    # A delete need not wait for a guest that takes its time to shut down.
    steps=(Step(name="act", do=act, undo=look, timeout_s=ACT_TIMEOUT_S, is_cancellable=True),),
    on_unwound=unwound,
)
