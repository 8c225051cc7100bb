"""Servers: what a tenant asked for and may change. Owned by the API cell.

The cell's part (where it runs, its states) is the row of the same id in ``instances``; until a
cell has accepted a server there is none, and the server is a build request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from xenith.core.errors import NotFound
from xenith.db import GLOBAL, Flag, Json, Row, Tx
from xenith.http import Principal

servers = sa.Table(
    "servers",
    GLOBAL,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("project_id", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("hostname", sa.Text, nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("image_id", sa.Text, nullable=False),
    sa.Column("image_properties", Json, nullable=False),
    sa.Column("flavor_id", sa.Text, nullable=False),
    # The flavor as it was: name, vcpus, ram, disk, ephemeral, swap, extra_specs.
    sa.Column("flavor", Json, nullable=False),
    sa.Column("key_name", sa.Text),
    sa.Column("metadata", Json, nullable=False),
    sa.Column("tags", Json, nullable=False),
    sa.Column("user_data", sa.Text),
    sa.Column("config_drive", Flag, nullable=False),
    sa.Column("disk_config", sa.Text, nullable=False),
    sa.Column("zone", sa.Text),
    sa.Column("access_ipv4", sa.Text, nullable=False),
    sa.Column("access_ipv6", sa.Text, nullable=False),
    sa.Column("is_locked", Flag, nullable=False),
    sa.Column("locked_reason", sa.Text),
    sa.Column("locked_by_admin", Flag, nullable=False),
    # Ports as they were given: id, network, MAC, addresses.
    sa.Column("ports", Json, nullable=False),
    sa.Column("hints", Json, nullable=False),
    sa.Column("security_groups", Json, nullable=False),
    sa.Column("reservation_id", sa.Text, nullable=False),
    sa.Column("launch_index", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Column("deleted_at", sa.Float),
    # The number of the last intent sent about this server, and the task_state that it will bring:
    # shown until the cell has applied it, so that a caller reads what it wrote.
    sa.Column("intent_number", sa.BigInteger, nullable=False),
    sa.Column("pending_task_state", sa.Text),
    # What an admin has set by hand, until the cell has it.
    sa.Column("pending_vm_state", sa.Text),
    # The cell that has the server; null until one has taken it.
    sa.Column("cell_id", sa.Text),
    # Why no cell took it; and how cells were chosen at each level, for operators.
    sa.Column("fault", Json),
    sa.Column("trail", Json),
    # The resize that has not come to its end: number (of its intent), new and old, each with the
    # flavor's id and copy. While there is one, quota is held for the greater of both.
    sa.Column("resize", Json),
)
sa.Index("servers_by_cell", servers.c.cell_id)
sa.Index(
    "servers_by_project",
    servers.c.project_id,
    servers.c.deleted_at,
    servers.c.created_at,
    servers.c.id,
)
sa.Index("servers_by_age", servers.c.deleted_at, servers.c.created_at, servers.c.id)
sa.Index("servers_by_update", servers.c.updated_at)


def get_server(tx: Tx, server_id: str, principal: Principal) -> Row:
    """Get a server that the caller may see.

    Raises:
        NotFound: there is none, or it is another project's.
    """
    row = tx.find(servers, id=server_id)
    if (
        row is None
        or row.deleted_at is not None
        or not (principal.is_admin or row.project_id == principal.project_id)
    ):
        raise NotFound(f"Instance {server_id[:64]} could not be found.", kind="InstanceNotFound")
    return row


def update_server(tx: Tx, server_id: str, *, now_s: float, values: Mapping[str, Any]) -> None:
    """Change what the tenant owns of a server."""
    tx.update(servers, {"id": server_id}, updated_at=now_s, **values)
