"""Who may do what, under the rules' upstream names.

The route's rule knows only the path. Whose network a row is on is known in the transaction, which
asks the same rule again with ``project_id``, ``network_project_id`` and ``network_shared``
(``enforce``). A rule named ``create_port:x`` guards the attribute x; ``get_port:x`` says who is
shown it. Source: neutron's default policies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xenith.core.errors import Forbidden
from xenith.http.policy import (
    Check,
    Principal,
    admin,
    project_reader,
    service,
)

_UNKNOWN = object()


def _owns(who: Principal, target: Mapping[str, Any], key: str) -> bool:
    if who.project_id is None:
        return False
    owner = target.get(key, _UNKNOWN)
    return owner is _UNKNOWN or owner == who.project_id


def reader(who: Principal, _target: Mapping[str, Any]) -> bool:
    """Hold for a reader in a project, a service, or an admin; rows' queries say what is seen."""
    return project_reader(who, _target) or service(who, _target)


def owner(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for a member of the project that owns the target, or an admin."""
    return who.is_admin or ("member" in who.roles and _owns(who, target, "project_id"))


def network_owner(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for a member of the project that owns the target's network, or an admin."""
    return who.is_admin or ("member" in who.roles and _owns(who, target, "network_project_id"))


def owner_or_network_owner(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for the owner of the target or of its network, or an admin."""
    return owner(who, target) or network_owner(who, target)


def owner_or_service(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for the owner of the target, a service, or an admin."""
    return owner(who, target) or service(who, target)


def network_owner_or_service(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for the owner of the target's network, a service, or an admin."""
    return network_owner(who, target) or service(who, target)


def either_owner_or_service(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for the owner of the target or of its network, a service, or an admin."""
    return owner_or_network_owner(who, target) or service(who, target)


def network_user(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for whoever may have a port on the target's network: its owner, or all if shared."""
    return network_owner_or_service(who, target) or (
        "member" in who.roles and bool(target.get("network_shared"))
    )


def device_owner(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for names of devices that are not the network's own; those are its owner's to give."""
    named = str(target.get("value") or "")
    return not named.startswith("network:") or network_owner_or_service(who, target)


def mac_changer(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for a manager of the project that owns the target's network, a service, or an admin."""
    return service(who, target) or (
        "manager" in who.roles and _owns(who, target, "network_project_id")
    )


def own_quota(who: Principal, target: Mapping[str, Any]) -> bool:
    """Hold for a reader of the quota's project, or an admin."""
    return who.is_admin or ("reader" in who.roles and _owns(who, target, "project_id"))


_PROVIDER = ("network_type", "physical_network", "segmentation_id")

POLICIES: dict[str, Check] = {
    "get_network": reader,
    "create_network": owner,
    "update_network": owner,
    "delete_network": owner,
    **{
        f"{verb}_network:{name}": admin
        for verb in ("create", "update")
        for name in ("shared", "router:external", "is_default")
    },
    **{
        f"{verb}_network:provider:{name}": admin
        for verb in ("create", "update", "get")
        for name in _PROVIDER
    },
    "get_subnet": reader,
    "create_subnet": network_owner,
    "update_subnet": owner_or_network_owner,
    "delete_subnet": owner_or_network_owner,
    "get_port": reader,
    "create_port": network_user,
    "create_port:device_owner": device_owner,
    "create_port:mac_address": network_owner_or_service,
    "create_port:fixed_ips": network_user,
    "create_port:fixed_ips:ip_address": network_owner_or_service,
    "create_port:port_security_enabled": network_owner_or_service,
    "create_port:allowed_address_pairs": network_owner_or_service,
    "update_port": owner_or_service,
    "update_port:device_owner": device_owner,
    "update_port:mac_address": mac_changer,
    "update_port:fixed_ips": network_owner_or_service,
    "update_port:port_security_enabled": network_owner_or_service,
    "update_port:allowed_address_pairs": network_owner_or_service,
    **{
        f"{verb}_port:binding:{name}": service
        for verb, names in (
            ("create", ("host_id", "profile")),
            ("update", ("host_id", "profile")),
            ("get", ("host_id", "profile", "vif_type", "vif_details")),
        )
        for name in names
    },
    "delete_port": either_owner_or_service,
    **{f"get_{noun}:tags": reader for noun in ("network", "subnet", "port")},
    "update_network:tags": owner,
    "update_subnet:tags": owner_or_network_owner,
    "update_port:tags": owner,
    "get_quota": own_quota,
    "update_quota": admin,
    "delete_quota": admin,
    "list_quotas": admin,
    "get_agent": admin,
    "get_availability_zone": reader,
    "get_extension": reader,
    "get_network_ip_availability": service,
}


def allows(who: Principal, rule: str, **target: Any) -> bool:
    """Tell whether a rule holds for a caller and a target."""
    return POLICIES[rule](who, target)


def enforce(who: Principal, rule: str, **target: Any) -> None:
    """Let a caller go on only if a rule holds.

    Raises:
        Forbidden: it does not.
    """
    if not allows(who, rule, **target):
        raise Forbidden(
            f"(rule:{rule}) is disallowed by policy", kind="PolicyNotAuthorized", rule=rule
        )
