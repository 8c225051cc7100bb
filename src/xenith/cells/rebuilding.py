"""A projection made anew: what a cell knows of others is dropped, and told again from below.

Rows of an origin are dropped only where a child that leads there answers, since nothing else can
bring them back. The child is told that this cell stands at nothing, and is told again until it
has heard, as a link may lose that word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from xenith.cells.changes import Place
from xenith.cells.messages import ChangesAck
from xenith.core.ids import CellId
from xenith.db import Tx

if TYPE_CHECKING:
    from xenith.cells.node import Node

#: Seconds until an origin that did not begin to come is asked for again.
ASK_AGAIN_S = 2.0
#: Seconds between looks at how far the rows have come.
_LOOK_S = 0.05


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it in one cell, as ids of origins."""

    #: As far again as they were when they were dropped.
    whole: tuple[CellId, ...] = ()
    #: Dropped, and still on their way when the time was up.
    coming: tuple[CellId, ...] = ()
    #: Left as they are: no child that leads there answers.
    untouched: tuple[CellId, ...] = ()


async def rebuild(node: Node, cell_id: CellId, *, timeout_s: float) -> Rebuilt:
    """Drop what this cell knows of another and of all below that, and have it told anew.

    Of itself a cell has nothing from others: asked for its own id, it rebuilds all below it.
    """
    topology = node.topology
    named = set() if cell_id == node.cell_id else {cell_id}
    origins = sorted((named | topology.descendants(cell_id)) & topology.descendants(node.cell_id))
    ways = {origin: way for origin in origins if (way := _ways(node, origin))}
    stood = await node.db.run(_forget, node, list(ways))
    for origin in ways:
        node.as_of.pop(origin, None)
    until = node.world.clock.monotonic() + timeout_s
    whole: set[CellId] = set()
    asked_at = -ASK_AGAIN_S
    while True:
        now = node.world.clock.monotonic()
        stand = await node.db.read(_stand, node, list(ways))
        whole = {each for each in ways if _is_as_far(stand[each], stood[each])}
        if len(whole) == len(ways) or now > until:
            break
        if now - asked_at >= ASK_AGAIN_S:
            asked_at = now
            for origin in ways.keys() - whole:
                # Where it stands now: what has come meanwhile need not come again.
                for hop in ways[origin]:
                    node.children[hop].link.post(ChangesAck(origin, stand[origin]))
        await node.world.clock.sleep(_LOOK_S)
    return Rebuilt(
        whole=tuple(sorted(whole)),
        coming=tuple(sorted(ways.keys() - whole)),
        untouched=tuple(origin for origin in origins if origin not in ways),
    )


def _ways(node: Node, origin: CellId) -> list[CellId]:
    return [
        hop
        for hop in node.topology.next_hops(node.cell_id, origin)
        if hop in node.children
        and node.children[hop].link.is_open
        and not node.chooser.is_dead(hop)
    ]


def _forget(tx: Tx, node: Node, origins: list[CellId]) -> dict[CellId, Place]:
    """Drop origins, and tell where each stood. Transaction function."""
    stood = _stand(tx, node, origins)
    for origin in origins:
        node.changes.forget(tx, origin)
    return stood


def _stand(tx: Tx, node: Node, origins: list[CellId]) -> dict[CellId, Place]:
    return {origin: node.changes.place(tx, origin) for origin in origins}


def _is_as_far(stand: Place, stood: Place) -> bool:
    # Of an origin that never changed anything, there is nothing to come.
    return stood.number == 0 or (stand.epoch, stand.number) >= (stood.epoch, stood.number)
