"""What a cell does with wishes about a server's size: room is claimed here, or refused here.

A resize stays on the server's host. From when the cell takes it until it is confirmed, reverted or
has failed, the server holds the greater of both sizes there; disks never shrink, so what is claimed
of disks stays as large as it grew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from xenith import saga
from xenith.cells import intents as kinds
from xenith.cells.intents import Intent, Verdict
from xenith.compute.records.actions import finish_event
from xenith.compute.records.claims import shrink_claim
from xenith.compute.records.flavors import disk_gib_of
from xenith.compute.records.instances import allocations, change_instance, instances
from xenith.compute.states import RUNNING, VM_STATE_OF_POWER, WORDS
from xenith.core.errors import Exhausted
from xenith.db import Row, Tx
from xenith.saga import list_of_subject
from xenith.saga.definition import OPEN_STATES
from xenith.scheduler.hosts import Claim

if TYPE_CHECKING:
    from xenith.compute.cell import ComputeCell

#: The kinds of intents, which are those of the sagas too.
SIZES = RESIZE, CONFIRM_RESIZE, REVERT_RESIZE = "resize", "confirm-resize", "revert-resize"
#: What a tenant reads when the host has no room; what it lacks is for admins.
NO_ROOM = "No valid host was found. The server's host has no room for the flavor."


class Grown(msgspec.Struct, frozen=True):
    """What was done in memory for a resize: the claim as it was, or why there is no room."""

    before: Claim | None = None
    detail: str = ""


def prepare_resize(cell: ComputeCell, intent: Intent) -> Grown:
    """Claim the greater of both sizes in memory."""
    flavor = intent.params["flavor"]
    try:
        before = cell.hosts.grow(
            intent.subject,
            ram_mib=flavor["ram"],
            vcpus=flavor["vcpus"],
            disk_gib=disk_gib_of(flavor),
        )
    except Exhausted as error:
        return Grown(detail=error.message)
    return Grown(before)


def abandon_resize(cell: ComputeCell, intent: Intent, grown: Grown) -> None:
    """Give back what was claimed for a resize that was not written down."""
    if grown.before is not None:
        cell.hosts.follow_allocation(grown.before, intent.subject)


def follow_rows(cell: ComputeCell, tx: Tx, instance_id: str) -> None:
    """Have the table in memory say what is written of a server's claim, in the end."""
    _follow(cell, tx, tx.find(allocations, instance_id=instance_id))


def accept_size(
    cell: ComputeCell, tx: Tx, intent: Intent, row: Row, grown: Grown
) -> Verdict | None:
    """Do what one of ``SIZES`` asks, in rows; None when it is to be prepared once more."""
    match intent.kind:
        case kind if kind == RESIZE:
            return _accept_resize(cell, tx, intent, row, grown)
        case kind if kind == CONFIRM_RESIZE:
            _accept_confirm(cell, tx, intent, row)
        case _:
            _accept_revert(cell, tx, intent, row)
    return Verdict(id=intent.id, answer=kinds.DONE)


def _accept_resize(
    cell: ComputeCell, tx: Tx, intent: Intent, row: Row, grown: Grown
) -> Verdict | None:
    """Write the claim and begin, or say why not; None when another scheduler was first."""
    held = tx.find(allocations, instance_id=intent.subject)
    if row.vm_state not in ("active", "stopped") or row.task_state is not None or held is None:
        cell.refuse(tx, intent, row, "resize")
        return Verdict(id=intent.id, answer=kinds.DONE)
    if grown.before is None and not grown.detail:
        # Another scheduler has claimed for it, and this one does not know yet.
        cell.look_again_later(tx, held.host_id)
        return None
    if grown.before is None:
        cell.take(tx, intent)
        return Verdict(
            id=intent.id,
            answer=kinds.NO,
            reason=NO_ROOM,
            detail=grown.detail,
        )
    flavor = intent.params["flavor"]
    old = {"ram_mib": held.ram_mib, "vcpus": held.vcpus}
    new = {"ram_mib": flavor["ram"], "vcpus": flavor["vcpus"]}
    most = {name: max(old[name], new[name]) for name in old}
    # A root of an earlier version does not tell what the server had.
    if (had := intent.params.get("old_flavor")) is not None:
        old.update(_disks(had))
        new.update(_disks(flavor))
    claimed = {
        **{name: getattr(held, name) for name in ("instance_id", "host_id", "project_id")},
        "group_id": held.group_id,
        "disk_gib": max(held.disk_gib, disk_gib_of(flavor)),
        **most,
    }
    if not cell.hosts.write_claim(tx, claimed):
        cell.look_again_later(tx, held.host_id)
        return None
    follow_rows(cell, tx, intent.subject)
    cell.take(
        tx,
        intent,
        task_state="resize_prep",
        resize={
            "number": intent.number,
            "is_open": True,
            "is_new": False,
            "old": old,
            "new": new,
        },
    )
    _begin(tx, intent, row, size={**new, "root_gib": flavor["disk"]}, back=old)
    return Verdict(id=intent.id, answer=kinds.DONE)


