"""What an API cell does when it learns of a change to an instance.

The rows of a cell's instances travel up; here is what follows for rows that the API cell owns:
ports, quota, and the end of a server. Every effect may be repeated. It runs in the transaction that
learns of the change, which in a tree of one is the transaction that makes it.
"""

from __future__ import annotations

from xenith.compute.neighbours import Networking
from xenith.compute.records import quotas
from xenith.compute.records.servers import servers
from xenith.db import Row, Tx

#: What an instance may be whose VM was started. Of one that has been stopped since, it may never be
#: told that it was active: only the last of its changes goes up.
_HAVING_VM = frozenset(("active", "stopped", "paused", "suspended"))


def apply_change(tx: Tx, networks: Networking, instance: Row) -> None:
    """Follow a change of an instance. Transaction function."""
    if instance.vm_state != "deleted" and instance.vm_state not in _HAVING_VM:
        return
    server = tx.find(servers, id=instance.id)
    if server is None or server.deleted_at is not None or server.cell_id != instance.cell_id:
        # Gone, or another cell's: a cell has no say about servers that it was not given.
        return
    if instance.vm_state == "deleted":
        end_server(tx, networks, server, now_s=instance.terminated_at)
    elif instance.host_name is not None:
        networks.bind_ports(tx, instance_id=instance.id, host=instance.host_name)


def end_server(tx: Tx, networks: Networking, server: Row, *, now_s: float) -> None:
    """Mark a server deleted and give back what it held here. Transaction function."""
    networks.release_ports(tx, instance_id=server.id)
    quotas.release_instances(
        tx,
        server.project_id,
        count=1,
        cores=server.flavor["vcpus"],
        ram_mib=server.flavor["ram"],
    )
    tx.update(
        servers,
        {"id": server.id},
        deleted_at=now_s,
        updated_at=now_s,
        pending_task_state=None,
    )
