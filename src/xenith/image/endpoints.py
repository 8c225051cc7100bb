"""The image service's rows of the endpoint table, and their thin handlers."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlencode

from xenith.core.clock import iso_seconds, parse_iso
from xenith.core.errors import Forbidden, Invalid, NotFound, Unsatisfiable, Unsupported
from xenith.core.limits import IMAGE_PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX
from xenith.db import Row
from xenith.http import Answer, Call, Endpoint, Service, Stream
from xenith.http.paging import Page, asked_page
from xenith.image import patch
from xenith.image.operations import Images
from xenith.image.policies import POLICIES
from xenith.image.records import SORT_COLUMNS, ImageFilter
from xenith.image.schemas import (
    ImportBody,
    MemberBody,
    MemberStatusBody,
    image_schema,
    list_schema,
    member_schema,
    read_create,
)

#: Minor versions that announce features. Source: Image API, version history.
_MINORS = (17, 16, 15, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")
_SORT_NAMES = {name: name for name in SORT_COLUMNS}
_COLUMN_FILTERS = (
    "name",
    "status",
    "owner",
    "disk_format",
    "container_format",
    "id",
    "checksum",
    "os_hash_value",
)
_KNOWN_QUERY = frozenset(
    (
        *_COLUMN_FILTERS,
        "limit",
        "marker",
        "sort",
        "sort_key",
        "sort_dir",
        "tag",
        "visibility",
        "member_status",
        "size_min",
        "size_max",
        "created_at",
        "updated_at",
        "protected",
        "os_hidden",
        "min_disk",
        "min_ram",
    )
)


def _versions(call: Call[Images]) -> list[dict[str, Any]]:
    return [
        {
            "id": f"v2.{minor}",
            "status": "CURRENT" if minor == _MINORS[0] else "SUPPORTED",
            "links": [{"rel": "self", "href": f"{call.url}/v2/"}],
        }
        for minor in _MINORS
    ]


async def choose_version(call: Call[Images]) -> Answer:
    """List the versions, as a choice."""
    return Answer({"versions": _versions(call)}, status=300)


async def list_versions(call: Call[Images]) -> dict[str, Any]:
    """List the versions."""
    return {"versions": _versions(call)}


def view(row: Row) -> dict[str, Any]:
    """Give an image as clients see it; properties stand beside the fields."""
    return {
        **row.properties,
        "id": row.id,
        "name": row.name,
        "status": row.status,
        "visibility": row.visibility,
        "protected": row.protected,
        "os_hidden": row.os_hidden,
        "owner": row.owner,
        "disk_format": row.disk_format,
        "container_format": row.container_format,
        "size": row.size,
        "virtual_size": row.virtual_size,
        "checksum": row.checksum,
        "os_hash_algo": "sha512" if row.os_hash_value else None,
        "os_hash_value": row.os_hash_value,
        "min_disk": row.min_disk,
        "min_ram": row.min_ram,
        "tags": row.tags,
        "created_at": iso_seconds(row.created_at),
        "updated_at": iso_seconds(row.updated_at),
        "self": f"/v2/images/{row.id}",
        "file": f"/v2/images/{row.id}/file",
        "schema": "/v2/schemas/image",
    }


async def create_image(call: Call[Images]) -> Answer:
    """Make an image's record."""
    new = read_create(call.body)
    if new.visibility == "public":
        call.enforce("publicize_image")
    row = await call.service.create(call.principal, new)
    return Answer(
        view(row),
        headers={
            "Location": f"{call.url}/v2/images/{row.id}",
            "OpenStack-image-import-methods": "glance-direct",
        },
    )


async def list_images(call: Call[Images]) -> dict[str, Any]:
    """List a page of images."""
    page = asked_page(call, default_limit=IMAGE_PAGE_ITEMS_DEFAULT, sort_names=_SORT_NAMES)
    page = Page(min(page.limit, PAGE_ITEMS_MAX), page.marker, page.sort)
    wanted = _filter(call)
    rows = await call.service.list_images(call.principal, wanted, page) if page.limit else []
    shown = rows[: page.limit]
    body: dict[str, Any] = {
        "images": [view(row) for row in shown],
        "first": _relative(call, None),
        "schema": "/v2/schemas/images",
    }
    if len(rows) > page.limit:
        body["next"] = _relative(call, shown[-1].id)
    return body


def _relative(call: Call[Images], marker: str | None) -> str:
    query = [
        (key, value) for key, values in call.query.items() for value in values if key != "marker"
    ]
    if marker is not None:
        query.append(("marker", marker))
    return "/v2/images" + (f"?{urlencode(query)}" if query else "")


