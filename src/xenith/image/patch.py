"""Changes to an image as a JSON patch, of both media types that clients send.

Source: Image API v2, "Update image"; RFC 6902 for v2.1, the older drafts for v2.0.
"""

from __future__ import annotations

from typing import Any

from xenith.core.errors import Conflict, Forbidden, Invalid
from xenith.db import Row
from xenith.http import validation
from xenith.image.schemas import (
    CreateImage,
    checked_property,
    checked_value,
    refuse_read_only,
)

V21 = "application/openstack-images-v2.1-json-patch"
V20 = "application/openstack-images-v2.0-json-patch"
#: Operations in one patch.
OPERATIONS_MAX = 1000

_COLUMNS = frozenset(
    (
        "name",
        "visibility",
        "disk_format",
        "container_format",
        "min_disk",
        "min_ram",
        "protected",
        "os_hidden",
        "owner",
        "tags",
    )
)
#: Columns with a value that "remove" leaves behind; the others may not be removed.
_EMPTIED: dict[str, Any] = {"name": None, "disk_format": None, "container_format": None, "tags": []}


def read_patch(body: Any, *, media_type: str) -> list[tuple[str, str, Any]]:
    """Check a patch and give its operations: verb, key and value.

    Raises:
        Invalid: it is no such patch.
    """
    if not isinstance(body, list) or len(body) > OPERATIONS_MAX:
        raise Invalid("Request body must be a JSON array of operation objects.")
    return [_operation(item, is_old=media_type == V20) for item in body]


def _operation(item: Any, *, is_old: bool) -> tuple[str, str, Any]:
    if not isinstance(item, dict):
        raise Invalid("Operations must be JSON objects.")
    if is_old:
        verbs = [verb for verb in ("add", "replace", "remove") if verb in item]
        if len(verbs) != 1:
            raise Invalid("An operation has one of add, replace and remove.")
        verb, path = verbs[0], item[verbs[0]]
    else:
        verb, path = str(item.get("op")), item.get("path")
        if verb not in ("add", "replace", "remove"):
            raise Invalid(f"Operation {verb[:40]!r} is none of add, replace, remove.")
    if not isinstance(path, str) or not path.startswith("/"):
        raise Invalid("A path begins with a slash.")
    key = path[1:].replace("~1", "/").replace("~0", "~")
    if not key or "/" in path[1:]:
        raise Invalid(f"Invalid path {path[:64]}: only whole properties can be changed.")
    if verb != "remove" and "value" not in item:
        raise Invalid(f"Operation {verb!r} needs a value.")
    return verb, key, item.get("value")


def changes(row: Row, operations: list[tuple[str, str, Any]]) -> dict[str, Any]:
    """Give the values that a patch leads to.

    Raises:
        Invalid: a value is not what it should be.
        Forbidden: it changes what only the service may.
        Conflict: it replaces or removes what is not there, or changes a format in use.
    """
    values: dict[str, Any] = {}
    properties = dict(row.properties)
    for verb, key, value in operations:
        if key == "id":
            raise Forbidden("Attribute 'id' is read-only.")
        refuse_read_only(key)
        if key in _COLUMNS:
            values[key] = _column(row, verb, key, value)
        elif verb == "remove":
            if key not in properties:
                raise Conflict(f"Property {key[:64]} does not exist.")
            del properties[key]
        else:
            if verb == "replace" and key not in properties:
                raise Conflict(f"Property {key[:64]} does not exist.")
            properties[checked_property(key)] = checked_value(key, value)
    values["properties"] = properties
    return values


def _column(row: Row, verb: str, key: str, value: Any) -> Any:
    if key in ("disk_format", "container_format") and row.status != "queued":
        raise Forbidden(f"Attribute {key} can be only replaced for a queued image.")
    if verb == "remove":
        if key not in _EMPTIED:
            raise Forbidden(f"Property '{key}' may not be removed.")
        return _EMPTIED[key]
    if key == "name" and value is None:
        return None
    checked = getattr(validation.convert({key: value}, CreateImage), key)
    return sorted(set(checked)) if key == "tags" else checked
