"""What an API cell does when it learns of a change to an instance.

The rows of a cell's instances travel up; here is what follows for rows that the API cell owns:
ports, quota, and the end of a server. Every effect may be repeated. It runs in the transaction that
learns of the change, which in a tree of one is the transaction that makes it.
"""

from __future__ import annotations

from typing import Any

from xenith.compute.neighbours import Networking
from xenith.compute.records import quotas
from xenith.compute.records.image_schedules import remove_schedule
from xenith.compute.records.servers import servers
from xenith.db import Row, Tx

#: What an instance may be whose VM was started. Of one that has been stopped since, it may never be
#: told that it was active: only the last of its changes goes up.
_HAVING_VM = frozenset(("active", "stopped", "paused", "suspended", "resized"))


def apply_change(tx: Tx, networks: Networking, instance: Row) -> None:
    """Follow a change of an instance. Transaction function."""
    if instance.vm_state == "building":
        # Most changes are of these, and mean nothing here.
        return
    server = tx.find(servers, id=instance.id)
    if server is None or server.deleted_at is not None or server.cell_id != instance.cell_id:
        # Gone, or another cell's: a cell has no say about servers that it was not given.
        return
    if instance.vm_state == "deleted":
        # A build that never began was let go because it went elsewhere, and may have come back to
        # the same cell since: that is no end of the server, unless it was asked for.
        if instance.is_confirmed or server.pending_task_state == "deleting":
            end_server(tx, networks, server, now_s=instance.terminated_at)
        return
    _follow_resize(tx, server, instance)
    if instance.vm_state in _HAVING_VM and instance.host_name is not None:
        networks.bind_ports(tx, instance_id=instance.id, host=instance.host_name)


def _follow_resize(tx: Tx, server: Row, instance: Row) -> None:
    """Show the flavor that the VM has; a resize that is open no more gives quota back."""
    asked = server.resize
    if asked is None or instance.applied_intent < asked["number"]:
        return
    told = instance.resize or {}
    is_ours = told.get("number") == asked["number"]
    is_new = is_ours and told["is_new"]
    if not is_ours or not told["is_open"]:
        end_resize(tx, server, is_new=is_new)
    elif server.flavor_id != asked["new" if is_new else "old"]["id"]:
        _show_flavor(tx, server, asked["new" if is_new else "old"])


def end_resize(tx: Tx, server: Row, *, is_new: bool) -> None:
    """Let a server have the one flavor or the other for good. Transaction function."""
    asked = server.resize
    if asked is None:
        return
    size = asked["new" if is_new else "old"]
    cores, ram_mib = quotas.held_by(server)
    quotas.change_size(
        tx,
        server.project_id,
        cores=size["flavor"]["vcpus"] - cores,
        ram_mib=size["flavor"]["ram"] - ram_mib,
    )
    _show_flavor(tx, server, size, resize=None)


def _show_flavor(tx: Tx, server: Row, size: dict[str, Any], **values: Any) -> None:
    tx.update(servers, {"id": server.id}, flavor_id=size["id"], flavor=size["flavor"], **values)


def end_server(tx: Tx, networks: Networking, server: Row, *, now_s: float) -> None:
    """Mark a server deleted and give back what it held here. Transaction function."""
    networks.release_ports(tx, instance_id=server.id)
    remove_schedule(tx, server.id)
    cores, ram_mib = quotas.held_by(server)
    quotas.release_instances(tx, server.project_id, count=1, cores=cores, ram_mib=ram_mib)
    tx.update(
        servers,
        {"id": server.id},
        deleted_at=now_s,
        updated_at=now_s,
        pending_task_state=None,
        resize=None,
    )