def _filter(call: Call[Images]) -> ImageFilter:
    columns: dict[str, tuple[Any, ...]] = {
        name: _values(call.query[name][-1]) for name in _COLUMN_FILTERS if name in call.query
    }
    for name in ("min_disk", "min_ram"):
        if (number := call.asked_int(name)) is not None:
            columns[name] = (number,)
    if (flag := call.asked_bool("protected")) is not None:
        columns["protected"] = (flag,)
    visibility = call.asked("visibility")
    if visibility not in (None, "public", "private", "shared", "community", "all"):
        raise Invalid(f"Invalid visibility value: {str(visibility)[:40]}")
    status = call.asked("member_status") or "accepted"
    if status not in ("accepted", "pending", "rejected", "all"):
        raise Invalid(f"Invalid status: {status[:40]}")
    return ImageFilter(
        columns=columns,
        properties={
            name: values[-1] for name, values in call.query.items() if name not in _KNOWN_QUERY
        },
        tags=tuple(call.query.get("tag", ())),
        visibility=visibility,
        member_status=status,
        size_min=call.asked_int("size_min"),
        size_max=call.asked_int("size_max"),
        times=tuple(_times(call)),
        is_hidden=bool(call.asked_bool("os_hidden", default=False)),
    )


def _values(text: str) -> tuple[str, ...]:
    """Read a value or ``in:a,"b,c"``."""
    if not text.startswith("in:"):
        return (text.removeprefix("eq:"),)
    found = tuple(
        quoted.replace('\\"', '"') if quoted else plain
        for quoted, plain in re.findall(r'"((?:[^"\\]|\\.)*)"|([^,"]+)', text[3:])
    )
    if not found or text.count('"') % 2:
        raise Invalid(f"Invalid filter value {text[:64]}")
    return found


def _times(call: Call[Images]) -> Any:
    for name in ("created_at", "updated_at"):
        for text in call.query.get(name, ()):
            operator, _, moment = text.partition(":")
            if operator not in ("gt", "gte", "lt", "lte", "eq", "neq"):
                operator, moment = "eq", text
            try:
                yield name, operator, float(int(parse_iso(moment.replace(" ", "+"))))
            except ValueError:
                raise Invalid(f"Invalid time value {moment[:40]} for {name}") from None


async def list_image_tasks(call: Call[Images]) -> dict[str, Any]:
    """List an image's tasks: there are none, for what is done to an image shows in its status."""
    await call.service.show(call.principal, call["image_id"])
    return {"tasks": []}


async def show_image(call: Call[Images]) -> dict[str, Any]:
    """Show one image."""
    return view(await call.service.show(call.principal, call["image_id"]))


async def update_image(call: Call[Images]) -> dict[str, Any]:
    """Change an image by a patch."""
    media = call.headers.get("content-type", "").partition(";")[0].strip().lower()
    operations = patch.read_patch(call.body, media_type=media)
    for _, key, value in operations:
        if key == "visibility" and value == "public":
            call.enforce("publicize_image")
        if key == "owner" and not call.principal.is_admin:
            raise Forbidden("Only an admin may change an image's owner.")
    row = await call.service.change(
        call.principal, call["image_id"], lambda row: patch.changes(row, operations)
    )
    return view(row)


async def delete_image(call: Call[Images]) -> None:
    """Delete an image and its bytes."""
    await call.service.delete(call.principal, call["image_id"])


async def upload_image(call: Call[Images]) -> None:
    """Take an image's bytes."""
    _check_bytes(call)
    await call.service.upload(
        call.principal, call["image_id"], call.chunks, size_bytes=_length(call)
    )


async def stage_image(call: Call[Images]) -> None:
    """Take bytes for a later import."""
    _check_bytes(call)
    await call.service.stage(call.principal, call["image_id"], call.chunks)


def _check_bytes(call: Call[Images]) -> None:
    media = call.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/octet-stream":
        raise Unsupported("Image data has the type application/octet-stream.")


def _length(call: Call[Images]) -> int | None:
    text = call.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


async def import_image(call: Call[Images]) -> None:
    """Make an image of what was staged."""
    body: ImportBody = call.body
    if body.method.name != "glance-direct":
        raise Invalid(f"Import method {body.method.name} is not offered by this cloud.")
    await call.service.import_staged(call.principal, call["image_id"])


async def download_image(call: Call[Images]) -> Stream | Answer:
    """Give an image's bytes, or a range of them."""
    row = await call.service.show(call.principal, call["image_id"])
    offset, length = _range(call, row.size)
    row, chunks = await call.service.open(
        call.principal, call["image_id"], offset=offset, length=length
    )
    if chunks is None:
        return Answer(status=204)
    if offset == 0 and length is None:
        return Stream(chunks, size_bytes=row.size, headers={"Content-Md5": row.checksum or ""})
    size = length if length is not None else row.size - offset
    where = f"bytes {offset}-{offset + size - 1}/{row.size}"
    return Stream(chunks, size_bytes=size, status=206, headers={"Content-Range": where})


