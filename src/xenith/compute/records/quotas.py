"""Quotas: what a project may have, and what it has, in one row that a build reads and writes.

Limits come from three places, the first that names a resource: the project's own rows, those of
the class `default`, and the table here. The usage of a project equals the sum over its servers
that are not deleted; a build changes it in its own transaction, so that it costs the same however
many servers there are.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from xenith.compute.records.servers import servers
from xenith.core.errors import Exhausted
from xenith.db import GLOBAL, Prepared, Row, Tx

#: Source: nova's defaults. -1 is no limit; `fixed_ips` and others of networks are of old versions.
DEFAULTS: Mapping[str, int] = {
    "cores": 20,
    "fixed_ips": -1,
    "floating_ips": -1,
    "injected_file_content_bytes": 10240,
    "injected_file_path_bytes": 255,
    "injected_files": 5,
    "instances": 10,
    "key_pairs": 100,
    "metadata_items": 128,
    "ram": 51200,
    "security_group_rules": -1,
    "security_groups": -1,
    "server_group_members": 10,
    "server_groups": 10,
}
#: The class whose limits hold where a project has none of its own.
DEFAULT_CLASS = "default"
#: No limit.
UNLIMITED = -1

quota_limits = sa.Table(
    "quota_limits",
    GLOBAL,
    # "project" or "class", and which one.
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("resource", sa.Text, primary_key=True),
    sa.Column("hard_limit", sa.BigInteger, nullable=False),
)

quota_usages = sa.Table(
    "quota_usages",
    GLOBAL,
    sa.Column("project_id", sa.Text, primary_key=True),
    sa.Column("instances", sa.BigInteger, nullable=False),
    sa.Column("cores", sa.BigInteger, nullable=False),
    sa.Column("ram", sa.BigInteger, nullable=False),
)

_LIMITS_OF_PROJECT = Prepared(
    sa.select(quota_limits.c.scope, quota_limits.c.resource, quota_limits.c.hard_limit).where(
        sa.or_(
            sa.and_(
                quota_limits.c.scope == "project",
                quota_limits.c.owner == sa.bindparam("project_id"),
            ),
            sa.and_(quota_limits.c.scope == "class", quota_limits.c.owner == DEFAULT_CLASS),
        )
    )
)


def limits_of(tx: Tx, project_id: str) -> dict[str, int]:
    """Give every limit of a project by resource."""
    rows = tx.all(_LIMITS_OF_PROJECT, project_id=project_id)
    limits = dict(DEFAULTS)
    # "class" sorts before "project": a project's own limit is set last.
    for row in sorted(rows, key=lambda row: str(row.scope)):
        limits[row.resource] = row.hard_limit
    return limits


def class_limits(tx: Tx, name: str) -> dict[str, int]:
    """Give every limit of a class; classes other than `default` begin with the same defaults."""
    own = {row.resource: row.hard_limit for row in tx.list(quota_limits, scope="class", owner=name)}
    return {**DEFAULTS, **own}


def set_limits(tx: Tx, *, scope: str, owner: str, limits: Mapping[str, int]) -> None:
    """Set limits of a project or a class; those not named stay."""
    for resource, hard_limit in limits.items():
        tx.upsert(
            quota_limits,
            {"scope": scope, "owner": owner, "resource": resource, "hard_limit": hard_limit},
        )


def usage_of(tx: Tx, project_id: str) -> dict[str, int]:
    """Give what a project's servers use: instances, cores, ram (MiB)."""
    return _usage(tx.find(quota_usages, project_id=project_id))


