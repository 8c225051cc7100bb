"""Images of servers: one when it is asked for, or one more of a kind of which so many are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xenith.compute.imaging import IMAGE, IMAGED_VM_STATES, TASKS
from xenith.compute.operations.context import Context
from xenith.compute.operations.servers import ServerView, get_view, refuse_state, send_action
from xenith.db import Tx
from xenith.http import Principal

#: What an image of a server does not have of the image that the server was made of.
#: Source: nova, ``non_inheritable_image_properties`` and the properties that a snapshot sets.
NOT_INHERITED = frozenset(
    {
        "cache_in_nova",
        "bittorrent",
        "img_signature",
        "img_signature_certificate_uuid",
        "img_signature_hash_method",
        "img_signature_key_type",
        "image_type",
        "backup_type",
        "block_device_mapping",
        "bdm_v2",
        "root_device_name",
    }
)

#: The property that names what made an image, where nobody asked for this one.
#: Source: the extension ``rax-si-image-schedule``.
CREATED_BY = "org.openstack__1__created-by"


class ServerImages:
    """Operations that make images of servers."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(
        self,
        principal: Principal,
        server_id: str,
        *,
        name: str,
        metadata: Mapping[str, str],
        request_id: str,
    ) -> str:
        """Ask for an image of a server, and give the id that it will have.

        Raises:
            Conflict: the server is busy, or in a state without an image.
        """
        return await self._context.db.run(
            self._accept,
            principal,
            server_id,
            action="createImage",
            name=name,
            properties={"image_type": "snapshot", **metadata},
            params={},
            request_id=request_id,
        )

    async def back_up(
        self,
        principal: Principal,
        server_id: str,
        *,
        name: str,
        backup_type: str,
        rotation: int,
        metadata: Mapping[str, str],
        request_id: str,
    ) -> str:
        """Ask for a backup; of its type only ``rotation`` are kept, the newest ones.

        Raises:
            Conflict: the server is busy, or in a state without an image.
        """
        return await self._context.db.run(
            self._accept,
            principal,
            server_id,
            action="createBackup",
            name=name,
            properties={**metadata, "image_type": "backup", "backup_type": backup_type},
            params={"rotation": rotation},
            request_id=request_id,
        )

    def schedule(
        self,
        tx: Tx,
        view: ServerView,
        principal: Principal,
        *,
        name: str,
        created_by: str,
        rotation: int,
    ) -> str:
        """Begin an image that a schedule makes, of which so many are kept. Transaction function.

        Raises:
            Conflict: the server is busy, or in a state without an image.
        """
        return self._begin(
            tx,
            view,
            principal,
            action="createBackup",
            name=name,
            properties={"image_type": "snapshot", CREATED_BY: created_by},
            params={"rotation": rotation},
            request_id=tx.world.ids.request_id(),
        )

    def _accept(
        self,
        tx: Tx,
        principal: Principal,
        server_id: str,
        *,
        action: str,
        name: str,
        properties: dict[str, str],
        params: dict[str, Any],
        request_id: str,
    ) -> str:
        return self._begin(
            tx,
            get_view(tx, server_id, principal),
            principal,
            action=action,
            name=name,
            properties=properties,
            params=params,
            request_id=request_id,
        )

    def _begin(
        self,
        tx: Tx,
        view: ServerView,
        principal: Principal,
        *,
        action: str,
        name: str,
        properties: dict[str, str],
        params: dict[str, Any],
        request_id: str,
    ) -> str:
        refuse_state(view, action, vm_states=IMAGED_VM_STATES)
        image_id = self._add(tx, view, principal, name=name, properties=properties)
        send_action(
            self._context,
            tx,
            view,
            principal,
            action=action,
            kind=IMAGE,
            task_state=TASKS[action],
            params={"image_id": image_id, "action": action, **params},
            request_id=request_id,
        )
        return image_id

    def _add(
        self,
        tx: Tx,
        view: ServerView,
        principal: Principal,
        *,
        name: str,
        properties: dict[str, str],
    ) -> str:
        server = view.server
        base = self._context.images.find_image(tx, server.image_id, principal)
        inherited = {
            key: value
            for key, value in (server.image_properties or {}).items()
            if key not in NOT_INHERITED
        }
        project = principal.project_id or server.project_id
        # Source: nova, what a snapshot's image says of where it comes from.
        origin = {
            "base_image_ref": server.image_id,
            "instance_uuid": server.id,
            "user_id": principal.user_id,
            "owner_id": project,
            "owner_user_name": principal.user_name,
            "boot_roles": ",".join(sorted(principal.roles)),
        }
        if principal.project_name is not None:
            origin["owner_project_name"] = principal.project_name
        return self._context.images.add_snapshot(
            tx,
            name=name,
            owner=project,
            disk_format="vhd",
            min_disk_gib=max(server.flavor["disk"], 0 if base is None else base.min_disk_gib),
            min_ram_mib=0 if base is None else base.min_ram_mib,
            properties={**inherited, **properties, **origin},
        )
