"""What the endpoints of networks, subnets and ports do alike, from their tables of attributes.

A noun's file names its operations and its view; the rows of the endpoint table are made here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import msgspec
import sqlalchemy as sa

from xenith.core.errors import Invalid
from xenith.core.limits import PAGE_ITEMS_MAX
from xenith.db import Row, Tx
from xenith.http import Answer, Call, Endpoint, Principal
from xenith.network.attributes import Noun
from xenith.network.endpoints.views import View
from xenith.network.operations import Networks
from xenith.network.operations.rows import StaleRevision
from xenith.network.records.listing import Conditions, Page, equals_any, list_page, tag_conditions

NetworkCall = Call[Networks]

PAGING = frozenset({"limit", "marker", "page_reverse", "sort_key", "sort_dir", "fields"})
TAG_FILTERS = frozenset({"tags", "tags-any", "not-tags", "not-tags-any"})
_REVISION = re.compile(r"revision_number=(\d{1,18})")


@dataclass(frozen=True)
class Kind:
    """One noun's operations, for the endpoints that all nouns have."""

    noun: Noun
    get: Callable[[Tx, str, Principal], Row]
    create: Callable[[Tx, Principal, Mapping[str, Any]], Row]
    update: Callable[..., Row]
    delete: Callable[..., None]
    #: Bodies of rows, in their order.
    bodies: Callable[[Tx, Sequence[Row]], list[dict[str, Any]]]
    #: Conditions under which a caller may know of rows.
    visible: Callable[[Principal], Conditions]
    #: Conditions of the filters that are no columns.
    filters: Callable[[Mapping[str, Sequence[str]]], Conditions]


def endpoints_of(kind: Kind) -> tuple[Endpoint, ...]:
    """Give the endpoints of a noun."""
    noun = kind.noun
    one, many = noun.name, noun.plural
    item = f"/v2.0/{many}/{{{one}_id}}"

    async def list_things(call: NetworkCall) -> dict[str, Any]:
        """List what the caller may see."""
        return await _list(call, kind)

    async def create_thing(call: NetworkCall) -> dict[str, Any]:
        """Make one thing, or several in one body: all or none of them."""
        return await _create(call, kind)

    async def show_thing(call: NetworkCall) -> dict[str, Any]:
        """Show one thing."""

        def read(tx: Tx) -> dict[str, Any]:
            return kind.bodies(tx, [kind.get(tx, call[f"{one}_id"], call.principal)])[0]

        return {one: _view(call, noun).of(await call.service.db.read(read))}

    async def update_thing(call: NetworkCall) -> dict[str, Any] | Answer:
        """Change one thing."""
        body = getattr(call.body, one)
        if body is msgspec.UNSET:
            raise _no_envelope(one)
        values, revision = noun.read_change(body), asked_revision(call)

        def write(tx: Tx) -> dict[str, Any]:
            key = call[f"{one}_id"]
            row = kind.update(tx, call.principal, key, values, revision=revision)
            return kind.bodies(tx, [row])[0]

        try:
            return {one: _view(call, noun).of(await call.service.db.run(write))}
        except StaleRevision as error:
            return stale(error)

    async def delete_thing(call: NetworkCall) -> Answer | None:
        """Delete one thing."""
        key, revision = call[f"{one}_id"], asked_revision(call)
        try:
            await call.service.db.run(kind.delete, call.principal, key, revision=revision)
        except StaleRevision as error:
            return stale(error)
        return None

    return (
        Endpoint(
            "GET",
            f"/v2.0/{many}",
            list_things,
            f"get_{one}",
            f"{many}.list_{many}",
            query=PAGING | TAG_FILTERS | noun.filters,
            codes=(400,),
        ),
        Endpoint(
            "POST",
            f"/v2.0/{many}",
            create_thing,
            f"create_{one}",
            f"{many}.create_{one}",
            status=201,
            body=noun.post_body,
            codes=(400, 404, 409),
        ),
        Endpoint(
            "GET",
            item,
            show_thing,
            f"get_{one}",
            f"{many}.show_{one}_details",
            query=frozenset({"fields"}),
            codes=(404,),
        ),
        Endpoint(
            "PUT",
            item,
            update_thing,
            f"update_{one}",
            f"{many}.update_{one}",
            body=noun.put_body,
            codes=(400, 404, 409, 412),
        ),
        Endpoint(
            "DELETE",
            item,
            delete_thing,
            f"delete_{one}",
            f"{many}.delete_{one}",
            status=204,
            codes=(404, 409, 412),
        ),
    )


def asked_revision(call: NetworkCall) -> int | None:
    """Give the revision that ``If-Match`` names, if it names one.

    Raises:
        Invalid: it is worded otherwise.
    """
    text = call.headers.get("if-match")
    if text is None:
        return None
    match = _REVISION.fullmatch(text.strip())
    if match is None:
        raise Invalid("If-Match must be revision_number=N", kind="HTTPBadRequest")
    return int(match[1])


def stale(error: StaleRevision) -> Answer:
    """Answer that the caller's revision is old: a code that no other service has."""
    body = {"NeutronError": {"type": error.kind, "message": error.message, "detail": ""}}
    return Answer(body, status=412)