def claim_instances(
    tx: Tx, project_id: str, *, least: int, most: int, cores: int, ram_mib: int
) -> int:
    """Take quota for as many of ``most`` instances as fit; give how many.

    Transaction function.

    Raises:
        Exhausted: not even ``least`` fit.
    """
    limits = limits_of(tx, project_id)
    usage = usage_of(tx, project_id)
    each = {"instances": 1, "cores": cores, "ram": ram_mib}
    count = most
    for resource, amount in each.items():
        if limits[resource] != UNLIMITED and amount > 0:
            count = min(count, (limits[resource] - usage[resource]) // amount)
    if count < least:
        raise _exceeded(limits, usage, {name: amount * least for name, amount in each.items()})
    tx.upsert(
        quota_usages,
        {
            "project_id": project_id,
            **{name: usage[name] + amount * count for name, amount in each.items()},
        },
    )
    return count


def change_size(tx: Tx, project_id: str, *, cores: int, ram_mib: int) -> None:
    """Take quota for what an instance grows by, or give back what it shrinks by.

    Transaction function.

    Raises:
        Exhausted: what it grows by does not fit.
    """
    limits, usage = limits_of(tx, project_id), usage_of(tx, project_id)
    asked = {"cores": cores, "ram": ram_mib}
    if any(
        amount > 0 and limits[name] != UNLIMITED and usage[name] + amount > limits[name]
        for name, amount in asked.items()
    ):
        raise _exceeded(limits, usage, {name: max(amount, 0) for name, amount in asked.items()})
    changed = {name: max(usage[name] + amount, 0) for name, amount in asked.items()}
    tx.upsert(quota_usages, {"project_id": project_id, **usage, **changed})


def held_by(server: Row) -> tuple[int, int]:
    """Give the cores and the RAM in MiB that quota counts for a server.

    The greater of both sizes until a resize has come to its end.
    """
    sizes = [server.flavor]
    if server.resize is not None:
        sizes += [server.resize["new"]["flavor"], server.resize["old"]["flavor"]]
    return max(size["vcpus"] for size in sizes), max(size["ram"] for size in sizes)


def release_instances(tx: Tx, project_id: str, *, count: int, cores: int, ram_mib: int) -> None:
    """Give back the quota of instances of one size. Transaction function."""
    usage = usage_of(tx, project_id)
    tx.upsert(
        quota_usages,
        {
            "project_id": project_id,
            "instances": max(usage["instances"] - count, 0),
            "cores": max(usage["cores"] - count * cores, 0),
            "ram": max(usage["ram"] - count * ram_mib, 0),
        },
    )


def recount_usage(tx: Tx) -> int:
    """Count every project's usage from its servers; tell how many rows were wrong.

    Transaction function. Servers of one flavor keep equal copies of it, so the database groups
    them, and only one copy of each is read.
    """
    counted: dict[str, dict[str, int]] = {}
    grouped = (
        sa.select(
            servers.c.project_id,
            servers.c.flavor,
            servers.c.resize,
            sa.func.count().label("server_count"),
        )
        .where(servers.c.deleted_at.is_(None))
        .group_by(servers.c.project_id, servers.c.flavor, servers.c.resize)
    )
    for row in tx.all(grouped):
        usage = counted.setdefault(row.project_id, _usage(None))
        usage["instances"] += row.server_count
        cores, ram_mib = held_by(row)
        usage["cores"] += row.server_count * cores
        usage["ram"] += row.server_count * ram_mib
    kept = {row.project_id: _usage(row) for row in tx.all(sa.select(quota_usages))}
    wrong = [
        project_id
        for project_id in sorted(counted.keys() | kept.keys())
        if counted.get(project_id, _usage(None)) != kept.get(project_id, _usage(None))
    ]
    for project_id in wrong:
        usage = counted.get(project_id, _usage(None))
        tx.upsert(quota_usages, {"project_id": project_id, **usage})
    return len(wrong)


def _usage(row: Row | None) -> dict[str, int]:
    if row is None:
        return {"instances": 0, "cores": 0, "ram": 0}
    return {"instances": row.instances, "cores": row.cores, "ram": row.ram}


def _exceeded(
    limits: Mapping[str, int], usage: Mapping[str, int], asked: Mapping[str, int]
) -> Exhausted:
    """Word it as nova does: clients and people look for this text."""
    over = [
        name
        for name, amount in asked.items()
        if limits[name] != UNLIMITED and usage[name] + amount > limits[name]
    ]
    names = ", ".join(over)
    requested = ", ".join(str(asked[name]) for name in over)
    used = ", ".join(str(usage[name]) for name in over)
    allowed = ", ".join(str(limits[name]) for name in over)
    return Exhausted(
        f"Quota exceeded for {names}: Requested {requested}, but already used {used} of {allowed} "
        f"{names}",
        kind="TooManyInstances",
        resources=over,
        limits={name: limits[name] for name in over},
        used={name: usage[name] for name in over},
    )
