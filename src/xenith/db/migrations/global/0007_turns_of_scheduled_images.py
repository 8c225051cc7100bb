"""When each project's last scheduled image was begun, and who was told that one was not."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Make the table; no project has had a turn, and nobody was told, yet."""
    op.create_table(
        "image_schedule_turns",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("begun_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("project_id"),
    )
    op.add_column("image_schedules", sa.Column("is_told", sa.SmallInteger(), nullable=True))
    op.create_index("image_schedules_by_project", "image_schedules", ["project_id"], unique=False)
