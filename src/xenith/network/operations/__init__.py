"""The context of the network service: its rows, and the contract that compute calls."""

from __future__ import annotations

from collections.abc import Sequence

from xenith.core.world import World
from xenith.db import Database, Tx
from xenith.http import Principal
from xenith.network.operations import bootstrap, claims
from xenith.network.operations.claims import FixedAddress, NicRequest, PortInfo

__all__ = ["FixedAddress", "Networks", "NicRequest", "PortInfo"]


class Networks:
    """The network service of one cloud."""

    def __init__(self, db: Database, world: World) -> None:
        self.db = db
        self.world = world

    async def ensure_demo_network(self) -> None:
        """Make the network that a new cloud begins with, when there is none at all.

        It is called ``shared`` and belongs to no project: everyone may have ports on it, so that a
        newcomer's first server, with ``--network shared`` or ``--nic auto``, has an address. Only
        an admin can change or delete it; a cloud that has other networks does not get it again.
        """
        await self.db.run(bootstrap.ensure_shared_network)

    def claim_ports(
        self,
        tx: Tx,
        principal: Principal,
        *,
        instance_id: str,
        zone: str,
        requests: Sequence[NicRequest] | None,
    ) -> list[PortInfo]:
        """Give a server its ports; ``None`` asks for the only network. Transaction function."""
        return claims.claim_ports(
            tx, principal, instance_id=instance_id, zone=zone, requests=requests
        )

    def bind_ports(self, tx: Tx, *, instance_id: str, host: str) -> None:
        """Say that a server's ports are up on a host. Transaction function."""
        claims.bind_ports(tx, instance_id=instance_id, host=host)

    def release_ports(self, tx: Tx, *, instance_id: str) -> None:
        """Delete a server's own ports and let go of the others. Transaction function."""
        claims.release_ports(tx, instance_id=instance_id)

    def list_ports(self, tx: Tx, *, instance_ids: Sequence[str]) -> dict[str, list[PortInfo]]:
        """List the ports of servers, by server. Transaction function."""
        return claims.list_ports(tx, instance_ids=instance_ids)