def _range(call: Call[Images], size: int | None) -> tuple[int, int | None]:
    text = call.headers.get("range")
    if text is None or size is None:
        return 0, None
    match = _RANGE.match(text.strip())
    if match is None or not (match[1] or match[2]) or len(text) > 100:
        raise Unsatisfiable(f"The range {text[:40]} cannot be given")
    if not match[1]:
        count = min(int(match[2]), size)
        first, last = size - count, size - 1
    else:
        first, last = int(match[1]), min(int(match[2] or size - 1), size - 1)
    if first > last:
        raise Unsatisfiable(f"The range {text[:40]} cannot be given")
    return first, last - first + 1


async def deactivate_image(call: Call[Images]) -> None:
    """Take an image out of use."""
    await call.service.set_active(call.principal, call["image_id"], is_active=False)


async def reactivate_image(call: Call[Images]) -> None:
    """Take an image into use again."""
    await call.service.set_active(call.principal, call["image_id"], is_active=True)


async def add_tag(call: Call[Images]) -> None:
    """Add a tag."""
    tag = call["tag"]
    if not 1 <= len(tag) <= 255:
        raise Invalid("A tag has 1 to 255 characters.")
    await call.service.change(
        call.principal, call["image_id"], lambda row: {"tags": sorted({*row.tags, tag})}
    )


async def delete_tag(call: Call[Images]) -> None:
    """Remove a tag."""
    tag = call["tag"]

    def changed(row: Row) -> dict[str, Any]:
        if tag not in row.tags:
            raise NotFound(f"Image {row.id} has no tag {tag[:64]}")
        return {"tags": [name for name in row.tags if name != tag]}

    await call.service.change(call.principal, call["image_id"], changed)


def _member(row: Row) -> dict[str, Any]:
    return {
        "image_id": row.image_id,
        "member_id": row.member_id,
        "status": row.status,
        "created_at": iso_seconds(row.created_at),
        "updated_at": iso_seconds(row.updated_at),
        "schema": "/v2/schemas/member",
    }


async def create_member(call: Call[Images]) -> dict[str, Any]:
    """Share an image with a project."""
    row = await call.service.add_member(call.principal, call["image_id"], call.body.member)
    return _member(row)


async def list_members(call: Call[Images]) -> dict[str, Any]:
    """List whom an image is shared with."""
    rows = await call.service.list_members(call.principal, call["image_id"])
    return {"members": [_member(row) for row in rows], "schema": "/v2/schemas/members"}


async def show_member(call: Call[Images]) -> dict[str, Any]:
    """Show one member."""
    return _member(
        await call.service.get_member(call.principal, call["image_id"], call["member_id"])
    )


async def update_member(call: Call[Images]) -> dict[str, Any]:
    """Accept or reject a share."""
    row = await call.service.set_member_status(
        call.principal, call["image_id"], call["member_id"], call.body.status
    )
    return _member(row)


async def delete_member(call: Call[Images]) -> None:
    """End a share."""
    await call.service.delete_member(call.principal, call["image_id"], call["member_id"])


async def show_schema(call: Call[Images]) -> Any:
    """Describe images or members."""
    kind = call.path.rstrip("/").rpartition("/")[2]
    one = image_schema() if kind.startswith("image") else member_schema()
    return list_schema(kind, one) if kind.endswith("s") else one


async def import_methods(call: Call[Images]) -> dict[str, Any]:
    """Tell how images can be imported."""
    del call
    return {
        "import-methods": {
            "description": "Import methods available.",
            "type": "array",
            "value": ["glance-direct"],
        }
    }


async def stores(call: Call[Images]) -> None:
    """Say that there is one store without a name, as an image service without several does."""
    del call
    raise NotFound("Multi backend is not supported at this site.")


async def list_tasks(call: Call[Images]) -> dict[str, Any]:
    """List tasks: imports end before they are answered, so there are none."""
    del call
    return {"tasks": [], "first": "/v2/tasks", "schema": "/v2/schemas/tasks"}


_IMAGES = "/v2/images"
_IMAGE = "/v2/images/{image_id}"
_MEMBERS = _IMAGE + "/members"
_BYTES = ("application/octet-stream",)
_R = (401, 403, 404)
_W = (400, 401, 403, 404, 409, 413)

