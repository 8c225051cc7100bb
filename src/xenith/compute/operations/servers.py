"""Servers as tenants handle them: create, find, change, delete.

Only rows that the API cell owns are written here; the rest is asked of the cell by intents.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from xenith.cells.intents import BUILD
from xenith.compute.neighbours import ImageInfo
from xenith.compute.operations.context import Context
from xenith.compute.operations.requests import (
    ServerRequest,
    checked_address,
    hostname_of,
    port_row,
)
from xenith.compute.operations.wanted import cell_of, wanted_of
from xenith.compute.records import flavors, keypairs, quotas, server_groups
from xenith.compute.records.actions import start_action
from xenith.compute.records.instances import instances
from xenith.compute.records.server_lists import ServerFilter, find_marker, list_servers
from xenith.compute.records.servers import get_server, servers, update_server
from xenith.core.errors import Conflict, Forbidden, Invalid
from xenith.core.ids import is_uuid
from xenith.db import Row, Tx
from xenith.http import Principal
from xenith.http.paging import Page
from xenith.vhd import TARBALL, is_tarball

UNSET = msgspec.UNSET

#: Seconds in which some cell must have taken a build. Long enough for cells that are started anew.
BUILD_LIFE_S = 600.0


class ServerView(msgspec.Struct, frozen=True):
    """A server with what its cell says of it; ``instance`` is None until a cell has accepted it."""

    server: Row
    instance: Row | None

    @property
    def is_ahead(self) -> bool:
        """Whether something was asked for that the cell's row does not show yet."""
        instance = self.instance
        return instance is not None and self.server.intent_number > instance.applied_intent

    @property
    def vm_state(self) -> str:
        """What the server is, counting what was set by hand and has not arrived."""
        if self.instance is None:
            return "building" if self.server.fault is None else "error"
        pending: str | None = self.server.pending_vm_state if self.is_ahead else None
        return pending or str(self.instance.vm_state)

    @property
    def task_state(self) -> str | None:
        """What is being done to it, counting what was asked for and has not arrived."""
        if self.instance is None:
            pending: str | None = self.server.pending_task_state
            return pending if self.server.fault is not None else pending or "scheduling"
        task_state: str | None = self.instance.task_state
        if not self.is_ahead:
            return task_state
        # A state that is set by hand ends whatever was being done.
        is_set = self.server.pending_vm_state is not None
        return self.server.pending_task_state or (None if is_set else task_state)


class CreatedServers(msgspec.Struct, frozen=True):
    """What a create made: ids, and the password that the guests are given."""

    ids: tuple[str, ...]
    reservation_id: str
    admin_pass: str
    disk_config: str
    security_groups: tuple[str, ...]


