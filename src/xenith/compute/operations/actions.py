"""What may be asked of a server besides making and deleting it: power, locks, console."""

from __future__ import annotations

from xenith.compute.operations.context import Context
from xenith.compute.operations.servers import (
    get_view,
    refuse_locked,
    refuse_state,
    send_action,
)
from xenith.compute.records import actions
from xenith.compute.records.servers import servers, update_server
from xenith.compute.states import TRANSITIONS
from xenith.core.errors import Conflict, Forbidden, NotFound
from xenith.core.ids import CellId
from xenith.core.limits import CONSOLE_LOG_BYTES_MAX
from xenith.db import Row, Tx
from xenith.http import Principal


class ServerActions:
    """Operations that a server's action endpoints ask for."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def power(
        self, principal: Principal, server_id: str, transition: str, *, request_id: str
    ) -> None:
        """Ask for a change of power; ``transition`` is a key of ``TRANSITIONS``."""
        wanted = TRANSITIONS[transition]

        def accept(tx: Tx) -> None:
            view = get_view(tx, server_id, principal)
            refuse_locked(view, principal)
            refuse_state(
                view, wanted.action, vm_states=wanted.vm_states, task_states=wanted.task_states
            )
            send_action(
                self._context,
                tx,
                view,
                principal,
                action=wanted.action,
                kind="power",
                task_state=wanted.task_state,
                params={"transition": transition},
                request_id=request_id,
            )

        await self._context.db.run(accept)

    async def reset_state(
        self, principal: Principal, server_id: str, *, vm_state: str, request_id: str
    ) -> None:
        """Set a server's state by hand, as an admin may."""

        def accept(tx: Tx) -> None:
            view = get_view(tx, server_id, principal)
            send_action(
                self._context,
                tx,
                view,
                principal,
                action="os-resetState",
                kind="reset-state",
                task_state=None,
                params={"vm_state": vm_state},
                request_id=request_id,
                vm_state=vm_state,
            )

        await self._context.db.run(accept)

    async def lock(
        self, principal: Principal, server_id: str, *, reason: str | None, request_id: str
    ) -> None:
        """Lock a server against changes by tenants."""
        await self._set_lock(
            principal, server_id, is_locked=True, reason=reason, request_id=request_id
        )

    async def unlock(self, principal: Principal, server_id: str, *, request_id: str) -> None:
        """Unlock a server; what an admin locked only an admin unlocks."""
        await self._set_lock(
            principal, server_id, is_locked=False, reason=None, request_id=request_id
        )

    async def console_output(
        self, principal: Principal, server_id: str, *, line_count: int | None
    ) -> str:
        """Give the last lines of a server's console, or all that is kept."""
        view = await self._context.db.read(get_view, server_id, principal)
        if view.instance is None or view.instance.host_id is None:
            raise Conflict(f"Instance {server_id} is not ready: no host has it yet")
        text: str = await self._context.node.ask(
            CellId(view.instance.cell_id),
            "console_log",
            {"instance_id": server_id, "byte_count": CONSOLE_LOG_BYTES_MAX},
        )
        if line_count is None or line_count < 0:
            return text
        lines = text.splitlines(keepends=True)
        return "".join(lines[len(lines) - line_count :]) if line_count < len(lines) else text

    async def list_actions(self, principal: Principal, server_id: str) -> list[Row]:
        """List what was asked of a server, newest first."""

        def read(tx: Tx) -> list[Row]:
            _get_even_deleted(tx, server_id, principal)
            return actions.list_actions(tx, server_id)

        return await self._context.db.read(read)

    async def show_action(
        self, principal: Principal, server_id: str, request_id: str
    ) -> tuple[Row, list[Row]]:
        """Get one action and its events."""

        def read(tx: Tx) -> tuple[Row, list[Row]]:
            _get_even_deleted(tx, server_id, principal)
            row = tx.find(actions.actions, instance_id=server_id, request_id=request_id)
            if row is None:
                raise NotFound(f"Action for request_id {request_id[:64]} on instance not found")
            return row, actions.list_events(tx, server_id, request_id)

        return await self._context.db.read(read)

    async def _set_lock(
        self,
        principal: Principal,
        server_id: str,
        *,
        is_locked: bool,
        reason: str | None,
        request_id: str,
    ) -> None:
        now = self._context.world.clock.now()

        def change(tx: Tx) -> None:
            view = get_view(tx, server_id, principal)
            server = view.server
            if (
                not is_locked
                and server.is_locked
                and server.locked_by_admin
                and (not principal.is_admin)
            ):
                raise Forbidden("This server was locked by an admin")
            update_server(
                tx,
                server_id,
                now_s=now,
                values={
                    "is_locked": is_locked,
                    "locked_reason": reason,
                    "locked_by_admin": is_locked
                    and principal.is_admin
                    and principal.project_id != server.project_id,
                },
            )
            actions.start_action(
                tx,
                instance_id=server_id,
                request_id=request_id,
                action="lock" if is_locked else "unlock",
                user_id=principal.user_id,
                project_id=principal.project_id or server.project_id,
                now_s=now,
            )

        await self._context.db.run(change)


def _get_even_deleted(tx: Tx, server_id: str, principal: Principal) -> Row:

    row = tx.find(servers, id=server_id)
    if row is None or not (principal.is_admin or row.project_id == principal.project_id):
        raise NotFound(f"Instance {server_id[:64]} could not be found.")
    return row
