"""The three things that make a run repeatable, passed to whoever needs one of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from xenith.core.clock import Clock, SystemClock
from xenith.core.ids import Ids


@dataclass(frozen=True)
class World:
    """A clock and a source of ids and chance; real by default, seeded under simulation."""

    clock: Clock = field(default_factory=SystemClock)
    ids: Ids = field(default_factory=Ids)
