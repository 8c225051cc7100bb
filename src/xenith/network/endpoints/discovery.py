"""What is served here: versions, extensions, zones, agents."""

from __future__ import annotations

from typing import Any

from xenith.core.errors import NotFound
from xenith.http import Endpoint
from xenith.network.endpoints.shared import NetworkCall

_UPDATED = "2026-01-01T00:00:00-00:00"

#: Aliases of what is served, with their names. Clients look here before they use an attribute.
EXTENSIONS: dict[str, tuple[str, str]] = {
    "agent": ("agent", "The list of agents; there are none, hosts are driven over XenAPI."),
    "allowed-address-pairs": ("Allowed Address Pairs", "Other addresses a port may send from."),
    "availability_zone": ("Availability Zone", "The list of zones."),
    "binding": ("Port Binding", "Where a port is plugged in."),
    "extra_dhcp_opt": ("Extra DHCP options", "DHCP options of a port."),
    "external-net": ("Neutron external network", "Networks that lead outside."),
    "ip-substring-filtering": ("IP address substring filtering", "Ports by part of an address."),
    "filter-validation": ("Filter parameters validation", "Unknown filters are refused."),
    "net-mtu": ("Network MTU", "The MTU of a network."),
    "net-mtu-writable": ("Network MTU (writable)", "The MTU of a network can be set."),
    "network_availability_zone": ("Network Availability Zone", "Zones of networks."),
    "pagination": ("Pagination support", "Lists page by page."),
    "port-security": ("Port Security", "Whether a port's addresses are checked."),
    "project-id": ("project_id field enabled", "Owners are named by project_id as well."),
    "provider": ("Provider Network", "What networks are on the wires."),
    "quota_details": ("Quota details management support", "How much of a quota is used."),
    "quotas": ("Quota management support", "Limits of projects."),
    "revision-if-match": ("If-Match constraints based on revision_number", "Guarded changes."),
    "sorting": ("Sorting support", "Lists in any order."),
    "standard-attr-description": ("standard-attr-description", "Descriptions."),
    "standard-attr-revisions": ("Resource revision numbers", "Revisions."),
    "standard-attr-tag": ("Tag support for resources with standard attribute", "Tags."),
    "standard-attr-timestamp": ("Resource timestamps", "Times of making and changing."),
}

#: Nouns of the version document, as neutron lists them.
_RESOURCES = ("network", "subnet", "port")


async def list_versions(call: NetworkCall) -> dict[str, Any]:
    """List the versions."""
    link = {"rel": "self", "href": f"{call.url}/v2.0/"}
    return {"versions": [{"id": "v2.0", "status": "CURRENT", "links": [link]}]}


async def show_version(call: NetworkCall) -> dict[str, Any]:
    """Show what nouns version 2.0 has."""
    return {
        "resources": [
            {
                "name": name,
                "collection": name + "s",
                "links": [{"rel": "self", "href": f"{call.url}/v2.0/{name}s"}],
            }
            for name in _RESOURCES
        ]
    }


def _extension(alias: str) -> dict[str, Any]:
    name, description = EXTENSIONS[alias]
    return {
        "alias": alias,
        "name": name,
        "description": description,
        "updated": _UPDATED,
        "links": [],
    }


async def list_extensions(_call: NetworkCall) -> dict[str, Any]:
    """List the extensions."""
    return {"extensions": [_extension(alias) for alias in EXTENSIONS]}


async def show_extension(call: NetworkCall) -> dict[str, Any]:
    """Show one extension."""
    if call["alias"] not in EXTENSIONS:
        raise NotFound(
            f"Extension with alias {call['alias'][:64]} does not exist", kind="ExtensionNotFound"
        )
    return {"extension": _extension(call["alias"])}


async def list_zones(call: NetworkCall) -> dict[str, Any]:
    """List the zones: networks reach all hosts, so there is one."""
    zone = {"name": "nova", "resource": "network", "state": "available"}
    is_asked = all(zone[name] in call.query[name] for name in zone if name in call.query)
    return {"availability_zones": [zone] if is_asked else []}


async def list_agents(_call: NetworkCall) -> dict[str, Any]:
    """List the agents: there are none, hosts are driven over XenAPI."""
    return {"agents": []}


async def show_agent(call: NetworkCall) -> dict[str, Any]:
    """Show an agent, of which there is none."""
    raise NotFound(f"Agent {call['agent_id'][:64]} could not be found.", kind="AgentNotFound")


ENDPOINTS = (
    Endpoint("GET", "/", list_versions, None, "versions.list_api_versions"),
    Endpoint("GET", "/v2.0", show_version, None, "versions.show_api_v2_details"),
    Endpoint(
        "GET", "/v2.0/extensions", list_extensions, "get_extension", "extensions.list_extensions"
    ),
    Endpoint(
        "GET",
        "/v2.0/extensions/{alias}",
        show_extension,
        "get_extension",
        "extensions.show_extension_details",
        codes=(404,),
    ),
    Endpoint(
        "GET",
        "/v2.0/availability_zones",
        list_zones,
        "get_availability_zone",
        "availability_zones.list_all_availability_zones",
        query=frozenset({"name", "resource", "state"}),
    ),
    Endpoint("GET", "/v2.0/agents", list_agents, "get_agent", "agents.list_all_agents"),
    Endpoint(
        "GET",
        "/v2.0/agents/{agent_id}",
        show_agent,
        "get_agent",
        "agents.show_agent_details",
        codes=(404,),
    ),
)
