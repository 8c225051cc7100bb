"""All that the air between two cells can do to a few messages, walked whole.

The cells are those of ``two_cells``. A walk joins two of them over the air. Nothing that was ever
sent leaves the air: it may arrive at any time, any number of times, also in a later session or
never. So every order, every loss and every number of repetitions is walked, and sending again what
was sent adds nothing. Since what arrives too late is the same as what is lost, only the cells' own
states say what must come of it, and each pair of them is mended and judged.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import structlog


def _load_cells() -> ModuleType:
    if "two_cells" not in sys.modules:
        path = Path(__file__).parent / "two_cells.py"
        spec = importlib.util.spec_from_file_location("two_cells", path)
        sys.modules["two_cells"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["two_cells"])
    return sys.modules["two_cells"]


two_cells = _load_cells()
Broken, Leaf, Root = two_cells.Broken, two_cells.Leaf, two_cells.Root
LEAF, nodes, run = two_cells.LEAF, two_cells.nodes, two_cells.run

#: Messages that differ and are sent before the link is mended, answers included, without hellos.
MESSAGES_MAX = 6
#: Rounds of sending again until everything must be at rest.
ROUNDS_MAX = 20


@dataclass(frozen=True)
class Scenario:
    """What is asked for, and what comes in between, each once and at any time."""

    events: tuple[str, ...] = ()
    has_build: bool = True
    #: Whether rows go up before the link is mended; they and intents do not meet.
    has_changes: bool = False
    #: Whether numbers may be lost and given anew, which only comparing finds.
    compares: bool = False
    #: Whether any two frames may also come so close together that they are handled together.
    together: bool = True
    limit: int = MESSAGES_MAX


@dataclass(frozen=True)
class Found:
    """How much a walk has seen."""

    states: int
    steps: int
    pairs: int
    runs: int
    #: Sequences of so many steps or fewer, each of which changes something.
    ways: int


#: Events by the cell at which they happen; a death too, with what it dies of.
AT_ROOT = frozenset({"move", "delete", "set", "restart_root"})
#: Steps of the ways that are counted.
WAY_STEPS = 12

#: Both cells, the frames in the air as bits, and the events to come as bits.
State = tuple[int, int, int, int]


class Walk:
    """Every way that a few messages between two cells can take."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.root, self.leaf = Root(), Leaf()
        self._frames: dict[bytes, int] = {}
        #: By frame: the cell that hears it, and the frame.
        self._heard: list[tuple[bool, bytes]] = []
        self._hellos = 0
        self._judged: set[tuple[int, int]] = set()
        self._following: dict[State, tuple[State, ...]] = {}
        self.steps = 0

    # -- the air

    def spread(self, air: int, frames: tuple[bytes, ...], *, by_root: bool) -> int:
        """Put frames into the air, but no more that are new than there may be."""
        for frame in frames:
            number = self._frames.setdefault(frame, len(self._heard))
            if number == len(self._heard):
                self._heard.append((not by_root, frame))
                if nodes.opened(frame)[1][0]["type"] == "hello":
                    self._hellos |= 1 << number
            bit = 1 << number
            if bit & self._hellos or (air & ~self._hellos).bit_count() < self.scenario.limit:
                air |= bit
        return air

    def in_air(self, air: int) -> Iterator[tuple[bool, bytes]]:
        while air:
            bit = air & -air
            yield self._heard[bit.bit_length() - 1]
            air ^= bit

    # -- what may happen

    def start(self) -> State:
        root, leaf = self.mend(self.root.take(), self.leaf.take())
        self.leaf.put_back(leaf)
        self.leaf.keep_copy()
        air = 0
        if self.scenario.has_build:
            begun = self.root.step(root, "wish")
            root, air = begun.state, self.spread(air, begun.frames, by_root=True)
        return root, leaf, air, (1 << len(self.scenario.events)) - 1

    def inputs(self, state: State) -> Iterator[tuple[bool, tuple[Any, ...], int]]:
        """Tell what may come next: where, what, and the events that are left then."""
        _, _, air, events = state
        heard = list(self.in_air(air))
        for at_root, frame in heard:
            yield at_root, ("hear", frame), events
            for with_root, other in heard if self.scenario.together else ():
                if with_root is at_root:
                    yield at_root, ("hear", frame, other), events
        for at_root in (True, False):
            yield at_root, ("retry",), events
        for number, event in enumerate(self.scenario.events):
            if not events >> number & 1:
                continue
            left = events & ~(1 << number)
            at_root = event in AT_ROOT
            if event.startswith("restart"):
                yield at_root, ("restart",), left
                for hears, frame in heard:
                    if hears is at_root:
                        yield at_root, ("die", frame), left
            else:
                yield at_root, (event,), left

    def follow(self, state: State) -> tuple[State, ...]:
        """Take each step that may be taken in a state."""
        root, leaf, air, _ = state
        found: dict[State, None] = {}
        quietly = not self.scenario.has_changes
        for at_root, given, left in self.inputs(state):
            if at_root:
                step = self.root.step(root, *given)
                to = step.state, leaf
            else:
                step = self.leaf.step(leaf, *given, quietly=quietly)
                to = root, step.state
            self.steps += 1
            found[(*to, self.spread(air, step.frames, by_root=at_root), left)] = None
        found.pop(state, None)
        return tuple(found)

    # -- the end of a way

    def mend(self, root: int, leaf: int) -> tuple[int, int]:
        """Have the link carry everything once and in order, until nothing more comes of it."""
        carried: list[tuple[bool, bytes]] = []
        at = {True: root, False: leaf}
        cells: dict[bool, Any] = {True: self.root, False: self.leaf}

        def take(at_root: bool, *given: Any) -> None:
            step = cells[at_root].step(at[at_root], *given)
            at[at_root] = step.state
            carried.extend((not at_root, frame) for frame in step.frames)

        for turn in range(ROUNDS_MAX):
            take(True, "retry")
            take(False, "retry")
            # What shows whether both speak in one session, when there is nothing else to be said.
            take(True, "ping")
            while carried:
                at_root, frame = carried.pop(0)
                take(at_root, "hear", frame)
            ours, theirs = self.root.facts(at[True]), self.leaf.facts(at[False])
            if ours[0] and theirs[0] and ours[1] and ours[2] == theirs[2]:
                return at[True], at[False]
            if self.scenario.compares and turn:
                # Numbers that were lost and given anew before the root could tell are found so.
                take(False, "compare")
        raise Broken("it never comes to rest")

    def judge(self, root: int, leaf: int) -> None:
        """Hold what becomes of two cells against what was asked."""
        end = self.mend(root, leaf)
        if end in self._judged:
            return
        self._judged.add(end)
        self.root.put_back(end[0])
        self.leaf.put_back(end[1])

        def things(tx: Any) -> Any:
            return tx.list(nodes.things, cell_id=LEAF)

        found = run(self.leaf.db.read(things))
        _hold(
            {row.id: row.value for row in run(self.root.db.read(things))}
            == {row.id: row.value for row in found},
            "the root sees other rows than the leaf has",
        )
        if not self.scenario.has_build:
            return
        wished = run(self.root.db.read(lambda tx: tx.get(nodes.wishes, id="a")))
        found = [row for row in found if row.id == "a"]
        match wished.state:
            case "owned":
                _hold([row.begun for row in found] == [1], "what is owned has begun once")
                _hold(not found[0].is_gone, "what is owned is there")
                is_set = any(kind == "set" for kind, _, _ in wished.heard)
                _hold(not is_set or found[0].value == "new", "what was set stays set")
            case "gone" | "failed":
                _hold(all(row.is_gone for row in found), "what is gone is gone")
            case state:
                raise Broken(f"the wish is still {state}")
        held = self.leaf.executor.held - {"other", "another"}
        _hold(held == {row.id for row in found if not row.is_gone}, "room is let go")

    # -- the walk

    def go(self) -> Found:
        """Take all ways, and judge each pair of states that the cells can be in."""
        start = self.start()
        following = self._following
        pairs: set[tuple[int, int]] = set()
        waiting = [start]
        while waiting:
            state = waiting.pop()
            if state in following:
                continue
            if state[:2] not in pairs:
                pairs.add(state[:2])
                self.judge(*state[:2])
            following[state] = self.follow(state)
            waiting += [one for one in following[state] if one not in following]
        return Found(
            len(following),
            self.steps,
            len(pairs),
            self.root.runs + self.leaf.runs,
            self.count_ways(start),
        )

    def count_ways(self, start: State) -> int:
        total, ways = 1, {start: 1}
        for _ in range(WAY_STEPS):
            further: dict[State, int] = {}
            for state, count in ways.items():
                for following in self._following[state]:
                    further[following] = further.get(following, 0) + count
            ways = further
            total += sum(ways.values())
        return total


def _hold(is_so: bool, told: str) -> None:
    if not is_so:
        raise Broken(f"it is not so that {told}")


def be_quiet() -> Callable[[], None]:
    """Say nothing of each of many thousand steps; give what ends that."""
    old = structlog.get_config()["wrapper_class"]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    return lambda: structlog.configure(wrapper_class=old)
