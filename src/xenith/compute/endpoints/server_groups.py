"""Endpoints of server groups."""

from __future__ import annotations

from typing import Any

import msgspec

from xenith.compute.operations import Compute
from xenith.compute.operations.server_groups import GroupView
from xenith.compute.schemas.server_groups import CREATE_SERVER_GROUP
from xenith.core.limits import PAGE_ITEMS_MAX
from xenith.http import Call, Endpoint

_RULE = "os_compute_api:os-server-groups"


def _shown(call: Call[Compute], view: GroupView) -> dict[str, Any]:
    group = view.group
    shown: dict[str, Any] = {"id": group.id, "name": group.name, "members": view.members}
    if call.at_least(2, 64):
        shown["policy"] = group.policy
        shown["rules"] = group.rules
    else:
        shown["policies"] = [group.policy]
        # Never settable; always shown empty.
        shown["metadata"] = {}
    if call.at_least(2, 13):
        shown["project_id"] = group.project_id
        shown["user_id"] = group.user_id
    return shown


async def list_server_groups(call: Call[Compute]) -> dict[str, Any]:
    """List the project's groups; an admin may ask for all projects'."""
    # Present is enough, whatever its value. Source: nova's `all_projects`.
    is_all = "all_projects" in call.query and call.allows(f"{_RULE}:index:all_projects")
    views = await call.service.server_groups.list(
        call.principal,
        is_all=is_all,
        offset=min(call.asked_int("offset", default=0) or 0, 2**31),
        limit=min(call.asked_int("limit", default=PAGE_ITEMS_MAX) or 0, PAGE_ITEMS_MAX),
    )
    return {"server_groups": [_shown(call, view) for view in views]}


async def create_server_group(call: Call[Compute]) -> dict[str, Any]:
    """Make a group."""
    body = call.body.server_group
    if call.at_least(2, 64):
        policy = body.policy
        per_host = msgspec.UNSET if body.rules is msgspec.UNSET else body.rules.max_server_per_host
    else:
        policy, per_host = body.policies[0], msgspec.UNSET
    view = await call.service.server_groups.create(
        call.principal,
        name=body.name.strip(),
        policy=policy,
        max_server_per_host=None if per_host is msgspec.UNSET else int(per_host),
    )
    return {"server_group": _shown(call, view)}


async def show_server_group(call: Call[Compute]) -> dict[str, Any]:
    """Show one group."""
    view = await call.service.server_groups.get(call.principal, call["server_group_id"])
    return {"server_group": _shown(call, view)}


async def delete_server_group(call: Call[Compute]) -> None:
    """Delete a group."""
    await call.service.server_groups.delete(call.principal, call["server_group_id"])


_PATH = "/v2.1/os-server-groups"

ENDPOINTS = (
    Endpoint(
        "GET",
        _PATH,
        list_server_groups,
        f"{_RULE}:index",
        "os_server_groups.list_server_groups",
        query=frozenset(("all_projects", "limit", "offset")),
        strict_query_from=(2, 75),
        codes=(400, 401, 403),
    ),
    Endpoint(
        "POST",
        _PATH,
        create_server_group,
        f"{_RULE}:create",
        "os_server_groups.create_server_group",
        body=CREATE_SERVER_GROUP,
        codes=(400, 401, 403, 409),
    ),
    Endpoint(
        "GET",
        _PATH + "/{server_group_id}",
        show_server_group,
        f"{_RULE}:show",
        "os_server_groups.show_server_group_details",
        codes=(401, 403, 404),
    ),
    Endpoint(
        "DELETE",
        _PATH + "/{server_group_id}",
        delete_server_group,
        f"{_RULE}:delete",
        "os_server_groups.delete_server_group",
        204,
        codes=(401, 403, 404),
    ),
)
