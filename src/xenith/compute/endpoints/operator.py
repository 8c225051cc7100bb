"""The operators' own API, beside the public ones; no tenant's client needs it."""

from __future__ import annotations

from typing import Any

from xenith.compute.endpoints import cell_images, cell_tree, storage
from xenith.compute.operations.operator import HostBody, Operator
from xenith.http import Call, Endpoint, Service
from xenith.http.policy import admin, project_reader


async def add_host(call: Call[Operator]) -> dict[str, Any]:
    """Take a host in."""
    return {"host": await call.service.add_host(call.body)}


async def list_hosts(call: Call[Operator]) -> dict[str, Any]:
    """List the hosts."""
    return {"hosts": await call.service.list_hosts()}


async def explain_server(call: Call[Operator]) -> dict[str, Any]:
    """Tell why a server is where it is, or nowhere."""
    explanation = await call.service.explain(call.principal, call["server_id"])
    return {"explanation": explanation}


ENDPOINTS = (
    Endpoint("GET", "/v1/hosts", list_hosts, "xenith:hosts:list", "hosts.list"),
    Endpoint(
        "POST",
        "/v1/hosts",
        add_host,
        "xenith:hosts:add",
        "hosts.add",
        201,
        body=HostBody,
        codes=(400, 409, 503),
    ),
    Endpoint(
        "GET",
        "/v1/servers/{server_id}/explanation",
        explain_server,
        "xenith:servers:explain",
        "servers.explain",
        codes=(404,),
    ),
    *cell_tree.ENDPOINTS,
    *storage.ENDPOINTS,
)
POLICIES = {
    "xenith:hosts:list": admin,
    "xenith:hosts:add": admin,
    "xenith:servers:explain": project_reader,
    **cell_tree.POLICIES,
    **storage.POLICIES,
}


def service(context: Operator) -> Service[Operator]:
    """Mount the operators' API."""
    return Service(
        type="xenith",
        name="xenith",
        prefix="/xenith",
        style="compute",
        endpoints=(*ENDPOINTS, *cell_images.ENDPOINTS),
        policies=POLICIES,
        context=context,
    )
