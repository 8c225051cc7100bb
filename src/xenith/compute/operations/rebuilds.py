"""Rebuilds: a server made anew of an image, where it is and with what it is known by."""

from __future__ import annotations

from typing import Any, NamedTuple

from msgspec import UNSET

from xenith.compute.operations.context import Context
from xenith.compute.operations.requests import checked_address, checked_files
from xenith.compute.operations.servers import (
    ServerView,
    find_bootable,
    get_view,
    refuse_locked,
    refuse_state,
    send_action,
    told_image,
    told_key,
)
from xenith.compute.rebuilding import REBUILD, REBUILT_VM_STATES
from xenith.compute.records import keypairs
from xenith.compute.records.servers import servers
from xenith.core.errors import Conflict, Invalid
from xenith.db import Row, Tx
from xenith.http import Principal

#: What a rebuild may change of a server, by the body's fields.
_CHANGES = {
    "name": "name",
    "metadata": "metadata",
    "disk_config": "disk_config",
    "description": "description",
    "hostname": "hostname",
    "key_name": "key_name",
    "user_data": "user_data",
}


class Rebuilt(NamedTuple):
    """The server as it will be, and the password that its guest is given."""

    view: ServerView
    admin_pass: str


class Rebuilds:
    """The operation that makes a server anew."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def rebuild(
        self, principal: Principal, server_id: str, wanted: Any, *, request_id: str
    ) -> Rebuilt:
        """Ask for a server to be made anew of an image; ``wanted`` is the body's struct.

        Raises:
            Invalid: there is no such image or key, or the server's flavor is too small for it.
            Conflict: the server is busy, locked, or was never on a host.
        """
        return await self._context.db.run(self._accept, principal, server_id, wanted, request_id)

    def _accept(
        self, tx: Tx, principal: Principal, server_id: str, wanted: Any, request_id: str
    ) -> Rebuilt:
        context = self._context
        view = get_view(tx, server_id, principal)
        refuse_locked(view, principal)
        refuse_state(view, "rebuild", vm_states=REBUILT_VM_STATES)
        server = view.server
        if view.instance is None or view.instance.host_name is None:
            raise Conflict(f"Cannot 'rebuild' instance {server_id}: it was never on a host")
        image = find_bootable(
            context,
            tx,
            principal,
            wanted.image_ref,
            ram_mib=server.flavor["ram"],
            root_gib=server.flavor["disk"],
        )
        changes = _changes(wanted)
        # A key is the server's user's, whoever asks.
        key_name = changes.get("key_name")
        if key_name and keypairs.find_keypair(tx, server.user_id, key_name) is None:
            raise Invalid("Invalid key_name provided.")
        tx.update(
            servers,
            {"id": server_id},
            image_id=image.id,
            image_properties=dict(image.properties),
            **changes,
        )
        server = tx.get(servers, id=server_id)
        given = wanted.admin_pass
        admin_pass = context.world.ids.secret(9) if given is UNSET else given
        files = () if getattr(wanted, "personality", UNSET) is UNSET else wanted.personality
        send_action(
            context,
            tx,
            view,
            principal,
            action="rebuild",
            kind=REBUILD,
            task_state="rebuilding",
            params=told_server(
                context,
                tx,
                server,
                told_image(image),
                files=[list(file) for file in checked_files(files)],
                admin_pass=admin_pass,
            ),
            request_id=request_id,
        )
        return Rebuilt(get_view(tx, server_id, principal), admin_pass)


def told_server(
    context: Context,
    tx: Tx,
    server: Row,
    image: dict[str, Any],
    *,
    files: list[Any],
    admin_pass: str,
) -> dict[str, Any]:
    """Give what a cell needs to make disks of a server's own anew, as a build does."""
    key = None
    if server.key_name is not None:
        key = keypairs.find_keypair(tx, server.user_id, server.key_name)
    sealed = None
    if server.config_drive:
        # Only the config drive tells it to the guest.
        sealed = context.seal_for(server.cell_id, admin_pass.encode())
    return {
        "project_id": server.project_id,
        "user_id": server.user_id,
        "name": server.name,
        "hostname": server.hostname,
        "flavor": server.flavor,
        "image": image,
        "ports": server.ports,
        "key": told_key(key),
        "metadata": server.metadata,
        "user_data": server.user_data,
        "files": files,
        "config_drive": server.config_drive,
        "zone": server.zone,
        "hints": server.hints,
        "host": None,
        "group": None,
        "launch_index": server.launch_index,
        "sealed_password": sealed,
    }


def _changes(wanted: Any) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for field, column in _CHANGES.items():
        value = getattr(wanted, field, UNSET)
        if value is not UNSET:
            changes[column] = value.strip() if field == "name" else value
    for field, version in (("access_ipv4", 4), ("access_ipv6", 6)):
        value = getattr(wanted, field, UNSET)
        if value is not UNSET:
            changes[field] = checked_address(value, version)
    return changes
