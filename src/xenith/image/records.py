"""Images, members, properties and tags as rows; the bytes are in the store, under the image's id.

A list of a million images looks at few of them. Where one filter is narrow, what it finds is taken
and ordered; how narrow each is, its index tells by a look at no more than ``FEW_MAX`` entries.
Where all are wide, images are walked through in the list's order, each kind that the caller sees
by itself, and a page is soon full.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

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
sa.Index("images_by_visibility", images.c.visibility, images.c.created_at, images.c.id)
#: Columns by which a list is filtered, each with an index of its own.
_FILTERED = (
    *("name", "status", "disk_format", "container_format", "size", "updated_at"),
    *("checksum", "os_hash_value", "min_disk", "min_ram", "protected", "os_hidden"),
)
for _name in _FILTERED:
    sa.Index(f"images_by_{_name}", images.c[_name])

#: What ``images.properties`` and ``images.tags`` hold, to be searched.
properties = sa.Table(
    "image_properties",
    GLOBAL,
    sa.Column("image_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
sa.Index("image_properties_by_value", properties.c.name, properties.c.value, properties.c.image_id)
tags = sa.Table(
    "image_tags",
    GLOBAL,
    sa.Column("image_id", sa.Text, primary_key=True),
    sa.Column("tag", sa.Text, primary_key=True),
)
sa.Index("image_tags_by_tag", tags.c.tag, tags.c.image_id)

#: Entries of an index that a filter may find to be called narrow.
FEW_MAX = 2000

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
    few = _find_few(tx, wanted)
    conditions = [
        _held(images.c.os_hidden) == int(wanted.is_hidden),
        *_matching(wanted, is_walk=few is None),
    ]
    if page.marker is not None:
        row = find_visible(tx, page.marker, principal)
        if row is None:
            raise Invalid(f"marker {page.marker[:64]} is no image")
        conditions.append(_after(tx, page))
    kinds = _seen(wanted, principal, is_walk=few is None)
    if few is not None:
        return _list_part(tx, page, images.c.id.in_(few), sa.or_(*kinds), *conditions)
    found: dict[str, Row] = {}
    for kind in kinds:
        found.update((row.id, row) for row in _list_part(tx, page, kind, *conditions))
    if len(kinds) == 1:
        return list(found.values())
    return _list_part(tx, page, images.c.id.in_(list(found))) if found else []


def _list_part(tx: Tx, page: Page, *conditions: Any) -> list[Row]:
    statement = sa.select(images).where(*conditions)
    for name, is_down in page.sort:
        column = SORT_COLUMNS[name]
        statement = statement.order_by(column.desc() if is_down else column.asc())
    return tx.all(statement.limit(page.limit + 1))


def list_newest(tx: Tx, wanted: ImageFilter) -> list[str]:
    """List the ids of all images that are wanted, whoever sees them, the newest first."""
    few = _find_few(tx, wanted)
    conditions = _matching(wanted, is_walk=few is None)
    if few is not None:
        conditions.append(images.c.id.in_(few))
    statement = sa.select(images.c.id).where(*conditions)
    ordered = statement.order_by(images.c.created_at.desc(), images.c.id.desc())
    return [row.id for row in tx.all(ordered)]


def write_labels(tx: Tx, image_id: str, held: Mapping[str, Any]) -> None:
    """Have properties and tags be searched as an image's row says them, as far as that is given."""
    if "properties" in held:
        tx.delete(properties, image_id=image_id)
        tx.insert_many(
            properties,
            [
                {"image_id": image_id, "name": name, "value": value}
                for name, value in held["properties"].items()
                if isinstance(value, str)
            ],
        )
    if "tags" in held:
        tx.delete(tags, image_id=image_id)
        named = sorted(set(held["tags"]))
        tx.insert_many(tags, [{"image_id": image_id, "tag": tag} for tag in named])


def delete_labels(tx: Tx, image_id: str) -> None:
    """Forget the properties and tags of an image that is no more."""
    tx.delete(properties, image_id=image_id)
    tx.delete(tags, image_id=image_id)


def _find_few(tx: Tx, wanted: ImageFilter) -> list[str] | None:
    """Give the ids that the narrowest filter finds; None where none finds few."""
    if "id" in wanted.columns:
        return list(wanted.columns["id"])
    fewest: list[str] | None = None
    for narrow in _narrow(wanted):
        rows = tx.all(narrow.limit(FEW_MAX + 1))
        if len(rows) <= FEW_MAX and (fewest is None or len(rows) < len(fewest)):
            fewest = [row.id for row in rows]
        if fewest is not None and len(fewest) <= _ENOUGH:
            break
    return fewest


#: So few ids are taken without a look at whether another filter finds fewer.
_ENOUGH = 100


