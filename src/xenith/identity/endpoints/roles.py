"""Endpoints of roles, of what they imply, and of granting them.

The rows of the grants are made from one table: users and groups, on projects, domains and the
system, inherited or not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import sqlalchemy as sa

from xenith.db import Row, Tx
from xenith.http import Answer, Endpoint
from xenith.http.policy import Principal
from xenith.identity import schemas
from xenith.identity.endpoints.shared import (
    NAME_FILTERS,
    PAGING,
    IdentityCall,
    answer_list,
    guard,
    self_url,
)
from xenith.identity.endpoints.views import role_view
from xenith.identity.operations import roles as operations
from xenith.identity.operations.roles import Grant
from xenith.identity.records import roles as records
from xenith.identity.records.listing import list_rows
from xenith.identity.records.roles import ROLES

#: What a domain's manager may hand out. Source: keystone, domain_managed_target_role.
MANAGED_ROLES = frozenset({"manager", "member", "reader"})


async def list_roles(call: IdentityCall) -> dict[str, Any]:
    """List roles; those of the whole cloud unless a domain is named."""
    where = [] if "domain_id" in call.query else [ROLES.c.domain_id == ""]
    rows, has_more = await call.service.db.read(
        list_rows, ROLES, call.query, filters=("name", "domain_id"), where=where
    )
    return answer_list(call, "roles", rows, role_view, has_more=has_more)


async def create_role(call: IdentityCall) -> dict[str, Any]:
    """Make a role."""
    new, extra = schemas.split(call.body.role, schemas.NewRole)
    row = await call.service.db.run(operations.create_role, new, extra)
    return {"role": role_view(call, row)}


async def show_role(call: IdentityCall) -> dict[str, Any]:
    """Show a role."""
    row = await call.service.db.read(records.get_role, call["role_id"])
    return {"role": role_view(call, row)}


async def update_role(call: IdentityCall) -> dict[str, Any]:
    """Change a role."""
    change, extra = schemas.split(call.body.role, schemas.RoleChange)
    row = await call.service.db.run(operations.update_role, call["role_id"], change, extra)
    return {"role": role_view(call, row)}


async def delete_role(call: IdentityCall) -> None:
    """Delete a role."""
    await call.service.db.run(operations.delete_role, call["role_id"])


async def list_implied(call: IdentityCall) -> dict[str, Any]:
    """List what a role implies directly."""

    def read(tx: Tx) -> tuple[Row, list[Row]]:
        prior = records.get_role(tx, call["role_id"])
        ids = records.implications(tx).get(prior.id, set())
        return prior, [records.get_role(tx, role_id) for role_id in sorted(ids)]

    prior, implied = await call.service.db.read(read)
    return {
        "role_inference": _rule(call, prior, [_brief(call, row) for row in implied]),
        "links": {"self": self_url(call, "roles", prior.id, "implies")},
    }


async def create_implied(call: IdentityCall) -> Answer:
    """Let one role imply another."""
    await call.service.db.run(operations.imply, call["role_id"], call["implied_role_id"])
    return Answer(await show_implied(call), status=201)


async def show_implied(call: IdentityCall) -> dict[str, Any]:
    """Show that one role implies another."""
    prior, implied = await call.service.db.read(
        operations.check_implied, call["role_id"], call["implied_role_id"]
    )
    return {
        "role_inference": _rule(call, prior, _brief(call, implied)),
        "links": {"self": self_url(call, "roles", prior.id, "implies", implied.id)},
    }


async def check_implied(call: IdentityCall) -> None:
    """Tell whether one role implies another."""
    await show_implied(call)


async def delete_implied(call: IdentityCall) -> None:
    """Let one role imply another no more."""
    await call.service.db.run(operations.stop_implying, call["role_id"], call["implied_role_id"])


async def list_inferences(call: IdentityCall) -> dict[str, Any]:
    """List all that roles imply."""

    def read(tx: Tx) -> tuple[dict[str, set[str]], dict[str, Row]]:
        rows = tx.all(sa.select(ROLES).order_by(ROLES.c.id))
        return records.implications(tx), {row.id: row for row in rows}

    implied, by_id = await call.service.db.read(read)
    rules = [
        _rule(call, by_id[prior_id], [_brief(call, by_id[one]) for one in sorted(ids)])
        for prior_id, ids in sorted(implied.items())
    ]
    return {
        "role_inferences": rules,
        "links": {"self": call.url + call.path, "previous": None, "next": None},
    }


def _rule(call: IdentityCall, prior: Row, implies: Any) -> dict[str, Any]:
    return {"prior_role": _brief(call, prior), "implies": implies}


def _brief(call: IdentityCall, row: Row) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "links": {"self": self_url(call, "roles", row.id)},
    }


# -- grants

_Handler = Callable[[IdentityCall], Awaitable[Any]]
_Actor = Literal["user", "group"]
_Scope = Literal["project", "domain", "system"]


def _grant(call: IdentityCall, actor: _Actor, scope: _Scope) -> Grant:
    return Grant(
        actor_kind=actor,
        actor_id=call[f"{actor}_id"],
        scope_kind=scope,
        scope_id=records.SYSTEM if scope == "system" else call[f"{scope}_id"],
        is_inherited=call.path.endswith("inherited_to_projects"),
    )


async def _guard_grant(call: IdentityCall, grant: Grant, *, is_write: bool = False) -> None:
    """Let whoever has rights only in a domain grant only within it, and only the lesser roles."""
    who: Principal = call.principal
    if who.is_admin or who.is_system:
        return
    domains = await call.service.db.read(operations.find_domains, grant, is_actor_needed=False)
    for domain_id in domains:
        guard(call, domain_id)
    if is_write:
        role = await call.service.db.read(records.get_role, call["role_id"])
        guard(call, who.domain_id if role.name in MANAGED_ROLES and not role.domain_id else "")


def _handlers(actor: _Actor, scope: _Scope) -> dict[str, _Handler]:
    async def list_given(call: IdentityCall) -> dict[str, Any]:
        """List the roles that are granted."""
        grant = _grant(call, actor, scope)
        await _guard_grant(call, grant)
        rows = await call.service.db.read(operations.list_given, grant)
        return answer_list(call, "roles", rows, role_view)

    async def give(call: IdentityCall) -> None:
        """Grant a role."""
        grant = _grant(call, actor, scope)
        await _guard_grant(call, grant, is_write=True)
        await call.service.db.run(operations.give, grant, call["role_id"])

    async def check(call: IdentityCall) -> None:
        """Tell whether a role is granted."""
        grant = _grant(call, actor, scope)
        await _guard_grant(call, grant)
        await call.service.db.read(operations.check_given, grant, call["role_id"])

    async def take(call: IdentityCall) -> None:
        """Take a granted role away."""
        grant = _grant(call, actor, scope)
        await _guard_grant(call, grant, is_write=True)
        await call.service.db.run(operations.take, grant, call["role_id"])

    return {"list": list_given, "give": give, "check": check, "take": take}


def _grant_rows(actor: _Actor, scope: _Scope, *, is_inherited: bool) -> list[Endpoint]:
    where = "/system" if scope == "system" else f"/{scope}s/{{{scope}_id}}"
    ending = "/inherited_to_projects" if is_inherited else ""
    base = f"/v3{'/OS-INHERIT' if is_inherited else ''}{where}/{actor}s/{{{actor}_id}}/roles"
    handlers = _handlers(actor, scope)
    rules = {
        "list": "list_grants",
        "give": "create_grant",
        "check": "check_grant",
        "take": "revoke_grant",
    }
    if scope == "system":
        rules = {
            "list": f"list_system_grants_for_{actor}",
            "give": f"create_system_grant_for_{actor}",
            "check": f"check_system_grant_for_{actor}",
            "take": f"revoke_system_grant_for_{actor}",
        }
    group = "os_inherit" if is_inherited else "roles"
    return [
        Endpoint(
            method,
            base + (ending if kind == "list" else "/{role_id}" + ending),
            handlers[kind],
            policy=f"identity:{rules[kind]}",
            name=f"{group}.{word}_role_of_{actor}_on_{scope}",
            status=200 if kind == "list" else 204,
            codes=(401, 403, 404),
        )
        for method, kind, word in (
            ("GET", "list", "list"),
            ("PUT", "give", "assign"),
            ("HEAD", "check", "check"),
            ("GET", "check", "show"),
            ("DELETE", "take", "unassign"),
        )
    ]


_ROLE, _IMPLIES = "/v3/roles/{role_id}", "/v3/roles/{role_id}/implies"
_RULE = _IMPLIES + "/{implied_role_id}"

ENDPOINTS = (
    Endpoint(
        "GET",
        "/v3/roles",
        list_roles,
        policy="identity:list_roles",
        name="roles.list_roles",
        query=PAGING | NAME_FILTERS | {"domain_id"},
        codes=(400, 401, 403),
    ),
    Endpoint(
        "POST",
        "/v3/roles",
        create_role,
        policy="identity:create_role",
        name="roles.create_role",
        status=201,
        body=schemas.RoleBody,
        codes=(400, 401, 403, 404, 409),
    ),
    Endpoint(
        "GET",
        _ROLE,
        show_role,
        policy="identity:get_role",
        name="roles.show_role_details",
        codes=(401, 403, 404),
    ),
    Endpoint(
        "PATCH",
        _ROLE,
        update_role,
        policy="identity:update_role",
        name="roles.update_role",
        body=schemas.RoleChangeBody,
        codes=(400, 401, 403, 404, 409),
    ),
    Endpoint(
        "DELETE",
        _ROLE,
        delete_role,
        policy="identity:delete_role",
        name="roles.delete_role",
        status=204,
        codes=(401, 403, 404),
    ),
    Endpoint(
        "GET",
        _IMPLIES,
        list_implied,
        policy="identity:list_implied_roles",
        name="roles.list_implied_inference_roles_for_role",
        codes=(401, 403, 404),
    ),
    Endpoint(
        "PUT",
        _RULE,
        create_implied,
        policy="identity:create_implied_role",
        name="roles.create_role_inference_rule",
        status=201,
        codes=(400, 401, 403, 404, 409),
    ),
    Endpoint(
        "GET",
        _RULE,
        show_implied,
        policy="identity:get_implied_role",
        name="roles.get_role_inference_rule",
        codes=(401, 403, 404),
    ),
    Endpoint(
        "HEAD",
        _RULE,
        check_implied,
        policy="identity:check_implied_role",
        name="roles.confirm_role_inference_rule",
        status=204,
        codes=(401, 403, 404),
    ),
    Endpoint(
        "DELETE",
        _RULE,
        delete_implied,
        policy="identity:delete_implied_role",
        name="roles.delete_role_inference_rule",
        status=204,
        codes=(401, 403, 404),
    ),
    Endpoint(
        "GET",
        "/v3/role_inferences",
        list_inferences,
        policy="identity:list_role_inference_rules",
        name="roles.list_all_role_inference_rules",
        codes=(401, 403),
    ),
    *_grant_rows("user", "project", is_inherited=False),
    *_grant_rows("group", "project", is_inherited=False),
    *_grant_rows("user", "domain", is_inherited=False),
    *_grant_rows("group", "domain", is_inherited=False),
    *_grant_rows("user", "system", is_inherited=False),
    *_grant_rows("group", "system", is_inherited=False),
    *_grant_rows("user", "project", is_inherited=True),
    *_grant_rows("group", "project", is_inherited=True),
    *_grant_rows("user", "domain", is_inherited=True),
    *_grant_rows("group", "domain", is_inherited=True),
)
