"""What a cell says of itself when an operator looks at the tree: its links, its rows, its room.

Every cell answers, with hosts or without. What it says of others is what it knows of its own
neighbours; how old rows are, and who is dark, is for the asking cell to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from xenith.cells.capacity import CapacityClass
from xenith.cells.changes import Place
from xenith.cells.intents import count_open
from xenith.db import Tx

if TYPE_CHECKING:
    from xenith.cells.link import Link
    from xenith.cells.node import Node

#: Counters of a link that say that something was dropped here for want of room.
_DROPPED = ("no_credit", "too_long", "overflow")


class LinkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One end of a link. Counts are of this run of the cell."""

    peer: str
    is_open: bool = False
    #: Whether the neighbour answers; of a parent, whether the link is open.
    is_alive: bool = False
    sent: int = 0
    received: int = 0
    #: Frames that the bus did not take.
    unsent: int = 0
    dropped: int = 0
    #: What the neighbour sent and this cell would not have, by reason.
    refused: dict[str, int] = {}

    @property
    def refused_count(self) -> int:
        """All that was refused."""
        return sum(self.refused.values())


class CellStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A cell at one moment, by its own account."""

    cell_id: str
    #: Changes when its process starts anew.
    session: str = ""
    #: The version of the topology that it follows.
    topology: int = 0
    epoch: int = 0
    #: Its last change.
    number: int = 0
    #: Builds that it accepted in this session.
    decisions: int = 0
    has_hosts: bool = False
    #: Of this cell and all below it.
    host_count: int = 0
    hosts_up_count: int = 0
    server_count: int = 0
    classes: tuple[CapacityClass, ...] = ()
    #: Seconds since each child's own rows were known here to be whole.
    ages: dict[str, float] = {}
    #: Open intents by the child that has them; the undecided under an empty name.
    open_intents: dict[str, int] = {}
    parents: tuple[LinkStatus, ...] = ()
    children: tuple[LinkStatus, ...] = ()
    counts: dict[str, int] = {}


async def status_of(node: Node) -> CellStatus:
    """Tell how a cell is."""

    def read(tx: Tx) -> tuple[Place, dict[str, int]]:
        return node.changes.place(tx, node.cell_id), count_open(tx)

    place, open_intents = await node.db.read(read)
    digest = node.digest(0)
    ages = node.ages()
    return CellStatus(
        cell_id=node.cell_id,
        session=node.session,
        topology=node.topology.version,
        epoch=place.epoch,
        number=place.number,
        decisions=node.routing.decisions,
        has_hosts=node.is_leaf,
        host_count=digest.host_count,
        hosts_up_count=digest.hosts_up_count,
        server_count=digest.server_count,
        classes=digest.classes,
        ages={child: ages[child] for child in node.children if child in ages},
        open_intents=open_intents,
        parents=tuple(
            _link(each.link, is_alive=each.link.is_open) for each in node.parents.values()
        ),
        children=tuple(
            _link(each.link, is_alive=not node.chooser.is_dead(child))
            for child, each in node.children.items()
        ),
        counts=dict(node.counts),
    )


def _link(link: Link, *, is_alive: bool) -> LinkStatus:
    counts = link.counts
    return LinkStatus(
        peer=link.peer,
        is_open=link.is_open,
        is_alive=is_alive,
        sent=counts["sent"],
        received=counts["received"],
        unsent=counts["unsent"],
        dropped=sum(counts[name] for name in _DROPPED),
        refused={
            name.removeprefix("refused_"): count
            for name, count in sorted(counts.items())
            if name.startswith("refused_")
        },
    )
