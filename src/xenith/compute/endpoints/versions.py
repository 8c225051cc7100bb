"""Version documents: what is served here, for clients that look before they sign in.

2.0 is listed as it is upstream, for clients that look for it first, and is served no more.
"""

from __future__ import annotations

from typing import Any

from xenith.compute.operations import Compute
from xenith.http import Call, Endpoint
from xenith.http.negotiation import written


def _version(call: Call[Compute], version_id: str) -> dict[str, Any]:
    host = call.host
    assert host.min_version is not None, "compute has microversions"
    assert host.max_version is not None, "compute has microversions"
    is_current = version_id == "v2.1"
    path = "/v2.1/" if is_current else "/v2/"
    # Source: nova's version documents.
    return {
        "id": version_id,
        "status": "CURRENT" if is_current else "DEPRECATED",
        "version": written(host.max_version) if is_current else "",
        "min_version": written(host.min_version) if is_current else "",
        "updated": "2013-07-23T11:33:21Z" if is_current else "2025-07-04T12:00:00Z",
        "links": [{"rel": "self", "href": call.url + path}],
    }


def _document(call: Call[Compute], version_id: str) -> dict[str, Any]:
    shown = _version(call, version_id)
    shown["links"].append(
        {"rel": "describedby", "type": "text/html", "href": "http://docs.openstack.org/"}
    )
    kind = f"application/vnd.openstack.compute+json;version={version_id[1:].removesuffix('.0')}"
    shown["media-types"] = [{"base": "application/json", "type": kind}]
    return {"version": shown}


async def list_versions(call: Call[Compute]) -> dict[str, Any]:
    """List the versions."""
    return {"versions": [_version(call, "v2.0"), _version(call, "v2.1")]}


async def show_v2(call: Call[Compute]) -> dict[str, Any]:
    """Show version 2.0."""
    return _document(call, "v2.0")


async def show_v21(call: Call[Compute]) -> dict[str, Any]:
    """Show version 2.1 and its microversions."""
    return _document(call, "v2.1")


ENDPOINTS = (
    Endpoint("GET", "/", list_versions, policy=None, name="versions.list_all_major_versions"),
    Endpoint("GET", "/v2", show_v2, policy=None, name="versions.show_v2"),
    Endpoint(
        "GET",
        "/v2.1",
        show_v21,
        policy=None,
        name="versions.show_details_of_specific_api_version",
    ),
)
