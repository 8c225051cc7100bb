"""Rows as clients see them, with their links. A secret's row never reaches one of these whole."""

from __future__ import annotations

from typing import Any

from xenith.core.clock import iso_micros
from xenith.db import Row
from xenith.identity.endpoints.shared import IdentityCall, self_url


def project_view(call: IdentityCall, row: Row, tags: list[str]) -> dict[str, Any]:
    """Give a project."""
    return {
        **row.extra,
        "id": row.id,
        "name": row.name,
        "domain_id": row.domain_id or None,
        "parent_id": row.parent_id,
        "is_domain": row.is_domain,
        "enabled": row.enabled,
        "description": row.description,
        "options": row.options,
        "tags": tags,
        "links": {"self": self_url(call, "projects", row.id)},
    }


def domain_view(call: IdentityCall, row: Row) -> dict[str, Any]:
    """Give a domain."""
    return {
        **row.extra,
        "id": row.id,
        "name": row.name,
        "enabled": row.enabled,
        "description": row.description,
        "options": row.options,
        "tags": [],
        "links": {"self": self_url(call, "domains", row.id)},
    }


def user_view(call: IdentityCall, row: Row) -> dict[str, Any]:
    """Give a user, never with the password."""
    view = {
        **row.extra,
        "id": row.id,
        "name": row.name,
        "domain_id": row.domain_id,
        "enabled": row.enabled,
        "password_expires_at": None,
        "options": row.options,
        "federated": [],
        "links": {"self": self_url(call, "users", row.id)},
    }
    if row.default_project_id is not None:
        view["default_project_id"] = row.default_project_id
    return view


def group_view(call: IdentityCall, row: Row) -> dict[str, Any]:
    """Give a group."""
    return {
        **row.extra,
        "id": row.id,
        "name": row.name,
        "domain_id": row.domain_id,
        "description": row.description,
        "links": {"self": self_url(call, "groups", row.id)},
    }


def role_view(call: IdentityCall, row: Row) -> dict[str, Any]:
    """Give a role."""
    return {
        **row.extra,
        "id": row.id,
        "name": row.name,
        "domain_id": row.domain_id or None,
        "description": row.description,
        "options": row.options,
        "links": {"self": self_url(call, "roles", row.id)},
    }


def region_view(call: IdentityCall, row: Row) -> dict[str, Any]:
    """Give a region."""
    return {
        **row.extra,
        "id": row.id,
        "description": row.description,
        "parent_region_id": row.parent_region_id,
        "links": {"self": self_url(call, "regions", row.id)},
    }


def service_view(call: IdentityCall, row: Row) -> dict[str, Any]:
    """Give a service of the catalog."""
    view = {
        **row.extra,
        "id": row.id,
        "type": row.type,
        "name": row.name or "",
        "enabled": row.enabled,
        "links": {"self": self_url(call, "services", row.id)},
    }
    if row.description is not None:
        view["description"] = row.description
    return view


def endpoint_view(call: IdentityCall, row: Row) -> dict[str, Any]:
    """Give an endpoint of the catalog."""
    view = {
        **row.extra,
        "id": row.id,
        "service_id": row.service_id,
        "interface": row.interface,
        "region": row.region_id,
        "region_id": row.region_id,
        "url": row.url,
        "enabled": row.enabled,
        "links": {"self": self_url(call, "endpoints", row.id)},
    }
    if row.name is not None:
        view["name"] = row.name
    return view


def access_rule_view(row: Row) -> dict[str, Any]:
    """Give an access rule, as it stands within a credential."""
    return {"id": row.id, "service": row.service, "method": row.method, "path": row.path}


def app_cred_view(
    call: IdentityCall, row: Row, *, roles: list[Row], rules: list[Row]
) -> dict[str, Any]:
    """Give an application credential, without its secret."""
    view: dict[str, Any] = {
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "user_id": row.user_id,
        "project_id": row.project_id,
        "system": None,
        "unrestricted": row.is_unrestricted,
        "expires_at": None
        if row.expires_at is None
        else iso_micros(row.expires_at).removesuffix("Z"),
        "roles": [
            {"id": role.id, "name": role.name, "domain_id": role.domain_id or None}
            for role in roles
        ],
        "links": {"self": self_url(call, "users", row.user_id, "application_credentials", row.id)},
    }
    if row.rule_ids is not None:
        view["access_rules"] = [access_rule_view(rule) for rule in rules]
    return view
