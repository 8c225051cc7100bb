"""Resizes: another flavor for a server, then the tenant's word whether it is kept."""

from __future__ import annotations

from typing import Any

from xenith.compute.operations.context import Context
from xenith.compute.operations.servers import (
    ServerView,
    copy_flavor,
    get_view,
    refuse_locked,
    refuse_small_memory,
    refuse_state,
    send_action,
)
from xenith.compute.records import flavors, quotas
from xenith.compute.records.servers import servers
from xenith.compute.resizing import CONFIRM_RESIZE, RESIZE, REVERT_RESIZE
from xenith.core.errors import Conflict, Invalid
from xenith.db import Row, Tx
from xenith.http import Principal


class Resizes:
    """Operations that give a server another flavor."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def resize(
        self, principal: Principal, server_id: str, flavor_ref: str, *, request_id: str
    ) -> None:
        """Ask for another flavor, and take the quota for the greater of both.

        Raises:
            Invalid: there is no such flavor, it is the same, its disk is smaller, or its memory is
                less than the image asks for.
            Exhausted: the quota does not allow what the server would grow by.
        """

        def accept(tx: Tx) -> None:
            view = get_view(tx, server_id, principal)
            refuse_locked(view, principal)
            refuse_state(view, "resize", vm_states=("active", "stopped"))
            server = view.server
            if server.resize is not None:
                raise Conflict(f"Instance {server_id} has a resize that has not ended")
            new = self._find_flavor(tx, server, flavor_ref, principal)
            old = server.flavor
            quotas.change_size(
                tx,
                server.project_id,
                cores=max(new["flavor"]["vcpus"] - old["vcpus"], 0),
                ram_mib=max(new["flavor"]["ram"] - old["ram"], 0),
            )
            tx.update(
                servers,
                {"id": server.id},
                resize={
                    "number": server.intent_number + 1,
                    "new": new,
                    "old": {"id": server.flavor_id, "flavor": old},
                },
            )
            send_action(
                self._context,
                tx,
                view,
                principal,
                action="resize",
                kind=RESIZE,
                task_state="resize_prep",
                params={"flavor": new["flavor"], "old_flavor": old},
                request_id=request_id,
            )

        await self._context.db.run(accept)

    async def confirm(self, principal: Principal, server_id: str, *, request_id: str) -> None:
        """Keep the new flavor."""
        await self._end(
            principal, server_id, "confirmResize", CONFIRM_RESIZE, None, request_id=request_id
        )

    async def revert(self, principal: Principal, server_id: str, *, request_id: str) -> None:
        """Go back to the old flavor."""
        await self._end(
            principal,
            server_id,
            "revertResize",
            REVERT_RESIZE,
            "resize_reverting",
            request_id=request_id,
        )

    async def _end(
        self,
        principal: Principal,
        server_id: str,
        action: str,
        kind: str,
        task_state: str | None,
        *,
        request_id: str,
    ) -> None:
        def accept(tx: Tx) -> None:
            view = get_view(tx, server_id, principal)
            refuse_locked(view, principal)
            refuse_state(view, action, vm_states=("resized",))
            if view.is_ahead:
                _refuse_twice(view, action)
            send_action(
                self._context,
                tx,
                view,
                principal,
                action=action,
                kind=kind,
                task_state=task_state,
                params={},
                request_id=request_id,
            )

        await self._context.db.run(accept)

    def _find_flavor(
        self, tx: Tx, server: Row, flavor_ref: str, principal: Principal
    ) -> dict[str, Any]:
        """Find the flavor that a server may be given: its id, and the copy that the server keeps.

        Raises:
            Invalid: see ``Resizes.resize``.
        """
        row = flavors.find_usable_flavor(tx, flavor_ref, principal)
        if row is None or (row.is_disabled and row.id != server.flavor_id):
            raise Invalid(f"Flavor {flavor_ref[:64]} could not be found.", kind="FlavorNotFound")
        if row.id == server.flavor_id:
            raise Invalid(
                "When resizing, instances must change flavor!", kind="CannotResizeToSameFlavor"
            )
        if row.root_gib < server.flavor["disk"]:
            raise Invalid(
                "Server disk was unable to be resized because: Resize to a smaller disk is not "
                "allowed.",
                kind="CannotResizeDisk",
            )
        if row.ephemeral_gib < server.flavor["ephemeral"]:
            # Source: nova's XenAPI driver, which would not shrink them either.
            raise Invalid(
                "Server disk was unable to be resized because: Resize to smaller ephemeral disks "
                "is not allowed.",
                kind="CannotResizeDisk",
            )
        image = self._context.images.find_image(tx, server.image_id, principal)
        if image is not None:
            refuse_small_memory(image, row.ram_mib)
        return {"id": row.id, "flavor": copy_flavor(row)}


def _refuse_twice(view: ServerView, action: str) -> None:
    raise Conflict(f"Cannot '{action}' instance {view.server.id}: its resize is being ended")
