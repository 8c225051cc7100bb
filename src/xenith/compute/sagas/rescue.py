"""Rescue: a server is shut down, and boots from a disk of another image, its own disk beside it.

    begin ─ image ─ stop ─ disks ─ attach ─ start
      │              │       │       │        │
    as it was      start   delete  detach    stop

What fails is taken back, so that the server is what it was. Its root disk is only lent: nothing is
done to it but what the tenant does.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from xenith.compute.records.actions import finish_event
from xenith.compute.records.instances import instances, settle_instance
from xenith.compute.rescuing import RESCUE
from xenith.compute.sagas.build import IMAGE_TIMEOUT_S, bring_image, vm_spec
from xenith.compute.sagas.power import ACT_TIMEOUT_S, GUEST_TIMEOUT_S
from xenith.compute.states import POWER_NUMBERS
from xenith.core.errors import NotFound
from xenith.db import Row, Tx
from xenith.driver.power import HARD_TIMEOUT_S
from xenith.saga import Outcome, Run, Saga, Step

if TYPE_CHECKING:
    from xenith.compute.cell import ComputeCell
    from xenith.driver import HostDriver

_EVENT = "compute_rescue_instance"
_FAILED = "The server could not be rescued."


def driver_of(cell: ComputeCell, run: Run) -> HostDriver:
    """Give the driver of the host that the server is on.

    Raises:
        Unavailable: the host is down.
    """
    return cell.hosts.up_driver(run.params["host_id"])


def find_kept(tx: Tx, instance_id: str) -> Row | None:
    """Find an instance unless it is being deleted, when its task is no more ours to set."""
    row = tx.find(instances, id=instance_id)
    if row is None or row.vm_state == "deleted" or row.task_state == "deleting":
        return None
    return row


async def to_undo(cell: ComputeCell, run: Run) -> HostDriver | None:
    """Give the host's driver to take a step back; None when a delete will remove all anyway."""
    row = await cell.db.read(find_kept, run.subject)
    return None if row is None else driver_of(cell, run)


async def begin(_cell: ComputeCell, run: Run) -> Outcome:
    """Keep where the server is, as a build's steps want it."""
    return Outcome({name: run.params[name] for name in ("host_id", "host_name")})


async def settle(cell: ComputeCell, run: Run) -> Outcome:
    """Write that the server is what it was, once its host has it so."""
    error = run.error or {}

    def record(tx: Tx) -> None:
        tx.on_commit(lambda: cell.end_request(run.subject))
        if find_kept(tx, run.subject) is None:
            return
        now = cell.world.clock.now()
        values = {"vm_state": run.params["vm_state"], "task_state": None, "request": None}
        fault = failure(_FAILED, error, now_s=now)
        settle_instance(tx, run.subject, now_s=now, fault=fault, **values)
        finish(tx, run, _EVENT, error=error.get("detail", "failed"), details=_FAILED)

    return Outcome(record=record)


async def shut_down(cell: ComputeCell, run: Run) -> None:
    """Shut the guest down, or cut its power when it does not listen."""
    await driver_of(cell, run).power(run.subject, "stop", timeout_s=GUEST_TIMEOUT_S)


async def run_again(cell: ComputeCell, run: Run) -> None:
    """Start the guest again if it ran."""
    driver = await to_undo(cell, run)
    if driver is not None and run.params["is_run"]:
        # One in ERROR may have no VM, and then had none to stop.
        with contextlib.suppress(NotFound):
            await driver.power(run.subject, "start", timeout_s=HARD_TIMEOUT_S)


async def make_disks(cell: ComputeCell, run: Run) -> None:
    """Make the rescue disk, and a config drive that tells the guest its password."""
    await driver_of(cell, run).create_rescue_disks(await vm_spec(cell, run))


async def remove_disks(cell: ComputeCell, run: Run) -> None:
    """Remove what the server would have been rescued with."""
    driver = await to_undo(cell, run)
    if driver is not None:
        await driver.delete_rescue_disks(run.subject)


async def attach(cell: ComputeCell, run: Run) -> None:
    """Put the rescue disk first and the server's own second."""
    await driver_of(cell, run).attach_rescue(run.subject)


async def detach(cell: ComputeCell, run: Run) -> None:
    """Put the server's own disk first again."""
    driver = await to_undo(cell, run)
    if driver is not None:
        # A start whose end was not known may have come to it since.
        await driver.power(run.subject, "stop_hard", timeout_s=HARD_TIMEOUT_S)
        await driver.detach_rescue(run.subject)


async def start(cell: ComputeCell, run: Run) -> Outcome:
    """Start the VM from its rescue disk."""
    power = await driver_of(cell, run).power(run.subject, "start", timeout_s=HARD_TIMEOUT_S)

    def record(tx: Tx) -> None:
        tx.on_commit(lambda: cell.end_request(run.subject))
        if find_kept(tx, run.subject) is None:
            return
        now = cell.world.clock.now()
        values: dict[str, Any] = {
            "vm_state": "rescued",
            "power_state": POWER_NUMBERS[power],
            "task_state": None,
            "launched_at": now,
            "request": None,
            "fault": None,
        }
        settle_instance(tx, run.subject, now_s=now, **values)
        finish(tx, run, _EVENT)

    return Outcome(record=record)


async def halt(cell: ComputeCell, run: Run) -> None:
    """Stop the VM that may have been started; nothing on the rescue disk is worth waiting for."""
    driver = await to_undo(cell, run)
    if driver is not None:
        await driver.power(run.subject, "stop_hard", timeout_s=HARD_TIMEOUT_S)


def failure(message: str, error: dict[str, str], *, now_s: float) -> dict[str, Any]:
    """Give the fault of a server; the host's own words may name it, and are for admins."""
    return {
        "code": 500,
        "created": now_s,
        "message": message,
        "details": error.get("detail", ""),
    }


def finish(
    tx: Tx, run: Run, event: str, *, error: str | None = None, details: str | None = None
) -> None:
    """Write how the action ended."""
    finish_event(
        tx,
        instance_id=run.subject,
        request_id=run.request_id or "",
        event=event,
        attempt=1,
        host=run.params["host_name"],
        started_s=run.params["started_s"],
        now_s=tx.world.clock.now(),
        error=error,
        details=details,
    )


RESCUE_SAGA: Saga[ComputeCell] = Saga(
    name=RESCUE,
    steps=(
        Step(name="begin", do=begin, undo=settle),
        Step(name="image", do=bring_image, timeout_s=IMAGE_TIMEOUT_S, is_cancellable=True),
        Step(
            name="stop", do=shut_down, undo=run_again, timeout_s=ACT_TIMEOUT_S, is_cancellable=True
        ),
        Step(name="disks", do=make_disks, undo=remove_disks),
        Step(name="attach", do=attach, undo=detach),
        Step(name="start", do=start, undo=halt),
    ),
)
