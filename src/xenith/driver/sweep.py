"""Disks that nobody can use are removed: half imports, nameless clones, doubles.

The repository may be other drivers' too, so that what looks like a stray may be a disk that one of
them is making: an import whose claim is alive is left alone, and a clone has time for its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xenith.core.clock import Clock
from xenith.core.errors import NotFound, XenithError
from xenith.core.log import logger
from xenith.driver.chains import Record
from xenith.driver.connection import HostConnection
from xenith.driver.faults import Spoken
from xenith.driver.image_claims import ImageClaims
from xenith.driver.names import IMAGE_KEY, is_half_import, is_stray

_log = logger("driver.sweep")

#: Seconds that a clone has for its name: a resize may come between.
CLONE_NAMELESS_MAX_S = 60.0


class Sweep:
    """Removes strays from one host."""

    def __init__(self, clock: Clock, line: HostConnection, claims: ImageClaims) -> None:
        self._clock = clock
        self._line = line
        self._claims = claims
        #: When each nameless clone was first seen.
        self._seen_s: dict[str, float] = {}

    async def __call__(self, strays: Sequence[str], records: Mapping[str, Record]) -> int:
        """Remove those of some strays that nobody is making; tell how many stay for later."""
        now = self._clock.monotonic()
        self._seen_s = {ref: self._seen_s.get(ref, now) for ref in strays}
        name = self._line.address.name
        with Spoken(name, "tell which images are on their way"):
            coming = await self._claims.sweep()
        left = 0
        for ref in strays:
            if is_half_import(records[ref]):
                if records[ref]["other_config"][IMAGE_KEY] in coming:
                    left += 1
                    continue
            elif is_stray(records[ref]) and now - self._seen_s[ref] < CLONE_NAMELESS_MAX_S:
                left += 1
                continue
            try:
                with Spoken(name, "remove a stray disk"):
                    if await self._is_as_it_was(ref, records[ref]):
                        await self._line.call("VDI.destroy", ref)
            except NotFound:
                continue
            except XenithError as error:
                left += 1
                _log.warning("stray disk stays", host=name, error=str(error))
        return left

    async def _is_as_it_was(self, ref: str, record: Record) -> bool:
        """Tell whether a disk has got no name and no mark since its record was read.

        Who had a claim and has it no more may have come to the end.
        """
        now = await self._line.call("VDI.get_record", ref)
        return all(now[field] == record[field] for field in ("name_label", "other_config"))
