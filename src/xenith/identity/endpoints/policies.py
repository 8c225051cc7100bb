"""Endpoints of policies, kept as they come. Source: Identity API v3, "Policies" (deprecated)."""

from __future__ import annotations

from typing import Any

from xenith.db import Row, Tx
from xenith.http import Endpoint
from xenith.identity import schemas
from xenith.identity.endpoints.shared import PAGING, IdentityCall, answer_list, self_url
from xenith.identity.records.listing import list_rows
from xenith.identity.records.policies import POLICY_TEXTS, get_policy


async def list_policies(call: IdentityCall) -> dict[str, Any]:
    """List policies."""
    rows, has_more = await call.service.db.read(
        list_rows, POLICY_TEXTS, call.query, filters=("type",)
    )
    return answer_list(call, "policies", rows, _view, has_more=has_more)


async def create_policy(call: IdentityCall) -> dict[str, Any]:
    """Keep a policy."""
    new, extra = schemas.split(call.body.policy, schemas.NewPolicy)

    def write(tx: Tx) -> Row:
        policy_id = tx.world.ids.hex()
        row = {"id": policy_id, "type": new.type, "blob": new.blob, "extra": extra}
        tx.insert(POLICY_TEXTS, row)
        return get_policy(tx, policy_id)

    return {"policy": _view(call, await call.service.db.run(write))}


async def show_policy(call: IdentityCall) -> dict[str, Any]:
    """Show a policy."""
    return {"policy": _view(call, await call.service.db.read(get_policy, call["policy_id"]))}


async def update_policy(call: IdentityCall) -> dict[str, Any]:
    """Change a policy."""
    change, extra = schemas.split(call.body.policy, schemas.PolicyChange)

    def write(tx: Tx) -> Row:
        row = get_policy(tx, call["policy_id"])
        values = schemas.given(change)
        tx.update(POLICY_TEXTS, {"id": row.id}, **values, extra={**row.extra, **extra})
        return get_policy(tx, row.id)

    return {"policy": _view(call, await call.service.db.run(write))}


async def delete_policy(call: IdentityCall) -> None:
    """Delete a policy."""

    def write(tx: Tx) -> None:
        tx.delete(POLICY_TEXTS, id=get_policy(tx, call["policy_id"]).id)

    await call.service.db.run(write)


def _view(call: IdentityCall, row: Row) -> dict[str, Any]:
    return {
        **row.extra,
        "id": row.id,
        "type": row.type,
        "blob": row.blob,
        "links": {"self": self_url(call, "policies", row.id)},
    }


_ONE = "/v3/policies/{policy_id}"

ENDPOINTS = (
    Endpoint(
        "GET",
        "/v3/policies",
        list_policies,
        policy="identity:list_policies",
        name="policies.list_policies",
        query=PAGING | {"type"},
        codes=(400, 401, 403),
    ),
    Endpoint(
        "POST",
        "/v3/policies",
        create_policy,
        policy="identity:create_policy",
        name="policies.create_policy",
        status=201,
        body=schemas.PolicyBody,
        codes=(400, 401, 403),
    ),
    Endpoint(
        "GET",
        _ONE,
        show_policy,
        policy="identity:get_policy",
        name="policies.show_policy_details",
        codes=(401, 403, 404),
    ),
    Endpoint(
        "PATCH",
        _ONE,
        update_policy,
        policy="identity:update_policy",
        name="policies.update_policy",
        body=schemas.PolicyChangeBody,
        codes=(400, 401, 403, 404),
    ),
    Endpoint(
        "DELETE",
        _ONE,
        delete_policy,
        policy="identity:delete_policy",
        name="policies.delete_policy",
        status=204,
        codes=(401, 403, 404),
    ),
)
