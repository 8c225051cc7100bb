"""A process's own clock on the loop's virtual time: set wrong by some seconds, and a bit too fast.

No two machines agree on the time. Whatever compares times of two cells meets that here.
"""

from __future__ import annotations

import asyncio

#: What the wall shows when a simulation begins, in seconds since the epoch.
EPOCH_S = 1_700_000_000.0


class SimulatedClock:
    """A ``Clock`` that is off by ``skew_s``, and ahead by ``drift`` seconds in each second."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, skew_s: float = 0.0, drift: float = 0.0
    ) -> None:
        assert drift > -1, "a clock goes forward"
        self._loop = loop
        self._rate = 1.0 + drift
        #: May be changed at any time, as when an operator sets the clock.
        self.skew_s = skew_s

    def now(self) -> float:
        """Tell the wall time that this process believes in."""
        return EPOCH_S + self.skew_s + self.monotonic()

    def monotonic(self) -> float:
        """Tell the seconds that this clock has counted; setting it does not change them."""
        return self._loop.time() * self._rate

    async def sleep(self, delay_s: float) -> None:
        """Wait ``delay_s`` seconds of this clock."""
        await asyncio.sleep(delay_s / self._rate)
