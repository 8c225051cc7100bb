"""Version documents: what is served here, for clients that look before they sign in."""

from __future__ import annotations

from typing import Any

from xenith.http import Answer, Call, Endpoint
from xenith.identity.operations import Identity


def _version(call: Call[Identity]) -> dict[str, Any]:
    # Source: keystone's version document; 3.14 is what Ussuri and later say.
    return {
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": f"{call.url}/v3/"}],
        "media-types": [
            {"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}
        ],
    }


async def list_versions(call: Call[Identity]) -> Answer:
    """List the versions."""
    return Answer(
        {"versions": {"values": [_version(call)]}},
        status=300,
        headers={"Location": f"{call.url}/v3/"},
    )


async def show_version(call: Call[Identity]) -> Answer:
    """Show version 3, or what is found where in it."""
    if "application/json-home" in call.headers.get("accept", ""):
        resources = {
            f"https://docs.openstack.org/api/openstack-identity/3/rel/{relation}": {"href": path}
            for relation, path in (
                ("auth_tokens", "/auth/tokens"),
                ("auth_catalog", "/auth/catalog"),
                ("auth_projects", "/auth/projects"),
                ("auth_domains", "/auth/domains"),
                ("projects", "/projects"),
                ("domains", "/domains"),
                ("users", "/users"),
                ("groups", "/groups"),
                ("roles", "/roles"),
                ("role_assignments", "/role_assignments"),
                ("regions", "/regions"),
                ("services", "/services"),
                ("endpoints", "/endpoints"),
                ("credentials", "/credentials"),
            )
        }
        return Answer({"resources": resources}, media_type="application/json-home")
    return Answer({"version": _version(call)})


ENDPOINTS = (
    Endpoint("GET", "/", list_versions, policy=None, name="versions.list_versions", status=300),
    Endpoint("GET", "/v3", show_version, policy=None, name="versions.show_v3"),
)
