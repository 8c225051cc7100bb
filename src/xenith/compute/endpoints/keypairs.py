"""Endpoints of keypairs. From 2.10 on an admin may handle those of other users."""

from __future__ import annotations

from typing import Any

import msgspec

from xenith.compute.operations import Compute
from xenith.compute.schemas.keypairs import CREATE_KEYPAIR
from xenith.core.clock import iso_micros
from xenith.core.limits import PAGE_ITEMS_MAX
from xenith.db import Row
from xenith.http import Answer, Call, Endpoint
from xenith.http.paging import next_url

_RULE = "os_compute_api:os-keypairs"


def _brief(call: Call[Compute], row: Row) -> dict[str, Any]:
    shown = {"name": row.name, "public_key": row.public_key, "fingerprint": row.fingerprint}
    if call.at_least(2, 2):
        shown["type"] = row.type
    return shown


def _user(call: Call[Compute], operation: str) -> str:
    """Tell whose keys are meant, and hold the rule for them."""
    user_id = (call.asked("user_id") if call.at_least(2, 10) else None) or call.principal.user_id
    call.enforce(f"{_RULE}:{operation}", user_id=user_id)
    return user_id


async def list_keypairs(call: Call[Compute]) -> dict[str, Any]:
    """List a user's keypairs."""
    user_id = _user(call, "index")
    if not call.at_least(2, 35):
        rows = await call.service.keypairs.list(user_id)
        return {"keypairs": [{"keypair": _brief(call, row)} for row in rows]}
    limit = min(call.asked_int("limit", default=PAGE_ITEMS_MAX) or 0, PAGE_ITEMS_MAX)
    rows = await call.service.keypairs.list(user_id, limit=limit, marker=call.asked("marker"))
    body: dict[str, Any] = {"keypairs": [{"keypair": _brief(call, row)} for row in rows]}
    if rows and len(rows) == limit:
        body["keypairs_links"] = [{"rel": "next", "href": next_url(call, rows[-1].name)}]
    return body


async def create_keypair(call: Call[Compute]) -> Answer:
    """Keep a given public key, or make a pair and show its private half once."""
    body = call.body.keypair

    def given(name: str) -> Any:
        value = getattr(body, name, msgspec.UNSET)
        return None if value is msgspec.UNSET else value

    user_id = given("user_id") or call.principal.user_id
    call.enforce(f"{_RULE}:create", user_id=user_id)
    made = await call.service.keypairs.create(
        user_id,
        project_id=call.principal.project_id or "",
        name=body.name,
        kind=given("type") or "ssh",
        public_key=given("public_key"),
    )
    shown = {**_brief(call, made.row), "user_id": user_id}
    if made.private_key is not None:
        shown["private_key"] = made.private_key
    return Answer({"keypair": shown}, status=201 if call.at_least(2, 2) else 200)


async def show_keypair(call: Call[Compute]) -> dict[str, Any]:
    """Show one keypair."""
    row = await call.service.keypairs.get(_user(call, "show"), call["keypair_name"])
    return {
        "keypair": {
            **_brief(call, row),
            "user_id": row.user_id,
            "id": row.number,
            "created_at": iso_micros(row.created_at).removesuffix("Z"),
            "updated_at": None,
            "deleted": False,
            "deleted_at": None,
        }
    }


async def delete_keypair(call: Call[Compute]) -> Answer:
    """Delete one keypair."""
    await call.service.keypairs.delete(_user(call, "delete"), call["keypair_name"])
    return Answer(status=204 if call.at_least(2, 2) else 202)


_PATH = "/v2.1/os-keypairs"
_OF_USER = frozenset(("user_id",))

ENDPOINTS = (
    Endpoint(
        "GET",
        _PATH,
        list_keypairs,
        f"{_RULE}:index",
        "os_keypairs.list_keypairs",
        query=_OF_USER | {"limit", "marker"},
        strict_query_from=(2, 75),
        codes=(400, 401, 403),
    ),
    Endpoint(
        "POST",
        _PATH,
        create_keypair,
        f"{_RULE}:create",
        "os_keypairs.import_or_create_keypair",
        201,
        body=CREATE_KEYPAIR,
        codes=(200, 400, 401, 403, 409),
    ),
    Endpoint(
        "GET",
        _PATH + "/{keypair_name}",
        show_keypair,
        f"{_RULE}:show",
        "os_keypairs.show_keypair_details",
        query=_OF_USER,
        strict_query_from=(2, 75),
        codes=(401, 403, 404),
    ),
    Endpoint(
        "DELETE",
        _PATH + "/{keypair_name}",
        delete_keypair,
        f"{_RULE}:delete",
        "os_keypairs.delete_keypair",
        204,
        query=_OF_USER,
        strict_query_from=(2, 75),
        codes=(202, 401, 403, 404),
    ),
)