class Servers:
    """Operations on servers."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(
        self, principal: Principal, request: ServerRequest, *, request_id: str
    ) -> CreatedServers:
        """Accept servers: rows, ports, quota and the intents to build them, in one transaction.

        Raises:
            Invalid: the caller is in no project, or what is asked for is not there.
        """
        if principal.project_id is None:
            raise Invalid("A server belongs to a project: ask with a token for one.")
        return await self._context.db.run(self._create, principal, request, request_id)

    async def show(self, principal: Principal, server_id: str) -> ServerView:
        """Get one server."""
        return await self._context.db.read(get_view, server_id, principal)

    async def list(self, wanted: ServerFilter, page: Page) -> list[ServerView]:
        """List a page of servers, one more than asked for when there are more."""

        def read(tx: Tx) -> list[ServerView]:
            marker = find_marker(tx, page, wanted)
            return [
                ServerView(server, instance)
                for server, instance in list_servers(tx, wanted, page, marker)
            ]

        return await self._context.db.read(read)

    async def update(self, principal: Principal, server_id: str, body: Any) -> ServerView:
        """Change what the tenant owns: name, addresses for access, description, host name."""
        values: dict[str, Any] = {}
        for attribute, column in (
            ("name", "name"),
            ("disk_config", "disk_config"),
            ("description", "description"),
            ("hostname", "hostname"),
        ):
            value = getattr(body, attribute, UNSET)
            if value is not UNSET:
                values[column] = value.strip() if column == "name" else value
        for attribute, version in (("access_ipv4", 4), ("access_ipv6", 6)):
            value = getattr(body, attribute, UNSET)
            if value is not UNSET:
                values[attribute] = checked_address(value, version)

        def change(tx: Tx) -> ServerView:
            get_server(tx, server_id, principal)
            update_server(tx, server_id, now_s=self._context.world.clock.now(), values=values)
            return get_view(tx, server_id, principal)

        return await self._context.db.run(change)

    async def delete(
        self, principal: Principal, server_id: str, *, request_id: str, action: str = "delete"
    ) -> None:
        """Ask the cell to delete a server, in whatever state it is."""

        def accept(tx: Tx) -> None:
            view = get_view(tx, server_id, principal)
            refuse_locked(view, principal)
            send_action(
                self._context,
                tx,
                view,
                principal,
                action=action,
                kind="delete",
                task_state="deleting",
                params={},
                request_id=request_id,
            )

        await self._context.db.run(accept)

    def _create(
        self, tx: Tx, principal: Principal, request: ServerRequest, request_id: str
    ) -> CreatedServers:
        context = self._context
        world = context.world
        flavor = flavors.find_usable_flavor(tx, request.flavor_ref, principal)
        if flavor is None:
            raise Invalid(f"Flavor {request.flavor_ref[:64]} could not be found.")
        if not request.image_ref:
            raise Invalid("Block Device Mapping is Invalid: no image, and volumes are not offered.")
        image = find_bootable(
            self._context,
            tx,
            principal,
            request.image_ref,
            ram_mib=flavor.ram_mib,
            root_gib=flavor.root_gib,
        )
        key = None
        if request.key_name is not None:
            key = keypairs.find_keypair(tx, principal.user_id, request.key_name)
            if key is None:
                raise Invalid("Invalid key_name provided.")
        if request.host is not None and not principal.is_admin:
            raise Forbidden("Only an admin may choose the host")
        count = quotas.claim_instances(
            tx,
            principal.project,
            least=request.min_count,
            most=request.max_count,
            cores=flavor.vcpus,
            ram_mib=flavor.ram_mib,
        )
        admin_pass = request.admin_pass or world.ids.secret(9)
        reservation_id = "r-" + world.ids.hex()[:8]
        now = world.clock.now()
        ids: list[str] = []
        for index in range(count):
            server_id = world.ids.uuid()
            name = request.name if count == 1 else f"{request.name}-{index + 1}"
            hostname = request.hostname or hostname_of(name, server_id)
            ports = (
                []
                if request.nics == ()
                else [
                    port_row(port)
                    for port in context.networks.claim_ports(
                        tx,
                        principal,
                        instance_id=server_id,
                        zone=request.zone or context.default_zone,
                        requests=request.nics,
                    )
                ]
            )
            flavor_copy = copy_flavor(flavor)
            config_drive = request.config_drive or context.has_forced_config_drive
            tx.insert(
                servers,
                {
                    "id": server_id,
                    "project_id": principal.project,
                    "user_id": principal.user_id,
                    "name": name,
                    "hostname": hostname,
                    "description": request.description if request.description is not None else None,
                    "image_id": image.id,
                    "image_properties": dict(image.properties),
                    "flavor_id": flavor.id,
                    "flavor": flavor_copy,
                    "key_name": request.key_name,
                    "metadata": request.metadata,
                    "tags": sorted(request.tags),
                    "user_data": request.user_data,
                    "config_drive": config_drive,
                    "disk_config": request.disk_config or "MANUAL",
                    "zone": request.zone,
                    "access_ipv4": request.access_ipv4,
                    "access_ipv6": request.access_ipv6,
                    "is_locked": False,
                    "locked_reason": None,
                    "locked_by_admin": False,
                    "ports": ports,
                    "hints": request.hints,
                    "security_groups": list(request.security_groups),
                    "reservation_id": reservation_id,
                    "launch_index": index,
                    "created_at": now,
                    "updated_at": now,
                    "deleted_at": None,
                    "intent_number": 1,
                    "pending_task_state": "scheduling",
                    "cell_id": None,
                    "fault": None,
                    "trail": None,
                    "resize": None,
                },
            )
            start_action(
                tx,
                instance_id=server_id,
                request_id=request_id,
                action="create",
                user_id=principal.user_id,
                project_id=principal.project,
                now_s=now,
            )
            params: dict[str, Any] = {
                "project_id": principal.project,
                "user_id": principal.user_id,
                "name": name,
                "hostname": hostname,
                "flavor": flavor_copy,
                "image": told_image(image),
                "ports": ports,
                "key": told_key(key),
                "metadata": request.metadata,
                "user_data": request.user_data,
                "files": [list(file) for file in request.files],
                "config_drive": config_drive,
                "zone": request.zone,
                "hints": request.hints,
                "host": request.host,
                "group": _joined(tx, principal, request, server_id),
                "launch_index": index,
                # Only the config drive tells it to the guest.
                "sealed_password": base64.b64encode(
                    context.seal.close(admin_pass.encode())
                ).decode()
                if config_drive
                else None,
            }
            members = _members(tx, params["group"], server_id)
            context.node.send(
                tx,
                subject=server_id,
                number=1,
                kind=BUILD,
                params=params,
                request_id=request_id,
                wanted=wanted_of(tx, params, members),
                principal=_who(principal),
                life_s=BUILD_LIFE_S,
            )
            ids.append(server_id)
        return CreatedServers(
            tuple(ids),
            reservation_id,
            admin_pass,
            request.disk_config or "MANUAL",
            request.security_groups,
        )


def find_bootable(
    context: Context,
    tx: Tx,
    principal: Principal,
    image_ref: str,
    *,
    ram_mib: int,
    root_gib: int,
) -> ImageInfo:
    """Find an image from which a server of a size can be made.

    Raises:
        Invalid: the caller sees no such image, it has no bytes, or it asks for a larger flavor.
    """
    if not is_uuid(image_ref):
        raise Invalid(f"Invalid imageRef provided: {image_ref[:64]}")
    image = context.images.find_image(tx, image_ref, principal)
    if image is None:
        raise Invalid(f"Image {image_ref} could not be found.")
    if image.status != "active":
        raise Invalid(f"Image {image.id} is not active.")
    refuse_small_memory(image, ram_mib)
    needed = max(image.size_bytes or 0, image.virtual_size_bytes or 0)
    if image.min_disk_gib > root_gib > 0:
        raise Invalid(
            f"Flavor's disk is too small for requested image. Flavor disk is "
            f"{root_gib} GiB, minimum size is {image.min_disk_gib} GiB."
        )
    if 0 < root_gib * 2**30 < needed:
        raise Invalid(
            f"Flavor's disk is too small for requested image. Flavor disk is "
            f"{root_gib * 2**30} bytes, image is {needed} bytes."
        )
    return image


def bytes_format(image: ImageInfo) -> str:
    """Name what an image's bytes are: its disk format, or that of a tarball of VHDs."""
    if is_tarball(image.disk_format, image.container_format):
        return TARBALL
    return image.disk_format or "raw"


