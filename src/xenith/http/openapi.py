"""The OpenAPI document of a site, made from its endpoint tables.

One path may carry several operations: by action (told apart by the body's key) and by microversion.
Of several versions the newest is described; ``x-openstack-actions`` lists the actions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from xenith import __version__
from xenith.http.endpoint import Endpoint, Service, body_at
from xenith.http.negotiation import written

_PARAMETER = re.compile(r"\{([^}.]+)(\.\.\.)?\}")
Structs = list[tuple[Any, dict[str, Any], str]]
_REF = "#/components/schemas/{name}"


def document(services: Sequence[Service[Any]], *, site_url: str = "") -> dict[str, Any]:
    """Give the document for all services of a site."""
    # Each struct with where its schema goes, once all are known.
    structs: Structs = []
    paths: dict[str, dict[str, Any]] = {}
    for service in services:
        for path, methods in _grouped(service).items():
            item = paths.setdefault(_PARAMETER.sub(r"{\1}", service.prefix + path), {})
            for method, endpoints in methods.items():
                item[method.lower()] = _operation(service, endpoints, structs)
    schemas, components = msgspec.json.schema_components(
        [struct for struct, _, _ in structs], ref_template=_REF
    )
    for (_, holder, key), schema in zip(structs, schemas, strict=True):
        holder[key] = schema
    return {
        "openapi": "3.1.0",
        "info": {"title": "Xenith", "version": __version__},
        "servers": [{"url": site_url or "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"}
            },
        },
    }


def _grouped(service: Service[Any]) -> dict[str, dict[str, list[Endpoint]]]:
    paths: dict[str, dict[str, list[Endpoint]]] = {}
    for endpoint in service.endpoints:
        paths.setdefault(endpoint.path, {}).setdefault(endpoint.method, []).append(endpoint)
    return paths


def _operation(
    service: Service[Any], endpoints: list[Endpoint], structs: Structs
) -> dict[str, Any]:
    endpoint = endpoints[-1]
    operation: dict[str, Any] = {
        "operationId": f"{service.name}.{endpoint.name}",
        "tags": [service.type],
        "summary": (endpoint.handler.__doc__ or endpoint.name).partition("\n")[0],
        "parameters": _parameters(service, endpoint),
        "responses": _responses(endpoints, structs),
    }
    if endpoint.policy is not None:
        operation["security"] = [{"token": []}]
        operation["x-policy"] = endpoint.policy
    if service.min_version is not None and service.max_version is not None:
        operation["x-openstack-versions"] = {
            "min": written(endpoint.min_version or service.min_version),
            "max": written(endpoint.max_version or service.max_version),
        }
    body = _body(service, endpoints, structs)
    if body is not None:
        operation["requestBody"] = body
    actions = [item.action for item in endpoints if item.action is not None]
    if actions:
        operation["operationId"] = f"{service.name}.{endpoint.path.strip('/')}.action"
        operation["x-openstack-actions"] = sorted(set(actions))
    return operation


def _parameters(service: Service[Any], endpoint: Endpoint) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name, _ in _PARAMETER.findall(endpoint.path)
    ]
    found += [
        {"name": name, "in": "query", "required": False, "schema": {"type": "string"}}
        for name in sorted(endpoint.query or ())
    ]
    if service.version_word:
        found.append(
            {
                "name": "OpenStack-API-Version",
                "in": "header",
                "required": False,
                "schema": {"type": "string", "examples": [f"{service.version_word} latest"]},
            }
        )
    return found


def _responses(endpoints: list[Endpoint], structs: Structs) -> Mapping[str, Any]:
    responses: dict[str, Any] = {}
    for endpoint in endpoints:
        answer: dict[str, Any] = {"description": "done"}
        if endpoint.answer is not None:
            holder: dict[str, Any] = {}
            structs.append((endpoint.answer, holder, "schema"))
            answer["content"] = {"application/json": holder}
        responses.setdefault(str(endpoint.status), answer)
        codes = set(endpoint.codes)
        if endpoint.policy is not None:
            codes |= {401, 403}
        for code in sorted(codes):
            responses.setdefault(str(code), {"description": "see the service's error body"})
    return responses


def _body(
    service: Service[Any], endpoints: list[Endpoint], structs: Structs
) -> dict[str, Any] | None:
    endpoint = endpoints[-1]
    if endpoint.is_stream:
        return {
            "required": True,
            "content": {
                media: {"schema": {"type": "string", "format": "binary"}}
                for media in endpoint.media_types
            },
        }
    if any(item.action is not None for item in endpoints):
        return _action_body(service, endpoints, structs)
    struct = body_at(endpoint, service.max_version)
    if struct is None:
        return None
    holder: dict[str, Any] = {}
    structs.append((struct, holder, "schema"))
    return {"required": True, "content": dict.fromkeys(endpoint.media_types, holder)}


def _action_body(
    service: Service[Any], endpoints: list[Endpoint], structs: Structs
) -> dict[str, Any]:
    alternatives: list[dict[str, Any]] = []
    for item in endpoints:
        struct = body_at(item, service.max_version)
        properties: dict[str, Any] = {str(item.action): {}}
        if struct is not None:
            structs.append((struct, properties, str(item.action)))
        alternatives.append(
            {
                "type": "object",
                "properties": properties,
                "required": [item.action],
                "additionalProperties": False,
            }
        )
    return {
        "required": True,
        "content": {"application/json": {"schema": {"oneOf": alternatives}}},
    }
