"""Images, members and tags as rows; the bytes are in the store, under the image's id."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from xenith.core.errors import Invalid, NotFound
from xenith.db import GLOBAL, Flag, Json, Row, Tx
from xenith.http import Principal
from xenith.http.paging import Page

images = sa.Table(
    "images",
    GLOBAL,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text),
    sa.Column("name", sa.Text),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("visibility", sa.Text, nullable=False),
    sa.Column("disk_format", sa.Text),
    sa.Column("container_format", sa.Text),
    sa.Column("size", sa.BigInteger),
    sa.Column("virtual_size", sa.BigInteger),
    sa.Column("checksum", sa.Text),
    sa.Column("os_hash_value", sa.Text),
    sa.Column("min_disk", sa.BigInteger, nullable=False),
    sa.Column("min_ram", sa.BigInteger, nullable=False),
    sa.Column("protected", Flag, nullable=False),
    sa.Column("os_hidden", Flag, nullable=False),
    sa.Column("properties", Json, nullable=False),
    sa.Column("tags", Json, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
)
sa.Index("images_by_age", images.c.created_at, images.c.id)
sa.Index("images_by_owner", images.c.owner, images.c.created_at)

members = sa.Table(
    "image_members",
    GLOBAL,
    sa.Column("image_id", sa.Text, primary_key=True),
    sa.Column("member_id", sa.Text, primary_key=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
)
sa.Index("image_members_by_member", members.c.member_id, members.c.status)

#: Columns that a list may be ordered by. Source: Image API v2, sorting.
SORT_COLUMNS: dict[str, Any] = {
    "id": images.c.id,
    "name": sa.func.coalesce(images.c.name, ""),
    "status": images.c.status,
    "size": sa.func.coalesce(images.c.size, -1),
    "disk_format": sa.func.coalesce(images.c.disk_format, ""),
    "container_format": sa.func.coalesce(images.c.container_format, ""),
    "min_disk": images.c.min_disk,
    "min_ram": images.c.min_ram,
    "created_at": images.c.created_at,
    "updated_at": images.c.updated_at,
}


class ImageFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which images are wanted."""

    #: Values by column; any of a tuple holds.
    columns: dict[str, tuple[Any, ...]] = {}
    properties: dict[str, str] = {}
    tags: tuple[str, ...] = ()
    visibility: str | None = None
    #: accepted, pending, rejected or all: of images that others share with the caller.
    member_status: str = "accepted"
    size_min: int | None = None
    size_max: int | None = None
    #: (column, gt gte lt lte eq or neq, seconds)
    times: tuple[tuple[str, str, float], ...] = ()
    is_hidden: bool = False


def find_visible(tx: Tx, image_id: str, principal: Principal) -> Row | None:
    """Find an image that the caller may see."""
    row = tx.find(images, id=image_id)
    if row is None or principal.is_admin or row.visibility in ("public", "community"):
        return row
    if row.owner is not None and row.owner == principal.project_id:
        return row
    if row.visibility == "shared" and principal.project_id is not None:
        member = tx.find(members, image_id=image_id, member_id=principal.project_id)
        if member is not None:
            return row
    return None


def get_visible(tx: Tx, image_id: str, principal: Principal) -> Row:
    """Get an image that the caller may see.

    Raises:
        NotFound: there is none such.
    """
    row = find_visible(tx, image_id, principal)
    if row is None:
        raise NotFound(f"No image found with ID {image_id[:64]}")
    return row


def list_images(tx: Tx, wanted: ImageFilter, page: Page, principal: Principal) -> list[Row]:
    """List a page of images, and one more if there is one.

    Raises:
        Invalid: the marker is no image that the caller sees.
    """
    statement = sa.select(images).where(*_conditions(wanted, principal))
    if page.marker is not None:
        row = find_visible(tx, page.marker, principal)
        if row is None:
            raise Invalid(f"marker {page.marker[:64]} is no image")
        statement = statement.where(_after(tx, page))
    for name, is_down in page.sort:
        column = SORT_COLUMNS[name]
        statement = statement.order_by(column.desc() if is_down else column.asc())
    return tx.all(statement.limit(page.limit + 1))