def told_image(image: ImageInfo) -> dict[str, Any]:
    """Give what a cell must know of the image that it makes a disk of."""
    return {
        "id": image.id,
        "disk_format": bytes_format(image),
        "size_bytes": image.size_bytes or 0,
        "virtual_size_bytes": image.virtual_size_bytes or 0,
        "properties": dict(image.properties),
    }


def told_key(key: Row | None) -> dict[str, str] | None:
    """Give what a guest is told of the key that it lets in."""
    return key and {"name": key.name, "type": key.type, "public_key": key.public_key}


def _joined(
    tx: Tx, principal: Principal, request: ServerRequest, server_id: str
) -> dict[str, Any] | None:
    """Put a new server into the group that its hints name; give what the scheduler must heed."""
    group_id = request.hints.get("group")
    if group_id is None:
        return None
    group = server_groups.join_group(tx, group_id, principal, server_ids=[server_id])
    rules = group.rules or {}
    return {
        "id": group.id,
        "policy": group.policy,
        "max_per_host": int(rules.get("max_server_per_host", 1)),
    }


def refuse_small_memory(image: ImageInfo, ram_mib: int) -> None:
    """Refuse a flavor that has less memory than an image asks for.

    Raises:
        Invalid: it has.
    """
    if image.min_ram_mib > ram_mib:
        raise Invalid("Flavor's memory is too small for requested image.")


