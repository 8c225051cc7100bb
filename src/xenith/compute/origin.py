"""What an API cell does with verdicts on what it asked: who has a server, or why nobody does."""

from __future__ import annotations

import base64
from collections.abc import Callable

import sqlalchemy as sa

from xenith.cells import intents as kinds
from xenith.cells.intents import Intent, Verdict
from xenith.compute.imaging import IMAGE
from xenith.compute.neighbours import Networking
from xenith.compute.operations.context import Context
from xenith.compute.projection import apply_change, end_resize, end_server
from xenith.compute.records.actions import EVENTS, finish_event, follow_event
from xenith.compute.records.hosts import HOSTS, hosts
from xenith.compute.records.instances import INSTANCES, KIND, instances
from xenith.compute.records.servers import servers
from xenith.core.log import logger
from xenith.db import Database, Row, Tx

_log = logger("compute.origin")

#: The tables of compute whose rows travel up the tree.
TABLES = (INSTANCES, HOSTS, EVENTS)

#: The event of an action that no cell came to do, by the kind of its intent.
_EVENTS = {
    kinds.BUILD: "compute__do_build_and_run_instance",
    kinds.DELETE: "compute_terminate_instance",
}


class HostStates:
    """Which hosts are up, as their cells last said; in memory, since every list asks."""

    def __init__(self) -> None:
        self._up: set[str] = set()

    def is_up(self, host_id: str) -> bool:
        """Tell whether a host answers its cell."""
        return host_id in self._up

    def load(self, tx: Tx) -> None:
        """Read all of them."""
        self._up = {row.id for row in tx.list(hosts, is_up=True, is_removed=False)}

    def follow(self, tx: Tx, row: Row) -> None:
        """Take over a host's row when it is committed."""
        change = self._up.add if row.is_up and not row.is_removed else self._up.discard
        tx.on_commit(lambda: change(row.id))


def follow_changes(db: Database, networks: Networking, states: HostStates) -> None:
    """Have an API cell's own rows follow those of its cells, in the same transactions."""
    db.on_row(KIND, lambda tx, row: apply_change(tx, networks, row))
    db.on_row(EVENTS.kind, follow_event)
    db.on_row(HOSTS.kind, states.follow)


