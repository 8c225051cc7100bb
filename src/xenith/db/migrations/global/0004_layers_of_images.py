"""Images of a server share layers of blocks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Make the table; every image there is stands by itself."""
    op.create_table(
        "image_layers",
        sa.Column("image_id", sa.Text(), nullable=False),
        sa.Column("layer_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("image_id", "layer_id"),
    )
    op.create_index("image_layers_by_layer", "image_layers", ["layer_id"], unique=False)
