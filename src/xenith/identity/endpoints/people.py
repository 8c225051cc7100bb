"""Endpoints of users and groups."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from xenith.core.errors import Unauthenticated
from xenith.db import Row, Tx
from xenith.http import Endpoint
from xenith.identity import schemas
from xenith.identity.endpoints.shared import (
    NAME_FILTERS,
    PAGING,
    IdentityCall,
    answer_list,
    guard,
    home_domain_id,
    own_domain,
)
from xenith.identity.endpoints.views import group_view, project_view, user_view
from xenith.identity.operations import people as operations
from xenith.identity.records import people, projects, roles
from xenith.identity.records.listing import list_rows, page
from xenith.identity.records.people import GROUPS, MEMBERSHIPS, USERS
from xenith.identity.standing import REFUSAL

_USER_FILTERS = ("name", "domain_id", "enabled", "default_project_id")
_GROUP_FILTERS = ("name", "domain_id")


async def list_users(call: IdentityCall) -> dict[str, Any]:
    """List users."""
    rows, has_more = await call.service.db.read(
        list_rows,
        USERS,
        call.query,
        filters=_USER_FILTERS,
        where=own_domain(call, USERS.c.domain_id),
    )
    return answer_list(call, "users", rows, user_view, has_more=has_more)


async def create_user(call: IdentityCall) -> dict[str, Any]:
    """Make a user."""
    new, extra = schemas.split(call.body.user, schemas.NewUser)
    domain_id = new.domain_id or home_domain_id(call)
    guard(call, domain_id)
    password_hash = await _hash(call, new.password)
    row = await call.service.db.run(
        operations.create_user, new, extra, domain_id=domain_id, password_hash=password_hash
    )
    return {"user": user_view(call, row)}


async def show_user(call: IdentityCall) -> dict[str, Any]:
    """Show a user."""
    return {"user": user_view(call, await _get_user(call))}


async def update_user(call: IdentityCall) -> dict[str, Any]:
    """Change a user."""
    change, extra = schemas.split(call.body.user, schemas.UserChange)
    await _get_user(call)
    password = None if change.password is msgspec.UNSET else change.password
    password_hash = await _hash(call, password)
    row = await call.service.db.run(
        operations.update_user, call["user_id"], change, extra, password_hash=password_hash
    )
    return {"user": user_view(call, row)}


async def delete_user(call: IdentityCall) -> None:
    """Delete a user."""
    await _get_user(call)
    await call.service.db.run(operations.delete_user, call["user_id"])


async def change_password(call: IdentityCall) -> None:
    """Let a user change the password; the old one stands for a token."""
    passwords, change = call.service.passwords, call.body.user

    def read(tx: Tx) -> Row | None:
        return tx.find(USERS, id=call["user_id"])

    user = await call.service.db.read(read)
    is_right = await passwords.is_right(
        change.original_password, None if user is None else user.password_hash
    )
    if user is None or not is_right or not user.enabled:
        raise Unauthenticated(REFUSAL)
    password_hash = await passwords.hash(change.password)
    if not await call.service.db.run(operations.set_password, user, password_hash):
        raise Unauthenticated(REFUSAL)


async def list_groups_of_user(call: IdentityCall) -> dict[str, Any]:
    """List the groups that a user is in."""
    user = await _get_user(call)
    ids = sa.select(MEMBERSHIPS.c.group_id).where(MEMBERSHIPS.c.user_id == user.id)
    rows, has_more = await call.service.db.read(
        list_rows, GROUPS, call.query, filters=_GROUP_FILTERS, where=[GROUPS.c.id.in_(ids)]
    )
    return answer_list(call, "groups", rows, group_view, has_more=has_more)


async def list_projects_of_user(call: IdentityCall) -> dict[str, Any]:
    """List the projects on which a user has a role."""
    user = await _get_user(call)

    def read(tx: Tx) -> tuple[list[Row], bool, dict[str, list[str]]]:
        rows, has_more = page(roles.list_projects_of(tx, user.id), call.query)
        return rows, has_more, projects.list_tags(tx, [row.id for row in rows])

    rows, has_more, tags = await call.service.db.read(read)
    return answer_list(
        call,
        "projects",
        rows,
        lambda _, row: project_view(call, row, tags[row.id]),
        has_more=has_more,
    )


async def list_groups(call: IdentityCall) -> dict[str, Any]:
    """List groups."""
    rows, has_more = await call.service.db.read(
        list_rows,
        GROUPS,
        call.query,
        filters=_GROUP_FILTERS,
        where=own_domain(call, GROUPS.c.domain_id),
    )
    return answer_list(call, "groups", rows, group_view, has_more=has_more)


async def create_group(call: IdentityCall) -> dict[str, Any]:
    """Make a group."""
    new, extra = schemas.split(call.body.group, schemas.NewGroup)
    domain_id = new.domain_id or home_domain_id(call)
    guard(call, domain_id)
    row = await call.service.db.run(operations.create_group, new, extra, domain_id=domain_id)
    return {"group": group_view(call, row)}


async def show_group(call: IdentityCall) -> dict[str, Any]:
    """Show a group."""
    return {"group": group_view(call, await _get_group(call))}


async def update_group(call: IdentityCall) -> dict[str, Any]:
    """Change a group."""
    change, extra = schemas.split(call.body.group, schemas.GroupChange)
    await _get_group(call)
    row = await call.service.db.run(operations.update_group, call["group_id"], change, extra)
    return {"group": group_view(call, row)}


async def delete_group(call: IdentityCall) -> None:
    """Delete a group."""
    await _get_group(call)
    await call.service.db.run(operations.delete_group, call["group_id"])


async def list_members(call: IdentityCall) -> dict[str, Any]:
    """List the users in a group."""
    group = await _get_group(call)
    ids = sa.select(MEMBERSHIPS.c.user_id).where(MEMBERSHIPS.c.group_id == group.id)
    rows, has_more = await call.service.db.read(
        list_rows, USERS, call.query, filters=_USER_FILTERS, where=[USERS.c.id.in_(ids)]
    )
    return answer_list(call, "users", rows, user_view, has_more=has_more)


async def add_member(call: IdentityCall) -> None:
    """Put a user in a group."""
    await _get_group(call)
    await _get_user(call)
    await call.service.db.run(operations.add_member, call["group_id"], call["user_id"])


async def check_member(call: IdentityCall) -> None:
    """Tell whether a user is in a group."""
    await _get_group(call)
    await call.service.db.read(operations.check_member, call["group_id"], call["user_id"])


async def remove_member(call: IdentityCall) -> None:
    """Take a user out of a group."""
    await _get_group(call)
    await call.service.db.run(operations.remove_member, call["group_id"], call["user_id"])


async def _hash(call: IdentityCall, password: str | None) -> str | None:
    return None if password is None else await call.service.passwords.hash(password)


async def _get_user(call: IdentityCall) -> Row:
    row = await call.service.db.read(people.get_user, call["user_id"])
    guard(call, row.domain_id)
    return row


async def _get_group(call: IdentityCall) -> Row:
    row = await call.service.db.read(people.get_group, call["group_id"])
    guard(call, row.domain_id)
    return row


_USER, _GROUP = "/v3/users/{user_id}", "/v3/groups/{group_id}"
_MEMBER = _GROUP + "/users/{user_id}"
_USERS_QUERY = PAGING | NAME_FILTERS | {"domain_id", "enabled", "default_project_id"}
_GROUPS_QUERY = PAGING | NAME_FILTERS | {"domain_id"}

ENDPOINTS = (
    Endpoint(
        "GET",
        "/v3/users",
        list_users,
        policy="identity:list_users",
        name="users.list_users",
        query=_USERS_QUERY,
        codes=(400, 401, 403),
    ),
    Endpoint(
        "POST",
        "/v3/users",
        create_user,
        policy="identity:create_user",
        name="users.create_user",
        status=201,
        body=schemas.UserBody,
        codes=(400, 401, 403, 404, 409),
    ),
    Endpoint(
        "GET",
        _USER,
        show_user,
        policy="identity:get_user",
        name="users.show_user_details",
        codes=(401, 403, 404),
    ),
    Endpoint(
        "PATCH",
        _USER,
        update_user,
        policy="identity:update_user",
        name="users.update_user",
        body=schemas.UserChangeBody,
        codes=(400, 401, 403, 404, 409),
    ),
    Endpoint(
        "DELETE",
        _USER,
        delete_user,
        policy="identity:delete_user",
        name="users.delete_user",
        status=204,
        codes=(401, 403, 404),
    ),
    Endpoint(
        "POST",
        _USER + "/password",
        change_password,
        policy=None,
        name="users.change_password_for_user",
        status=204,
        body=schemas.PasswordBody,
        codes=(400, 401),
    ),
    Endpoint(
        "GET",
        _USER + "/groups",
        list_groups_of_user,
        policy="identity:list_groups_for_user",
        query=_GROUPS_QUERY,
        name="users.list_groups_to_which_a_user_belongs",
        codes=(401, 403, 404),
    ),
    Endpoint(
        "GET",
        _USER + "/projects",
        list_projects_of_user,
        policy="identity:list_user_projects",
        query=PAGING,
        name="users.list_projects_for_user",
        codes=(401, 403, 404),
    ),
    Endpoint(
        "GET",
        "/v3/groups",
        list_groups,
        policy="identity:list_groups",
        name="groups.list_groups",
        query=_GROUPS_QUERY,
        codes=(400, 401, 403),
    ),
    Endpoint(
        "POST",
        "/v3/groups",
        create_group,
        policy="identity:create_group",
        name="groups.create_group",
        status=201,
        body=schemas.GroupBody,
        codes=(400, 401, 403, 404, 409),
    ),
    Endpoint(
        "GET",
        _GROUP,
        show_group,
        policy="identity:get_group",
        name="groups.show_group_details",
        codes=(401, 403, 404),
    ),
    Endpoint(
        "PATCH",
        _GROUP,
        update_group,
        policy="identity:update_group",
        name="groups.update_group",
        body=schemas.GroupChangeBody,
        codes=(400, 401, 403, 404, 409),
    ),
    Endpoint(
        "DELETE",
        _GROUP,
        delete_group,
        policy="identity:delete_group",
        name="groups.delete_group",
        status=204,
        codes=(401, 403, 404),
    ),
    Endpoint(
        "GET",
        _GROUP + "/users",
        list_members,
        policy="identity:list_users_in_group",
        name="groups.list_users_in_group",
        query=_USERS_QUERY,
        codes=(401, 403, 404),
    ),
    Endpoint(
        "PUT",
        _MEMBER,
        add_member,
        policy="identity:add_user_to_group",
        name="groups.add_user_to_group",
        status=204,
        codes=(401, 403, 404),
    ),
    Endpoint(
        "HEAD",
        _MEMBER,
        check_member,
        policy="identity:check_user_in_group",
        name="groups.check_whether_user_belongs_to_group",
        status=204,
        codes=(401, 403, 404),
    ),
    Endpoint(
        "DELETE",
        _MEMBER,
        remove_member,
        policy="identity:remove_user_from_group",
        name="groups.remove_user_from_group",
        status=204,
        codes=(401, 403, 404),
    ),
)
