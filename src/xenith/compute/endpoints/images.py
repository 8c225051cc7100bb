"""Images as compute shows them. Deprecated upstream from 2.36 on, and still asked for by many.

Source: Compute API, "Images", "Image metadata".
"""

from __future__ import annotations

from typing import Any

from xenith.compute.endpoints.server_view import bookmark, links
from xenith.compute.neighbours import ImageEntry
from xenith.compute.operations import Compute
from xenith.compute.operations.images import ImageQuery
from xenith.compute.schemas.servers import MetaBody, MetadataBody
from xenith.core.clock import iso_seconds, parse_iso
from xenith.core.errors import Invalid, NotFound
from xenith.core.limits import PAGE_ITEMS_MAX
from xenith.http import Call, Endpoint
from xenith.http.paging import next_url

#: What an image's status is called here, and how far it is. Source: nova, ``get_image_status``.
_STATUSES = {
    "active": ("ACTIVE", 100),
    "queued": ("SAVING", 25),
    "saving": ("SAVING", 50),
    "uploading": ("SAVING", 50),
    "importing": ("SAVING", 50),
    "killed": ("ERROR", 0),
}


def _brief(call: Call[Compute], image: ImageEntry) -> dict[str, Any]:
    alternate = {
        "rel": "alternate",
        "type": "application/vnd.openstack.image",
        "href": f"{call.site_url}/image/images/{image.id}",
    }
    return {
        "id": image.id,
        "name": image.name,
        "links": [*links(call, "images", image.id), alternate],
    }


def _detailed(call: Call[Compute], image: ImageEntry) -> dict[str, Any]:
    status, progress = _STATUSES.get(image.status, ("UNKNOWN", 0))
    shown = {
        **_brief(call, image),
        "status": status,
        "progress": progress,
        "minDisk": image.min_disk_gib,
        "minRam": image.min_ram_mib,
        "created": iso_seconds(image.created_at),
        "updated": iso_seconds(image.updated_at),
        "metadata": image.properties,
        "OS-EXT-IMG-SIZE:size": image.size_bytes or 0,
    }
    server_id = image.properties.get("instance_uuid")
    if server_id:
        shown["server"] = {"id": server_id, "links": _server_links(call, server_id)}
    config = image.properties.get("auto_disk_config")
    if config is not None:
        is_auto = config.strip().lower() in ("1", "t", "true", "on", "y", "yes")
        shown["OS-DCF:diskConfig"] = "AUTO" if is_auto else "MANUAL"
    return shown


def _server_links(call: Call[Compute], server_id: str) -> list[dict[str, str]]:
    own = {"rel": "self", "href": f"{call.url}/v2.1/servers/{server_id}"}
    return [own, *bookmark(call, "servers", server_id)]


async def list_images(call: Call[Compute]) -> dict[str, Any]:
    """List a page of images."""
    return await _list(call, _brief)


async def list_images_detail(call: Call[Compute]) -> dict[str, Any]:
    """List a page of images in detail."""
    return await _list(call, _detailed)


async def _list(call: Call[Compute], view: Any) -> dict[str, Any]:
    limit = call.asked_int("limit", default=PAGE_ITEMS_MAX, at_least=0)
    assert limit is not None
    limit = min(limit, PAGE_ITEMS_MAX)
    found = await call.service.image_proxy.list(call.principal, _query(call), limit=limit)
    body: dict[str, Any] = {"images": [view(call, image) for image in found[:limit]]}
    if limit and len(found) > limit:
        url = next_url(call, found[limit - 1].id)
        body["images_links"] = [{"rel": "next", "href": url}]
    return body


def _query(call: Call[Compute]) -> ImageQuery:
    status = call.asked("status")
    named = None
    if status is not None:
        named = tuple(own for own, (shown, _) in _STATUSES.items() if shown == status.upper())
    server = call.asked("server")
    return ImageQuery(
        name=call.asked("name"),
        statuses=named,
        # Given by its id, or by its address.
        server_id=None if server is None else server.rstrip("/").rpartition("/")[2],
        image_type=call.asked("type"),
        min_disk_gib=call.asked_int("minDisk"),
        min_ram_mib=call.asked_int("minRam"),
        changed_since_s=_asked_time(call),
        marker=call.asked("marker"),
    )


def _asked_time(call: Call[Compute]) -> float | None:
    text = call.asked("changes-since")
    try:
        return None if text is None else parse_iso(text.replace(" ", "+"))
    except ValueError:
        raise Invalid(f"Invalid changes-since value: {str(text)[:64]}") from None


