"""Quotas of projects, and how much of them is used.

``used`` of a row is the number of the project's rows of that kind at every commit; a limit of
None is the default, and -1 is none.
"""

from __future__ import annotations

import sqlalchemy as sa

from xenith.core.errors import Exhausted
from xenith.db import GLOBAL, Tx
from xenith.network.records.networks import NETWORKS
from xenith.network.records.ports import PORTS
from xenith.network.records.subnets import SUBNETS

#: Source: neutron's defaults. What is not served yet can be neither used nor limited.
DEFAULTS = {"network": 100, "subnet": 100, "port": 500}
TABLES = {"network": NETWORKS, "subnet": SUBNETS, "port": PORTS}

QUOTAS = sa.Table(
    "network_quotas",
    GLOBAL,
    sa.Column("project_id", sa.Text, primary_key=True),
    sa.Column("resource", sa.Text, primary_key=True),
    sa.Column("limit_count", sa.BigInteger),
    sa.Column("used_count", sa.BigInteger, nullable=False),
)


def claim(tx: Tx, project_id: str, resource: str, *, count: int = 1) -> None:
    """Take ``count`` of a project's quota. Transaction function.

    Raises:
        Exhausted: there is less left.
    """
    row = tx.find(QUOTAS, project_id=project_id, resource=resource)
    limit = DEFAULTS[resource] if row is None or row.limit_count is None else row.limit_count
    used = 0 if row is None else row.used_count
    if 0 <= limit < used + count:
        raise Exhausted(
            f"Quota exceeded for resources: ['{resource}'].",
            kind="OverQuota",
            resource=resource,
            limit=limit,
            used=used,
        )
    if row is None:
        tx.insert(
            QUOTAS,
            {
                "project_id": project_id,
                "resource": resource,
                "limit_count": None,
                "used_count": count,
            },
        )
    else:
        tx.update(QUOTAS, {"project_id": project_id, "resource": resource}, used_count=used + count)


def release(tx: Tx, project_id: str, resource: str, *, count: int = 1) -> None:
    """Give back what was claimed. Transaction function."""
    row = tx.get(QUOTAS, project_id=project_id, resource=resource)
    assert row.used_count >= count, f"{project_id} gives back more {resource} than it has"
    tx.update(
        QUOTAS,
        {"project_id": project_id, "resource": resource},
        used_count=row.used_count - count,
    )


def limits_of(tx: Tx, project_id: str) -> dict[str, int]:
    """Give a project's limits. Transaction function."""
    limits = dict(DEFAULTS)
    for row in tx.list(QUOTAS, project_id=project_id):
        if row.limit_count is not None:
            limits[row.resource] = row.limit_count
    return limits


def usage_of(tx: Tx, project_id: str) -> dict[str, int]:
    """Give what a project uses. Transaction function."""
    used = dict.fromkeys(DEFAULTS, 0)
    for row in tx.list(QUOTAS, project_id=project_id):
        used[row.resource] = row.used_count
    return used


def set_limits(tx: Tx, project_id: str, limits: dict[str, int | None]) -> None:
    """Set some limits of a project; None is the default again. Transaction function."""
    for resource, limit in limits.items():
        key = {"project_id": project_id, "resource": resource}
        if not tx.update(QUOTAS, key, limit_count=limit):
            tx.insert(QUOTAS, {**key, "limit_count": limit, "used_count": 0})


def projects_with_limits(tx: Tx) -> list[str]:
    """List the projects for which something else than the defaults holds. Transaction function."""
    statement = sa.select(QUOTAS.c.project_id).where(QUOTAS.c.limit_count.is_not(None))
    return [row[0] for row in tx.all(statement.distinct().order_by(QUOTAS.c.project_id))]


def recount_usage(tx: Tx) -> int:
    """Make usage equal to rows again, and tell how many counts were off. Transaction function."""
    wrong = 0
    for resource, table in TABLES.items():
        counted: dict[str, int] = {
            row[0]: row[1]
            for row in tx.all(
                sa.select(table.c.project_id, sa.func.count()).group_by(table.c.project_id)
            )
        }
        for row in tx.list(QUOTAS, resource=resource):
            true = counted.pop(row.project_id, 0)
            if true != row.used_count:
                wrong += 1
                key = {"project_id": row.project_id, "resource": resource}
                tx.update(QUOTAS, key, used_count=true)
        for project_id, true in counted.items():
            wrong += 1
            tx.insert(
                QUOTAS,
                {
                    "project_id": project_id,
                    "resource": resource,
                    "limit_count": None,
                    "used_count": true,
                },
            )
    return wrong
