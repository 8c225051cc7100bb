"""The disks on hosts in the operators' own API."""

from __future__ import annotations

from typing import Any

from xenith.compute.operations.operator import Operator
from xenith.compute.operations.storage import CollectBody, OrphansBody
from xenith.http import Call, Endpoint
from xenith.http.policy import admin


async def list_storage(call: Call[Operator]) -> dict[str, Any]:
    """Tell of the repositories of hosts: all, ``?host=NAME``, or that with ``?server=ID``."""
    found = await call.service.storage.list(host=call.asked("host"), server=call.asked("server"))
    return {"hosts": found}


async def act_on_orphans(call: Call[Operator]) -> dict[str, Any]:
    """Put orphans into quarantine, take them out of it, or remove them."""
    return {"disks": await call.service.storage.act(call.body)}


async def collect(call: Call[Operator]) -> dict[str, Any]:
    """Have a repository make its chains shorter."""
    return await call.service.storage.collect(call.body)


_CODES = (400, 404, 409, 503)

ENDPOINTS = (
    Endpoint(
        "GET", "/v1/storage", list_storage, "xenith:storage:list", "storage.list", codes=(404,)
    ),
    Endpoint(
        "POST",
        "/v1/storage/orphans",
        act_on_orphans,
        "xenith:storage:change",
        "storage.orphans",
        body=OrphansBody,
        codes=_CODES,
    ),
    Endpoint(
        "POST",
        "/v1/storage/collect",
        collect,
        "xenith:storage:change",
        "storage.collect",
        body=CollectBody,
        codes=_CODES,
    ),
)
POLICIES = {"xenith:storage:list": admin, "xenith:storage:change": admin}