def copy_flavor(flavor: Row) -> dict[str, Any]:
    """Give what a server keeps of its flavor, and goes on to have when that changes."""
    return {
        "original_name": flavor.name,
        "vcpus": flavor.vcpus,
        "ram": flavor.ram_mib,
        "disk": flavor.root_gib,
        "ephemeral": flavor.ephemeral_gib,
        "swap": flavor.swap_mib,
        "extra_specs": flavor.extra_specs,
    }


def get_view(tx: Tx, server_id: str, principal: Principal) -> ServerView:
    """Get a server with its instance. Transaction function."""
    server = get_server(tx, server_id, principal)
    if server.cell_id is None:
        return ServerView(server, None)
    return ServerView(server, tx.find(instances, id=server_id, cell_id=server.cell_id))


def refuse_locked(view: ServerView, principal: Principal) -> None:
    """Hold a locked server against all but admins.

    Raises:
        Conflict: it is locked.
    """
    if view.server.is_locked and not principal.is_admin:
        raise Conflict(f"Instance {view.server.id} is locked")


def refuse_state(
    view: ServerView,
    action: str,
    *,
    vm_states: Sequence[str] | frozenset[str],
    task_states: frozenset[str] = frozenset(),
) -> None:
    """Let an action go on only in a state from which it may start.

    Raises:
        Conflict: it is in another.
    """
    if view.vm_state not in vm_states:
        raise Conflict(
            f"Cannot '{action}' instance {view.server.id} while it is in vm_state {view.vm_state}",
            vm_state=view.vm_state,
        )
    if view.task_state is not None and view.task_state not in task_states:
        raise Conflict(
            f"Cannot '{action}' instance {view.server.id} while it is in task_state "
            f"{view.task_state}",
            task_state=view.task_state,
        )


def send_action(
    context: Context,
    tx: Tx,
    view: ServerView,
    principal: Principal,
    *,
    action: str,
    kind: str,
    task_state: str | None,
    params: dict[str, Any],
    request_id: str,
    vm_state: str | None = None,
) -> None:
    """Note an action and send its intent, in the transaction that accepts it."""
    number = view.server.intent_number + 1
    now = context.world.clock.now()
    start_action(
        tx,
        instance_id=view.server.id,
        request_id=request_id,
        action=action,
        user_id=principal.user_id,
        project_id=principal.project_id or view.server.project_id,
        now_s=now,
    )
    tx.update(
        servers,
        {"id": view.server.id},
        intent_number=number,
        pending_task_state=task_state,
        # One that was set before and has not arrived still goes before what the cell has.
        pending_vm_state=vm_state or (view.server.pending_vm_state if view.is_ahead else None),
        updated_at=now,
    )
    context.node.send(
        tx,
        subject=view.server.id,
        number=number,
        kind=kind,
        params=params,
        request_id=request_id,
        target=cell_of(view.server),
        principal=_who(principal),
        generation=0 if view.instance is None else view.instance.generation,
    )


def _who(principal: Principal) -> dict[str, str]:
    return {"user": principal.user_id, "project": principal.project_id or ""}


def _members(tx: Tx, group: dict[str, Any] | None, server_id: str) -> tuple[str, ...]:
    if group is None:
        return ()
    listed = server_groups.members_of(tx, [group["id"]])[group["id"]]
    return tuple(member for member in listed if member != server_id)
