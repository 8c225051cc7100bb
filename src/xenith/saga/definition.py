"""What a saga is: named steps, each with its undo beside it, and what follows at either end.

A definition is data. A step's ``do`` may be run again at any time, also when it had already taken
effect, and its ``undo`` also when the ``do`` never ran; whoever writes both keeps that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from xenith.core.ids import RequestId, SagaId
from xenith.db import Tx

C = TypeVar("C")

#: Seconds that a step may take when it does not say: a host's slowest answer that is not a stream.
STEP_TIMEOUT_S = 300.0

RUNNING, UNWINDING, DONE, UNWOUND, STUCK = "running", "unwinding", "done", "unwound", "stuck"
#: States in which a saga still holds its subject: the next one of the subject waits.
OPEN_STATES = (RUNNING, UNWINDING, STUCK)


@dataclass(slots=True)
class Run:
    """One run of a saga, as its steps see it. Steps read it; only the engine changes it.

    ``data`` holds what the steps so far gave. ``attempt`` is above 1 when this step or undo may
    have been begun before. ``error`` (once unwinding) has ``class``, ``kind``, ``step``,
    ``message`` (fit for a tenant) and ``detail`` (for an admin).
    """

    id: SagaId
    kind: str
    subject: str
    params: dict[str, Any]
    data: dict[str, Any]
    attempt: int
    state: str
    step: int
    is_cancelled: bool
    error: dict[str, str] | None
    request_id: RequestId | None
    #: The step that the row says is next; ``step`` may be ahead of it by light ones.
    recorded: int = 0
    #: The last step that may have begun in an earlier process.
    reached: int = -1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step gives: ``data`` to keep, and rows to write in the step's own transaction.

    ``record`` is a transaction function: it may be run twice and must change nothing but rows.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    record: Callable[[Tx], None] | None = None


Action = Callable[[C, Run], Awaitable["Outcome | None"]]
Ending = Callable[[Tx, Run], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Generic[C]):
    """An effect and how to take it back."""

    name: str
    do: Action[C]
    #: None for a step that leaves nothing behind.
    undo: Action[C] | None = None
    timeout_s: float = STEP_TIMEOUT_S
    #: Whether ``cancel`` interrupts the step's await rather than waiting for its end.
    is_cancellable: bool = False
    #: Whether it only waits, for long perhaps, and leaves its place to others meanwhile.
    is_wait: bool = False
    #: Whether its progress is recorded only with that of the next step: for one that writes no rows
    #: and is quick to do again. Never the last.
    is_light: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Saga(Generic[C]):
    """Steps in order. ``on_done`` and ``on_unwound`` run in the transaction that ends the saga."""

    name: str
    steps: tuple[Step[C], ...]
    on_done: Ending | None = None
    on_unwound: Ending | None = None

    def __post_init__(self) -> None:
        names = [step.name for step in self.steps]
        assert names, f"saga {self.name} has no steps"
        assert len(set(names)) == len(names), f"saga {self.name} names a step twice"
        assert not self.steps[-1].is_light, f"saga {self.name} ends with a step that leaves no word"

    def reach(self, step: int) -> int:
        """Tell the last step that may have begun when ``step`` is the next one on record."""
        while 0 <= step < len(self.steps) and self.steps[step].is_light:
            step += 1
        return step
