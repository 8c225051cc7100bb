"""Instances: the cell's part of servers, and the claims that they hold. Owned by a compute cell.

A leaf's database keeps its own instances. Those above it keep what came up from all leaves below,
told apart by ``cell_id``: of a build that was moved, both cells may have a row, and the server's
own row says which of them has it.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from xenith.cells.changes import ChangedTable, carried_columns, mark_change
from xenith.db import CELL, Flag, Json, Row, Tx

#: The kind under which instances travel up, and are followed.
KIND = "instance"

instances = sa.Table(
    "instances",
    CELL,
    sa.Column("id", sa.Text, primary_key=True),
    *carried_columns(),
    sa.Column("project_id", sa.Text, nullable=False),
    sa.Column("host_id", sa.Text),
    sa.Column("host_name", sa.Text),
    sa.Column("zone", sa.Text),
    sa.Column("vm_state", sa.Text, nullable=False),
    sa.Column("task_state", sa.Text),
    sa.Column("power_state", sa.BigInteger, nullable=False),
    sa.Column("launched_at", sa.Float),
    sa.Column("terminated_at", sa.Float),
    # code, message, created, details; the details are for admins.
    sa.Column("fault", Json),
    sa.Column("applied_intent", sa.BigInteger, nullable=False),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    # The intent that the room was taken for; the build begins when the root confirms this one.
    sa.Column("build", sa.Text, nullable=False),
    sa.Column("is_confirmed", Flag, nullable=False),
    # What the build needs, as the intent brought it; emptied when the build has ended.
    sa.Column("request", Json),
    # Why this host: filters, counts, the nearest miss; for each attempt.
    sa.Column("placement", Json),
    # The last resize: number (of its intent), is_open until it is confirmed, reverted or has
    # failed, is_new for which of the sizes old and new the VM has.
    sa.Column("resize", Json),
)
sa.Index("instances_by_host", instances.c.host_id)
sa.Index("instances_by_task", instances.c.task_state)
sa.Index("instances_by_change", instances.c.cell_id, instances.c.change_number)

#: What is asked for may hold secrets of the tenant, and no parent needs it. Why a host was chosen
#: is long, and asked for when somebody wants to know.
_LONG = frozenset({"request", "placement"})
INSTANCES = ChangedTable(KIND, instances, ("id",), private=_LONG)

allocations = sa.Table(
    "allocations",
    CELL,
    sa.Column("instance_id", sa.Text, primary_key=True),
    sa.Column("host_id", sa.Text, nullable=False),
    sa.Column("project_id", sa.Text, nullable=False),
    sa.Column("ram_mib", sa.BigInteger, nullable=False),
    sa.Column("vcpus", sa.BigInteger, nullable=False),
    sa.Column("disk_gib", sa.BigInteger, nullable=False),
    # The server group that the choice of hosts must go on to heed.
    sa.Column("group_id", sa.Text),
)
sa.Index("allocations_by_host", allocations.c.host_id)


def insert_instance(tx: Tx, values: dict[str, Any]) -> None:
    """Write a new instance of this cell."""
    tx.insert(instances, {**values, **mark_change(tx), "extra": None})
    if tx.is_followed(KIND):
        tx.follow(KIND, tx.get(instances, id=values["id"]))


def change_instance(tx: Tx, instance_id: str, *, now_s: float, **values: Any) -> Row | None:
    """Change an instance, raising its generation; tell the row as it then is, if there is one.

    The row is without what is long: ``request`` and ``placement``.
    """
    row = tx.change(
        instances,
        {"id": instance_id},
        counter="generation",
        without=_LONG,
        updated_at=now_s,
        **mark_change(tx),
        **values,
    )
    if row is not None:
        tx.follow(KIND, row)
    return row


def settle_instance(tx: Tx, instance_id: str, *, now_s: float, **values: Any) -> Row | None:
    """Change an instance as a saga's step ends; one that is being deleted stays so.

    A step that was in flight when the delete came still tells what it did, and nothing of it may
    make the server look as if it would stay.
    """
    row = tx.peek(instances, ("vm_state", "task_state"), id=instance_id)
    if row is None or row.vm_state == "deleted":
        return None
    if row.task_state == "deleting":
        values = {name: value for name, value in values.items() if name in _FACTS}
    return change_instance(tx, instance_id, now_s=now_s, **values)


#: What is so whatever is done to the server next.
_FACTS = frozenset(("host_id", "host_name", "zone", "power_state", "placement"))
