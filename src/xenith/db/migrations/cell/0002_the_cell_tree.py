"""A cell is one of many: rows say whose they are, and which of its changes they came with.

Rows of 0.1.0 are of its only cell. They are numbered as if they had changed one after the other:
instances, hosts, events of actions. These last were the global tree's until now; both trees may be
brought over first, and either may be alone in its database.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

#: The cell of a cloud of 0.1.0.
ONLY_CELL = "00000000-0000-0000-0000-00000000ce11"

_INSTANCE = (
    "id, project_id, host_id, host_name, zone, vm_state, task_state, power_state, launched_at,"
    " terminated_at, fault, applied_intent, generation, created_at, updated_at, request, placement"
)
# PostgreSQL has another meaning for a bare ``user``.
_HOST = (
    'id, number, service_id, name, url, "user", sealed_password, zone, is_enabled,'
    " disabled_reason, is_forced_down, facts, created_at, updated_at"
)
_EVENT = (
    "instance_id, request_id, event, attempt, host, started_at, finished_at, result, details,"
    " traceback"
)


def upgrade() -> None:
    """Bring the tables over."""
    bind = op.get_bind()
    cell_id = bind.scalar(sa.text("SELECT cell_id FROM instances LIMIT 1")) or ONLY_CELL
    _lay_aside("instances")
    _create_instances()
    last = _bring_over(
        "instances",
        _INSTANCE,
        cell_id=cell_id,
        order="created_at, id",
        new={"build": "''", "is_confirmed": "1"},
        last=0,
    )
    _lay_aside("hosts")
    _create_hosts()
    last = _bring_over(
        "hosts",
        _HOST,
        cell_id=cell_id,
        order="number",
        new={"is_up": "0", "down_reason": "'not yet connected'", "is_removed": "0"},
        last=last,
    )
    has_events = sa.inspect(bind).has_table("instance_action_events")
    if has_events:
        _lay_aside("instance_action_events")
    _create_events()
    if has_events:
        last = _bring_over(
            "instance_action_events",
            _EVENT,
            cell_id=cell_id,
            order="started_at, instance_id, request_id, event, attempt",
            new={},
            last=last,
        )
    op.drop_table("intent_inbox")
    _create_tables_of_the_tree()
    if last:
        row = {"cell_id": cell_id, "last": last}
        bind.execute(sa.text("INSERT INTO cell_self VALUES (1, :cell_id, 1, :last)"), row)


def _lay_aside(table: str) -> None:
    """Copy rows out of the way, so that constraints of the new table have their usual names."""
    op.execute(f"CREATE TABLE {table}_0001 AS SELECT * FROM {table}")  # noqa: S608 - our names
    op.drop_table(table)


def _bring_over(
    table: str, columns: str, *, cell_id: str, order: str, new: dict[str, str], last: int
) -> int:
    """Fill a new table from what was laid aside; tell the number of the last row's change."""
    names = "".join(f", {name}" for name in new)
    values = "".join(f", {value}" for value in new.values())
    statement = sa.text(
        f"INSERT INTO {table} ({columns}, cell_id, change_number{names})"  # noqa: S608 - our names
        f" SELECT {columns}, CAST(:cell_id AS TEXT),"
        f" CAST(:last AS BIGINT) + ROW_NUMBER() OVER (ORDER BY {order}){values}"
        f" FROM {table}_0001"
    )
    done = op.get_bind().execute(statement, {"cell_id": cell_id, "last": last})
    op.drop_table(f"{table}_0001")
    return last + done.rowcount


def _create_instances() -> None:
    op.create_table(
        "instances",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("cell_id", sa.Text(), nullable=False),
        sa.Column("change_number", sa.BigInteger(), nullable=False),
        sa.Column("extra", sa.Text(), nullable=True),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("host_id", sa.Text(), nullable=True),
        sa.Column("host_name", sa.Text(), nullable=True),
        sa.Column("zone", sa.Text(), nullable=True),
        sa.Column("vm_state", sa.Text(), nullable=False),
        sa.Column("task_state", sa.Text(), nullable=True),
        sa.Column("power_state", sa.BigInteger(), nullable=False),
        sa.Column("launched_at", sa.Float(), nullable=True),
        sa.Column("terminated_at", sa.Float(), nullable=True),
        sa.Column("fault", sa.Text(), nullable=True),
        sa.Column("applied_intent", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("build", sa.Text(), nullable=False),
        sa.Column("is_confirmed", sa.SmallInteger(), nullable=False),
        sa.Column("request", sa.Text(), nullable=True),
        sa.Column("placement", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", "cell_id"),
    )
    op.create_index("instances_by_change", "instances", ["cell_id", "change_number"], unique=False)
    op.create_index("instances_by_host", "instances", ["host_id"], unique=False)
    op.create_index("instances_by_task", "instances", ["task_state"], unique=False)


def _create_hosts() -> None:
    op.create_table(
        "hosts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("cell_id", sa.Text(), nullable=False),
        sa.Column("change_number", sa.BigInteger(), nullable=False),
        sa.Column("extra", sa.Text(), nullable=True),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("service_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("sealed_password", sa.LargeBinary(), nullable=False),
        sa.Column("zone", sa.Text(), nullable=False),
        sa.Column("is_enabled", sa.SmallInteger(), nullable=False),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.Column("is_forced_down", sa.SmallInteger(), nullable=False),
        sa.Column("is_up", sa.SmallInteger(), nullable=False),
        sa.Column("down_reason", sa.Text(), nullable=False),
        sa.Column("facts", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("is_removed", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", "cell_id"),
        sa.UniqueConstraint("cell_id", "name"),
        sa.UniqueConstraint("service_id"),
    )
    op.create_index("hosts_by_change", "hosts", ["cell_id", "change_number"], unique=False)


def _create_events() -> None:
    op.create_table(
        "instance_action_events",
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("cell_id", sa.Text(), nullable=False),
        sa.Column("change_number", sa.BigInteger(), nullable=False),
        sa.Column("extra", sa.Text(), nullable=True),
        sa.Column("host", sa.Text(), nullable=True),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("details", sa.Text(), nullable=True),
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("instance_id", "request_id", "event", "attempt", "cell_id"),
    )
    op.create_index(
        "instance_action_events_by_change",
        "instance_action_events",
        ["cell_id", "change_number"],
        unique=False,
    )


def _create_tables_of_the_tree() -> None:
    op.create_table(
        "host_claims",
        sa.Column("host_id", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("claimant", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("host_id"),
    )
    op.create_table(
        "cell_self",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("cell_id", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "change_cursors",
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("has_stale", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("origin"),
    )
    op.create_table(
        "intents",
        sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("parent", sa.Text(), nullable=False),
        sa.Column("next_hop", sa.Text(), nullable=True),
        sa.Column("hop_id", sa.Text(), nullable=True),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("tried", sa.Text(), nullable=False),
        sa.Column("trail", sa.Text(), nullable=False),
        sa.Column("intent", sa.LargeBinary(), nullable=False),
        sa.Column("verdict", sa.LargeBinary(), nullable=True),
        sa.Column("deadline_at", sa.Float(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("closed_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("sequence"),
        sa.UniqueConstraint("hop_id"),
        sa.UniqueConstraint("id"),
    )
    op.create_index("intents_by_subject", "intents", ["subject"], unique=False)
    op.create_index("intents_open", "intents", ["closed_at", "next_hop", "sequence"], unique=False)
    op.create_table(
        "topologies",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
