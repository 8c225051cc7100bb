"""Unrescue: a rescued server is shut down, and boots from its own disk again.

    begin ─ stop ─ detach ─ start ─ remove
      │       │       │       │
     keep   start   attach   stop

Until it runs from its own disk, what fails is taken back and the server goes on being rescued.
From there on it is not rescued any more, whatever becomes of the rescue disk: taking back what
failed is then to remove that, tried until it is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenith.compute.records.instances import settle_instance
from xenith.compute.rescuing import UNRESCUE
from xenith.compute.sagas.power import ACT_TIMEOUT_S, GUEST_TIMEOUT_S
from xenith.compute.sagas.rescue import driver_of, failure, find_kept, finish
from xenith.compute.states import POWER_NUMBERS
from xenith.db import Tx
from xenith.driver.power import HARD_TIMEOUT_S
from xenith.saga import Outcome, Run, Saga, Step

if TYPE_CHECKING:
    from xenith.compute.cell import ComputeCell
    from xenith.driver import HostDriver

_EVENT = "compute_unrescue_instance"
_FAILED = "The server could not be brought back from its rescue."


async def _to_undo(cell: ComputeCell, run: Run) -> HostDriver | None:
    """Give the host's driver to take a step back; None when there is nothing to go back to."""
    row = await cell.db.read(find_kept, run.subject)
    return None if row is None or row.vm_state != "rescued" else driver_of(cell, run)


async def begin(_cell: ComputeCell, _run: Run) -> None:
    """Nothing: the task is written already. What follows is taken back before it."""


async def settle(cell: ComputeCell, run: Run) -> Outcome:
    """Write that the server is rescued as before; one that is not loses its rescue disk."""
    row = await cell.db.read(find_kept, run.subject)
    if row is not None and row.vm_state != "rescued":
        await driver_of(cell, run).delete_rescue_disks(run.subject)
    error = run.error or {}

    def record(tx: Tx) -> None:
        row = find_kept(tx, run.subject)
        if row is None:
            return
        now = cell.world.clock.now()
        if row.vm_state != "rescued":
            settle_instance(tx, run.subject, now_s=now, task_state=None)
            finish(tx, run, _EVENT)
            return
        fault = failure(_FAILED, error, now_s=now)
        settle_instance(tx, run.subject, now_s=now, task_state=None, fault=fault)
        finish(tx, run, _EVENT, error=error.get("detail", "failed"), details=_FAILED)

    return Outcome(record=record)


async def shut_down(cell: ComputeCell, run: Run) -> None:
    """Shut the guest down, or cut its power: it may be writing to the server's own disk."""
    await driver_of(cell, run).power(run.subject, "stop", timeout_s=GUEST_TIMEOUT_S)


async def run_again(cell: ComputeCell, run: Run) -> None:
    """Start the rescue again if it ran."""
    driver = await _to_undo(cell, run)
    if driver is not None and run.params["is_run"]:
        await driver.power(run.subject, "start", timeout_s=HARD_TIMEOUT_S)


async def detach(cell: ComputeCell, run: Run) -> None:
    """Put the server's own disk first."""
    await driver_of(cell, run).detach_rescue(run.subject)


async def attach_again(cell: ComputeCell, run: Run) -> None:
    """Put the rescue disk first again."""
    driver = await _to_undo(cell, run)
    if driver is not None:
        # A start whose end was not known may have come to it since.
        await driver.power(run.subject, "stop", timeout_s=GUEST_TIMEOUT_S)
        await driver.attach_rescue(run.subject)


async def start(cell: ComputeCell, run: Run) -> Outcome:
    """Start the VM from its own disk; the server is rescued no more."""
    power = await driver_of(cell, run).power(run.subject, "start", timeout_s=HARD_TIMEOUT_S)

    def record(tx: Tx) -> None:
        if find_kept(tx, run.subject) is None:
            return
        values: dict[str, Any] = {"power_state": POWER_NUMBERS[power], "fault": None}
        now = cell.world.clock.now()
        settle_instance(tx, run.subject, now_s=now, vm_state="active", launched_at=now, **values)

    return Outcome(record=record)


async def halt(cell: ComputeCell, run: Run) -> None:
    """Stop the VM that may have been started from its own disk, as kindly as it lets us."""
    driver = await _to_undo(cell, run)
    if driver is not None:
        await driver.power(run.subject, "stop", timeout_s=GUEST_TIMEOUT_S)


async def remove(cell: ComputeCell, run: Run) -> Outcome:
    """Remove what the server was rescued with."""
    await driver_of(cell, run).delete_rescue_disks(run.subject)

    def record(tx: Tx) -> None:
        if find_kept(tx, run.subject) is not None:
            settle_instance(tx, run.subject, now_s=cell.world.clock.now(), task_state=None)
            finish(tx, run, _EVENT)

    return Outcome(record=record)


UNRESCUE_SAGA: Saga[ComputeCell] = Saga(
    name=UNRESCUE,
    steps=(
        Step(name="begin", do=begin, undo=settle),
        Step(
            name="stop", do=shut_down, undo=run_again, timeout_s=ACT_TIMEOUT_S, is_cancellable=True
        ),
        Step(name="detach", do=detach, undo=attach_again, timeout_s=ACT_TIMEOUT_S),
        Step(name="start", do=start, undo=halt, timeout_s=ACT_TIMEOUT_S),
        Step(name="remove", do=remove),
    ),
)
