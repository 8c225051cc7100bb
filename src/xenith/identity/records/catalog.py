"""Rows of the catalog: regions, services and their endpoints."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from xenith.db import GLOBAL, Flag, Json, Tx

REGIONS = sa.Table(
    "identity_regions",
    GLOBAL,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("parent_region_id", sa.Text),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("extra", Json, nullable=False),
)

SERVICES = sa.Table(
    "identity_services",
    GLOBAL,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("name", sa.Text),
    sa.Column("description", sa.Text),
    sa.Column("enabled", Flag, nullable=False),
    # Written by this cloud itself at its start, and kept true by it.
    sa.Column("is_ours", Flag, nullable=False),
    sa.Column("extra", Json, nullable=False),
    sa.Index("identity_services_type", "type"),
)

ENDPOINTS = sa.Table(
    "identity_endpoints",
    GLOBAL,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("service_id", sa.Text, nullable=False),
    sa.Column("region_id", sa.Text),
    sa.Column("interface", sa.Text, nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("name", sa.Text),
    sa.Column("enabled", Flag, nullable=False),
    sa.Column("extra", Json, nullable=False),
    sa.Index("identity_endpoints_service", "service_id"),
    sa.Index("identity_endpoints_region", "region_id"),
)


def build_catalog(tx: Tx, *, project_id: str | None, user_id: str) -> list[dict[str, Any]]:
    """Give the catalog as a token shows it.

    An address that names the project is left out of a token without one.
    Source: keystone, endpoint URL templates.
    """
    endpoints: dict[str, list[dict[str, Any]]] = {}
    for row in tx.all(
        sa.select(ENDPOINTS).where(ENDPOINTS.c.enabled == sa.literal(1)).order_by(ENDPOINTS.c.id)
    ):
        url = fill(row.url, project_id=project_id, user_id=user_id)
        if url is not None:
            endpoints.setdefault(row.service_id, []).append(
                {
                    "id": row.id,
                    "interface": row.interface,
                    "region": row.region_id,
                    "region_id": row.region_id,
                    "url": url,
                }
            )
    return [
        {
            "endpoints": endpoints.get(row.id, []),
            "id": row.id,
            "type": row.type,
            "name": row.name or "",
        }
        for row in tx.all(
            sa.select(SERVICES).where(SERVICES.c.enabled == sa.literal(1)).order_by(SERVICES.c.type)
        )
    ]


def fill(template: str, *, project_id: str | None, user_id: str) -> str | None:
    """Fill an address's template; None when it needs a project and there is none.

    >>> fill("http://x/AUTH_$(project_id)s", project_id="p", user_id="u")
    'http://x/AUTH_p'
    """
    for sign in ("$", "%"):
        for name in ("project_id", "tenant_id"):
            word = f"{sign}({name})s"
            if word in template:
                if project_id is None:
                    return None
                template = template.replace(word, project_id)
        template = template.replace(f"{sign}(user_id)s", user_id)
    return template
