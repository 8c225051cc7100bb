"""Roles, subjects and secrets. Source: XenAPI classes role, subject, secret."""

from __future__ import annotations

from typing import Any

from xenith.toolstack.methods import creation, method
from xenith.toolstack.roles import RECORDS, ref_of
from xenith.toolstack.server import HostServer
from xenith.xapi.faults import XapiFault


@method("role.get_permissions")
def get_permissions(host: HostServer, ref: str) -> list[str]:
    """List the permissions of a role. Source: XenAPI role.get_permissions."""
    return list(host.objects.get("role", ref)["subroles"])


@method("role.get_permissions_name_label")
def get_permissions_name_label(host: HostServer, ref: str) -> list[str]:
    """List the names of a role's permissions. Source: role.get_permissions_name_label."""
    return [RECORDS[permission]["name_label"] for permission in get_permissions(host, ref)]


@method("role.get_by_permission")
def get_by_permission(host: HostServer, permission: str) -> list[str]:
    """List the roles with a permission. Source: XenAPI role.get_by_permission."""
    host.objects.get("role", permission)
    return [ref for ref, record in RECORDS.items() if permission in record["subroles"]]


@method("role.get_by_permission_name_label")
def get_by_permission_name_label(host: HostServer, label: str) -> list[str]:
    """List the roles with a permission of a name. Source: role.get_by_permission_name_label."""
    permission = ref_of(label.lower())
    return get_by_permission(host, permission) if permission in RECORDS else []


@method("subject.create", is_async=True)
def create_subject(host: HostServer, record: dict[str, Any]) -> str:
    """Note someone whom a directory knows. Source: XenAPI subject.create."""
    fields = creation("subject", record)
    identifier = fields.get("subject_identifier", "")
    for row in host.objects.all("subject").values():
        if row["subject_identifier"] == identifier:
            raise XapiFault("SUBJECT_ALREADY_EXISTS")
    return host.objects.create("subject", **fields)


@method("subject.destroy", is_async=True)
def destroy_subject(host: HostServer, ref: str) -> None:
    """Forget a subject. Source: XenAPI subject.destroy."""
    host.objects.delete("subject", ref)


@method("subject.add_to_roles")
def add_to_roles(host: HostServer, ref: str, role: str) -> None:
    """Give a subject a role. Source: XenAPI subject.add_to_roles."""
    record = host.objects.get("subject", ref)
    found = RECORDS.get(role)
    if found is None or found["is_internal"]:
        raise XapiFault("ROLE_NOT_FOUND")
    if role in record["roles"]:
        raise XapiFault("ROLE_ALREADY_EXISTS")
    host.objects.update("subject", ref, roles=[*record["roles"], role])


@method("subject.remove_from_roles")
def remove_from_roles(host: HostServer, ref: str, role: str) -> None:
    """Take a role from a subject. Source: XenAPI subject.remove_from_roles."""
    if role not in host.objects.get("subject", ref)["roles"]:
        raise XapiFault("ROLE_NOT_FOUND")
    host.objects.unlink("subject", ref, "roles", role)


@method("subject.get_permissions_name_label")
def subject_permissions(host: HostServer, ref: str) -> list[str]:
    """List the names of what a subject may do. Source: XenAPI subject."""
    names: dict[str, None] = {}
    for role in host.objects.get("subject", ref)["roles"]:
        names.update(dict.fromkeys(get_permissions_name_label(host, role)))
    return list(names)


@method("secret.create", is_async=True)
def create_secret(host: HostServer, record: dict[str, Any]) -> str:
    """Keep a secret. Source: XenAPI secret.create."""
    fields = creation("secret", record)
    if "value" not in fields:
        raise XapiFault("FIELD_TYPE_ERROR", "value")
    return host.objects.create("secret", **fields)


@method("secret.introduce", is_async=True)
def introduce_secret(
    host: HostServer, uuid: str, value: str, other_config: dict[str, str] | None = None
) -> str:
    """Keep a secret under a uuid that it has elsewhere. Source: XenAPI secret.introduce."""
    for row in host.objects.all("secret").values():
        if row["uuid"] == uuid:
            raise XapiFault("INVALID_VALUE", "uuid", uuid)
    return host.objects.create("secret", uuid=uuid, value=value, other_config=other_config or {})


@method("secret.destroy", is_async=True)
def destroy_secret(host: HostServer, ref: str) -> None:
    """Forget a secret. Source: XenAPI secret.destroy."""
    host.objects.delete("secret", ref)
