"""Resize and its revert: a VM is shut down, given another size, and started again if it ran.

Both are the same three steps with the sizes exchanged; each is taken back by the same means, so
that a server ends with the one size or the other and never between them. The root disk grows with
a resize and does not shrink again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenith.compute.records.actions import finish_event
from xenith.compute.records.instances import allocations, settle_instance
from xenith.compute.resizing import RESIZE, REVERT_RESIZE, end_resize, find_open
from xenith.compute.sagas.power import ACT_TIMEOUT_S, GUEST_TIMEOUT_S
from xenith.compute.states import POWER_NUMBERS, VM_STATE_OF_POWER
from xenith.core.errors import NotFound
from xenith.db import Row, Tx
from xenith.driver.power import HARD_TIMEOUT_S
from xenith.saga import Outcome, Run, Saga, Step

if TYPE_CHECKING:
    from xenith.compute.cell import ComputeCell
    from xenith.driver import HostDriver

#: What the server's task is in each step. Source: nova, task states of a resize.
_TASKS = {RESIZE: ("resize_migrating", "resize_finish"), REVERT_RESIZE: ("resize_reverting",) * 2}
_EVENTS = {RESIZE: "compute_finish_resize", REVERT_RESIZE: "compute_finish_revert_resize"}


async def _found(cell: ComputeCell, run: Run) -> tuple[Row, HostDriver] | None:
    """Give the instance and its host's driver; None when a delete has the word.

    Raises:
        Unavailable: the host is down.
    """
    row = await cell.db.read(find_open, run.subject)
    if row is None or row.host_id is None:
        return None
    return row, cell.hosts.up_driver(row.host_id)


async def _here(cell: ComputeCell, run: Run) -> HostDriver:
    found = await _found(cell, run)
    if found is None:
        raise NotFound(f"server {run.subject} is not being resized")
    return found[1]


async def shut_down(cell: ComputeCell, run: Run) -> Outcome:
    """Shut the guest down, or cut its power when it does not listen."""
    held = await cell.db.read(lambda tx: tx.find(allocations, instance_id=run.subject))
    if held is not None:
        # The commit that claimed may have been taken for lost.
        cell.hosts.follow_allocation(held, run.subject)
    driver = await _here(cell, run)
    await driver.power(run.subject, "stop", timeout_s=GUEST_TIMEOUT_S)
    return Outcome(record=_noted(cell, run, task_state=_TASKS[run.kind][0]))


async def run_again(cell: ComputeCell, run: Run) -> None:
    """Start the guest again if it ran."""
    found = await _found(cell, run)
    if found is not None and run.params["is_run"]:
        await found[1].power(run.subject, "start", timeout_s=HARD_TIMEOUT_S)


async def set_size(cell: ComputeCell, run: Run) -> Outcome:
    """Give the VM its new size."""
    await (await _here(cell, run)).resize(run.subject, **run.params["size"])
    return Outcome(record=_noted(cell, run, task_state=_TASKS[run.kind][1]))


async def set_size_back(cell: ComputeCell, run: Run) -> None:
    """Give the VM the size that it had; its disk stays as it is."""
    found = await _found(cell, run)
    if found is not None:
        await found[1].power(run.subject, "stop", timeout_s=GUEST_TIMEOUT_S)
        await found[1].resize(run.subject, **run.params["back"])


async def start_again(cell: ComputeCell, run: Run) -> Outcome:
    """Start the guest again if it ran; the server then has its new size."""
    driver = await _here(cell, run)
    action = "start" if run.params["is_run"] else "stop"
    power = await driver.power(run.subject, action, timeout_s=HARD_TIMEOUT_S)  # type: ignore[arg-type]

    def record(tx: Tx) -> None:
        row = find_open(tx, run.subject)
        if row is None:
            return
        now = cell.world.clock.now()
        values: dict[str, Any] = {
            "task_state": None,
            "power_state": POWER_NUMBERS[power],
            "fault": None,
        }
        if run.kind == RESIZE:
            resize = {**row.resize, "is_new": True}
            settle_instance(tx, run.subject, now_s=now, vm_state="resized", resize=resize, **values)
        else:
            vm_state = VM_STATE_OF_POWER[power]
            end_resize(cell, tx, row, is_new=False, vm_state=vm_state, **values)
        _finish(tx, run, row)

    return Outcome(record=record)


async def halt(cell: ComputeCell, run: Run) -> None:
    """Stop the VM that may have been started."""
    found = await _found(cell, run)
    if found is not None:
        await found[1].power(run.subject, "stop", timeout_s=GUEST_TIMEOUT_S)


async def settle(cell: ComputeCell, run: Run) -> Outcome:
    """Write that the server is what it was, once its host has it so."""

    def record(tx: Tx) -> None:
        row = find_open(tx, run.subject)
        if row is None:
            return
        now = cell.world.clock.now()
        error = run.error or {}
        values: dict[str, Any] = {
            "task_state": None,
            "vm_state": run.params["vm_state"],
            "fault": {
                "code": 500,
                "created": now,
                # The host's own words may name it; they are for admins.
                "message": "The server could not be given its size.",
                "details": error.get("detail", ""),
            },
        }
        if run.kind == RESIZE:
            end_resize(cell, tx, row, is_new=False, **values)
        else:
            settle_instance(tx, run.subject, now_s=now, **values)
        _finish(tx, run, row, error=error.get("detail", "failed"))

    return Outcome(record=record)


async def begin(_cell: ComputeCell, _run: Run) -> None:
    """Nothing: the claim is written already. What follows is taken back before it."""


def _noted(cell: ComputeCell, run: Run, *, task_state: str) -> Any:
    def record(tx: Tx) -> None:
        if find_open(tx, run.subject) is not None:
            settle_instance(tx, run.subject, now_s=cell.world.clock.now(), task_state=task_state)

    return record


def _finish(tx: Tx, run: Run, row: Row, *, error: str | None = None) -> None:
    finish_event(
        tx,
        instance_id=run.subject,
        request_id=run.request_id or "",
        event=_EVENTS[run.kind],
        attempt=1,
        host=row.host_name,
        started_s=run.params["started_s"],
        now_s=tx.world.clock.now(),
        error=error,
        details=None if error is None else "The server could not be given its size.",
    )


_STEPS: tuple[Step[ComputeCell], ...] = (
    Step(name="begin", do=begin, undo=settle),
    Step(name="stop", do=shut_down, undo=run_again, timeout_s=ACT_TIMEOUT_S, is_cancellable=True),
    Step(name="size", do=set_size, undo=set_size_back, timeout_s=ACT_TIMEOUT_S),
    Step(name="start", do=start_again, undo=halt, timeout_s=ACT_TIMEOUT_S),
)
RESIZE_SAGA: Saga[ComputeCell] = Saga(name=RESIZE, steps=_STEPS)
REVERT_SAGA: Saga[ComputeCell] = Saga(name=REVERT_RESIZE, steps=_STEPS)
