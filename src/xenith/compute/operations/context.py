"""What every compute operation works with."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xenith.cells.node import Node
from xenith.compute.neighbours import ImageSource, Networking, Projects
from xenith.core.errors import NotFound
from xenith.core.ids import CellId
from xenith.core.world import World
from xenith.db import Database


@dataclass(frozen=True)
class Seal:
    """Encrypts the few secrets that rows must hold, with a key that is in no row."""

    close: Callable[[bytes], bytes]
    open: Callable[[bytes], bytes]


@dataclass(frozen=True)
class Context:
    """The API cell's side of compute: its rows, its neighbours, its way down."""

    db: Database
    world: World
    node: Node
    images: ImageSource
    networks: Networking
    projects: Projects
    seal: Seal
    #: Tells whether a host answers its cell, as that last said.
    is_host_up: Callable[[str], bool]
    #: Every server gets a config drive, whether asked for or not.
    has_forced_config_drive: bool = False
    #: The zone of hosts that are in none. Source: nova `default_availability_zone`.
    default_zone: str = "nova"

    def seal_for(self, cell_id: str, secret: bytes) -> str:
        """Seal a secret so that one cell alone can open it, as base64.

        Raises:
            NotFound: there is no such cell, or its key counts no more.
        """
        key = self.node.topology.public_key_of(CellId(cell_id))
        if key is None:
            raise NotFound(f"cell {cell_id} has no key")
        return base64.b64encode(key.seal(secret)).decode()

    async def change_host(self, host: Any, **values: Any) -> None:
        """Have a host's cell change what an operator says of the host, and wait to hear of it.

        Raises:
            Unavailable: the cell does not answer.
            Conflict: the host has servers, and what is asked would move them.
        """
        cell_id = CellId(host.cell_id)
        params = {"host_id": host.id, "values": values}
        told = await self.node.ask(cell_id, "change_host", params)
        await self.node.wait_for(cell_id, told["number"])
