"""Who may do what, under the rules' upstream names.

A reader or manager of a domain may see or change what is in it. The route knows only the path, so
such a rule lets them through there, and the handler asks again with the ``target_domain_id`` of
the row that it found (``guard`` in ``endpoints/shared``). Source: keystone's default policies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xenith.http.policy import (
    Check,
    Principal,
    admin,
    anyone,
    own_user,
    own_user_or_system_reader,
    service,
    system_reader,
)

_UNKNOWN = object()


def _in_domain(role: str, who: Principal, target: Mapping[str, Any]) -> bool:
    if who.domain_id is None or role not in who.roles:
        return False
    domain_id = target.get("target_domain_id", _UNKNOWN)
    return domain_id is _UNKNOWN or domain_id == who.domain_id


def domain_reader(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for a reader of the target's domain, a reader of the system, or an admin."""
    return system_reader(who, target) or _in_domain("reader", who, target)


def domain_manager(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for a manager of the target's domain, or an admin."""
    return who.is_admin or _in_domain("manager", who, target)


def own_user_or_domain_reader(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for the user that the target names, and whom ``domain_reader`` holds for."""
    return own_user(who, target) or domain_reader(who, target)


def own_project_or_domain_reader(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for whoever's token is for the project, and whom ``domain_reader`` holds for."""
    return (
        who.project_id is not None and who.project_id == target.get("project_id")
    ) or domain_reader(who, target)


def own_domain_or_reader(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for whoever's token is in the domain, a reader of the system, or an admin."""
    domain_id = target.get("domain_id")
    return (
        system_reader(who, target)
        or (who.domain_id is not None and who.domain_id == domain_id)
        or (who.project_domain_id is not None and who.project_domain_id == domain_id)
    )


def role_reader(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for whoever may hand out roles: managers, readers of the system, admins."""
    return system_reader(who, target) or "manager" in who.roles


def only_own_user(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for the user that the target names and nobody else."""
    return who.user_id == target.get("user_id")


def token_subject(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for the subject token's user and an admin; the handler knows whose it is."""
    return who.is_admin or target.get("token_user_id", who.user_id) == who.user_id


def token_subject_or_reader(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for the subject token's user, a reader of the system, and an admin."""
    return token_subject(who, target) or system_reader(who, target)


def token_subject_or_service(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for the subject token's user, services, a reader of the system, and an admin."""
    return token_subject_or_reader(who, target) or service(who, target)


def credential_owner(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for the credential's user and an admin; the handler knows whose it is."""
    return who.is_admin or target.get("credential_user_id", who.user_id) == who.user_id


def credential_owner_or_reader(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for the credential's user, a reader of the system, and an admin."""
    return credential_owner(who, target) or system_reader(who, target)


def _crud(noun: str, plural: str, *, read: Check, write: Check) -> dict[str, Check]:
    return {
        f"identity:get_{noun}": read,
        f"identity:list_{plural}": read,
        f"identity:create_{noun}": write,
        f"identity:update_{noun}": write,
        f"identity:delete_{noun}": write,
    }


POLICIES: dict[str, Check] = {
    "identity:validate_token": token_subject_or_service,
    "identity:check_token": token_subject_or_reader,
    "identity:revoke_token": token_subject,
    "identity:get_auth_catalog": anyone,
    "identity:get_auth_projects": anyone,
    "identity:get_auth_domains": anyone,
    "identity:get_auth_system": anyone,
    **_crud("domain", "domains", read=domain_reader, write=admin),
    "identity:get_domain": own_domain_or_reader,
    **_crud("project", "projects", read=domain_reader, write=domain_manager),
    "identity:get_project": own_project_or_domain_reader,
    "identity:list_user_projects": own_user_or_domain_reader,
    "identity:list_project_tags": own_project_or_domain_reader,
    "identity:get_project_tag": own_project_or_domain_reader,
    "identity:update_project_tags": domain_manager,
    "identity:create_project_tag": domain_manager,
    "identity:delete_project_tags": domain_manager,
    "identity:delete_project_tag": domain_manager,
    **_crud("user", "users", read=domain_reader, write=domain_manager),
    "identity:get_user": own_user_or_domain_reader,
    **_crud("group", "groups", read=domain_reader, write=domain_manager),
    "identity:list_groups_for_user": own_user_or_domain_reader,
    "identity:list_users_in_group": domain_reader,
    "identity:check_user_in_group": own_user_or_domain_reader,
    "identity:add_user_to_group": domain_manager,
    "identity:remove_user_from_group": domain_manager,
    **_crud("role", "roles", read=role_reader, write=admin),
    "identity:get_implied_role": system_reader,
    "identity:list_implied_roles": system_reader,
    "identity:check_implied_role": system_reader,
    "identity:list_role_inference_rules": system_reader,
    "identity:create_implied_role": admin,
    "identity:delete_implied_role": admin,
    "identity:check_grant": domain_reader,
    "identity:list_grants": domain_reader,
    "identity:create_grant": domain_manager,
    "identity:revoke_grant": domain_manager,
    "identity:list_system_grants_for_user": system_reader,
    "identity:check_system_grant_for_user": system_reader,
    "identity:create_system_grant_for_user": admin,
    "identity:revoke_system_grant_for_user": admin,
    "identity:list_system_grants_for_group": system_reader,
    "identity:check_system_grant_for_group": system_reader,
    "identity:create_system_grant_for_group": admin,
    "identity:revoke_system_grant_for_group": admin,
    "identity:list_role_assignments": domain_reader,
    "identity:list_role_assignments_for_tree": domain_reader,
    **_crud("region", "regions", read=anyone, write=admin),
    **_crud("service", "services", read=system_reader, write=admin),
    **_crud("endpoint", "endpoints", read=system_reader, write=admin),
    **_crud("policy", "policies", read=system_reader, write=admin),
    "identity:get_application_credential": own_user_or_system_reader,
    "identity:list_application_credentials": own_user_or_system_reader,
    "identity:create_application_credential": only_own_user,
    "identity:delete_application_credential": own_user,
    "identity:get_access_rule": own_user_or_system_reader,
    "identity:list_access_rules": own_user_or_system_reader,
    "identity:delete_access_rule": own_user,
    **_crud("credential", "credentials", read=credential_owner_or_reader, write=credential_owner),
    "identity:ec2_get_credential": own_user_or_system_reader,
    "identity:ec2_list_credentials": own_user_or_system_reader,
    "identity:ec2_create_credential": own_user,
    "identity:ec2_delete_credential": own_user,
}
