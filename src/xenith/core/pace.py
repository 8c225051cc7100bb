"""How much work at a time leaves the loop quick: a limit that follows the loop's own turns.

Work that mostly waits may run by the hundreds; work that mostly computes would make each turn of
the loop long, and every request wait for it. So the limit falls when turns are long and rises when
they are short. Under virtual time turns take no time, and the limit stays at its most.
"""

from __future__ import annotations

import asyncio

from xenith.core.clock import Clock, SystemClock  # noqa: F401 - the doctest makes one

#: The longest turn that is not held to be too long: half the budget of a POST.
TURN_MAX_S = 0.0025
#: Seconds between two looks.
LOOK_PERIOD_S = 0.02
_FALL = 0.7
_RISE = 8


class Pace:
    """A limit between ``least`` and ``most``."""

    def __init__(self, clock: Clock, *, least: int, most: int) -> None:
        assert 0 < least <= most, "a pace needs room"
        self._clock = clock
        self._least = least
        self._most = most
        self.limit = most

    async def look(self) -> None:
        """Measure one turn of the loop and follow it."""
        began = self._clock.monotonic()
        await asyncio.sleep(0)
        self.follow(self._clock.monotonic() - began)

    def follow(self, turn_s: float) -> None:
        """Lower the limit after a long turn, raise it after a short one.

        >>> pace = Pace(SystemClock(), least=4, most=100)
        >>> pace.follow(0.1), pace.limit
        (None, 70)
        """
        if turn_s > TURN_MAX_S:
            self.limit = max(self._least, int(self.limit * _FALL))
        else:
            self.limit = min(self._most, self.limit + _RISE)