def asked_page(call: NetworkCall) -> Page:
    """Read what part of a list is asked for, in what order.

    Raises:
        Invalid: a limit or direction is none.
    """
    keys, directions = call.query.get("sort_key", []), call.query.get("sort_dir", [])
    if directions and len(keys) != len(directions):
        raise Invalid("The number of sort_keys and sort_dirs must be same", kind="HTTPBadRequest")
    if wrong := [word for word in directions if word not in ("asc", "desc")]:
        raise Invalid(f"'{wrong[0][:20]}' is an invalid value for sort_dirs")
    limit = call.asked_int("limit")
    return Page(
        # A limit of nothing is none. Source: neutron `get_limit_and_marker`.
        limit=min(limit, PAGE_ITEMS_MAX) if limit else None,
        marker=call.asked("marker") or None,
        is_reversed=bool(call.asked_bool("page_reverse", default=False)),
        sort=tuple(
            (key, bool(directions) and directions[at] == "desc") for at, key in enumerate(keys)
        ),
    )


def _view(call: NetworkCall, noun: Noun) -> View:
    fields = [name for value in call.query.get("fields", ()) for name in value.split(",") if name]
    return View(call.principal, noun.name, fields)


async def _create(call: NetworkCall, kind: Kind) -> dict[str, Any]:
    noun = kind.noun
    one, many = getattr(call.body, noun.name), getattr(call.body, noun.plural)
    if one is msgspec.UNSET and many is msgspec.UNSET:
        raise _no_envelope(noun.name)
    news = [noun.read_new(body) for body in ([one] if many is msgspec.UNSET else many)]
    if not news:
        raise Invalid("Resources required", kind="HTTPBadRequest")

    def write(tx: Tx) -> list[dict[str, Any]]:
        return kind.bodies(tx, [kind.create(tx, call.principal, values) for values in news])

    view = View(call.principal, noun.name)
    bodies = [view.of(body) for body in await call.service.db.run(write)]
    return {noun.name: bodies[0]} if many is msgspec.UNSET else {noun.plural: bodies}


async def _list(call: NetworkCall, kind: Kind) -> dict[str, Any]:
    noun, page, view = kind.noun, asked_page(call), _view(call, kind.noun)
    where = [*kind.visible(call.principal), *_asked_filters(call, kind, view)]
    sortable = {
        name: column for name, column in _sort_columns(noun).items() if not view.hides(name)
    }

    def read(tx: Tx) -> tuple[list[dict[str, Any]], list[str]]:
        rows = list_page(tx, noun.table, page, columns=sortable, where=where)
        return kind.bodies(tx, rows), [row.id for row in rows]

    bodies, ids = await call.service.db.read(read)
    answer: dict[str, Any] = {noun.plural: [view.of(body) for body in bodies]}
    if links := _links(call, page, ids):
        answer[f"{noun.plural}_links"] = links
    return answer


def _sort_columns(noun: Noun) -> dict[str, sa.Column[Any]]:
    return {
        **noun.columns,
        **{name: noun.table.c[name] for name in ("created_at", "updated_at")},
    }


def _asked_filters(call: NetworkCall, kind: Kind, view: View) -> list[sa.ColumnElement[bool]]:
    noun = kind.noun
    for name in call.query:
        if name not in PAGING and name not in TAG_FILTERS and name not in noun.filters:
            raise Invalid(
                f"[{name[:64]!r}] is invalid attribute for filtering", kind="HTTPBadRequest"
            )
    found = [
        # What is hidden from a caller is nothing that they could find a thing by.
        sa.false() if view.hides(name) else equals_any(column, call.query[name])
        for name, column in noun.columns.items()
        if name in call.query
    ]
    return [*found, *tag_conditions(noun.table, call.query), *kind.filters(call.query)]


def _links(call: NetworkCall, page: Page, ids: Sequence[str]) -> list[dict[str, str]]:
    """Give the links to the pages beside; a full page may have one after it.

    Source: Network API v2.0, "Pagination".
    """
    is_full = len(ids) == page.count
    if page.limit is None and not is_full:
        return []
    links: list[dict[str, str]] = []
    if ids and (is_full or page.is_reversed):
        links.append({"rel": "next", "href": _page_url(call, page, ids[-1], is_reversed=False)})
    if ids and (is_full or not page.is_reversed) and page.marker is not None:
        links.append({"rel": "previous", "href": _page_url(call, page, ids[0], is_reversed=True)})
    return links


def _page_url(call: NetworkCall, page: Page, marker: str, *, is_reversed: bool) -> str:
    own = ("limit", "marker", "page_reverse")
    query = [
        (name, value) for name, values in call.query.items() if name not in own for value in values
    ]
    query += [("limit", str(page.count)), ("marker", marker)]
    if is_reversed:
        query.append(("page_reverse", "True"))
    return f"{call.url}{call.path}?{urlencode(query)}"


def _no_envelope(name: str) -> Invalid:
    return Invalid(f"Unable to find '{name}' in request body", kind="HTTPBadRequest")
