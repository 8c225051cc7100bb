"""What only Xenith's own operators ask: hosts to take in, and why a server is where it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from xenith.compute.operations.context import Context
from xenith.compute.operations.servers import get_view
from xenith.compute.records.hosts import hosts
from xenith.compute.states import status_of
from xenith.core.errors import Invalid
from xenith.db import Row, Tx
from xenith.http import Principal
from xenith.saga import list_of_subject


class HostTaker(Protocol):
    """Takes a host into a cell."""

    def __call__(
        self, *, name: str, url: str, user: str, password: str, zone: str
    ) -> Awaitable[str]:
        """Connect to the host and give its id."""


class HostBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A host to take in."""

    url: str
    password: str
    name: str = ""
    user: str = "root"
    zone: str = ""


class Operator:
    """Operations of the operators' own API."""

    def __init__(
        self, context: Context, *, take_host: HostTaker, down_reason: Callable[[str], str]
    ) -> None:
        self._context = context
        self._take_host = take_host
        self._down_reason = down_reason

    async def add_host(self, body: HostBody) -> dict[str, Any]:
        """Take a host in; it is used as soon as it answers."""
        if not body.url.startswith(("http://", "https://")):
            raise Invalid(f"{body.url[:100]} is no address of a XenAPI host: http(s)://HOST[:PORT]")
        name = body.name or body.url.partition("://")[2].partition("/")[0]
        host_id = await self._take_host(
            name=name,
            url=body.url.rstrip("/"),
            user=body.user,
            password=body.password,
            zone=body.zone or self._context.default_zone,
        )
        return await self._host(host_id)

    async def list_hosts(self) -> list[dict[str, Any]]:
        """List the hosts with what they have and whether they are up."""
        rows = await self._context.db.read(lambda tx: tx.list(hosts))
        return [self._shown(row) for row in rows]

    async def explain(self, principal: Principal, server_id: str) -> dict[str, Any]:
        """Tell why a server is where it is, or nowhere; names of hosts only to an admin."""

        def read(tx: Tx) -> tuple[Any, list[Any]]:
            return get_view(tx, server_id, principal), list_of_subject(tx, server_id)

        view, runs = await self._context.db.read(read)
        instance = view.instance
        choices = (instance.placement if instance is not None else None) or []
        fault = (instance.fault if instance is not None else None) or {}
        shown: dict[str, Any] = {
            "server": server_id,
            "status": status_of(view.vm_state, view.task_state),
            "choices": [_choice(choice, is_admin=principal.is_admin) for choice in choices],
            "fault": fault.get("message"),
            "sagas": [{"kind": run.kind, "state": run.state, "step": run.step} for run in runs],
        }
        if principal.is_admin:
            shown["host"] = instance.host_name if instance is not None else None
            shown["fault_details"] = fault.get("details")
        return shown

    async def _host(self, host_id: str) -> dict[str, Any]:
        return self._shown(await self._context.db.read(lambda tx: tx.get(hosts, id=host_id)))

    def _shown(self, row: Row) -> dict[str, Any]:
        is_up = self._context.is_host_up(row.id)
        facts = row.facts or {}
        return {
            "id": row.id,
            "name": row.name,
            "url": row.url,
            "zone": row.zone,
            "state": "up" if is_up else "down",
            "reason": "" if is_up else self._down_reason(row.id),
            "enabled": row.is_enabled,
            "memory_mib": facts.get("memory_mib"),
            "cpus": facts.get("cpus"),
            "disk_gib": facts.get("disk_gib"),
        }


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
