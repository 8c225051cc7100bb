"""Endpoints of a server's metadata and tags."""

from __future__ import annotations

from typing import Any

from xenith.compute.operations import Compute
from xenith.compute.schemas.servers import MetaBody, MetadataBody, TagsBody
from xenith.core.errors import Invalid, NotFound
from xenith.http import Answer, Call, Endpoint


async def list_metadata(call: Call[Compute]) -> dict[str, Any]:
    """List all items."""
    return {"metadata": await call.service.labels.metadata(call.principal, call["server_id"])}


async def create_metadata(call: Call[Compute]) -> dict[str, Any]:
    """Add items to what there is."""
    return await _change(call, is_replacing=False)


async def replace_metadata(call: Call[Compute]) -> dict[str, Any]:
    """Put items in place of what there is."""
    return await _change(call, is_replacing=True)


async def _change(call: Call[Compute], *, is_replacing: bool) -> dict[str, Any]:
    items = await call.service.labels.change_metadata(
        call.principal, call["server_id"], call.body.metadata, is_replacing=is_replacing
    )
    return {"metadata": items}


async def show_metadata_item(call: Call[Compute]) -> dict[str, Any]:
    """Show one item."""
    key = call["key"]
    value = await call.service.labels.metadata_item(call.principal, call["server_id"], key)
    return {"meta": {key: value}}


async def update_metadata_item(call: Call[Compute]) -> dict[str, Any]:
    """Set one item."""
    key = call["key"]
    if key not in call.body.meta:
        raise Invalid("Request body and URI mismatch")
    await call.service.labels.change_metadata(
        call.principal, call["server_id"], call.body.meta, is_replacing=False
    )
    return {"meta": call.body.meta}


async def delete_metadata_item(call: Call[Compute]) -> None:
    """Remove one item."""
    await call.service.labels.delete_metadata_item(call.principal, call["server_id"], call["key"])


async def list_tags(call: Call[Compute]) -> dict[str, Any]:
    """List all tags."""
    return {"tags": await call.service.labels.tags(call.principal, call["server_id"])}


async def replace_tags(call: Call[Compute]) -> dict[str, Any]:
    """Put tags in place of those there are."""
    tags = await call.service.labels.replace_tags(call.principal, call["server_id"], call.body.tags)
    return {"tags": tags}


async def delete_tags(call: Call[Compute]) -> None:
    """Remove all tags."""
    await call.service.labels.replace_tags(call.principal, call["server_id"], [])


async def check_tag(call: Call[Compute]) -> None:
    """Tell whether a tag is there."""
    if call["tag"] not in await call.service.labels.tags(call.principal, call["server_id"]):
        raise NotFound(f"Server {call['server_id']} has no tag '{call['tag'][:64]}'")


async def add_tag(call: Call[Compute]) -> Answer:
    """Add a tag: 201 when it is new, else 204."""
    is_new = await call.service.labels.add_tag(call.principal, call["server_id"], call["tag"])
    if not is_new:
        return Answer(status=204)
    where = f"{call.url}/v2.1/servers/{call['server_id']}/tags/{call['tag']}"
    return Answer(status=201, headers={"Location": where})


async def delete_tag(call: Call[Compute]) -> None:
    """Remove one tag."""
    await call.service.labels.delete_tag(call.principal, call["server_id"], call["tag"])


_METADATA = "/v2.1/servers/{server_id}/metadata"
_TAGS = "/v2.1/servers/{server_id}/tags"
_META_RULE = "os_compute_api:server-metadata"
_TAG_RULE = "os_compute_api:os-server-tags"
_READ = (401, 403, 404)
_WRITE = (400, 401, 403, 404, 409)
_SINCE: Any = {"min_version": (2, 26)}

ENDPOINTS = (
    Endpoint(
        "GET",
        _METADATA,
        list_metadata,
        f"{_META_RULE}:index",
        "servers.list_all_metadata",
        codes=_READ,
    ),
    Endpoint(
        "POST",
        _METADATA,
        create_metadata,
        f"{_META_RULE}:create",
        "servers.create_or_update_metadata_items",
        body=MetadataBody,
        codes=_WRITE,
    ),
    Endpoint(
        "PUT",
        _METADATA,
        replace_metadata,
        f"{_META_RULE}:update_all",
        "servers.replace_metadata_items",
        body=MetadataBody,
        codes=_WRITE,
    ),
    Endpoint(
        "GET",
        _METADATA + "/{key}",
        show_metadata_item,
        f"{_META_RULE}:show",
        "servers.show_metadata_item_details",
        codes=_READ,
    ),
    Endpoint(
        "PUT",
        _METADATA + "/{key}",
        update_metadata_item,
        f"{_META_RULE}:update",
        "servers.create_or_update_metadata_item",
        body=MetaBody,
        codes=_WRITE,
    ),
    Endpoint(
        "DELETE",
        _METADATA + "/{key}",
        delete_metadata_item,
        f"{_META_RULE}:delete",
        "servers.delete_metadata_item",
        204,
        codes=_WRITE,
    ),
    Endpoint(
        "GET",
        _TAGS,
        list_tags,
        f"{_TAG_RULE}:index",
        "os-server-tags.list_tags",
        codes=_READ,
        **_SINCE,
    ),
    Endpoint(
        "PUT",
        _TAGS,
        replace_tags,
        f"{_TAG_RULE}:update_all",
        "os-server-tags.replace_tags",
        body=TagsBody,
        codes=_WRITE,
        **_SINCE,
    ),
    Endpoint(
        "DELETE",
        _TAGS,
        delete_tags,
        f"{_TAG_RULE}:delete_all",
        "os-server-tags.delete_all_tags",
        204,
        codes=_WRITE,
        **_SINCE,
    ),
    Endpoint(
        "GET",
        _TAGS + "/{tag}",
        check_tag,
        f"{_TAG_RULE}:show",
        "os-server-tags.check_tag_existence",
        204,
        codes=_READ,
        **_SINCE,
    ),
    Endpoint(
        "PUT",
        _TAGS + "/{tag}",
        add_tag,
        f"{_TAG_RULE}:update",
        "os-server-tags.add_a_single_tag",
        201,
        codes=_WRITE,
        **_SINCE,
    ),
    Endpoint(
        "DELETE",
        _TAGS + "/{tag}",
        delete_tag,
        f"{_TAG_RULE}:delete",
        "os-server-tags.delete_a_single_tag",
        204,
        codes=_WRITE,
        **_SINCE,
    ),
)
