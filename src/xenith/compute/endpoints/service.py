"""Compute as a mounted service: all of its endpoints, its range of versions, its policies."""

from __future__ import annotations

from xenith.compute.endpoints import (
    aggregates,
    extensions,
    flavors,
    hypervisors,
    image_schedules,
    images,
    keypairs,
    limits,
    quotas,
    server_actions,
    server_groups,
    server_labels,
    servers,
    services,
    usage,
    versions,
    zones,
)
from xenith.compute.operations import Compute
from xenith.compute.policies import POLICIES
from xenith.http import Service

ENDPOINTS = (
    *versions.ENDPOINTS,
    *servers.ENDPOINTS,
    *server_actions.ENDPOINTS,
    *server_labels.ENDPOINTS,
    *image_schedules.ENDPOINTS,
    *images.ENDPOINTS,
    *server_groups.ENDPOINTS,
    *flavors.ENDPOINTS,
    *keypairs.ENDPOINTS,
    *limits.ENDPOINTS,
    *quotas.ENDPOINTS,
    *usage.ENDPOINTS,
    *zones.ENDPOINTS,
    *aggregates.ENDPOINTS,
    *hypervisors.ENDPOINTS,
    *services.ENDPOINTS,
    *extensions.ENDPOINTS,
)


def service(context: Compute) -> Service[Compute]:
    """Mount compute. 2.96 covers Terraform, Horizon and nearly all of openstackclient."""
    return Service(
        type="compute",
        name="nova",
        prefix="/compute",
        style="compute",
        endpoints=ENDPOINTS,
        policies=POLICIES,
        context=context,
        min_version=(2, 1),
        max_version=(2, 96),
        version_word="compute",
        legacy_version_header="X-OpenStack-Nova-API-Version",
        catalog_path="/v2.1",
    )
