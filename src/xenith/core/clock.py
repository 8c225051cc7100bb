"""Time, injected: the wall clock of a real process, or one that a test moves by hand.

Seconds are floats since the epoch (wall) or since an arbitrary point (monotonic).
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What tells the time and waits for it."""

    def now(self) -> float:
        """Tell the wall time in seconds since the epoch."""

    def monotonic(self) -> float:
        """Tell a time in seconds that never goes back; only differences mean anything."""

    async def sleep(self, delay_s: float) -> None:
        """Wait ``delay_s`` seconds of this clock."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        """Tell the wall time in seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Tell the machine's monotonic time in seconds."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Wait on the running loop."""
        await asyncio.sleep(delay_s)


class ManualClock:
    """A clock that stands still until ``advance`` is called; for tests."""

    def __init__(self, start_s: float = 1_700_000_000.0) -> None:
        self._now = start_s
        self._start = start_s
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> float:
        """Tell the time that the test set."""
        return self._now

    def monotonic(self) -> float:
        """Tell the seconds since this clock was made."""
        return self._now - self._start

    async def sleep(self, delay_s: float) -> None:
        """Wait until the test has advanced this far."""
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (self._now + delay_s, next(self._order), future))
        await future

    async def advance(self, delay_s: float) -> None:
        """Move time on, waking sleepers in order and letting each run."""
        until = self._now + delay_s
        while self._waiting and self._waiting[0][0] <= until:
            due, _, future = heapq.heappop(self._waiting)
            self._now = max(self._now, due)
            if not future.done():
                future.set_result(None)
            for _ in range(10):  # let what woke run to its next wait
                await asyncio.sleep(0)
        self._now = until
        await asyncio.sleep(0)


def iso_seconds(at_s: float) -> str:
    """Write a time as OpenStack's compute and image APIs do.

    >>> iso_seconds(0)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(int(at_s), UTC).isoformat()[:19] + "Z"


def iso_micros(at_s: float) -> str:
    """Write a time with microseconds, as identity tokens and instance actions do.

    >>> iso_micros(0.5)
    '1970-01-01T00:00:00.500000Z'
    """
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="microseconds")[:26] + "Z"


def parse_iso(text: str) -> float:
    """Read an ISO 8601 time; one without an offset is UTC.

    Raises:
        ValueError: the text is not such a time.

    >>> parse_iso("1970-01-01T00:00:01Z")
    1.0
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()
