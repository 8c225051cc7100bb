"""What a reconciler is: a name, a period, and ``activate``, which takes nothing.

By habit ``activate`` reads what is wanted and what is there, hands both to ``plan``, a pure
function that tests can feed, and does what the plan says with ``execute``. It may run at any time,
twice, and after having died half way. ``saga.reconcilers`` shows the shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

#: What an activation did, by name: ``{"pruned": 3}``. Nothing done is an empty one.
Report = Mapping[str, int]


class Reconciler(Protocol):
    """Makes what is like what is wanted."""

    @property
    def name(self) -> str:
        """Its name in logs and metrics: ``sagas.prune``."""

    @property
    def period_s(self) -> float:
        """Seconds between two activations when nothing hints at one."""

    async def activate(self) -> Report:
        """Compare, plan and execute once; tell what was done."""
