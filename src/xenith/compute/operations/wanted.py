"""What a build needs of a cell, as the choice of a cell sees it: far less than a host's choice."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from xenith.cells.choosing import Wanted
from xenith.compute.records.flavors import disk_gib_of
from xenith.compute.records.hosts import hosts
from xenith.compute.records.servers import servers
from xenith.db import Row, Tx

#: The flavor's extra spec that names its class; cells may be for some classes alone.
FLAVOR_CLASS = "xenith:flavor_class"
#: Image properties that a class of hosts must have. Source: glance, "Useful image properties".
CAPABILITIES = {"hw_architecture": "architecture", "img_hv_type": "hypervisor_type"}
#: Policies of server groups that keep members in one cell. Source: Compute API, server groups.
_TOGETHER = frozenset({"affinity", "soft-affinity"})


def wanted_of(tx: Tx, params: dict[str, Any], members: tuple[str, ...]) -> Wanted:
    """Give what a build with these parameters needs; ``members`` are those of its group.

    Transaction function.
    """
    flavor, hints = params["flavor"], params["hints"]
    targets = _listed(hints.get("target_cell"))
    if params["host"] is not None:
        targets += tuple(row.cell_id for row in tx.list(hosts, name=params["host"]))
    beside = _listed(hints.get("same_host"))
    if (params["group"] or {}).get("policy") in _TOGETHER:
        beside += members
    targets += _cells_of(tx, beside)
    return Wanted(
        ram_mib=flavor["ram"],
        vcpus=flavor["vcpus"],
        disk_gib=disk_gib_of(flavor),
        project_id=params["project_id"],
        zone=params["zone"],
        flavor_class=(flavor["extra_specs"] or {}).get(FLAVOR_CLASS),
        target_cells=targets,
        different_cells=_listed(hints.get("different_cell")),
    )


def _cells_of(tx: Tx, server_ids: tuple[str, ...]) -> tuple[str, ...]:
    if not server_ids:
        return ()
    statement = sa.select(servers.c.cell_id).where(
        servers.c.id.in_(server_ids), servers.c.cell_id.is_not(None)
    )
    return tuple(sorted({row.cell_id for row in tx.all(statement)}))


def _listed(value: Any) -> tuple[str, ...]:
    if not value:
        return ()
    given = value if isinstance(value, list) else [value]
    return tuple(str(each) for each in given)


def cell_of(server: Row) -> str:
    """Give the cell that has a server, empty while none has."""
    return server.cell_id or ""
