"""Bodies of the image service, and the JSON schemas that it tells clients.

A create takes any other key as a property, so its body is a mapping read field by field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from xenith.core.errors import Forbidden, Invalid
from xenith.http import validation
from xenith.image.formats import CONTAINER_FORMATS, DISK_FORMATS
from xenith.image.operations import NewImage, checked_id

Visibility = Literal["public", "private", "shared", "community"]
Tag = Annotated[str, msgspec.Meta(max_length=255)]
Name = Annotated[str, msgspec.Meta(max_length=255)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
DiskFormat = Literal[
    "ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso", "ploop"
]
ContainerFormat = Literal["ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed"]

#: What only the service writes. Source: glance, read-only and reserved properties.
READ_ONLY = frozenset(
    (
        "status",
        "created_at",
        "updated_at",
        "size",
        "virtual_size",
        "checksum",
        "os_hash_algo",
        "os_hash_value",
        "schema",
        "self",
        "file",
        "direct_url",
        "stores",
    )
)
RESERVED = frozenset(("deleted", "deleted_at", "is_public", "id_reserved", "members"))
_RESERVED_PREFIX = "os_glance"


class CreateImage(msgspec.Struct, frozen=True):
    """The fields of a create that are not properties; any other key is a property."""

    id: str | None = None
    name: Name | None = None
    visibility: Visibility = "shared"
    disk_format: DiskFormat | None = None
    container_format: ContainerFormat | None = None
    min_disk: Count = 0
    min_ram: Count = 0
    protected: bool = False
    os_hidden: bool = False
    owner: Name | None = None
    tags: Annotated[list[Tag], msgspec.Meta(max_length=1000)] = []


class MemberBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A project to share with."""

    member: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class MemberStatusBody(msgspec.Struct, frozen=True):
    """A member's answer; the SDK names the member in the body once more."""

    status: Literal["pending", "accepted", "rejected"]


class ImportMethod(msgspec.Struct, frozen=True):
    """How an image is imported."""

    name: Literal["glance-direct", "web-download", "copy-image", "glance-download"]


class ImportBody(msgspec.Struct, frozen=True):
    """The body of an import."""

    method: ImportMethod


_BASE = set(CreateImage.__struct_fields__)


def read_create(body: Any) -> NewImage:
    """Check a create body.

    Raises:
        Invalid: a field is not what it should be.
        Forbidden: it sets what only the service may.
    """
    if not isinstance(body, dict):
        raise Invalid("Malformed request body: an image is an object")
    for key in body:
        refuse_read_only(key)
    fields = validation.convert({key: body[key] for key in body if key in _BASE}, CreateImage)
    properties = {
        checked_property(key): checked_value(key, value)
        for key, value in body.items()
        if key not in _BASE
    }
    values = msgspec.structs.asdict(fields)
    if fields.id is not None:
        checked_id(fields.id)
    values["tags"] = tuple(fields.tags)
    return NewImage(**values, properties=properties)


def refuse_read_only(key: str) -> None:
    """Refuse a key that only the service writes.

    Raises:
        Forbidden: it is one.
    """
    if key in READ_ONLY:
        raise Forbidden(f"Attribute '{key}' is read-only.")
    if key in RESERVED or key.startswith(_RESERVED_PREFIX) or key == "locations":
        raise Forbidden(f"Attribute '{key}' is reserved.")


def checked_property(key: str) -> str:
    """Check a property's name.

    Raises:
        Invalid: it is empty or too long.
    """
    if not 1 <= len(key) <= 255:
        raise Invalid("A property's name has 1 to 255 characters")
    return key


def checked_value(key: str, value: Any) -> str:
    """Check a property's value: a text.

    Raises:
        Invalid: it is something else.
    """
    if not isinstance(value, str) or len(value) > 65535:
        raise Invalid(f"Invalid value for property {key[:64]}: it is no text")
    return value