ENDPOINTS = (
    Endpoint("GET", "/", choose_version, None, "versions.list_api_versions_2", 300),
    Endpoint("GET", "/versions", list_versions, None, "versions.list_api_versions"),
    Endpoint("GET", "/v2", choose_version, None, "versions.show_v2", 300),
    Endpoint(
        "POST",
        _IMAGES,
        create_image,
        "add_image",
        "images.create_image",
        201,
        body=dict,
        codes=(400, 401, 403, 409, 413),
    ),
    Endpoint(
        "GET",
        _IMAGES,
        list_images,
        "get_images",
        "images.list_images",
        query=_KNOWN_QUERY,
        codes=(400, 401, 403),
    ),
    Endpoint("GET", _IMAGE, show_image, "get_image", "images.show_image", codes=_R),
    Endpoint(
        "GET",
        _IMAGE + "/tasks",
        list_image_tasks,
        "get_image",
        "images.show_tasks_associated_with_image",
        codes=_R,
    ),
    Endpoint(
        "PATCH",
        _IMAGE,
        update_image,
        "modify_image",
        "images.update_image",
        body=list,
        media_types=(patch.V21, patch.V20),
        codes=(*_W, 415),
    ),
    Endpoint(
        "DELETE", _IMAGE, delete_image, "delete_image", "images.delete_image", 204, codes=(*_R, 409)
    ),
    Endpoint(
        "PUT",
        _IMAGE + "/file",
        upload_image,
        "upload_image",
        "image_data.upload_binary_image_data",
        204,
        is_stream=True,
        media_types=_BYTES,
        codes=(*_W, 415),
    ),
    Endpoint(
        "GET",
        _IMAGE + "/file",
        download_image,
        "download_image",
        "image_data.download_binary_image_data",
        codes=(204, 206, *_R, 400),
    ),
    Endpoint(
        "PUT",
        _IMAGE + "/stage",
        stage_image,
        "upload_image",
        "image_import.stage_binary_image_data",
        204,
        is_stream=True,
        media_types=_BYTES,
        codes=(*_W, 415),
    ),
    Endpoint(
        "POST",
        _IMAGE + "/import",
        import_image,
        "modify_image",
        "image_import.import_an_image",
        202,
        body=ImportBody,
        codes=_W,
    ),
    Endpoint(
        "POST",
        _IMAGE + "/actions/deactivate",
        deactivate_image,
        "deactivate",
        "images.deactivate_image",
        204,
        codes=_R,
    ),
    Endpoint(
        "POST",
        _IMAGE + "/actions/reactivate",
        reactivate_image,
        "reactivate",
        "images.reactivate_image",
        204,
        codes=_R,
    ),
    Endpoint(
        "PUT",
        _IMAGE + "/tags/{tag}",
        add_tag,
        "modify_image",
        "image_tags.add_image_tag",
        204,
        codes=_W,
    ),
    Endpoint(
        "DELETE",
        _IMAGE + "/tags/{tag}",
        delete_tag,
        "modify_image",
        "image_tags.delete_image_tag",
        204,
        codes=_R,
    ),
    Endpoint(
        "POST",
        _MEMBERS,
        create_member,
        "add_member",
        "image_members.create_image_member",
        body=MemberBody,
        codes=_W,
    ),
    Endpoint(
        "GET", _MEMBERS, list_members, "get_members", "image_members.list_image_members", codes=_R
    ),
    Endpoint(
        "GET",
        _MEMBERS + "/{member_id}",
        show_member,
        "get_member",
        "image_members.show_image_member_details",
        codes=_R,
    ),
    Endpoint(
        "PUT",
        _MEMBERS + "/{member_id}",
        update_member,
        "modify_member",
        "image_members.update_image_member",
        body=MemberStatusBody,
        codes=_W,
    ),
    Endpoint(
        "DELETE",
        _MEMBERS + "/{member_id}",
        delete_member,
        "delete_member",
        "image_members.delete_image_member",
        204,
        codes=_R,
    ),
    Endpoint("GET", "/v2/schemas/image", show_schema, "schemas", "image_schemas.show_image_schema"),
    Endpoint(
        "GET", "/v2/schemas/images", show_schema, "schemas", "image_schemas.show_images_schema"
    ),
    Endpoint(
        "GET",
        "/v2/schemas/member",
        show_schema,
        "schemas",
        "image_schemas.show_image_member_schema",
    ),
    Endpoint(
        "GET",
        "/v2/schemas/members",
        show_schema,
        "schemas",
        "image_schemas.show_image_members_schema",
    ),
    Endpoint(
        "GET",
        "/v2/info/import",
        import_methods,
        "info",
        "discovery.import_methods_and_values_discovery",
    ),
    Endpoint("GET", "/v2/info/stores", stores, "info", "discovery.list_stores", codes=(401, 404)),
    Endpoint("GET", "/v2/tasks", list_tasks, "tasks_api_access", "tasks.list_tasks"),
)


def service(context: Images) -> Service[Images]:
    """Mount the image service."""
    return Service(
        type="image",
        name="glance",
        prefix="/image",
        style="image",
        endpoints=ENDPOINTS,
        policies=POLICIES,
        context=context,
        counts_last_slash=True,
    )
