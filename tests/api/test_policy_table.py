"""Every operation of every service against every kind of caller, made from the endpoint tables.

A service joins with one line in ``SERVICES``. Its handlers are never reached, so it needs no
context: what is shown is who gets as far as them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from xenith.compute.endpoints.operator import service as xenith
from xenith.compute.endpoints.service import service as compute
from xenith.core.errors import Unauthenticated
from xenith.core.world import World
from xenith.http import Endpoint, Principal, Service, Site
from xenith.identity import service as identity
from xenith.image.endpoints import service as image
from xenith.network.endpoints import service as network

SERVICES: dict[str, Callable[[Any], Service[Any]]] = {
    "identity": identity,
    "image": image,
    "network": network,
    "compute": compute,
    "xenith": xenith,
}

#: What a reader may change: what is the caller's own, which the handler makes sure of.
READER_WRITES: dict[str, set[str]] = {
    "identity": {
        "auth.revoke_token",
        "credentials.create_credential",
        "credentials.update_credential",
        "credentials.delete_credential",
    },
    "compute": {
        "os_keypairs.import_or_create_keypair",
        "os_keypairs.delete_keypair",
    },
}
#: What not even an admin may do for another.
NOT_FOR_ADMIN: dict[str, set[str]] = {
    "identity": {"application_credentials.create_application_credential"},
}
#: What anyone may ask without a token.
OPEN: dict[str, set[str]] = {
    "identity": {
        "versions.list_versions",
        "versions.show_v3",
        "auth.password_authentication_with_scoped_authorization",
        "users.change_password_for_user",
    },
    "image": {
        "versions.list_api_versions",
        "versions.list_api_versions_2",
        "versions.show_v2",
    },
    "network": {
        "versions.list_api_versions",
        "versions.show_api_v2_details",
    },
    "compute": {
        "versions.list_all_major_versions",
        "versions.show_v2",
        "versions.show_details_of_specific_api_version",
    },
    # What a cell says is good by its signature, or by its one-time token.
    "xenith": {
        "cell_images.open",
        "cell_images.store",
        "cell_images.drop",
        "cells.join",
    },
}

_CHAIN = ("reader", "member", "manager", "admin")


def _principal(role: str, **fields: Any) -> Principal:
    roles = frozenset(_CHAIN[: _CHAIN.index(role) + 1])
    return Principal("caller", "caller", "default", roles, **fields)


_PROJECT = {"project_id": "p", "project_name": "p", "project_domain_id": "default"}
CALLERS: dict[str, Principal] = {
    **{role: _principal(role, **_PROJECT) for role in _CHAIN},
    "system": _principal("reader", is_system=True),
    "domain": _principal("reader", domain_id="d"),
    "unscoped": Principal("caller", "caller", "default", frozenset()),
}


class _Callers:
    async def authenticate(self, token: str) -> Principal:
        if token not in CALLERS:
            raise Unauthenticated("The request you have made requires authentication.")
        return CALLERS[token]


def _rows() -> list[Any]:
    return [
        pytest.param(name, endpoint, id=f"{name}-{endpoint.method}-{endpoint.name}")
        for name, make in SERVICES.items()
        for endpoint in make(None).endpoints
    ]


def _target(endpoint: Endpoint) -> dict[str, str]:
    return dict.fromkeys(re.findall(r"\{(\w+?)(?:\.\.\.)?\}", endpoint.path), "another")


def _holds(service: Service[Any], endpoint: Endpoint, caller: str) -> bool:
    assert endpoint.policy is not None
    return service.policies[endpoint.policy](CALLERS[caller], _target(endpoint))


async def _ask(service: Service[Any], endpoint: Endpoint, token: str | None) -> httpx2.Response:
    path = re.sub(r"\{\w+(?:\.\.\.)?\}", "another", endpoint.path)
    site = Site([service], world=World(), authenticator=_Callers())
    headers = {"X-Auth-Token": token} if token else {}
    if service.max_version is not None and endpoint.min_version is not None:
        version = "{}.{}".format(*(endpoint.max_version or endpoint.min_version))
        headers["OpenStack-API-Version"] = f"{service.version_word} {version}"
    body = {"json": {endpoint.action: None}} if endpoint.action else {}
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=site), base_url="http://cloud"
    ) as client:
        return await client.request(endpoint.method, service.prefix + path, headers=headers, **body)


@pytest.mark.parametrize(("name", "endpoint"), _rows())
async def test_every_operation_names_a_rule_that_exists_and_refuses_the_anonymous(name, endpoint):
    service = SERVICES[name](None)
    if endpoint.policy is None:
        assert endpoint.name in OPEN.get(name, set())
        return
    assert endpoint.policy in service.policies
    answer = await _ask(service, endpoint, None)
    assert answer.status_code == 401
    assert "x-openstack-request-id" in answer.headers


@pytest.mark.parametrize(("name", "endpoint"), _rows())
async def test_whom_the_rule_does_not_hold_for_is_refused_before_the_handler(name, endpoint):
    service = SERVICES[name](None)
    if endpoint.policy is None:
        return
    for caller in CALLERS:
        if not _holds(service, endpoint, caller):
            answer = await _ask(service, endpoint, caller)
            assert answer.status_code == 403, caller


@pytest.mark.parametrize(("name", "endpoint"), _rows())
def test_roles_grow_and_readers_write_only_what_is_listed(name, endpoint):
    service = SERVICES[name](None)
    if endpoint.policy is None:
        return
    held = [_holds(service, endpoint, role) for role in _CHAIN]
    assert held == sorted(held), (
        f"a greater role may do less: {dict(zip(_CHAIN, held, strict=True))}"
    )
    if endpoint.name not in NOT_FOR_ADMIN.get(name, set()):
        assert held[-1], "an admin may do it"
    if endpoint.method not in ("GET", "HEAD"):
        may_write = endpoint.name in READER_WRITES.get(name, set())
        assert held[0] is may_write
        assert _holds(service, endpoint, "system") is may_write


@pytest.mark.parametrize("name", SERVICES)
def test_every_operation_has_a_name_of_its_own(name):
    service = SERVICES[name](None)
    names = [endpoint.name for endpoint in service.endpoints]
    assert len(names) == len(set(names))