def image_schema() -> Mapping[str, Any]:
    """Describe an image. Source: Image API v2, "Show image schema"."""

    def text(description: str, **more: Any) -> dict[str, Any]:
        return {"type": ["null", "string"], "description": description, **more}

    return {
        "name": "image",
        "properties": {
            "id": {
                "type": "string",
                "description": "An identifier for the image",
                "pattern": "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-"
                "([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$",
            },
            "name": text("Descriptive name for the image", maxLength=255),
            "status": {
                "type": "string",
                "readOnly": True,
                "description": "Status of the image",
                "enum": [
                    "queued",
                    "saving",
                    "active",
                    "killed",
                    "deleted",
                    "uploading",
                    "importing",
                    "pending_delete",
                    "deactivated",
                ],
            },
            "visibility": {
                "type": "string",
                "description": "Scope of image accessibility",
                "enum": ["community", "public", "private", "shared"],
            },
            "protected": {
                "type": "boolean",
                "description": "If true, image will not be deletable.",
            },
            "os_hidden": {
                "type": "boolean",
                "description": "If true, image will not appear in default lists.",
            },
            "checksum": text("md5 hash of image contents.", maxLength=32, readOnly=True),
            "os_hash_algo": text("Algorithm of os_hash_value", maxLength=64, readOnly=True),
            "os_hash_value": text("Digest of the contents", maxLength=128, readOnly=True),
            "owner": text("Owner of the image", maxLength=255),
            "size": {
                "type": ["null", "integer"],
                "readOnly": True,
                "description": "Size of image file in bytes",
            },
            "virtual_size": {
                "type": ["null", "integer"],
                "readOnly": True,
                "description": "Virtual size of image in bytes",
            },
            "container_format": text("Format of the container", enum=[None, *CONTAINER_FORMATS]),
            "disk_format": text("Format of the disk", enum=[None, *DISK_FORMATS]),
            "created_at": {
                "type": "string",
                "readOnly": True,
                "description": "Date and time of image registration",
            },
            "updated_at": {
                "type": "string",
                "readOnly": True,
                "description": "Date and time of the last image modification",
            },
            "tags": {
                "type": "array",
                "items": {"type": "string", "maxLength": 255},
                "description": "List of strings related to the image",
            },
            "min_ram": {"type": "integer", "description": "Amount of ram (in MB) to boot."},
            "min_disk": {"type": "integer", "description": "Amount of disk (in GB) to boot."},
            "self": {"type": "string", "readOnly": True, "description": "An image self url"},
            "file": {"type": "string", "readOnly": True, "description": "An image file url"},
            "schema": {"type": "string", "readOnly": True, "description": "An image schema url"},
        },
        "additionalProperties": {"type": "string"},
        "links": [
            {"rel": "self", "href": "{self}"},
            {"rel": "enclosure", "href": "{file}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    }


def member_schema() -> Mapping[str, Any]:
    """Describe a member. Source: Image API v2, "Show image member schema"."""
    return {
        "name": "member",
        "properties": {
            "member_id": {"type": "string", "description": "An identifier for the member"},
            "image_id": {"type": "string", "description": "An identifier for the image"},
            "created_at": {"type": "string", "description": "Date and time of creation"},
            "updated_at": {"type": "string", "description": "Date and time of the last change"},
            "status": {
                "type": "string",
                "description": "The status of this image member",
                "enum": ["pending", "accepted", "rejected"],
            },
            "schema": {"readOnly": True, "type": "string"},
        },
    }


def list_schema(name: str, of: Mapping[str, Any]) -> Mapping[str, Any]:
    """Describe a list of things. Source: Image API v2, "Show images schema"."""
    return {
        "name": name,
        "properties": {
            name: {"type": "array", "items": of},
            "first": {"type": "string"},
            "next": {"type": "string"},
            "schema": {"type": "string"},
        },
        "links": [
            {"rel": "first", "href": "{first}"},
            {"rel": "next", "href": "{next}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    }
