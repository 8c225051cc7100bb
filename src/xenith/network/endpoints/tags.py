"""Endpoints of tags, on each noun that has them. Source: Network API v2.0, "Tag extension"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from xenith.core.errors import Invalid, NotFound
from xenith.db import Row, Tx
from xenith.http import Answer, Endpoint
from xenith.network.attributes import Tags
from xenith.network.endpoints import networks, ports, subnets
from xenith.network.endpoints.shared import Kind, NetworkCall
from xenith.network.operations.rows import change_row
from xenith.network.policies import enforce
from xenith.network.records.networks import NETWORKS

#: Source: neutron, `TAG_MAX_LEN`.
TAG_LENGTH_MAX = 255


class TagsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All tags of a thing, or tags to add."""

    tags: Tags


def endpoints_of(kind: Kind) -> tuple[Endpoint, ...]:
    """Give the endpoints of a noun's tags."""
    noun = kind.noun.name
    key = f"{noun}_id"
    path = f"/v2.0/{kind.noun.plural}/{{{key}}}/tags"

    async def write(call: NetworkCall, change: Callable[[list[str]], list[str]]) -> list[str]:
        def run(tx: Tx) -> list[str]:
            row = kind.get(tx, call[key], call.principal)
            enforce(call.principal, f"update_{noun}:tags", **_target(tx, kind, row))
            tags = change(row.tags or [])
            change_row(tx, kind.noun.table, row, {"tags": tags})
            return tags

        return await call.service.db.run(run)

    async def read(call: NetworkCall) -> list[str]:
        row = await call.service.db.read(kind.get, call[key], call.principal)
        return list(row.tags or [])

    async def list_tags(call: NetworkCall) -> dict[str, Any]:
        """List the tags."""
        return {"tags": await read(call)}

    async def replace_tags(call: NetworkCall) -> dict[str, Any]:
        """Put these tags in place of all others."""
        return {"tags": await write(call, lambda _: _unique(call.body.tags))}

    async def add_tags(call: NetworkCall) -> dict[str, Any]:
        """Add tags."""
        return {"tags": await write(call, lambda kept: _unique([*kept, *call.body.tags]))}

    async def delete_tags(call: NetworkCall) -> None:
        """Take all tags away."""
        await write(call, lambda _: [])

    async def check_tag(call: NetworkCall) -> None:
        """Tell whether a tag is there."""
        if call["tag"] not in await read(call):
            raise _no_tag(call["tag"])

    async def add_tag(call: NetworkCall) -> Answer:
        """Add one tag."""
        tag = call["tag"]
        if len(tag) > TAG_LENGTH_MAX:
            raise Invalid(f"Invalid input for tag. Reason: it exceeds {TAG_LENGTH_MAX} characters.")
        await write(call, lambda kept: _unique([*kept, tag]))
        return Answer(None, status=201)

    async def delete_tag(call: NetworkCall) -> None:
        """Take one tag away."""
        tag = call["tag"]

        def without(kept: list[str]) -> list[str]:
            if tag not in kept:
                raise _no_tag(tag)
            return [one for one in kept if one != tag]

        await write(call, without)

    get, update = f"get_{noun}:tags", f"update_{noun}:tags"
    name = f"{kind.noun.plural}.tags"
    one = path + "/{tag}"
    return (
        Endpoint("GET", path, list_tags, get, f"{name}.obtain_tag_list", codes=(404,)),
        Endpoint(
            "PUT",
            path,
            replace_tags,
            update,
            f"{name}.replace_all_tags",
            body=TagsBody,
            codes=(400, 404),
        ),
        Endpoint(
            "POST", path, add_tags, update, f"{name}.create_tags", body=TagsBody, codes=(400, 404)
        ),
        Endpoint(
            "DELETE", path, delete_tags, update, f"{name}.remove_all_tags", status=204, codes=(404,)
        ),
        Endpoint("GET", one, check_tag, get, f"{name}.confirm_a_tag", status=204, codes=(404,)),
        Endpoint("PUT", one, add_tag, update, f"{name}.add_a_tag", status=201, codes=(400, 404)),
        Endpoint(
            "DELETE", one, delete_tag, update, f"{name}.remove_a_tag", status=204, codes=(404,)
        ),
    )


def _target(tx: Tx, kind: Kind, row: Row) -> dict[str, Any]:
    target = {"project_id": row.project_id}
    if kind is not networks.KIND:
        target["network_project_id"] = tx.get(NETWORKS, id=row.network_id).project_id
    return target


def _unique(tags: list[str]) -> list[str]:
    return list(dict.fromkeys(tags))


def _no_tag(tag: str) -> NotFound:
    return NotFound(f"Tag {tag[:64]} could not be found.", kind="TagNotFound")


ENDPOINTS = (
    *endpoints_of(networks.KIND),
    *endpoints_of(subnets.KIND),
    *endpoints_of(ports.KIND),
)
