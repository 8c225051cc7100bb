"""What drifts in the network service: counts beside the rows that they count."""

from __future__ import annotations

from collections.abc import Mapping

from xenith.db import Database
from xenith.network.records.quotas import recount_usage


class UsageRecount:
    """Makes quota usage equal to the rows that it counts; it should find nothing, ever."""

    name = "network.usage"
    period_s = 3600.0

    def __init__(self, db: Database) -> None:
        self._db = db

    async def activate(self) -> Mapping[str, int]:
        """Count anew."""
        return {"corrected": await self._db.run(recount_usage)}
