"""What an API cell does when it learns of a change to an instance.

The rows of a cell's instances travel up; here is what follows for rows that the API cell owns:
ports, quota, and the end of a server. Every effect may be repeated. In a tree of one it runs in
the transaction that makes the change.
"""

from __future__ import annotations

from xenith.compute.neighbours import Networking
from xenith.compute.records import quotas
from xenith.compute.records.servers import servers
from xenith.db import Row, Tx


def apply_change(tx: Tx, networks: Networking, instance: Row) -> None:
    """Follow a change of an instance. Transaction function."""
    if instance.vm_state == "deleted":
        _end_server(tx, networks, instance)
    elif instance.vm_state == "active" and instance.host_name is not None:
        networks.bind_ports(tx, instance_id=instance.id, host=instance.host_name)


def _end_server(tx: Tx, networks: Networking, instance: Row) -> None:
    server = tx.find(servers, id=instance.id)
    if server is None or server.deleted_at is not None:
        return
    networks.release_ports(tx, instance_id=instance.id)
    quotas.release_instances(
        tx,
        server.project_id,
        count=1,
        cores=server.flavor["vcpus"],
        ram_mib=server.flavor["ram"],
    )
    tx.update(
        servers,
        {"id": instance.id},
        deleted_at=instance.terminated_at,
        updated_at=instance.terminated_at,
        pending_task_state=None,
    )
