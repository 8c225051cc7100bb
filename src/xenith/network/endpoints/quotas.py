"""Endpoints of quotas. Source: Network API v2.0, "Quotas extension"."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from xenith.core.errors import NotFound
from xenith.db import Tx
from xenith.http import Endpoint
from xenith.network.endpoints.shared import NetworkCall
from xenith.network.records import quotas

Limit = Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)]


class QuotaLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits to set; -1 is none."""

    network: Limit | msgspec.UnsetType = msgspec.UNSET
    subnet: Limit | msgspec.UnsetType = msgspec.UNSET
    port: Limit | msgspec.UnsetType = msgspec.UNSET


class QuotaBody(msgspec.Struct, frozen=True):
    """Limits in their envelope."""

    quota: QuotaLimits


async def list_quotas(call: NetworkCall) -> dict[str, Any]:
    """List the limits of projects that have others than the defaults."""

    def read(tx: Tx) -> list[dict[str, Any]]:
        return [
            {**quotas.limits_of(tx, project_id), "project_id": project_id, "tenant_id": project_id}
            for project_id in quotas.projects_with_limits(tx)
        ]

    return {"quotas": await call.service.db.read(read)}


async def show_quota(call: NetworkCall) -> dict[str, Any]:
    """Show a project's limits."""
    return {"quota": await call.service.db.read(quotas.limits_of, call["project_id"])}


async def show_default_quota(_call: NetworkCall) -> dict[str, Any]:
    """Show the limits of projects that have no others."""
    return {"quota": dict(quotas.DEFAULTS)}


async def show_quota_details(call: NetworkCall) -> dict[str, Any]:
    """Show a project's limits, and how much of them is used."""

    def read(tx: Tx) -> dict[str, Any]:
        limits = quotas.limits_of(tx, call["project_id"])
        used = quotas.usage_of(tx, call["project_id"])
        return {
            name: {"limit": limit, "used": used[name], "reserved": 0}
            for name, limit in limits.items()
        }

    return {"quota": await call.service.db.read(read)}


async def update_quota(call: NetworkCall) -> dict[str, Any]:
    """Set limits of a project; below what is used, they only bar more."""
    limits = msgspec.structs.asdict(call.body.quota)
    given = {name: limit for name, limit in limits.items() if limit is not msgspec.UNSET}

    def write(tx: Tx) -> dict[str, int]:
        quotas.set_limits(tx, call["project_id"], given)
        return quotas.limits_of(tx, call["project_id"])

    return {"quota": await call.service.db.run(write)}


async def reset_quota(call: NetworkCall) -> None:
    """Give a project the default limits again."""

    def write(tx: Tx) -> None:
        if call["project_id"] not in quotas.projects_with_limits(tx):
            raise NotFound(
                f"Quota for tenant {call['project_id'][:64]} could not be found.",
                kind="TenantQuotaNotFound",
            )
        quotas.set_limits(tx, call["project_id"], dict.fromkeys(quotas.DEFAULTS))

    await call.service.db.run(write)


_ONE = "/v2.0/quotas/{project_id}"

ENDPOINTS = (
    Endpoint(
        "GET",
        "/v2.0/quotas",
        list_quotas,
        "list_quotas",
        "quotas.list_quotas_for_projects_with_non_default_quota_values",
    ),
    Endpoint("GET", _ONE, show_quota, "get_quota", "quotas.list_quotas_for_a_project"),
    Endpoint(
        "PUT",
        _ONE,
        update_quota,
        "update_quota",
        "quotas.update_quota_for_a_project",
        body=QuotaBody,
        codes=(400,),
    ),
    Endpoint(
        "DELETE",
        _ONE,
        reset_quota,
        "delete_quota",
        "quotas.reset_quota_for_a_project",
        status=204,
        codes=(404,),
    ),
    Endpoint(
        "GET",
        _ONE + "/default",
        show_default_quota,
        "get_quota",
        "quotas.list_default_quotas_for_a_project",
    ),
    *(
        Endpoint(
            "GET",
            f"{_ONE}/{name}",
            show_quota_details,
            "get_quota",
            f"quota_details.{operation}",
        )
        for name, operation in (
            ("details.json", "show_quota_details_for_a_tenant"),
            ("details", "show_quota_details"),
        )
    ),
)
