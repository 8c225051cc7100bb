"""Run: a server whose host went away as it began to run is looked at when the host is back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenith.compute.records.instances import instances, settle_instance
from xenith.compute.states import NOSTATE, POWER_NUMBERS, VM_STATE_OF_POWER
from xenith.core.errors import NotFound
from xenith.db import Tx
from xenith.saga import Outcome, Run, Saga, Step

if TYPE_CHECKING:
    from xenith.compute.cell import ComputeCell


async def go_on(cell: ComputeCell, run: Run) -> Outcome:
    """Let the VM run where it is; a host that has it not has lost the server."""
    row = await cell.db.read(lambda tx: tx.find(instances, id=run.subject))
    if row is None or row.host_id is None:
        raise NotFound(f"server {run.subject} is on no host")
    power = await cell.hosts.up_driver(row.host_id).run_vm(run.subject)
    now = cell.world.clock.now()

    def record(tx: Tx) -> None:
        settle_instance(
            tx,
            run.subject,
            now_s=now,
            vm_state=VM_STATE_OF_POWER.get(power, "active"),
            task_state=None,
            power_state=POWER_NUMBERS.get(power, NOSTATE),
            launched_at=now,
            fault=None,
        )

    return Outcome(record=record)


def unwound(tx: Tx, run: Run) -> None:
    """Leave the server as it was found; the next look at its host tries again."""
    settle_instance(tx, run.subject, now_s=tx.world.clock.now(), task_state=None)


RUN: Saga[ComputeCell] = Saga(
    name="run", steps=(Step(name="run", do=go_on, is_cancellable=True),), on_unwound=unwound
)
