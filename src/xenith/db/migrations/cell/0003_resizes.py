"""An instance knows what its last resize came to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Add the column; no instance was ever resized."""
    op.add_column("instances", sa.Column("resize", sa.Text(), nullable=True))
