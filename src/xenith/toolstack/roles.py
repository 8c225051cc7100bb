"""Who may call what: the six roles of XenAPI, each with all that the ones below it may do.

A role is its place in ``ROLES``. Source: xapi's datamodel_roles, and its documentation, "RBAC".
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any, NamedTuple

#: From the least to the most.
ROLES = ("read-only", "vm-operator", "vm-admin", "vm-power-admin", "pool-operator", "pool-admin")
_READER, _VM_OPERATOR, _VM_ADMIN, _VM_POWER_ADMIN, _POOL_OPERATOR, _POOL_ADMIN = range(6)
_DESCRIPTIONS = (
    "May look at everything but secrets",
    "May use VMs and their consoles",
    "May make, change and remove VMs and templates",
    "May place, migrate and snapshot VMs too",
    "May run hosts, storage and networks too",
    "May do everything, sign-ins and roles among it",
)


class Account(NamedTuple):
    """A user beside root."""

    password: str
    role: str


_EXACT = {
    "VM": {
        _VM_OPERATOR: "start resume shutdown clean_shutdown hard_shutdown clean_reboot hard_reboot "
        "pause unpause suspend send_sysrq send_trigger",
        _VM_POWER_ADMIN: "start_on resume_on pool_migrate migrate_send migrate_accept snapshot "
        "assert_can_migrate "
        "snapshot_with_quiesce checkpoint revert set_memory_dynamic_range set_memory_target_live "
        "set_memory_dynamic_max set_memory_dynamic_min set_ha_restart_priority "
        "set_ha_always_run",
        _POOL_OPERATOR: "power_state_reset",
        _POOL_ADMIN: "call_plugin",
    },
    "VBD": {_VM_OPERATOR: "insert eject"},
    "host": {
        _VM_POWER_ADMIN: "migrate_receive",
        _POOL_ADMIN: "call_plugin call_extension install_server_certificate "
        "refresh_server_certificate destroy",
    },
    "pool": {
        _POOL_ADMIN: "join join_force eject emergency_transition_to_master emergency_reset_master "
        "certificate_install certificate_uninstall",
    },
    "session": {
        _POOL_ADMIN: "change_password create_from_db_file logout_subject_identifier "
        "get_all_subject_identifiers"
    },
    # What a record shows, its value too, is for those who may set it.
    "secret": {_POOL_OPERATOR: "get_value get_record get_all_records get_all_records_where"},
    "VTPM": {_VM_ADMIN: "get_contents"},
    "task": {_READER: "create destroy cancel set_status set_progress set_result set_error_info"},
}
_BY_METHOD = {
    f"{of}.{name}": rank
    for of, ranks in _EXACT.items()
    for rank, names in ranks.items()
    for name in names.split()
}
#: Of methods that change something, by class.
_BY_CLASS = {
    "VM": _VM_ADMIN,
    "VDI": _VM_ADMIN,
    "VBD": _VM_ADMIN,
    "VIF": _VM_ADMIN,
    "VGPU": _VM_ADMIN,
    "VTPM": _VM_ADMIN,
    "VUSB": _VM_ADMIN,
    "VM_metrics": _VM_ADMIN,
    "VM_guest_metrics": _VM_ADMIN,
    "VM_appliance": _POOL_OPERATOR,
    "console": _VM_ADMIN,
    "task": _READER,
    "event": _READER,
    "session": _READER,
    "subject": _POOL_ADMIN,
    "role": _POOL_ADMIN,
}
_READING = ("get_", "query_", "compute_", "list", "assert_", "has_", "is_")


def rank_of(method: str) -> int:
    """Tell the least role, by its place, that may call a method."""
    exact = _BY_METHOD.get(method)
    if exact is not None:
        return exact
    class_name, _, name = method.partition(".")
    if name.startswith(_READING) or class_name == "system" or method == "message.get":
        return _READER
    return _BY_CLASS.get(class_name, _POOL_OPERATOR)


def ref_of(role: str) -> str:
    """Give the reference of a role or a permission: the same on every server."""
    return f"OpaqueRef:{_uuid(role)}"


def _uuid(role: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"xenith.role.{role}"))


#: The records of class role, shared by all servers; filled when the methods are known.
RECORDS: dict[str, dict[str, Any]] = {}


def enter(methods: Iterable[str]) -> None:
    """Make the records of the roles and of the permissions that they consist of."""
    by_rank: list[list[str]] = [[] for _ in ROLES]
    for name in methods:
        by_rank[rank_of(name)].append(name.lower())
    permissions: list[str] = []
    for rank, role in enumerate(ROLES):
        for name in by_rank[rank]:
            RECORDS[ref_of(name)] = _record(name, f"May call {name}", [], is_internal=True)
            permissions.append(ref_of(name))
        made = _record(role, _DESCRIPTIONS[rank], list(permissions), is_internal=False)
        RECORDS[ref_of(role)] = made


def _record(name: str, text: str, subroles: list[str], *, is_internal: bool) -> dict[str, Any]:
    return {
        "uuid": _uuid(name),
        "name_label": name,
        "name_description": text,
        "subroles": subroles,
        "is_internal": is_internal,
    }
