"""The endpoint that lists role assignments, with names when asked."""

from __future__ import annotations

from typing import Any

from xenith.core.errors import Invalid
from xenith.db import Row, Tx
from xenith.http import Endpoint
from xenith.identity.endpoints.shared import IdentityCall, self_url
from xenith.identity.records import people, projects, roles
from xenith.identity.records.assignments import Assignment, Filters, list_assignments
from xenith.identity.records.listing import read_flag

_ONE_OF = ("scope.project.id", "scope.domain.id", "scope.system")


async def list_role_assignments(call: IdentityCall) -> dict[str, Any]:
    """List role assignments."""
    filters, is_effective = _filters(call)
    has_names = _flag(call, "include_names")

    def read(tx: Tx) -> list[dict[str, Any]]:
        found = list_assignments(tx, filters, is_effective=is_effective)
        names = _Names(tx) if has_names else None
        return [_view(call, one, names) for one in found]

    return {
        "role_assignments": await call.service.db.read(read),
        "links": {"self": call.url + call.path, "previous": None, "next": None},
    }


def _filters(call: IdentityCall) -> tuple[Filters, bool]:
    is_effective = _flag(call, "effective")
    scopes = [name for name in _ONE_OF if call.asked(name)]
    if len(scopes) > 1:
        raise Invalid("Specify a domain, a project or the system, not several of them.")
    if call.asked("user.id") and call.asked("group.id"):
        raise Invalid("Specify a user or group, not both.")
    if is_effective and call.asked("group.id"):
        raise Invalid("Combining effective and group filters will always be empty.")
    has_subtree = _flag(call, "include_subtree")
    if has_subtree and scopes != ["scope.project.id"]:
        raise Invalid("scope.project.id must be specified with include_subtree.")
    who = call.principal
    is_in_domain = not (who.is_admin or who.is_system)
    scope_id = call.asked(scopes[0]) if scopes else None
    inherited = "scope.OS-INHERIT:inherited_to" in call.query
    return (
        Filters(
            user_id=call.asked("user.id"),
            group_id=call.asked("group.id"),
            role_id=call.asked("role.id"),
            scope_id=roles.SYSTEM if scopes == ["scope.system"] else scope_id,
            is_inherited=True if inherited else None,
            has_subtree=has_subtree,
            domain_id=who.domain_id if is_in_domain else None,
        ),
        is_effective,
    )


def _flag(call: IdentityCall, name: str) -> bool:
    text = call.asked(name)
    return text is not None and read_flag(text)


class _Names:
    """Looks names up once each."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self._kept: dict[tuple[str, str], dict[str, Any]] = {}

    def named(self, kind: str, thing_id: str) -> dict[str, Any]:
        """Give a thing's id with its name and domain."""
        key = (kind, thing_id)
        if key not in self._kept:
            self._kept[key] = self._look_up(kind, thing_id)
        return self._kept[key]

    def _look_up(self, kind: str, thing_id: str) -> dict[str, Any]:
        table = {
            "user": people.USERS,
            "group": people.GROUPS,
            "role": roles.ROLES,
            "project": projects.PROJECTS,
            "domain": projects.PROJECTS,
        }[kind]
        row: Row | None = self._tx.find(table, id=thing_id)
        if row is None:
            return {"id": thing_id}
        view: dict[str, Any] = {"id": thing_id, "name": row.name}
        if kind != "domain" and row.domain_id:
            domain = self._tx.find(projects.PROJECTS, id=row.domain_id)
            view["domain"] = {"id": row.domain_id, "name": domain.name if domain else ""}
        return view


def _view(call: IdentityCall, one: Assignment, names: _Names | None) -> dict[str, Any]:
    def show(kind: str, thing_id: str) -> dict[str, Any]:
        return {"id": thing_id} if names is None else names.named(kind, thing_id)

    scope: dict[str, Any] = {"system": {"all": True}}
    if one.scope_kind != "system":
        scope = {one.scope_kind: show(one.scope_kind, one.scope_id)}
    if one.is_inherited:
        scope["OS-INHERIT:inherited_to"] = "projects"
    links = {"assignment": _assignment_url(call, one)}
    if one.group_id is not None:
        links["membership"] = self_url(call, "groups", one.group_id, "users", one.actor_id)
    if one.prior_role_id is not None:
        links["prior_role"] = self_url(
            call, "prior_role", one.prior_role_id, "implies", one.role_id
        )
    return {
        "role": show("role", one.role_id),
        one.actor_kind: show(one.actor_kind, one.actor_id),
        "scope": scope,
        "links": links,
    }


def _assignment_url(call: IdentityCall, one: Assignment) -> str:
    kind = one.granted_on_kind or one.scope_kind
    scope = ["system"] if kind == "system" else [f"{kind}s", one.granted_on_id or one.scope_id]
    actor = ["groups", one.group_id] if one.group_id else [f"{one.actor_kind}s", one.actor_id]
    is_inherited = one.is_inherited or one.granted_on_id is not None
    parts = [*(["OS-INHERIT"] if is_inherited else []), *scope, *actor]
    parts += ["roles", one.prior_role_id or one.role_id]
    return self_url(call, *parts, *(["inherited_to_projects"] if is_inherited else []))


ENDPOINTS = (
    Endpoint(
        "GET",
        "/v3/role_assignments",
        list_role_assignments,
        policy="identity:list_role_assignments",
        name="os_inherit.list_role_assignments",
        query=frozenset(
            {
                *_ONE_OF,
                "user.id",
                "group.id",
                "role.id",
                "effective",
                "include_names",
                "include_subtree",
                "scope.OS-INHERIT:inherited_to",
            }
        ),
        codes=(400, 401, 403),
    ),
)
