"""Rescues: a server that boots from another image's disk, and back again."""

from __future__ import annotations

from msgspec import UNSET

from xenith.compute.operations.context import Context
from xenith.compute.operations.rebuilds import told_server
from xenith.compute.operations.servers import (
    find_bootable,
    get_view,
    refuse_locked,
    refuse_state,
    send_action,
    told_image,
)
from xenith.compute.rescuing import RESCUE, RESCUED_VM_STATES, UNRESCUE, UNRESCUED_VM_STATES
from xenith.compute.schemas.servers import Rescue
from xenith.core.errors import Conflict
from xenith.db import Tx
from xenith.http import Principal


class Rescues:
    """The operations that rescue a server and end that."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def rescue(
        self, principal: Principal, server_id: str, wanted: Rescue, *, request_id: str
    ) -> str:
        """Ask for a server to be rescued; give the password that the rescue's guest is given.

        Raises:
            Invalid: there is no such image, or the server has too little memory for it.
            Conflict: the server is busy, locked, or was never on a host.
        """
        return await self._context.db.run(
            self._accept_rescue, principal, server_id, wanted, request_id
        )

    async def unrescue(self, principal: Principal, server_id: str, *, request_id: str) -> None:
        """Ask for a rescued server to boot from its own disk.

        Raises:
            Conflict: the server is not rescued, busy or locked.
        """

        def accept(tx: Tx) -> None:
            view = get_view(tx, server_id, principal)
            refuse_locked(view, principal)
            refuse_state(view, UNRESCUE, vm_states=UNRESCUED_VM_STATES)
            send_action(
                self._context,
                tx,
                view,
                principal,
                action=UNRESCUE,
                kind=UNRESCUE,
                task_state="unrescuing",
                params={},
                request_id=request_id,
            )

        await self._context.db.run(accept)

    def _accept_rescue(
        self, tx: Tx, principal: Principal, server_id: str, wanted: Rescue, request_id: str
    ) -> str:
        context = self._context
        view = get_view(tx, server_id, principal)
        refuse_locked(view, principal)
        refuse_state(view, RESCUE, vm_states=RESCUED_VM_STATES)
        server = view.server
        if view.instance is None or view.instance.host_name is None:
            raise Conflict(f"Cannot 'rescue' instance {server_id}: it was never on a host")
        ref = wanted.rescue_image_ref
        # The rescue disk is as large as its image, so no flavor is too small for it.
        image = find_bootable(
            context,
            tx,
            principal,
            server.image_id if ref is UNSET else ref,
            ram_mib=server.flavor["ram"],
            root_gib=0,
        )
        given = wanted.admin_pass
        admin_pass = context.world.ids.secret(9) if given is UNSET else given
        send_action(
            context,
            tx,
            view,
            principal,
            action=RESCUE,
            kind=RESCUE,
            task_state="rescuing",
            params=told_server(
                context, tx, server, told_image(image), files=[], admin_pass=admin_pass
            ),
            request_id=request_id,
        )
        return admin_pass
