"""Images are found by their properties and tags, and by every other filter of a list."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

#: Rows read at a time.
BATCH = 1000


def upgrade() -> None:
    """Make the tables and fill them from the images that there are."""
    op.create_table(
        "image_properties",
        sa.Column("image_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("image_id", "name"),
    )
    op.create_index("image_properties_by_value", "image_properties", ["name", "value", "image_id"])
    op.create_table(
        "image_tags",
        sa.Column("image_id", sa.Text(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("image_id", "tag"),
    )
    op.create_index("image_tags_by_tag", "image_tags", ["tag", "image_id"])
    for column in (
        *("name", "status", "disk_format", "container_format", "size", "updated_at"),
        *("checksum", "os_hash_value", "min_disk", "min_ram", "protected", "os_hidden"),
    ):
        op.create_index(f"images_by_{column}", "images", [column])
    op.create_index("images_by_visibility", "images", ["visibility", "created_at", "id"])
    _fill(op.get_bind())


def _fill(bind: Any) -> None:
    last = ""
    page = sa.text(
        "SELECT id, properties, tags FROM images WHERE id > :last ORDER BY id LIMIT :count"
    )
    while rows := bind.execute(page, {"last": last, "count": BATCH}).fetchall():
        last = rows[-1][0]
        properties = [
            {"image_id": image_id, "name": name, "value": value}
            for image_id, held, _ in rows
            for name, value in _plain(held).items()
            if isinstance(value, str)
        ]
        tags = [
            {"image_id": image_id, "tag": tag} for image_id, _, held in rows for tag in _plain(held)
        ]
        if properties:
            bind.execute(
                sa.text("INSERT INTO image_properties VALUES (:image_id, :name, :value)"),
                properties,
            )
        if tags:
            bind.execute(sa.text("INSERT INTO image_tags VALUES (:image_id, :tag)"), tags)


def _plain(held: Any) -> Any:
    return json.loads(held) if isinstance(held, str | bytes) else held
