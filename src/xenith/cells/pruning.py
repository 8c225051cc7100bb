"""Forgets intents that were answered, when no neighbour can bring them again."""

from __future__ import annotations

from collections.abc import Mapping

from xenith.cells.intents import prune
from xenith.core.world import World
from xenith.db import Database

#: Seconds that an answered intent is kept: a neighbour asks again within seconds of being back,
#: and one that was away for longer than a week is repaired by comparison, not by intents.
KEPT_S = 7 * 86400.0


class IntentPruning:
    """Deletes the rows of intents that were closed long ago."""

    name = "cells.intents"
    period_s = 3600.0

    def __init__(self, db: Database, world: World) -> None:
        self._db = db
        self._world = world

    async def activate(self) -> Mapping[str, int]:
        """Forget those that are old."""
        before_s = self._world.clock.now() - KEPT_S
        return {"forgotten": await self._db.run(prune, before_s=before_s)}
