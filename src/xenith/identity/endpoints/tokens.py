"""Signing in, checking and revoking tokens, and what the caller's token opens.

Source: Identity API v3, "Authentication and token management".
"""

from __future__ import annotations

from typing import Any

from xenith.core.clock import iso_micros
from xenith.core.errors import NotFound, Unauthenticated
from xenith.db import Row, Tx
from xenith.http import Answer, Call, Endpoint
from xenith.identity.endpoints.shared import IdentityCall, answer_list
from xenith.identity.endpoints.views import access_rule_view, domain_view, project_view
from xenith.identity.operations import Identity
from xenith.identity.records import catalog, projects, roles, secrets
from xenith.identity.schemas import AuthBody
from xenith.identity.standing import Standing


async def create_token(call: Call[Identity]) -> Answer:
    """Sign in."""
    token, standing = await call.service.authentication.sign_in(call.body.auth)
    body = await call.service.db.read(token_view, standing, has_catalog=not _no_catalog(call))
    return Answer(body, status=201, headers={"X-Subject-Token": token})


async def show_token(call: Call[Identity]) -> Answer:
    """Tell what a token stands for."""
    standing = await _subject(call)
    body = await call.service.db.read(token_view, standing, has_catalog=not _no_catalog(call))
    return Answer(body, headers={"X-Subject-Token": call.headers["x-subject-token"]})


async def check_token(call: Call[Identity]) -> Answer:
    """Tell whether a token is good."""
    await _subject(call)
    return Answer(None, headers={"X-Subject-Token": call.headers["x-subject-token"]})


async def revoke_token(call: Call[Identity]) -> None:
    """Void a token."""
    await call.service.authentication.revoke(await _subject(call))


async def show_catalog(call: Call[Identity]) -> dict[str, Any]:
    """Give the caller's catalog."""
    who = call.principal
    entries = await call.service.db.read(
        catalog.build_catalog, project_id=who.project_id, user_id=who.user_id
    )
    return {"catalog": entries, "links": {"self": call.url + call.path}}


async def list_projects(call: Call[Identity]) -> dict[str, Any]:
    """List the projects that the caller can have a token for."""

    def read(tx: Tx) -> tuple[list[Row], dict[str, list[str]]]:
        rows = [row for row in roles.list_projects_of(tx, call.principal.user_id) if row.enabled]
        return rows, projects.list_tags(tx, [row.id for row in rows])

    rows, tags = await call.service.db.read(read)
    return answer_list(call, "projects", rows, lambda _, row: project_view(call, row, tags[row.id]))


async def list_domains(call: Call[Identity]) -> dict[str, Any]:
    """List the domains that the caller can have a token for."""
    rows = await call.service.db.read(roles.list_domains_of, call.principal.user_id)
    return answer_list(call, "domains", [row for row in rows if row.enabled], domain_view)


async def list_systems(call: Call[Identity]) -> dict[str, Any]:
    """Tell whether the caller can have a token for the system."""
    held = await call.service.db.read(
        roles.effective_roles, call.principal.user_id, scope_id=roles.SYSTEM
    )
    return {
        "system": [{"all": True}] if held else [],
        "links": {"self": call.url + call.path, "previous": None, "next": None},
    }


def token_view(tx: Tx, standing: Standing, *, has_catalog: bool) -> dict[str, Any]:
    """Give a token as clients see it. Transaction function."""
    payload = standing.payload
    token: dict[str, Any] = {
        "methods": list(payload.methods),
        "user": {
            "id": standing.user.id,
            "name": standing.user.name,
            "domain": _named(standing.user_domain),
            "password_expires_at": None,
        },
        "audit_ids": list(payload.audit_ids),
        "expires_at": iso_micros(payload.expires_at),
        "issued_at": iso_micros(payload.issued_at),
    }
    scope = standing.scope
    if payload.scope == "unscoped":
        return {"token": token}
    if payload.scope == "project":
        assert scope is not None, "a project's token without the project"
        assert standing.scope_domain is not None, "a project without a domain"
        token["project"] = {**_named(scope), "domain": _named(standing.scope_domain)}
        token["is_domain"] = scope.is_domain
    elif payload.scope == "domain":
        token["domain"] = _named(scope)
    else:
        token["system"] = {"all": True}
    token["roles"] = [{"id": role.id, "name": role.name} for role in standing.roles]
    if has_catalog:
        token["catalog"] = catalog.build_catalog(
            tx,
            project_id=payload.scope_id if payload.scope == "project" else None,
            user_id=standing.user.id,
        )
    if (app_cred := standing.app_cred) is not None:
        token["application_credential"] = {
            "id": app_cred.id,
            "name": app_cred.name,
            "restricted": not app_cred.is_unrestricted,
        }
        if app_cred.rule_ids is not None:
            token["application_credential"]["access_rules"] = [
                access_rule_view(rule) for rule in secrets.list_rules(tx, app_cred.rule_ids)
            ]
    return {"token": token}


def _named(row: Row) -> dict[str, str]:
    return {"id": row.id, "name": row.name}


def _no_catalog(call: IdentityCall) -> bool:
    return "nocatalog" in call.query


async def _subject(call: IdentityCall) -> Standing:
    """Read the token that the call is about.

    Raises:
        NotFound: it is not good, and says no more.
        Forbidden: it is another's.
    """
    token = call.headers.get("x-subject-token", "")
    is_expired_allowed = bool(call.asked_bool("allow_expired", default=False))
    try:
        standing = await call.service.authentication.check(
            token, is_expired_allowed=is_expired_allowed
        )
    except Unauthenticated as error:
        raise NotFound("Could not find token.") from error
    assert call.endpoint.policy is not None, "a token is needed to ask about one"
    call.enforce(call.endpoint.policy, token_user_id=standing.user.id)
    return standing


_QUERY = frozenset({"nocatalog", "allow_expired"})

ENDPOINTS = (
    Endpoint(
        "POST",
        "/v3/auth/tokens",
        create_token,
        policy=None,
        name="auth.password_authentication_with_scoped_authorization",
        status=201,
        body=AuthBody,
        query=_QUERY,
        codes=(400, 401),
    ),
    Endpoint(
        "GET",
        "/v3/auth/tokens",
        show_token,
        policy="identity:validate_token",
        name="auth.validate_and_show_information_for_token",
        query=_QUERY,
        codes=(400, 401, 403, 404),
    ),
    Endpoint(
        "HEAD",
        "/v3/auth/tokens",
        check_token,
        policy="identity:check_token",
        name="auth.check_token",
        query=_QUERY,
        codes=(400, 401, 403, 404),
    ),
    Endpoint(
        "DELETE",
        "/v3/auth/tokens",
        revoke_token,
        policy="identity:revoke_token",
        name="auth.revoke_token",
        status=204,
        codes=(401, 403, 404),
    ),
    Endpoint(
        "GET",
        "/v3/auth/catalog",
        show_catalog,
        policy="identity:get_auth_catalog",
        name="auth.get_service_catalog",
        codes=(401,),
    ),
    Endpoint(
        "GET",
        "/v3/auth/projects",
        list_projects,
        policy="identity:get_auth_projects",
        name="auth.get_available_project_scopes",
        codes=(401,),
    ),
    Endpoint(
        "GET",
        "/v3/auth/domains",
        list_domains,
        policy="identity:get_auth_domains",
        name="auth.get_available_domain_scopes",
        codes=(401,),
    ),
    Endpoint(
        "GET",
        "/v3/auth/system",
        list_systems,
        policy="identity:get_auth_system",
        name="auth.get_available_system_scopes",
        codes=(401,),
    ),
)
