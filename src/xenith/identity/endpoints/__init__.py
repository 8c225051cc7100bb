"""Identity's endpoint table, a file per noun."""

from xenith.http import Service
from xenith.identity.endpoints import (
    assignments,
    catalog,
    people,
    policies,
    projects,
    roles,
    secrets,
    tokens,
    versions,
)
from xenith.identity.operations import Identity
from xenith.identity.policies import POLICIES

ENDPOINTS = (
    *versions.ENDPOINTS,
    *tokens.ENDPOINTS,
    *projects.ENDPOINTS,
    *people.ENDPOINTS,
    *roles.ENDPOINTS,
    *assignments.ENDPOINTS,
    *catalog.ENDPOINTS,
    *secrets.ENDPOINTS,
    *policies.ENDPOINTS,
)


def service(context: Identity) -> Service[Identity]:
    """Give identity as a site mounts it."""
    return Service(
        type="identity",
        name="keystone",
        prefix="/identity",
        style="identity",
        endpoints=ENDPOINTS,
        policies=POLICIES,
        context=context,
        has_head=True,
        catalog_path="/v3",
    )
