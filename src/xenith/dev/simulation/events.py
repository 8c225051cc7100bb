"""What happened in a run, kept for its end: the last events, and what should never be logged.

While it is open, all that any room logs comes here with the virtual time and the process that said
it, and nothing is written out.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import structlog

from xenith.core import log
from xenith.dev.simulation.loop import SimulatedLoop
from xenith.dev.simulation.owner import OWNER

#: Events that are kept; a busy minute has some thousands.
EVENTS_MAX = 20_000
#: Levels at which an event is a mistake of ours: nothing that a run does from outside may cause it.
_MISTAKES = frozenset({"error", "critical"})
#: How a told error begins that is no word of a neighbour or a host but a mistake of ours, even
#: where it is caught and what was begun is begun again.
_BUGS = tuple(
    f"{kind.__name__}("
    for kind in (
        AssertionError,
        AttributeError,
        IndexError,
        KeyError,
        NameError,
        RecursionError,
        RuntimeError,
        TypeError,
        UnboundLocalError,
        ValueError,
    )
)
#: Mistakes that are told; one that repeats is told in the first of them.
MISTAKES_MAX = 20


class Event(NamedTuple):
    """One thing that happened."""

    at_s: float
    process: str
    level: str
    name: str
    fields: Mapping[str, Any]

    def __str__(self) -> str:
        """Write it as one line."""
        told = " ".join(f"{name}={value}" for name, value in self.fields.items())
        return f"{self.at_s:10.3f}  {self.process:16} {self.name} {told}".rstrip()


class Events:
    """The events of one run, the newest last."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self._kept: deque[Event] = deque(maxlen=EVENTS_MAX)
        #: Everything that was told, by name.
        self.counts: Counter[str] = Counter()
        #: Words that are shown as others: ids of cells by their names.
        self.names: dict[str, str] = {}
        #: What says that our own code is wrong.
        self.mistakes: list[str] = []

    def tell(self, name: str, **fields: Any) -> None:
        """Keep what the run itself does; it counts for the run's fingerprint."""
        event = self._keep("note", name, fields)
        self._loop.note(str(event).encode())

    def last(self, count: int, *, about: str = "") -> list[str]:
        """Give the last events, or the last that have ``about`` in them."""
        lines = (self._named(str(event)) for event in reversed(self._kept))
        return list(itertools.islice((line for line in lines if about in line), count))[::-1]

    def _named(self, line: str) -> str:
        for word, name in self.names.items():
            line = line.replace(word, name)
        return line

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take over all that is logged until the end of the block."""
        before = structlog.get_config()
        structlog.configure(
            processors=[log._blot_secrets, self._hear],  # noqa: SLF001 - the same rule
            wrapper_class=structlog.make_filtering_bound_logger(20),
            logger_factory=structlog.ReturnLoggerFactory(),
            cache_logger_on_first_use=False,
        )
        try:
            yield
        finally:
            structlog.configure(**before)

    def _hear(
        self, _logger: object, level: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        fields = dict(event)
        name = str(fields.pop("event"))
        fields.pop("exc_info", None)
        heard = self._keep(level, name, fields)
        is_mistake = level in _MISTAKES or str(fields.get("error", "")).startswith(_BUGS)
        if is_mistake and len(self.mistakes) < MISTAKES_MAX:
            trace = structlog.processors.format_exc_info(None, level, dict(event))
            self.mistakes.append(f"{heard}\n{trace.get('exception', '')}".rstrip())
        raise structlog.DropEvent

    def _keep(self, level: str, name: str, fields: Mapping[str, Any]) -> Event:
        owner = OWNER.get()
        process = "" if owner is None else owner.name
        event = Event(self._loop.time(), process, level, name, fields)
        self._kept.append(event)
        self.counts[name] += 1
        return event