def list_newest(tx: Tx, wanted: ImageFilter) -> list[str]:
    """List the ids of all images that are wanted, whoever sees them, the newest first."""
    statement = sa.select(images.c.id).where(*_matching(wanted))
    ordered = statement.order_by(images.c.created_at.desc(), images.c.id.desc())
    return [row.id for row in tx.all(ordered)]


def _after(tx: Tx, page: Page) -> Any:
    columns = [SORT_COLUMNS[name].label("s_" + name) for name, _ in page.sort]
    marker = tx.first(sa.select(*columns).where(images.c.id == page.marker))
    assert marker is not None, "the marker was found a moment ago"
    alternatives = []
    for at, (name, is_down) in enumerate(page.sort):
        column = SORT_COLUMNS[name]
        equal = [
            SORT_COLUMNS[earlier] == marker[position]
            for position, (earlier, _) in enumerate(page.sort[:at])
        ]
        beyond = column < marker[at] if is_down else column > marker[at]
        alternatives.append(sa.and_(*equal, beyond))
    return sa.or_(*alternatives)


def _conditions(wanted: ImageFilter, principal: Principal) -> list[Any]:
    return [images.c.os_hidden == wanted.is_hidden, _seen(wanted, principal), *_matching(wanted)]


def _matching(wanted: ImageFilter) -> list[Any]:
    conditions: list[Any] = []
    for name, values in wanted.columns.items():
        column = images.c[name]
        conditions.append(sa.or_(*[column == value for value in values]))
    for key, value in wanted.properties.items():
        item = msgspec.json.encode({key: value}).decode()[1:-1]
        conditions.append(_has_text(images.c.properties, item))
    for tag in wanted.tags:
        item = msgspec.json.encode(tag).decode()
        conditions.append(_has_text(images.c.tags, item))
    if wanted.size_min is not None:
        conditions.append(images.c.size >= wanted.size_min)
    if wanted.size_max is not None:
        conditions.append(images.c.size <= wanted.size_max)
    conditions += [_at(images.c[name], operator, at_s) for name, operator, at_s in wanted.times]
    return conditions


def _has_text(column: Any, text: str) -> Any:
    """Compare as written; SQLite's LIKE would take upper and lower case for the same."""
    return sa.func.replace(column.cast(sa.Text), text, "") != column.cast(sa.Text)


def _at(column: Any, operator: str, at_s: float) -> Any:
    """Compare a time by its whole second, as the API shows it."""
    return {
        "gt": column >= at_s + 1,
        "gte": column >= at_s,
        "lt": column < at_s,
        "lte": column < at_s + 1,
        "eq": sa.and_(column >= at_s, column < at_s + 1),
        "neq": sa.or_(column < at_s, column >= at_s + 1),
    }[operator]


def _seen(wanted: ImageFilter, principal: Principal) -> Any:
    own = images.c.owner == (principal.project_id or "")
    public = images.c.visibility == "public"
    community = images.c.visibility == "community"
    status = () if wanted.member_status == "all" else (members.c.status == wanted.member_status,)
    shared = sa.and_(
        images.c.visibility == "shared",
        sa.exists(
            sa.select(members.c.image_id).where(
                members.c.image_id == images.c.id,
                members.c.member_id == (principal.project_id or ""),
                *status,
            )
        ),
    )
    if wanted.visibility == "community":
        return community
    if wanted.visibility == "public":
        return public
    if wanted.visibility == "private":
        mine = images.c.visibility == "private"
        return mine if principal.is_admin else sa.and_(mine, own)
    if wanted.visibility == "shared":
        mine = images.c.visibility == "shared"
        return mine if principal.is_admin else sa.and_(mine, sa.or_(own, shared))
    if principal.is_admin and wanted.visibility is None and wanted.member_status == "accepted":
        # Community images of others are listed only when asked for.
        return sa.or_(sa.not_(community), own)
    if wanted.visibility == "all" and principal.is_admin:
        return sa.true()
    everyone = community if wanted.visibility == "all" else sa.false()
    return sa.or_(own, public, shared, everyone)