def _disks(flavor: dict[str, Any]) -> dict[str, int]:
    return {"swap_mib": flavor["swap"], "ephemeral_gib": flavor["ephemeral"]}


def _accept_revert(cell: ComputeCell, tx: Tx, intent: Intent, row: Row) -> None:
    """Begin to go back to the old size."""
    if not _is_to_be_ended(row):
        cell.refuse(tx, intent, row, "revertResize")
        return
    cell.take(tx, intent, task_state="resize_reverting")
    _begin(tx, intent, row, size={**row.resize["old"], "root_gib": 0}, back=dict(row.resize["new"]))


def _accept_confirm(cell: ComputeCell, tx: Tx, intent: Intent, row: Row) -> None:
    """Keep the new size: nothing is done on the host, and what is claimed above it is free."""
    if not _is_to_be_ended(row):
        cell.refuse(tx, intent, row, "confirmResize")
        return
    end_resize(
        cell,
        tx,
        row,
        is_new=True,
        task_state=None,
        vm_state=VM_STATE_OF_POWER.get(WORDS.get(row.power_state, ""), "active"),
        applied_intent=intent.number,
    )
    finish_event(
        tx,
        instance_id=intent.subject,
        request_id=intent.request_id,
        event="compute_confirm_resize",
        attempt=1,
        host=row.host_name,
        started_s=intent.created_at,
        now_s=cell.world.clock.now(),
    )


def end_resize(cell: ComputeCell, tx: Tx, row: Row, *, is_new: bool, **values: Any) -> None:
    """Write that a server has the one size or the other, and give back what it has not."""
    size = row.resize["new" if is_new else "old"]
    held = shrink_claim(tx, row.id, ram_mib=size["ram_mib"], vcpus=size["vcpus"])
    _follow(cell, tx, held)
    change_instance(
        tx,
        row.id,
        now_s=cell.world.clock.now(),
        resize={**row.resize, "is_open": False, "is_new": is_new},
        **values,
    )


def end_by_hand(cell: ComputeCell, tx: Tx, row: Row) -> None:
    """End a resize of a server whose state an admin sets to active; it keeps what it has."""
    is_open = row.resize is not None and row.resize["is_open"]
    if is_open and not any(
        run.kind in (RESIZE, REVERT_RESIZE) and run.state in OPEN_STATES
        for run in list_of_subject(tx, row.id)
    ):
        end_resize(cell, tx, row, is_new=row.resize["is_new"])


def _is_to_be_ended(row: Row) -> bool:
    return bool(
        row.vm_state == "resized"
        and row.task_state is None
        and row.resize is not None
        and row.resize["is_open"]
    )


def _begin(tx: Tx, intent: Intent, row: Row, *, size: dict[str, int], back: dict[str, int]) -> None:
    """Begin the saga that gives a VM a size; ``back`` is the one that it has."""
    saga.start(
        tx,
        intent.kind,
        subject=intent.subject,
        request_id=intent.request_id,  # type: ignore[arg-type]
        params={
            "size": size,
            "back": {**back, "root_gib": 0},
            "is_run": row.power_state == RUNNING,
            "vm_state": row.vm_state,
            "started_s": intent.created_at,
        },
    )


def _follow(cell: ComputeCell, tx: Tx, held: Row | None) -> None:
    """Have the table in memory say what the allocation does, once this is written."""
    if held is not None:
        tx.on_commit(lambda: cell.hosts.follow_allocation(held, held.instance_id))


def find_open(tx: Tx, instance_id: str) -> Row | None:
    """Find an instance with a resize that has not ended, unless it is being deleted."""
    row = tx.find(instances, id=instance_id)
    if row is None or row.vm_state == "deleted" or row.task_state == "deleting":
        return None
    return row if row.resize is not None and row.resize["is_open"] else None