class ComputeOrigin:
    """The compute service as its node's origin; ``context`` is made after the node."""

    def __init__(self, context: Callable[[], Context], networks: Networking) -> None:
        self._context = context
        self._networks = networks

    def answered(self, tx: Tx, intent: Intent, verdict: Verdict) -> None:
        """Follow the last word on an intent. Transaction function."""
        if verdict.answer == kinds.DONE:
            # What comes of it travels up as changes.
            return
        if intent.kind == IMAGE:
            # No cell makes it.
            self._context().images.drop_snapshot(tx, intent.params["image_id"])
        server = tx.find(servers, id=intent.subject)
        if server is None or server.deleted_at is not None:
            if (intent.kind, verdict.answer) == (kinds.BUILD, kinds.YES):
                # Room was taken for a server that is gone.
                send_delete(self._context(), tx, intent.subject, verdict.cell)
            return
        match intent.kind, verdict.answer:
            case kinds.BUILD, kinds.YES:
                self._own(tx, server, intent, verdict)
            case (kinds.BUILD, _):
                self._leave(tx, server, intent, verdict)
            case kinds.CONFIRM, kinds.ABSENT | kinds.NO:
                self._leave(tx, server, intent, verdict)
            case kinds.DELETE, kinds.ABSENT | kinds.NO:
                self._delete_elsewhere(tx, server, intent)
            case _, kinds.ABSENT | kinds.NO:
                self._refuse(tx, server, intent, verdict)

    def _own(self, tx: Tx, server: Row, intent: Intent, verdict: Verdict) -> None:
        """Write down which cell has a server, and let it begin.

        Only now, and under this id alone: whatever else was asked for the same server never will.
        """
        context = self._context()
        params = intent.params
        sealed = params["sealed_password"]
        if sealed is not None:
            secret = context.seal.open(base64.b64decode(sealed))
            sealed = context.seal_for(verdict.cell, secret)
        tx.update(servers, {"id": server.id}, cell_id=verdict.cell, trail=verdict.trail, fault=None)
        context.node.send(
            tx,
            subject=server.id,
            number=0,
            kind=kinds.CONFIRM,
            target=verdict.cell,
            params={"build": verdict.build, "sealed_password": sealed},
            principal=intent.principal,
            request_id=intent.request_id,
        )

    def _leave(self, tx: Tx, server: Row, intent: Intent, verdict: Verdict) -> None:
        """Say why no cell has a server; one that was being deleted is gone with that."""
        now = tx.world.clock.now()
        if server.pending_task_state == "deleting":
            # The delete overtook the word to begin, and what it left says nothing of this server
            # once no cell is named for it.
            end_server(tx, self._networks, server, now_s=now)
            self._note(tx, server, intent, verdict, now_s=now)
            return
        reason = verdict.reason or "The cell that had taken the server does not have it any more."
        tx.update(
            servers,
            {"id": server.id},
            cell_id=None,
            pending_task_state=None,
            updated_at=now,
            trail=verdict.trail,
            fault={
                "code": 500,
                "created": now,
                "message": reason,
                "details": verdict.detail or reason,
            },
        )
        self._note(tx, server, intent, verdict, now_s=now)

    def _delete_elsewhere(self, tx: Tx, server: Row, intent: Intent) -> None:
        """Delete a server in the cell that does have it; where none has, it is gone."""
        elsewhere = self._find_elsewhere(tx, server, intent.target)
        if elsewhere is not None:
            _log.info("server is elsewhere", server=server.id, named=intent.target, cell=elsewhere)
            tx.update(servers, {"id": server.id}, cell_id=elsewhere)
            self._context().node.send(
                tx,
                subject=server.id,
                number=intent.number,
                kind=kinds.DELETE,
                target=elsewhere,
                params=intent.params,
                principal=intent.principal,
                request_id=intent.request_id,
            )
            return
        now = tx.world.clock.now()
        end_server(tx, self._networks, server, now_s=now)
        finish_event(
            tx,
            instance_id=server.id,
            request_id=intent.request_id,
            event=_EVENTS[kinds.DELETE],
            attempt=1,
            host=None,
            started_s=intent.created_at,
            now_s=now,
        )

    def _find_elsewhere(self, tx: Tx, server: Row, asked: str) -> str | None:
        """Find the cell that has a server, other than the one that was asked and has it not."""
        if server.cell_id is not None and server.cell_id != asked:
            # It accepted the build while the delete was on its way; its rows may still come.
            return str(server.cell_id)
        statement = sa.select(instances.c.cell_id).where(
            instances.c.id == server.id,
            instances.c.cell_id != asked,
            instances.c.vm_state != "deleted",
        )
        found = tx.first(statement)
        return None if found is None else str(found.cell_id)

    def _refuse(self, tx: Tx, server: Row, intent: Intent, verdict: Verdict) -> None:
        """Have an action end that the server's cell did not do."""
        now = tx.world.clock.now()
        if server.intent_number == intent.number:
            tx.update(
                servers,
                {"id": server.id},
                pending_task_state=None,
                pending_vm_state=None,
                updated_at=now,
            )
        if server.resize is not None and server.resize["number"] == intent.number:
            end_resize(tx, server, is_new=False)
        self._note(tx, server, intent, verdict, now_s=now)

    def _note(self, tx: Tx, server: Row, intent: Intent, verdict: Verdict, *, now_s: float) -> None:
        finish_event(
            tx,
            instance_id=server.id,
            request_id=intent.request_id,
            event=_EVENTS.get(intent.kind, f"compute_{intent.kind.replace('-', '_')}_instance"),
            attempt=1,
            host=None,
            started_s=intent.created_at,
            now_s=now_s,
            error=verdict.detail or verdict.reason,
            details=verdict.reason or "The server's cell did not do it.",
        )


def send_delete(context: Context, tx: Tx, subject: str, cell_id: str) -> None:
    """Have a cell delete what it has of a server that is gone, or is another cell's."""
    context.node.send(
        tx,
        subject=subject,
        number=0,
        kind=kinds.DELETE,
        target=cell_id,
        params={},
        request_id=context.world.ids.request_id(),
    )
