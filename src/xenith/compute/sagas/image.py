"""An image of a server: a snapshot of its root disk, streamed to the image service as it runs on.

The snapshot is what makes it repeatable: whenever a process dies, the next one finds the disk as it
was and sends it from its first byte. What fails leaves neither a snapshot nor an image.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from xenith.compute.imaging import IMAGE
from xenith.compute.records.actions import finish_event
from xenith.compute.records.instances import instances, settle_instance
from xenith.core.errors import NotFound
from xenith.db import Row, Tx
from xenith.saga import Outcome, Run, Saga, Step

if TYPE_CHECKING:
    from xenith.compute.cell import ComputeCell
    from xenith.driver import HostDriver

#: Seconds for a disk's bytes to reach the image service. Source: nova waited 3600 s for a download.
UPLOAD_TIMEOUT_S = 3600.0
#: Seconds until it is this disk's turn on its host: a night's work.
TURN_TIMEOUT_S = 8 * 3600.0
_EVENTS = {
    "createImage": "compute_snapshot_instance",
    "createBackup": "compute_backup_instance",
}


async def _driver(cell: ComputeCell, run: Run) -> HostDriver | None:
    row = await cell.db.read(lambda tx: tx.find(instances, id=run.subject))
    if row is None or row.host_id is None:
        return None
    return cell.hosts.up_driver(row.host_id)


async def _here(cell: ComputeCell, run: Run) -> HostDriver:
    driver = await _driver(cell, run)
    if driver is None:
        raise NotFound(f"server {run.subject} is on no host")
    return driver


async def begin(_cell: ComputeCell, _run: Run) -> None:
    """Nothing: the image's record is there already. What follows is taken back before it."""


async def give_up(cell: ComputeCell, run: Run) -> Outcome:
    """Remove the image that came to nothing; the server is what it was."""
    await cell.images.drop_image(run.params["image_id"])
    error = run.error or {}

    def record(tx: Tx) -> None:
        _end(tx, run, error=error.get("detail", "failed"))

    return Outcome(record=record)


async def take_turn(cell: ComputeCell, run: Run) -> None:
    """Wait until it is this disk's turn on its host; nothing is held there meanwhile."""
    row = await cell.db.read(lambda tx: tx.get(instances, id=run.subject))
    await _here(cell, run)
    await cell.export_turns.take(row.host_id, row.project_id, run.id)


async def give_turn_back(cell: ComputeCell, run: Run) -> None:
    """Let the next have the turn."""
    cell.export_turns.give_back(run.id)


async def take_snapshot(cell: ComputeCell, run: Run) -> Outcome:
    """Keep the disk as it is now."""
    await (await _here(cell, run)).take_snapshot(run.subject, run.params["image_id"])
    return Outcome(record=_noted(run, "image_uploading"))


async def delete_snapshot(cell: ComputeCell, run: Run) -> None:
    """Remove what was kept."""
    driver = await _driver(cell, run)
    if driver is not None:
        await driver.delete_snapshot(run.subject)


async def upload(cell: ComputeCell, run: Run) -> None:
    """Send the bytes; the image is there once all of them are.

    Its turn is in memory alone: after a restart of the cell it may be that of others, and this one
    is beside it. The snapshot would wait for longer otherwise.
    """
    driver = await _here(cell, run)
    try:
        async with contextlib.aclosing(driver.read_snapshot(run.subject)) as chunks:
            await cell.images.store_image(
                run.params["image_id"], chunks, rotation=run.params.get("rotation")
            )
    finally:
        cell.export_turns.give_back(run.id)


async def finish(cell: ComputeCell, run: Run) -> Outcome:
    """Remove the snapshot; the image needs it no more."""
    await delete_snapshot(cell, run)

    def record(tx: Tx) -> None:
        _end(tx, run)

    return Outcome(record=record)


def _noted(run: Run, task_state: str) -> Any:
    def record(tx: Tx) -> None:
        if _find_imaged(tx, run.subject) is not None:
            settle_instance(tx, run.subject, now_s=tx.world.clock.now(), task_state=task_state)

    return record


def _end(tx: Tx, run: Run, *, error: str | None = None) -> None:
    row = _find_imaged(tx, run.subject)
    if row is None:
        return
    now = tx.world.clock.now()
    settle_instance(tx, run.subject, now_s=now, task_state=None)
    finish_event(
        tx,
        instance_id=run.subject,
        request_id=run.request_id or "",
        event=_EVENTS[run.params["action"]],
        attempt=1,
        host=row.host_name,
        started_s=run.params["started_s"],
        now_s=now,
        error=error,
        details=None if error is None else "The image of the server could not be made.",
    )


def _find_imaged(tx: Tx, instance_id: str) -> Row | None:
    """Find an instance unless it is being deleted, when its task is no more ours to set."""
    row = tx.find(instances, id=instance_id)
    if row is None or row.vm_state == "deleted" or row.task_state == "deleting":
        return None
    return row


IMAGE_SAGA: Saga[ComputeCell] = Saga(
    name=IMAGE,
    steps=(
        Step(name="begin", do=begin, undo=give_up),
        Step(
            name="turn",
            do=take_turn,
            undo=give_turn_back,
            timeout_s=TURN_TIMEOUT_S,
            is_cancellable=True,
            is_wait=True,
        ),
        Step(name="snapshot", do=take_snapshot, undo=delete_snapshot),
        Step(name="upload", do=upload, timeout_s=UPLOAD_TIMEOUT_S, is_cancellable=True),
        Step(name="finish", do=finish),
    ),
)
