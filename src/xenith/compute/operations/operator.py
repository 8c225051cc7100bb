"""What only Xenith's own operators ask: hosts to take in, and why a server is where it is."""

from __future__ import annotations

from typing import Any

import msgspec

from xenith.compute.operations.cell_edits import CellEdits
from xenith.compute.operations.cell_images import CellImages
from xenith.compute.operations.cell_tree import CellTree
from xenith.compute.operations.context import Context
from xenith.compute.operations.servers import get_view
from xenith.compute.operations.smoke_test import SmokeTest
from xenith.compute.operations.storage import HostsStorage
from xenith.compute.records.hosts import hosts
from xenith.compute.states import status_of
from xenith.core.errors import Invalid, Unavailable
from xenith.core.ids import CellId
from xenith.db import Row
from xenith.http import Principal


class HostBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A host to take in."""

    url: str
    password: str
    name: str = ""
    user: str = "root"
    zone: str = ""
    #: The cell's id or name; may be left out where only one has hosts.
    cell: str = ""


class Operator:
    """Operations of the operators' own API."""

    def __init__(self, context: Context) -> None:
        self._context = context
        #: What cells ask for with their own signature.
        self.cell_images = CellImages(context)
        self.cells = CellTree(context)
        self.cell_edits = CellEdits(context)
        self.smoke_test = SmokeTest(context)
        self.storage = HostsStorage(context)

    async def add_host(self, body: HostBody) -> dict[str, Any]:
        """Take a host in; it is used as soon as it answers."""
        if not body.url.startswith(("http://", "https://")):
            raise Invalid(f"{body.url[:100]} is no address of a XenAPI host: http(s)://HOST[:PORT]")
        name = body.name or body.url.partition("://")[2].partition("/")[0]
        cell_id = self._cell(body.cell)
        told = await self._context.node.ask(
            cell_id,
            "add_host",
            {
                "name": name,
                "url": body.url.rstrip("/"),
                "user": body.user,
                "sealed_password": self._context.seal_for(cell_id, body.password.encode()),
                "zone": body.zone or self._context.default_zone,
            },
        )
        await self._context.node.wait_for(cell_id, told["number"])
        return await self._host(told["host_id"])

    def _cell(self, named: str) -> CellId:
        """Give the cell that a host is for.

        Raises:
            Invalid: none is named, and there are several.
            NotFound: there is none of that name.
        """
        topology = self._context.node.topology
        if named:
            return topology.get(named).id
        leaves = [entry.id for entry in topology.cells if not topology.children(entry.id)]
        if len(leaves) != 1:
            raise Invalid(f"Say which of the {len(leaves)} cells the host is for.")
        return leaves[0]

    async def list_hosts(self) -> list[dict[str, Any]]:
        """List the hosts with what they have and whether they are up."""
        rows = await self._context.db.read(lambda tx: tx.list(hosts, is_removed=False))
        return [self._shown(row) for row in rows]

    async def explain(self, principal: Principal, server_id: str) -> dict[str, Any]:
        """Tell why a server is where it is, or nowhere; names of hosts only to an admin."""
        view = await self._context.db.read(get_view, server_id, principal)
        instance = view.instance
        told = view.server.fault if instance is None else instance.fault
        fault = told or {}
        trail = view.server.trail or []
        below = await self._explained(instance)
        choices = below["placement"] or [step for step in trail if "host_count" in step]
        shown: dict[str, Any] = {
            "server": server_id,
            "status": status_of(view.vm_state, view.task_state),
            "cells": [
                _cell_choice(step, is_admin=principal.is_admin)
                for step in trail
                if "host_count" not in step
            ],
            "choices": [_choice(choice, is_admin=principal.is_admin) for choice in choices],
            "fault": fault.get("message"),
            "sagas": below["sagas"],
        }
        if principal.is_admin:
            shown["cell"] = self._path(view.server.cell_id)
            shown["host"] = instance.host_name if instance is not None else None
            shown["fault_details"] = fault.get("details")
        return shown

    def _path(self, cell_id: str | None) -> str | None:
        if cell_id is None:
            return None
        topology = self._context.node.topology
        return topology.path(CellId(cell_id)) if topology.find(cell_id) else cell_id

    async def _explained(self, instance: Row | None) -> dict[str, Any]:
        """Ask a server's cell what it knows; a cell that is away does not hold the rest up."""
        nothing: dict[str, Any] = {"placement": [], "sagas": []}
        if instance is None:
            return nothing
        params = {"instance_id": instance.id}
        try:
            found: dict[str, Any] = await self._context.node.ask(
                CellId(instance.cell_id), "explain", params, timeout_s=3.0
            )
        except Unavailable:
            return nothing
        return found

    async def _host(self, host_id: str) -> dict[str, Any]:
        return self._shown(await self._context.db.read(lambda tx: tx.get(hosts, id=host_id)))

    def _shown(self, row: Row) -> dict[str, Any]:
        facts = row.facts or {}
        return {
            "id": row.id,
            "name": row.name,
            "cell": self._path(row.cell_id),
            "url": row.url,
            "zone": row.zone,
            "state": "up" if row.is_up else "down",
            "reason": row.down_reason,
            "enabled": row.is_enabled,
            "memory_mib": facts.get("memory_mib"),
            "cpus": facts.get("cpus"),
            "disk_gib": facts.get("disk_gib"),
        }


def _cell_choice(step: dict[str, Any], *, is_admin: bool) -> dict[str, Any]:
    if is_admin:
        return step
    # How many there are helps to see what asks for too much; which they are does not.
    return {"cell_count": step["cell_count"], "filters": step["filters"]}


def _choice(choice: dict[str, Any], *, is_admin: bool) -> dict[str, Any]:
    shown = {
        "attempt": choice["attempt"],
        "hosts": choice["host_count"],
        "filters": choice["filters"],
    }
    if is_admin:
        shown["weights"] = choice["weights"]
        shown["misses"] = choice["misses"]
    else:
        # What a host lacks helps a tenant to ask for less; which host it is does not.
        shown["misses"] = [
            {"lacks": [{"filter": lack["filter"]} for lack in miss["lacks"]]}
            for miss in choice["misses"]
        ]
    return shown
