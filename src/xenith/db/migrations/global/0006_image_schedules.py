"""Servers of which images are made by schedule."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Make the table; no server has a schedule yet."""
    op.create_table(
        "image_schedules",
        sa.Column("server_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("retention", sa.BigInteger(), nullable=False),
        sa.Column("day_of_week", sa.Text(), nullable=True),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("next_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("server_id"),
    )
    op.create_index("image_schedules_by_time", "image_schedules", ["next_at"], unique=False)
