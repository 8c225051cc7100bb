"""An operator of a simulated region: changes the tree while it is in use, and puts it back.

Cells are drained and opened, weighed anew, and given and taken a second parent, by the root's own
operations. What is refused, since another edit came first or the root is dead, is left; what was
there at the beginning is there again at the end, as the checks take it to be.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TypeVar

from xenith.compute.operations.cell_edits import CellEdits, ChangeBody
from xenith.core.errors import XenithError
from xenith.dev.cells import Root
from xenith.dev.simulation.owner import ProcessDied
from xenith.dev.simulation.region import CellPlace, Region

T = TypeVar("T")

#: Seconds between two changes of the tree, on average: each is a document that all cells read.
PAUSE_S = 12.0
#: Seconds that an operator waits for an answer.
PATIENCE_S = 30.0
#: Tries to put one cell back as it was; all faults have ended by then.
RESTORES_MAX = 60
WEIGHTS = (0.1, 0.5, 1.0, 2.0)


class Operator:
    """``work`` goes on until it is cancelled; ``restore`` until the tree is as it was."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._ids = region.simulation.ids("operator")
        self._changed: dict[str, CellPlace] = {}
        #: What was changed, and what came of it.
        self.counts: Counter[str] = Counter()

    async def work(self) -> None:
        """Change one thing after the other."""
        while True:
            await asyncio.sleep(2 * PAUSE_S * self._ids.uniform())
            place = self._one_of(tuple(self._region.leaves))
            name, body = self._draw()
            self._changed[place.name] = place
            await self._try(name, place, body)

    async def restore(self) -> None:
        """Give every cell that was changed its state, its weight and its parents of before."""
        for place in self._changed.values():
            if place in self._region.removed:
                continue
            body = ChangeBody(state="open", weight=1.0, parents=place.entry.parents)
            for _ in range(RESTORES_MAX):
                if await self._try("restore", place, body):
                    break
                await asyncio.sleep(1.0)

    def _draw(self) -> tuple[str, ChangeBody]:
        drawn = self._ids.uniform()
        if drawn < 0.3:
            return "drain", ChangeBody(state="draining")
        if drawn < 0.6:
            return "open", ChangeBody(state="open")
        if drawn < 0.8:
            return "weigh", ChangeBody(weight=self._one_of(WEIGHTS))
        routers = tuple(one.id for one in self._region.plan.routers)
        first = self._one_of(routers)
        second = self._one_of(routers)
        return "give parents", ChangeBody(parents=tuple(dict.fromkeys((first, second))))

    async def _try(self, name: str, place: CellPlace, body: ChangeBody) -> bool:
        async def change(root: Root) -> None:
            await CellEdits(root.context).change(place.id, body)

        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._region.call(change)
        except XenithError as error:
            self.counts[f"{name} {type(error).__name__}"] += 1
        except (ProcessDied, TimeoutError):
            self.counts[f"{name} unanswered"] += 1
        else:
            self.counts[name] += 1
            self._region.events.tell(f"operator: {name}", cell=place.name)
            return True
        return False

    def _one_of(self, choices: tuple[T, ...]) -> T:
        return choices[self._ids.below(len(choices))]
