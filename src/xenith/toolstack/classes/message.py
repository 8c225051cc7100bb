"""Messages: what happened that someone should know of. Source: XenAPI class message."""

from __future__ import annotations

import re
from typing import Any

from xenith.toolstack.methods import method
from xenith.toolstack.server import HostServer
from xenith.xapi.faults import XapiFault

#: Messages that are kept; the oldest goes. Source: xapi, message_limit.
KEPT_MAX = 10_000
#: Source: XenAPI, enum cls, and the classes that they are of.
CLASSES = {
    "VM": "VM",
    "Host": "host",
    "SR": "SR",
    "Pool": "pool",
    "VDI": "VDI",
    "PVS_proxy": "",
    "VMPP": "",
    "VMSS": "",
    "Certificate": "Certificate",
}
_TIME = re.compile(r"\d{8}T\d{2}:\d{2}:\d{2}Z?")


@method("message.create", is_async=True)
def create(host: HostServer, name: str, priority: int, of: str, obj_uuid: str, body: str) -> str:
    """Write a message about an object. Source: XenAPI message.create."""
    known = {kind.lower(): kind for kind in CLASSES}
    kind = known.get(of.lower())
    if kind is None:
        raise XapiFault("INVALID_VALUE", "cls", of)
    if CLASSES[kind]:
        host.objects.by_uuid(CLASSES[kind], obj_uuid)
    return tell(host, name, priority=priority, kind=kind, uuid=obj_uuid, body=body)


def tell(
    host: HostServer, name: str, *, priority: int, kind: str, uuid: str, body: str = ""
) -> str:
    """Write a message; of too many, the oldest goes."""
    kept = host.objects.all("message")
    if len(kept) >= KEPT_MAX:
        host.objects.delete("message", next(iter(kept)))
    return host.objects.create(
        "message",
        name=name,
        priority=priority,
        cls=kind,
        obj_uuid=uuid,
        body=body,
        timestamp=host.now(),
    )


@method("message.destroy", is_async=True)
def destroy(host: HostServer, ref: str) -> None:
    """Remove a message. Source: XenAPI message.destroy."""
    host.objects.delete("message", ref)


@method("message.destroy_many", is_async=True)
def destroy_many(host: HostServer, refs: list[str]) -> None:
    """Remove messages, all or none. Source: XenAPI message.destroy_many."""
    for ref in refs:
        host.objects.get("message", ref)
    for ref in dict.fromkeys(refs):
        host.objects.delete("message", ref)


@method("message.get")
def get(host: HostServer, of: str, obj_uuid: str, since: str) -> dict[str, Any]:
    """Give the messages about an object after a time. Source: XenAPI message.get."""
    return {
        ref: record
        for ref, record in get_since(host, since).items()
        if record["cls"].lower() == of.lower() and record["obj_uuid"] == obj_uuid
    }


@method("message.get_since")
def get_since(host: HostServer, since: str) -> dict[str, Any]:
    """Give the messages after a time. Source: XenAPI message.get_since."""
    if _TIME.fullmatch(since) is None:
        raise XapiFault("FIELD_TYPE_ERROR", "since")
    # Times of one form compare as text.
    return {
        ref: record
        for ref, record in host.objects.all("message").items()
        if record["timestamp"] > since
    }
