"""The endpoint of limits: what a project may have at most, and what it has."""

from __future__ import annotations

from typing import Any

from xenith.compute.operations import Compute
from xenith.http import Call, Endpoint
from xenith.http.endpoint import Version

#: Names in the answer, the resource that each shows, and the last version that has it.
_MAXIMA: tuple[tuple[str, str, Version | None], ...] = (
    ("maxServerMeta", "metadata_items", None),
    ("maxImageMeta", "metadata_items", (2, 38)),
    ("maxPersonality", "injected_files", (2, 56)),
    ("maxPersonalitySize", "injected_file_content_bytes", (2, 56)),
    ("maxSecurityGroups", "security_groups", (2, 35)),
    ("maxSecurityGroupRules", "security_group_rules", (2, 35)),
    ("maxTotalFloatingIps", "floating_ips", (2, 35)),
    ("maxTotalCores", "cores", None),
    ("maxTotalInstances", "instances", None),
    ("maxTotalKeypairs", "key_pairs", None),
    ("maxTotalRAMSize", "ram", None),
    ("maxServerGroups", "server_groups", None),
    ("maxServerGroupMembers", "server_group_members", None),
)
_USES: tuple[tuple[str, str, Version | None], ...] = (
    ("totalCoresUsed", "cores", None),
    ("totalInstancesUsed", "instances", None),
    ("totalRAMUsed", "ram", None),
    ("totalSecurityGroupsUsed", "security_groups", (2, 35)),
    ("totalFloatingIpsUsed", "floating_ips", (2, 35)),
    ("totalServerGroupsUsed", "server_groups", None),
)


async def show_limits(call: Call[Compute]) -> dict[str, Any]:
    """Show the limits of the caller's project, or of one that an admin names."""
    project_id = call.principal.project_id or ""
    asked = call.asked("tenant_id")
    if asked and asked != project_id:
        call.enforce("os_compute_api:limits:other_project")
        project_id = asked
    found = await call.service.quotas.limits(project_id)
    absolute = {
        name: values.get(resource, 0)
        for table, values in ((_MAXIMA, found.limits), (_USES, found.used))
        for name, resource, until in table
        if until is None or call.version <= until
    }
    return {"limits": {"rate": [], "absolute": absolute}}


ENDPOINTS = (
    Endpoint(
        "GET",
        "/v2.1/limits",
        show_limits,
        "os_compute_api:limits",
        "limits.show_rate_and_absolute_limits",
        query=frozenset(("tenant_id", "reserved")),
        strict_query_from=(2, 75),
        codes=(400, 401, 403),
    ),
)
