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
#: Tags of one thing. Source: neutron has no limit; nova has this one for servers.
TAGS_MAX = 50


class TagsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All tags of a thing, or tags to add."""

    tags: Tags


class TagsOf:
    """Handlers of the tags of one noun."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._noun = kind.noun.name

    async def list_tags(self, call: NetworkCall) -> dict[str, Any]:
        """List the tags."""
        return {"tags": await self._read(call)}

    async def replace_tags(self, call: NetworkCall) -> dict[str, Any]:
        """Put these tags in place of all others."""
        return {"tags": await self._write(call, lambda _: _unique(call.body.tags))}

    async def add_tags(self, call: NetworkCall) -> dict[str, Any]:
        """Add tags."""
        return {"tags": await self._write(call, lambda kept: _unique([*kept, *call.body.tags]))}

    async def delete_tags(self, call: NetworkCall) -> None:
        """Take all tags away."""
        await self._write(call, lambda _: [])

    async def check_tag(self, call: NetworkCall) -> None:
        """Tell whether a tag is there."""
        if call["tag"] not in await self._read(call):
            raise _no_tag(call["tag"])

    async def add_tag(self, call: NetworkCall) -> Answer:
        """Add one tag."""
        tag = call["tag"]
        if len(tag) > TAG_LENGTH_MAX:
            raise Invalid(f"Invalid input for tag. Reason: it exceeds {TAG_LENGTH_MAX} characters.")
        await self._write(call, lambda kept: _unique([*kept, tag]))
        return Answer(None, status=201)

    async def delete_tag(self, call: NetworkCall) -> None:
        """Take one tag away."""
        tag = call["tag"]

        def without(kept: list[str]) -> list[str]:
            if tag not in kept:
                raise _no_tag(tag)
            return [one for one in kept if one != tag]

        await self._write(call, without)

    async def _read(self, call: NetworkCall) -> list[str]:
        key = call[f"{self._noun}_id"]
        row = await call.service.db.read(self._kind.get, key, call.principal)
        return list(row.tags or [])

    async def _write(
        self, call: NetworkCall, change: Callable[[list[str]], list[str]]
    ) -> list[str]:
        def run(tx: Tx) -> list[str]:
            row = self._kind.get(tx, call[f"{self._noun}_id"], call.principal)
            enforce(call.principal, f"update_{self._noun}:tags", **_target(tx, self._kind, row))
            tags = change(row.tags or [])
            if len(tags) > TAGS_MAX:
                raise Invalid(f"A thing has at most {TAGS_MAX} tags.")
            change_row(tx, self._kind.noun.table, row, {"tags": tags})
            return tags

        return await call.service.db.run(run)


def endpoints_of(kind: Kind) -> tuple[Endpoint, ...]:
    """Give the endpoints of a noun's tags."""
    noun, tags = kind.noun, TagsOf(kind)
    path = f"/v2.0/{noun.plural}/{{{noun.name}_id}}/tags"
    one = path + "/{tag}"
    get, update = f"get_{noun.name}:tags", f"update_{noun.name}:tags"
    name = f"{noun.plural}.tags"
    return (
        Endpoint("GET", path, tags.list_tags, get, f"{name}.obtain_tag_list", codes=(404,)),
        Endpoint(
            "PUT",
            path,
            tags.replace_tags,
            update,
            f"{name}.replace_all_tags",
            body=TagsBody,
            codes=(400, 404),
        ),
        Endpoint(
            "POST",
            path,
            tags.add_tags,
            update,
            f"{name}.create_tags",
            body=TagsBody,
            codes=(400, 404),
        ),
        Endpoint(
            "DELETE",
            path,
            tags.delete_tags,
            update,
            f"{name}.remove_all_tags",
            status=204,
            codes=(404,),
        ),
        Endpoint(
            "GET", one, tags.check_tag, get, f"{name}.confirm_a_tag", status=204, codes=(404,)
        ),
        Endpoint(
            "PUT", one, tags.add_tag, update, f"{name}.add_a_tag", status=201, codes=(400, 404)
        ),
        Endpoint(
            "DELETE", one, tags.delete_tag, update, f"{name}.remove_a_tag", status=204, codes=(404,)
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
