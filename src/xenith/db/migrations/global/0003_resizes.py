"""A server knows of the resize that is not yet confirmed or reverted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Add the column; no server is being resized."""
    op.add_column("servers", sa.Column("resize", sa.Text(), nullable=True))
