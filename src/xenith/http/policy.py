"""Who calls, and the checks that a policy rule names.

A check sees the principal and a target: the path's parameters, and what a handler adds for rules
that guard a thing's fields. Whose row a row is, the rows' own queries decide: what a project may
not see is not found. Roles imply each other (admin, manager, member, reader) when a token is made,
so a check names the least one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from xenith.core.errors import Invalid


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a good token stands for. Exactly one scope is set, or none when unscoped."""

    user_id: str
    user_name: str
    user_domain_id: str
    roles: frozenset[str]
    project_id: str | None = None
    project_name: str | None = None
    project_domain_id: str | None = None
    domain_id: str | None = None
    is_system: bool = False
    #: The token's audit id, for revocation and logs; never the token itself.
    audit_id: str = ""
    expires_at: float = 0.0
    #: Set when an application credential was used.
    app_cred_id: str | None = None
    #: Such a credential may be barred from making others. Source: Identity API, "unrestricted".
    is_restricted: bool = False

    @property
    def is_admin(self) -> bool:
        """Whether the role admin is held, in whatever scope."""
        return "admin" in self.roles

    @property
    def project(self) -> str:
        """The project's id, for what belongs to one.

        Raises:
            Invalid: the token has no project, as an admin's of the system may.
        """
        if self.project_id is None:
            raise Invalid("This needs a token that is scoped to a project.")
        return self.project_id


Check = Callable[[Principal, Mapping[str, Any]], bool]


def anyone(_who: Principal, _target: Mapping[str, Any]) -> bool:
    """Hold for every good token."""
    return True


def admin(who: Principal, _target: Mapping[str, Any]) -> bool:
    """Hold for the role admin."""
    return who.is_admin


def project_reader(who: Principal, _target: Mapping[str, Any]) -> bool:
    """Hold for a reader in a project, or an admin."""
    return who.is_admin or (who.project_id is not None and "reader" in who.roles)


def project_member(who: Principal, _target: Mapping[str, Any]) -> bool:
    """Hold for a member in a project, or an admin."""
    return who.is_admin or (who.project_id is not None and "member" in who.roles)


def project_manager(who: Principal, _target: Mapping[str, Any]) -> bool:
    """Hold for a manager in a project, or an admin."""
    return who.is_admin or (who.project_id is not None and "manager" in who.roles)


def service(who: Principal, _target: Mapping[str, Any]) -> bool:
    """Hold for the role service, or an admin."""
    return who.is_admin or "service" in who.roles


def system_reader(who: Principal, _target: Mapping[str, Any]) -> bool:
    """Hold for a reader of the system, or an admin."""
    return who.is_admin or (who.is_system and "reader" in who.roles)


def own_user(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for the user that the target names, or an admin."""
    return who.is_admin or who.user_id == target.get("user_id")


def own_user_or_system_reader(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for the user that the target names, a reader of the system, or an admin."""
    return own_user(who, target) or system_reader(who, target)