def _narrow(wanted: ImageFilter) -> Iterator[Any]:
    """Give for each filter what finds the ids that it lets through, by its index alone."""
    for name, value in wanted.properties.items():
        yield sa.select(properties.c.image_id.label("id")).where(
            properties.c.name == name, properties.c.value == value
        )
    for tag in wanted.tags:
        yield sa.select(tags.c.image_id.label("id")).where(tags.c.tag == tag)
    for name, values in wanted.columns.items():
        yield sa.select(images.c.id).where(images.c[name].in_(_bare(values)))
    if wanted.is_hidden:
        yield sa.select(images.c.id).where(images.c.os_hidden == 1)
    sizes = _sizes(wanted, images.c.size)
    if sizes:
        yield sa.select(images.c.id).where(*sizes)
    for name, operator, at_s in wanted.times:
        if operator != "neq":
            yield sa.select(images.c.id).where(_at(images.c[name], operator, at_s))


def _bare(values: Sequence[Any]) -> list[Any]:
    """Give values as columns hold them: a flag is 0 or 1."""
    return [int(value) if isinstance(value, bool) else value for value in values]


def _sizes(wanted: ImageFilter, size: Any) -> list[Any]:
    conditions: list[Any] = []
    if wanted.size_min is not None:
        conditions.append(size >= wanted.size_min)
    if wanted.size_max is not None:
        conditions.append(size <= wanted.size_max)
    return conditions


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
    first, is_down = SORT_COLUMNS[page.sort[0][0]], page.sort[0][1]
    # Said once more by itself, so that an index is entered where the page begins.
    begin = first <= marker[0] if is_down else first >= marker[0]
    return sa.and_(begin, sa.or_(*alternatives))


def _matching(wanted: ImageFilter, *, is_walk: bool) -> list[Any]:
    """Give what must hold; a walk may enter by owner and age, which are in its order."""
    ways = {"owner", "created_at"} if is_walk else set()
    columns = {
        name: images.c[name] if name in ways else _held(images.c[name])
        for name in ("created_at", "updated_at", *wanted.columns)
    }
    conditions: list[Any] = []
    for name, values in wanted.columns.items():
        conditions.append(columns[name].in_(_bare(values)))
    for name, value in wanted.properties.items():
        has = sa.select(properties.c.image_id).where(
            properties.c.image_id == images.c.id,
            properties.c.name == name,
            properties.c.value == value,
        )
        conditions.append(has.exists())
    for tag in wanted.tags:
        has = sa.select(tags.c.image_id).where(tags.c.image_id == images.c.id, tags.c.tag == tag)
        conditions.append(has.exists())
    conditions += _sizes(wanted, _held(images.c.size))
    conditions += [_at(columns[name], operator, at_s) for name, operator, at_s in wanted.times]
    return conditions


class _held(FunctionElement[Any]):  # noqa: N801 - written as a function
    """A column's value, of which SQLite chooses no index.

    Which index is good was looked at by ``_find_few``; SQLite would take any that a filter has, and
    order what that finds, be it all of the images. PostgreSQL chooses by what the table holds.
    Source: SQLite, "The Next-Generation Query Planner": a unary plus keeps a term from indexes.
    """

    inherit_cache = True

    def __init__(self, column: Any) -> None:
        super().__init__(column)
        self.type = column.type


@compiles(_held)
def _plain(element: Any, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))


@compiles(_held, "sqlite")
def _kept_from_indexes(element: Any, compiler: Any, **options: Any) -> str:
    return f"+{compiler.process(element.clauses, **options)}"


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


def _seen(wanted: ImageFilter, principal: Principal, *, is_walk: bool) -> list[Any]:
    """Give the kinds of images that the caller sees; a walk enters each by its own index."""
    owner: Any = images.c.owner
    visibility: Any = images.c.visibility
    if not is_walk:
        owner, visibility = _held(owner), _held(visibility)
    own = owner == (principal.project_id or "")
    public = visibility == "public"
    community = visibility == "community"
    status = () if wanted.member_status == "all" else (members.c.status == wanted.member_status,)
    shared = sa.and_(
        visibility == "shared",
        images.c.id.in_(
            sa.select(members.c.image_id).where(
                members.c.member_id == (principal.project_id or ""), *status
            )
        ),
    )
    if wanted.visibility == "community":
        return [community]
    if wanted.visibility == "public":
        return [public]
    if wanted.visibility == "private":
        mine = visibility == "private"
        return [mine if principal.is_admin else sa.and_(mine, own)]
    if wanted.visibility == "shared":
        mine = visibility == "shared"
        return [mine] if principal.is_admin else [sa.and_(mine, own), shared]
    if principal.is_admin and wanted.visibility is None and wanted.member_status == "accepted":
        # Community images of others are listed only when asked for.
        return [sa.not_(community), own]
    if wanted.visibility == "all" and principal.is_admin:
        return [sa.true()]
    everyone = [community] if wanted.visibility == "all" else []
    return [own, public, shared, *everyone]