async def show_image(call: Call[Compute]) -> dict[str, Any]:
    """Show one image."""
    image = await call.service.image_proxy.get(call.principal, call["image_id"])
    return {"image": _detailed(call, image)}


async def delete_image(call: Call[Compute]) -> None:
    """Delete an image."""
    await call.service.image_proxy.delete(call.principal, call["image_id"])


async def list_metadata(call: Call[Compute]) -> dict[str, Any]:
    """List all items."""
    image = await call.service.image_proxy.get(call.principal, call["image_id"])
    return {"metadata": image.properties}


async def create_metadata(call: Call[Compute]) -> dict[str, Any]:
    """Add items to what there is."""
    return await _change(call, call.body.metadata, is_replacing=False)


async def replace_metadata(call: Call[Compute]) -> dict[str, Any]:
    """Put items in place of what there is."""
    return await _change(call, call.body.metadata, is_replacing=True)


async def _change(
    call: Call[Compute], items: dict[str, str], *, is_replacing: bool
) -> dict[str, Any]:
    image = await call.service.image_proxy.set_properties(
        call.principal, call["image_id"], items, is_replacing=is_replacing
    )
    return {"metadata": image.properties}


async def show_metadata_item(call: Call[Compute]) -> dict[str, Any]:
    """Show one item."""
    key = call["key"]
    properties = (await list_metadata(call))["metadata"]
    if key not in properties:
        raise NotFound("Metadata item was not found")
    return {"meta": {key: properties[key]}}


async def update_metadata_item(call: Call[Compute]) -> dict[str, Any]:
    """Set one item."""
    if call["key"] not in call.body.meta:
        raise Invalid("Request body and URI mismatch")
    await _change(call, call.body.meta, is_replacing=False)
    return {"meta": call.body.meta}


async def delete_metadata_item(call: Call[Compute]) -> None:
    """Remove one item."""
    await call.service.image_proxy.delete_property(call.principal, call["image_id"], call["key"])


_PATH = "/v2.1/images"
_ONE = _PATH + "/{image_id}"
_META = _ONE + "/metadata"
#: Source: nova, which left the check to the image service.
_RULE = "xenith:images"
_IMAGE: Any = {"max_version": (2, 35)}
_METADATA: Any = {"max_version": (2, 38)}
_READ = (401, 403, 404)
_WRITE = (400, 401, 403, 404)

ENDPOINTS = (
    Endpoint(
        "GET",
        _PATH,
        list_images,
        f"{_RULE}:read",
        "images_proxy.list_images",
        codes=(400, 401, 403),
        **_IMAGE,
    ),
    Endpoint(
        "GET",
        _PATH + "/detail",
        list_images_detail,
        f"{_RULE}:read",
        "images_proxy.list_images_with_details",
        codes=(400, 401, 403),
        **_IMAGE,
    ),
    Endpoint(
        "GET",
        _ONE,
        show_image,
        f"{_RULE}:read",
        "images_proxy.show_image_details",
        codes=_READ,
        **_IMAGE,
    ),
    Endpoint(
        "DELETE",
        _ONE,
        delete_image,
        f"{_RULE}:write",
        "images_proxy.delete_image",
        204,
        codes=_READ,
        **_IMAGE,
    ),
    Endpoint(
        "GET",
        _META,
        list_metadata,
        f"{_RULE}:read",
        "images_proxy.list_image_metadata",
        codes=_READ,
        **_METADATA,
    ),
    Endpoint(
        "POST",
        _META,
        create_metadata,
        f"{_RULE}:write",
        "images_proxy.create_image_metadata",
        body=MetadataBody,
        codes=_WRITE,
        **_METADATA,
    ),
    Endpoint(
        "PUT",
        _META,
        replace_metadata,
        f"{_RULE}:write",
        "images_proxy.update_image_metadata",
        body=MetadataBody,
        codes=_WRITE,
        **_METADATA,
    ),
    Endpoint(
        "GET",
        _META + "/{key}",
        show_metadata_item,
        f"{_RULE}:read",
        "images_proxy.show_image_metadata_item",
        codes=_READ,
        **_METADATA,
    ),
    Endpoint(
        "PUT",
        _META + "/{key}",
        update_metadata_item,
        f"{_RULE}:write",
        "images_proxy.create_or_update_image_metadata_item",
        body=MetaBody,
        codes=_WRITE,
        **_METADATA,
    ),
    Endpoint(
        "DELETE",
        _META + "/{key}",
        delete_metadata_item,
        f"{_RULE}:write",
        "images_proxy.delete_image_metadata_item",
        204,
        codes=_READ,
        **_METADATA,
    ),
)
