"""A server knows its cell; what is asked of cells, and what they did, moves to the cell tree.

The tree of the cell may be in the same database (0.1.0 had no other way), at either revision. What
it takes over is left for it: the events of actions, which it then has under the same name.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

_FAULT_HEAD = '{"code":500,"created":'
_FAULT_TAIL = (
    ',"message":"The cloud was upgraded before the server was placed; create it again.",'
    '"details":""}'
)


def upgrade() -> None:
    """Bring the tables over, and end what was still on its way to a cell."""
    has_cell_tree = sa.inspect(op.get_bind()).has_table("instances")
    op.add_column("servers", sa.Column("pending_vm_state", sa.Text(), nullable=True))
    op.add_column("servers", sa.Column("cell_id", sa.Text(), nullable=True))
    op.add_column("servers", sa.Column("fault", sa.Text(), nullable=True))
    op.add_column("servers", sa.Column("trail", sa.Text(), nullable=True))
    if has_cell_tree:
        op.execute(
            "UPDATE servers SET cell_id ="
            " (SELECT instances.cell_id FROM instances WHERE instances.id = servers.id)"
        )
    op.create_index("servers_by_cell", "servers", ["cell_id"], unique=False)
    _end_open_intents()
    op.drop_table("intent_outbox")
    if not has_cell_tree:
        # A cell tree that is made here later brings its own, of the new form.
        op.drop_table("instance_action_events")
    op.create_table(
        "join_tokens",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("cell_name", sa.Text(), nullable=False),
        sa.Column("parents", sa.Text(), nullable=False),
        sa.Column("wish", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("used_at", sa.Float(), nullable=True),
        sa.Column("cell_id", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_index("join_tokens_by_name", "join_tokens", ["cell_name"], unique=False)


def _end_open_intents() -> None:
    """Say of each server with an open intent what became of it: nothing.

    An intent that a cell had applied may still be in the outbox, not yet acknowledged. A build of
    that kind is told by its instance, since by now the cell's tree may have dropped the inbox.
    """
    open_build = sa.text(
        "UPDATE servers SET fault = :head || CAST(created_at AS TEXT) || :tail"
        " WHERE cell_id IS NULL AND deleted_at IS NULL"
        " AND id IN (SELECT subject FROM intent_outbox WHERE kind = 'build')"
    )
    op.execute(
        open_build.bindparams(
            sa.bindparam("head", _FAULT_HEAD, type_=sa.Text()),
            sa.bindparam("tail", _FAULT_TAIL, type_=sa.Text()),
        )
    )
    op.execute(
        "UPDATE servers SET pending_task_state = NULL"
        " WHERE id IN (SELECT subject FROM intent_outbox)"
    )
