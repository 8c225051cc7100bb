"""Rebuild: what a server is on its host is removed, and made anew of an image.

    begin ─ image ─ remove ─ disks ─ vm ─ start
      │                        │      │
     ERROR                   delete  delete

The image is on the host before anything is removed: one that cannot become a disk costs the server
nothing but the word ERROR, and its old disk stays until the next rebuild or the delete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenith.compute.rebuilding import REBUILD
from xenith.compute.records.actions import finish_event
from xenith.compute.records.instances import instances, settle_instance
from xenith.compute.sagas.build import (
    IMAGE_TIMEOUT_S,
    bring_image,
    make_disks,
    make_vm,
    remove_disks,
    remove_vm,
)
from xenith.compute.states import POWER_NUMBERS, VM_STATE_OF_POWER
from xenith.db import Row, Tx
from xenith.driver.power import HARD_TIMEOUT_S
from xenith.saga import Outcome, Run, Saga, Step

if TYPE_CHECKING:
    from xenith.compute.cell import ComputeCell

#: Seconds for the host to start the VM.
START_TIMEOUT_S = 300.0
EVENT = "compute_rebuild_instance"


async def begin(_cell: ComputeCell, run: Run) -> Outcome:
    """Keep where the server is, as a build's steps want it."""
    return Outcome({name: run.params[name] for name in ("host_id", "host_name")})


async def settle(cell: ComputeCell, run: Run) -> Outcome:
    """Leave the server in ERROR: it can be rebuilt again, or deleted."""
    error = run.error or {}

    def record(tx: Tx) -> None:
        if _find_rebuilt(tx, run.subject) is None:
            return
        now = cell.world.clock.now()
        message = "The server could not be made anew of the image."
        fault = {
            "code": 500,
            "created": now,
            # The host's own words may name it; they are for admins.
            "message": message,
            "details": error.get("detail", ""),
        }
        values = {"vm_state": "error", "task_state": None, "request": None, "fault": fault}
        settle_instance(tx, run.subject, now_s=now, **values)
        tx.on_commit(lambda: cell.end_request(run.subject))
        _finish(tx, run, error=error.get("detail", "failed"), details=message)

    return Outcome(record=record)


async def bring(cell: ComputeCell, run: Run) -> Outcome:
    """Have the image on the host while the server still is what it was."""
    await bring_image(cell, run)
    return Outcome(record=_noted(run, "rebuild_block_device_mapping"))


async def remove(cell: ComputeCell, run: Run) -> Outcome:
    """Remove all that the host has of the server."""
    await cell.hosts.up_driver(run.data["host_id"]).destroy_instance(run.subject)
    return Outcome(record=_noted(run, "rebuild_spawning"))


async def start(cell: ComputeCell, run: Run) -> Outcome:
    """Start the VM if the server ran; it is then what its power state says."""
    driver = cell.hosts.up_driver(run.data["host_id"])
    action = "start" if run.params["is_run"] else "stop"
    power = await driver.power(run.subject, action, timeout_s=HARD_TIMEOUT_S)  # type: ignore[arg-type]

    def record(tx: Tx) -> None:
        if _find_rebuilt(tx, run.subject) is None:
            return
        now = cell.world.clock.now()
        values: dict[str, Any] = {
            "vm_state": VM_STATE_OF_POWER[power],
            "power_state": POWER_NUMBERS[power],
            "task_state": None,
            "launched_at": now,
            "request": None,
            "fault": None,
        }
        settle_instance(tx, run.subject, now_s=now, **values)
        tx.on_commit(lambda: cell.end_request(run.subject))
        _finish(tx, run)

    return Outcome(record=record)


def _noted(run: Run, task_state: str) -> Any:
    def record(tx: Tx) -> None:
        if _find_rebuilt(tx, run.subject) is not None:
            settle_instance(tx, run.subject, now_s=tx.world.clock.now(), task_state=task_state)

    return record


def _finish(tx: Tx, run: Run, *, error: str | None = None, details: str | None = None) -> None:
    finish_event(
        tx,
        instance_id=run.subject,
        request_id=run.request_id or "",
        event=EVENT,
        attempt=1,
        host=run.params["host_name"],
        started_s=run.params["started_s"],
        now_s=tx.world.clock.now(),
        error=error,
        details=details,
    )


def _find_rebuilt(tx: Tx, instance_id: str) -> Row | None:
    """Find an instance unless it is being deleted, when its task is no more ours to set."""
    row = tx.find(instances, id=instance_id)
    if row is None or row.vm_state == "deleted" or row.task_state == "deleting":
        return None
    return row


REBUILD_SAGA: Saga[ComputeCell] = Saga(
    name=REBUILD,
    steps=(
        Step(name="begin", do=begin, undo=settle),
        Step(name="image", do=bring, timeout_s=IMAGE_TIMEOUT_S, is_cancellable=True),
        Step(name="remove", do=remove),
        Step(name="disks", do=make_disks, undo=remove_disks),
        Step(name="vm", do=make_vm, undo=remove_vm),
        Step(name="start", do=start, timeout_s=START_TIMEOUT_S),
    ),
)
