"""How many instances of a project, or of a server group, each host has.

Sparse, because a cloud has many thousand projects and each is on few hosts; yet read as a whole
column, so each key keeps its hosts and counts in two small arrays that scatter in one step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class _Spread:
    """The hosts of one key: slots [0, used) of two arrays; a host at zero gives up its slot."""

    __slots__ = ("counts", "hosts", "slots", "used")

    def __init__(self) -> None:
        self.hosts = np.zeros(4, np.int64)
        self.counts = np.zeros(4, np.int64)
        self.slots: dict[int, int] = {}
        self.used = 0

    def add(self, host_index: int) -> None:
        slot = self.slots.get(host_index)
        if slot is not None:
            self.counts[slot] += 1
            return
        if self.used == len(self.hosts):
            self.hosts = np.concatenate([self.hosts, np.zeros_like(self.hosts)])
            self.counts = np.concatenate([self.counts, np.zeros_like(self.counts)])
        slot = self.slots[host_index] = self.used
        self.hosts[slot] = host_index
        self.counts[slot] = 1
        self.used += 1

    def subtract(self, host_index: int) -> None:
        slot = self.slots[host_index]
        self.counts[slot] -= 1
        if self.counts[slot] > 0:
            return
        last = self.used = self.used - 1
        del self.slots[host_index]
        if slot != last:
            moved = int(self.hosts[last])
            self.hosts[slot] = moved
            self.counts[slot] = self.counts[last]
            self.slots[moved] = slot


class Tally:
    """Counts per key and host index.

    >>> tally = Tally()
    >>> tally.add("blue", 2); tally.add("blue", 2); tally.add("blue", 0)
    >>> tally.column("blue", 4).tolist()
    [1, 0, 2, 0]
    >>> tally.subtract("blue", 0); tally.hosts("blue").tolist()
    [2]
    >>> tally.column("red", 4) is None
    True
    """

    def __init__(self) -> None:
        self._spreads: dict[str, _Spread] = {}

    def __len__(self) -> int:
        return len(self._spreads)

    def add(self, key: str, host_index: int) -> None:
        """Count one more."""
        spread = self._spreads.get(key)
        if spread is None:
            spread = self._spreads[key] = _Spread()
        spread.add(host_index)

    def subtract(self, key: str, host_index: int) -> None:
        """Count one less; it was counted before."""
        spread = self._spreads[key]
        spread.subtract(host_index)
        if spread.used == 0:
            del self._spreads[key]

    def count(self, key: str, host_index: int) -> int:
        """Tell how many the host has."""
        spread = self._spreads.get(key)
        slot = None if spread is None else spread.slots.get(host_index)
        return 0 if spread is None or slot is None else int(spread.counts[slot])

    def hosts(self, key: str) -> NDArray[np.int64]:
        """List the indices of the hosts that have any."""
        spread = self._spreads.get(key)
        return np.zeros(0, np.int64) if spread is None else spread.hosts[: spread.used].copy()

    def column(self, key: str, row_count: int) -> NDArray[np.int64] | None:
        """Give the counts, one for each host; None when no host has any."""
        spread = self._spreads.get(key)
        if spread is None:
            return None
        column = np.zeros(row_count, np.int64)
        column[spread.hosts[: spread.used]] = spread.counts[: spread.used]
        return column
