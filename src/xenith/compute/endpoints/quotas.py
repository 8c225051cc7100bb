"""Endpoints of quotas, by project and by class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from xenith.compute.operations import Compute
from xenith.compute.schemas.quotas import (
    FILE_RESOURCES,
    GROUP_RESOURCES,
    NETWORK_RESOURCES,
    UPDATE_QUOTA_CLASS_SET,
    UPDATE_QUOTA_SET,
)
from xenith.compute.schemas.servers import is_true
from xenith.core.errors import Invalid
from xenith.http import Call, Endpoint

_RULE = "os_compute_api:os-quota-sets"
_CLASS_RULE = "os_compute_api:os-quota-class-sets"


def _hidden(call: Call[Compute]) -> frozenset[str]:
    """Tell which resources a project's quotas do not show at the call's version."""
    hidden: tuple[str, ...] = ()
    if call.at_least(2, 36):
        hidden += NETWORK_RESOURCES
    if call.at_least(2, 57):
        hidden += FILE_RESOURCES
    return frozenset(hidden)


def _hidden_of_class(call: Call[Compute]) -> frozenset[str]:
    hidden: tuple[str, ...] = NETWORK_RESOURCES if call.at_least(2, 50) else GROUP_RESOURCES
    if call.at_least(2, 57):
        hidden += FILE_RESOURCES
    return frozenset(hidden)


def _shown(values: Mapping[str, Any], hidden: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in hidden}


def _asked(body: Any) -> dict[str, int]:
    return {
        name: int(value)
        for name, value in msgspec.structs.asdict(body).items()
        if value is not msgspec.UNSET and name not in ("force", "networks")
    }


async def show_quota(call: Call[Compute]) -> dict[str, Any]:
    """Show a project's limits. Those of a user are the project's: there are no others."""
    project_id = call["tenant_id"]
    found = await call.service.quotas.show(project_id)
    return {"quota_set": {"id": project_id, **_shown(found.limits, _hidden(call))}}


async def show_quota_detail(call: Call[Compute]) -> dict[str, Any]:
    """Show a project's limits beside what it uses."""
    project_id = call["tenant_id"]
    found = await call.service.quotas.show(project_id)
    detail = {
        name: {"limit": limit, "in_use": found.used.get(name, 0), "reserved": 0}
        for name, limit in _shown(found.limits, _hidden(call)).items()
    }
    return {"quota_set": {"id": project_id, **detail}}


async def show_defaults(call: Call[Compute]) -> dict[str, Any]:
    """Show the limits of a project that has none of its own."""
    project_id = call["tenant_id"]
    limits = await call.service.quotas.defaults(project_id)
    return {"quota_set": {"id": project_id, **_shown(limits, _hidden(call))}}


async def update_quota(call: Call[Compute]) -> dict[str, Any]:
    """Set limits of a project."""
    if call.asked("user_id"):
        raise Invalid("Quotas of single users are not offered: set those of their project.")
    body = call.body.quota_set
    limits = await call.service.quotas.update(
        call["tenant_id"],
        _asked(body),
        is_forced=body.force is not msgspec.UNSET and is_true(body.force),
    )
    return {"quota_set": _shown(limits, _hidden(call))}


async def delete_quota(call: Call[Compute]) -> None:
    """Take a project's own limits away."""
    await call.service.quotas.reset(call["tenant_id"])


async def show_class(call: Call[Compute]) -> dict[str, Any]:
    """Show the limits of a class."""
    limits = await call.service.quotas.show_class(call["id"])
    return {"quota_class_set": {"id": call["id"], **_shown(limits, _hidden_of_class(call))}}


async def update_class(call: Call[Compute]) -> dict[str, Any]:
    """Set limits of a class."""
    limits = await call.service.quotas.update_class(call["id"], _asked(call.body.quota_class_set))
    return {"quota_class_set": _shown(limits, _hidden_of_class(call))}


_PATH = "/v2.1/os-quota-sets/{tenant_id}"
_CLASS_PATH = "/v2.1/os-quota-class-sets/{id}"
_CODES = (400, 401, 403)
_OF_USER: Any = {"query": frozenset(("user_id",)), "strict_query_from": (2, 75)}

ENDPOINTS = (
    Endpoint(
        "GET",
        _PATH,
        show_quota,
        f"{_RULE}:show",
        "os_quota_sets.show_a_quota",
        codes=_CODES,
        **_OF_USER,
    ),
    Endpoint(
        "PUT",
        _PATH,
        update_quota,
        f"{_RULE}:update",
        "os_quota_sets.update_quotas",
        body=UPDATE_QUOTA_SET,
        codes=_CODES,
        **_OF_USER,
    ),
    Endpoint(
        "DELETE",
        _PATH,
        delete_quota,
        f"{_RULE}:delete",
        "os_quota_sets.revert_quotas_to_defaults",
        202,
        codes=(401, 403),
        **_OF_USER,
    ),
    Endpoint(
        "GET",
        _PATH + "/defaults",
        show_defaults,
        f"{_RULE}:defaults",
        "os_quota_sets.list_default_quotas_for_tenant",
        codes=_CODES,
    ),
    Endpoint(
        "GET",
        _PATH + "/detail",
        show_quota_detail,
        f"{_RULE}:detail",
        "os_quota_sets.show_the_detail_of_quota",
        codes=_CODES,
        **_OF_USER,
    ),
    Endpoint(
        "GET",
        _CLASS_PATH,
        show_class,
        f"{_CLASS_RULE}:show",
        "os_quota_class_sets.show_the_quota_for_quota_class",
        codes=(401, 403),
    ),
    Endpoint(
        "PUT",
        _CLASS_PATH,
        update_class,
        f"{_CLASS_RULE}:update",
        "os_quota_class_sets.create_or_update_quotas_for_quota_class",
        body=UPDATE_QUOTA_CLASS_SET,
        codes=_CODES,
    ),
)
