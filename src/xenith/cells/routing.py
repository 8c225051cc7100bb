"""Where intents go: written down once, planned in memory, decided in a transaction, answered.

An intent comes from a parent or from this cell's own root. It is planned on the loop, where the
choice of a child or the claim of a host is made; the transaction that writes it down has the last
word, and what was planned for nothing is given back. Verdicts come the other way. A build that is
with a cell that does not answer is taken back and fenced there, and goes to another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from xenith.cells import intents as rows
from xenith.cells.choosing import Choice, NoCell
from xenith.cells.intents import (
    ABSENT,
    BUILD,
    DELETE,
    DONE,
    FENCE,
    NO,
    TAKEN,
    YES,
    Intent,
    Verdict,
    hop_id,
    intent_of,
    verdict_of,
)
from xenith.core.errors import Invalid, Unavailable
from xenith.core.ids import CellId
from xenith.core.tasks import TaskOwner
from xenith.db import Row, Tx

if TYPE_CHECKING:
    from xenith.cells.node import Node

#: Seconds between looks at what is undecided, overdue, or with a child that is dead.
TICK_S = 1.0
#: Ticks between looks at what is undecided when nothing is known to wait; hints come sooner.
LOOK_TICKS = 5
#: Seconds that a cell between waits for a cell below, before it says no and others are tried. A
#: process that is started anew is back in less.
GIVE_UP_S = 30.0
#: Times that an intent is given away before a child is believed that its way leads nowhere.
UNROUTED_MAX = 10
#: Seconds by which clocks of two cells may differ before a deadline is held to have passed.
CLOCK_SKEW_MAX_S = 30.0


@dataclass(slots=True)
class _Plan:
    """What is to be done with one intent, decided in memory; the transaction has the last word."""

    intent: Intent
    parent: str
    #: As it was read, for what was written down before.
    row: Row | None = None
    next_hop: str | None = None
    verdict: Verdict | None = None
    choice: Choice | None = None
    prepared: Any = None
    #: There may be a cell for it soon.
    waits: bool = False
    #: Who has said no to it before.
    tried: Sequence[dict[str, Any]] = ()
    #: Which time this is, over all that it was given to.
    attempt: int = 1
    #: This cell's count of builds accepted, with this one.
    decision: int = 0
    #: Set by the transaction.
    reply: Verdict | None = None
    is_done: bool = False

    @property
    def step(self) -> dict[str, Any] | None:
        """What the trail keeps of the choice."""
        if self.choice is None:
            return None
        found: dict[str, Any] = msgspec.to_builtins(self.choice.explanation)
        return found


class Routing:
    """See the module."""

    def __init__(self, node: Node) -> None:
        self._node = node
        #: Builds that this cell has accepted or passed on in this session, as digests count them.
        self.decisions = 0
        self._reservations: dict[str, str] = {}
        #: Doubtful commits that the reservations were compared with the rows after.
        self._doubts = node.db.doubts
        self._wake = asyncio.Event()
        #: Whether something undecided waits for a cell.
        self._has_waiting = False
        self._tasks = TaskOwner(f"routing {node.cell_id}", node.world.clock)

    def start(self) -> None:
        """Begin to decide what is undecided."""
        self._tasks.keep("pump", self._pump)
        self._tasks.keep("tick", self._tick)

    async def stop(self) -> None:
        """Stop; everything goes on from the rows."""
        await self._tasks.stop()

    def wake(self) -> None:
        """Look at what is undecided now; only a hint."""
        self._wake.set()

    def wake_waiting(self) -> None:
        """Look again at what waits for a cell, if anything does; only a hint."""
        if self._has_waiting:
            self._wake.set()

    # -- what parents ask

    async def receive(self, parent: CellId, asked: Sequence[Intent]) -> list[Verdict]:
        """Write down what a parent asks, once each, and give what is to be said of it now."""
        replies: list[Verdict] = []
        for part in _apart(asked):
            plans = [self._plan(intent, parent, tried=()) for intent in part]
            await self._commit(plans, self._take_in)
            replies += [plan.reply for plan in plans if plan.reply is not None]
        return replies

    def _take_in(self, tx: Tx, plans: Sequence[_Plan]) -> None:
        for plan in plans:
            intent = plan.intent
            plan.is_done = False
            known = tx.find(rows.intents, id=intent.id)
            if known is not None:
                plan.reply = verdict_of(known) or Verdict(id=intent.id, answer=TAKEN)
                tx.on_commit(self._count_replay)
                continue
            plan.is_done = True
            verdict = self._verdict_in(tx, plan)
            if verdict is not None:
                self._note(tx, intent, verdict)
            plan.reply = verdict or Verdict(id=intent.id, answer=TAKEN)
            steps = [] if plan.step is None else [plan.step]
            rows.insert(
                tx,
                intent,
                parent=plan.parent,
                next_hop=None if verdict is not None else plan.next_hop,
                trail=steps,
                verdict=verdict,
            )
            if verdict is None and plan.next_hop is not None:
                tx.on_commit(partial(self._give, plan))

    def _count_replay(self) -> None:
        self._node.counts["replayed"] += 1

    def _verdict_in(self, tx: Tx, plan: _Plan) -> Verdict | None:
        """Give the last word on an intent if this cell has it."""
        if plan.verdict is not None:
            return plan.verdict
        if plan.intent.kind == FENCE:
            return self._fence(tx, plan.intent)
        if self._node.executor is not None:
            verdict = self._node.executor.apply(tx, plan.intent, plan.prepared)
            if verdict is None:
                return None
            return msgspec.structs.replace(verdict, decision=plan.decision)
        return None

    # -- planning

    def _plan(self, intent: Intent, parent: str, *, tried: Sequence[dict[str, Any]]) -> _Plan:
        """Decide in memory what is to be done with an intent; with a wrong one, to refuse it."""
        plan = _Plan(intent, parent, tried=tried)
        try:
            self._consider(plan)
        except Exception as error:  # noqa: BLE001 - the message edge
            self._refuse(plan, error)
        return plan

    def _refuse(self, plan: _Plan, error: Exception) -> None:
        """Have the answer to an intent be no, since it cannot be followed."""
        self._node.counts["refused_intents"] += 1
        self._node.log.warning(
            "intent refused",
            intent=plan.intent.id,
            subject=plan.intent.subject,
            kind=plan.intent.kind,
            error=repr(error),
        )
        plan.next_hop = plan.choice = plan.prepared = None
        plan.waits = False
        plan.verdict = _no(plan.intent, "The request could not be read.")

    def _consider(self, plan: _Plan) -> None:
        intent = plan.intent
        if intent.kind == FENCE:
            return
        late = intent.deadline_at is not None and (
            self._node.world.clock.now() > intent.deadline_at + CLOCK_SKEW_MAX_S
        )
        if late and intent.kind == BUILD:
            self._node.counts["past_deadline"] += 1
            plan.verdict = _no(intent, "The request was too old when it arrived.")
        elif intent.kind == BUILD and (closed := self._refuse_closed(intent)) is not None:
            plan.verdict = closed
        elif self._node.executor is not None:
            plan.prepared = self._node.executor.prepare(intent)
            self.decisions += intent.kind == BUILD
            plan.decision = self.decisions
        elif intent.kind == BUILD:
            self._plan_build(plan)
        else:
            self._plan_route(plan)

    def _refuse_closed(self, intent: Intent) -> Verdict | None:
        """Say no to builds that were on their way to this leaf when it closed."""
        entry = self._node.topology.find(self._node.cell_id)
        if entry is None or entry.state == "open" or not self._node.is_leaf:
            return None
        targets = () if intent.wanted is None else intent.wanted.target_cells
        if entry.state == "closed" and {entry.id, entry.name} & set(targets):
            # How a new cell is tried before it is opened.
            return None
        refusal = _no(intent, f"The cell is {entry.state}.")
        return msgspec.structs.replace(refusal, hint=entry.successor or "")

    def _choose(self, intent: Intent, tried: Sequence[dict[str, Any]]) -> Choice | NoCell:
        if intent.wanted is None:
            raise Invalid("the build does not say what it needs")
        wanted = msgspec.structs.replace(intent.wanted, tried=tuple(each["cell"] for each in tried))
        hint = tried[-1]["hint"] if tried else ""
        if hint and not wanted.target_cells:
            found = self._node.chooser.choose(msgspec.structs.replace(wanted, target_cells=(hint,)))
            if isinstance(found, Choice):
                return found
        return self._node.chooser.choose(wanted)

    def _plan_build(self, plan: _Plan) -> None:
        found = self._choose(plan.intent, plan.tried)
        if isinstance(found, Choice):
            self.decisions += 1
            plan.choice = found
            plan.next_hop = found.cell_id
        elif found.is_waiting:
            plan.waits = True
        else:
            plan.verdict = _nowhere(plan.intent, found, plan.tried)

    def _plan_route(self, plan: _Plan) -> None:
        target = CellId(plan.intent.target)
        hops = self._node.topology.next_hops(self._node.cell_id, target) if target else ()
        alive = [hop for hop in hops if not self._node.chooser.is_dead(hop)]
        if hops:
            plan.next_hop = (alive or hops)[0]
        else:
            plan.verdict = Verdict(
                id=plan.intent.id,
                answer=ABSENT,
                detail=f"cell {target or 'unnamed'} is not below {self._node.cell_id}",
                is_unrouted=True,
            )

    # -- what is undecided

    async def _pump(self) -> None:
        while True:
            self._wake.clear()
            while await self.pump_once():
                # Requests that arrived meanwhile have their turn.
                await self._node.world.clock.sleep(0)
            await self._wake.wait()

    async def pump_once(self) -> int:
        """Decide a batch of what is undecided; tell how many were."""
        after = -1
        self._has_waiting = False
        while found := await self._node.db.read(rows.list_undecided, after=after):
            plans = [self._plan(intent_of(row), row.parent, tried=row.tried) for row in found]
            for plan, row in zip(plans, found, strict=True):
                plan.attempt, plan.row = row.attempt, row
                if plan.waits and self._has_waited(row):
                    plan.waits = False
                    plan.verdict = _no(plan.intent, "No cell below answers.")
            self._has_waiting |= any(plan.waits for plan in plans)
            await self._commit(plans, self._decide)
            decided = sum(plan.is_done for plan in plans)
            if decided:
                return decided
            after = found[-1].sequence
        return 0

    def _has_waited(self, row: Row) -> bool:
        """Tell whether a build from above has waited here for so long that others should try."""
        waited_s = self._node.world.clock.now() - float(row.created_at)
        return bool(row.parent) and waited_s > GIVE_UP_S

    def _decide(self, tx: Tx, plans: Sequence[_Plan]) -> None:
        for plan in plans:
            plan.is_done = False
            if plan.waits:
                continue
            if plan.next_hop is not None and plan.row is not None:
                plan.is_done = rows.give(tx, plan.row, plan.next_hop, step=plan.step)
                if plan.is_done:
                    tx.on_commit(partial(self._give, plan))
                continue
            row = tx.find(rows.intents, id=plan.intent.id)
            if row is None or row.closed_at is not None or row.next_hop is not None:
                continue
            if plan.intent.kind == DELETE and not plan.intent.target:
                self._withdraw(tx, plan.intent.subject)
            plan.is_done = True
            verdict = self._verdict_in(tx, plan)
            if verdict is not None:
                self._finish(tx, row, verdict)

    def _withdraw(self, tx: Tx, subject: str) -> None:
        """Take back the builds of a subject that is deleted before any cell has accepted it."""
        for row in rows.list_open_builds(tx, subject):
            if row.next_hop is not None:
                self._send_fence(tx, row)
            self._unreserve(tx, row.id)
            rows.close(tx, row, _no(intent_of(row), "It was deleted."))
            self._note_build(tx, "build withdrawn", row.id, subject, child=row.next_hop)

    async def _commit(
        self, plans: Sequence[_Plan], function: Callable[[Tx, Sequence[_Plan]], None]
    ) -> None:
        """Run a transaction over plans and follow it in memory; one that is wrong stands alone."""
        try:
            await self._commit_all(plans, function)
        except Unavailable:
            raise
        except Exception:  # noqa: BLE001 - the message edge
            for plan in plans:
                await self._commit_alone(plan, function)

    async def _commit_all(
        self, plans: Sequence[_Plan], function: Callable[[Tx, Sequence[_Plan]], None]
    ) -> None:
        try:
            await self._node.db.run(function, plans)
        except BaseException:
            self._give_up(plans)
            raise
        self._give_up([plan for plan in plans if not plan.is_done])

    async def _commit_alone(
        self, plan: _Plan, function: Callable[[Tx, Sequence[_Plan]], None]
    ) -> None:
        again = self._plan(plan.intent, plan.parent, tried=plan.tried)
        again.attempt, again.row = plan.attempt, plan.row
        plan.reply, plan.is_done = None, False
        try:
            await self._commit_all([again], function)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - the message edge
            self._refuse(again, error)
            try:
                await self._commit_all([again], function)
            except Unavailable:
                raise
            except Exception:
                # Not even a no can be written down; it stays as it is, and the others go on.
                self._node.counts["failed_intents"] += 1
                self._node.log.exception(
                    "intent failed", intent=plan.intent.id, subject=plan.intent.subject
                )
                return
        plan.reply, plan.is_done = again.reply, again.is_done

    def _give_up(self, plans: Sequence[_Plan]) -> None:
        for plan in plans:
            if plan.choice is not None:
                self._node.chooser.refused(plan.choice.reservation_id)
            if plan.prepared is not None and self._node.executor is not None:
                self._node.executor.abandon(plan.intent, plan.prepared)

    def _give(self, plan: _Plan) -> None:
        """Send an intent on, whose row says now to whom.

        Called in the order of the transaction: what withdraws the intent again may be in it too.
        """
        assert plan.next_hop is not None, "it is known to whom"
        if plan.choice is not None:
            self._reservations[plan.intent.id] = plan.choice.reservation_id
        self._node.log.debug(
            "intent given",
            intent=plan.intent.id,
            subject=plan.intent.subject,
            kind=plan.intent.kind,
            child=plan.next_hop,
        )
        link = self._node.children.get(CellId(plan.next_hop))
        if link is not None:
            hop = hop_id(plan.intent.id, plan.attempt)
            link.offer(hop, plan.intent.subject, msgspec.structs.replace(plan.intent, id=hop))

    # -- verdicts

    def _finish(self, tx: Tx, row: Row, verdict: Verdict) -> None:
        """Give the last word on an intent to who asked."""
        verdict = msgspec.structs.replace(
            verdict,
            id=row.id,
            decision=verdict.decision if self._node.is_leaf else self.decisions,
            trail=[*row.trail, *verdict.trail],
        )
        intent = intent_of(row)
        self._note(tx, intent, verdict)
        if row.parent:
            rows.close(tx, row, verdict)
            tx.on_commit(lambda: self._say(row.parent, verdict))
            return
        if self._node.origin is not None and row.kind != FENCE:
            self._node.origin.answered(tx, intent, verdict)
        rows.close(tx, row, verdict)

    def _note(self, tx: Tx, intent: Intent, verdict: Verdict) -> None:
        """Log this cell's last word on an intent when it is written down.

        A build leaves a line in each cell that it came through, and its ids grow on the way down:
        ``u`` at the root, then ``u.1``, then ``u.1.1``.
        """
        if intent.kind == FENCE:
            return
        fields = {"intent": intent.id, "subject": intent.subject, "request_id": intent.request_id}
        if verdict.answer == YES:
            log = partial(self._node.log.info, "build accepted", by=verdict.cell)
        elif verdict.answer == DONE:
            log = partial(self._node.log.debug, "intent done", kind=intent.kind)
        else:
            reason = verdict.detail or verdict.reason
            log = partial(self._node.log.info, "intent denied", kind=intent.kind, reason=reason)
        tx.on_commit(partial(log, **fields))

    def _note_build(self, tx: Tx, event: str, build: str, subject: str, **fields: Any) -> None:
        """Log what becomes of a build on its way when it is written down."""
        tx.on_commit(partial(self._node.log.info, event, intent=build, subject=subject, **fields))

    def _say(self, parent: str, verdict: Verdict) -> None:
        link = self._node.parents.get(CellId(parent))
        if link is not None:
            link.say([verdict])

    async def hear(self, child: CellId, verdicts: Sequence[Verdict]) -> set[str]:
        """Take over what a child says of intents that it was given; tell which are left open."""
        final = [self._without_removed(child, verdict) for verdict in verdicts if verdict.is_final]
        good = [verdict for verdict in final if self._is_of_its_own(child, verdict)]
        left = {verdict.id for verdict in final} - {verdict.id for verdict in good}
        if good:
            left |= await self._hear_good(child, good)
            self.wake()
        return left

    def _without_removed(self, child: CellId, verdict: Verdict) -> Verdict:
        """Take a yes for a no where the cell that said it was taken out of the tree since.

        A child that has a newer document may speak of a cell that this one has not heard of yet.
        """
        link = self._node.children.get(child)
        known = self._node.topology
        if verdict.answer != YES or known.find(verdict.cell) is not None or link is None:
            return verdict
        is_newer = not 0 < link.topology_version <= known.version
        if is_newer or not verdict.build.startswith(f"{verdict.id}."):
            return verdict
        detail = f"cell {verdict.cell} was taken out"
        return Verdict(id=verdict.id, answer=NO, detail=detail)

    def _is_of_its_own(self, child: CellId, verdict: Verdict) -> bool:
        """Tell whether a child may say so: that a cell has a build, of itself and those below.

        A cell that has left it since, and is still below this one, keeps what it accepted. Should
        that be a lie, the cell it names does not know a build that was made of this one.
        """
        below = self._node.topology.descendants(child)
        if verdict.answer != YES or verdict.cell == child or verdict.cell in below:
            return True
        known = self._node.topology.descendants(self._node.cell_id)
        if verdict.cell in known and verdict.build.startswith(f"{verdict.id}."):
            return True
        self._refuse_verdict(child, verdict)
        return False

    def _refuse_verdict(self, child: CellId, verdict: Verdict) -> None:
        self._node.counts["refused_verdicts"] += 1
        self._node.log.warning(
            "verdict refused", child=child, intent=verdict.id, named=verdict.cell
        )

    async def _hear_good(self, child: CellId, verdicts: Sequence[Verdict]) -> set[str]:
        try:
            heard, unheard = await self._node.db.run(self._hear, child, verdicts)
        except Unavailable:
            raise
        except Exception:
            if len(verdicts) == 1:
                self._node.counts["failed_verdicts"] += 1
                self._node.log.exception("verdict failed", child=child, intent=verdicts[0].id)
                return {verdicts[0].id}
            # One that is wrong stands alone.
            left: set[str] = set()
            for verdict in verdicts:
                left |= await self._hear_good(child, [verdict])
            return left
        for intent_id, verdict in heard:
            reservation = self._reservations.pop(intent_id, None)
            if reservation is None:
                continue
            if verdict.answer == YES:
                self._node.chooser.accepted(reservation, verdict.decision)
            else:
                self._node.chooser.refused(reservation)
        return unheard

    def _hear(
        self, tx: Tx, child: CellId, verdicts: Sequence[Verdict]
    ) -> tuple[list[tuple[str, Verdict]], set[str]]:
        heard: list[tuple[str, Verdict]] = []
        unheard: set[str] = set()
        for verdict in verdicts:
            row = tx.find(rows.intents, hop_id=verdict.id)
            if row is None or row.closed_at is not None:
                # Moved on since, or heard before.
                continue
            if row.next_hop != child:
                tx.on_commit(partial(self._refuse_verdict, child, verdict))
                continue
            hops = self._ways_of(row) if verdict.is_unrouted else ()
            if child in hops and self._is_behind(child):
                # It does not know yet that the target is below it; it is asked again.
                unheard.add(verdict.id)
                continue
            heard.append((row.id, verdict))
            if hops and row.attempt < UNROUTED_MAX:
                rows.take_back(tx, row, verdict)
            elif row.kind == BUILD and verdict.answer == NO:
                rows.take_back(tx, row, verdict)
                reason = verdict.detail or verdict.reason
                self._note_build(
                    tx, "build taken back", row.id, row.subject, child=child, reason=reason
                )
            else:
                self._finish(tx, row, verdict)
        return heard, unheard

    def _ways_of(self, row: Row) -> Sequence[CellId]:
        """Give the children by which an intent's target is reached, whatever one of them says."""
        return self._node.topology.next_hops(self._node.cell_id, CellId(intent_of(row).target))

    def _is_behind(self, child: CellId) -> bool:
        """Tell whether a child goes by an older topology than this cell."""
        link = self._node.children.get(child)
        return link is not None and link.topology_version < self._node.topology.version

    def _unreserve(self, tx: Tx, intent_id: str) -> None:
        """Give back what is reserved at a child for a build that it will not make."""

        def follow() -> None:
            reservation = self._reservations.pop(intent_id, None)
            if reservation is not None:
                self._node.chooser.refused(reservation)

        tx.on_commit(follow)

    async def _end_reservations(self) -> None:
        """Give back what is reserved for builds that no child has any more.

        The commit that took them from their child tells; where its answer was lost, it told nobody.
        """
        doubts = self._node.db.doubts
        if doubts == self._doubts:
            return
        held = dict(self._reservations)
        given = await self._node.db.read(rows.find_given, sorted(held))
        for intent_id in held.keys() - given:
            if self._reservations.get(intent_id) == held[intent_id]:
                del self._reservations[intent_id]
                self._node.chooser.refused(held[intent_id])
        self._doubts = doubts

    # -- fences

    def _send_fence(self, tx: Tx, row: Row) -> None:
        """Ask the neighbour that has a build to let it never begin.

        One that is no child any more is out of reach from here. The build was never confirmed and
        never will be; the root, which sees its row by another way, has it deleted.
        """
        children = self._node.topology.children(self._node.cell_id)
        if row.next_hop not in {child.id for child in children}:
            self._note_build(tx, "build left", row.id, row.subject, child=row.next_hop)
            return
        fence = Intent(
            id=self._node.world.ids.uuid(),
            subject=row.subject,
            number=0,
            kind=FENCE,
            body=msgspec.msgpack.encode({"build": row.hop_id}),
            created_at=self._node.world.clock.now(),
        )
        rows.insert(tx, fence, parent="", next_hop=row.next_hop)
        child, gone_as, subject = row.next_hop, row.hop_id, row.subject

        def follow() -> None:
            link = self._node.children.get(CellId(child))
            if link is not None:
                link.withdraw(gone_as)
                link.offer(hop_id(fence.id, 1), subject)

        tx.on_commit(follow)

    def _fence(self, tx: Tx, intent: Intent) -> Verdict:
        """Close a build, known here or not, so that it can never begin."""
        build = str(intent.params["build"])
        said = Verdict(id=build, answer=NO, reason="It was moved to another cell.")
        known = tx.find(rows.intents, id=build)
        if known is None:
            gone = Intent(id=build, subject=intent.subject, number=0, kind=BUILD, body=b"")
            rows.insert(tx, gone, parent="fenced", verdict=said)
            self._note_build(tx, "build fenced", build, intent.subject, was="unknown")
            return Verdict(id=intent.id, answer=DONE)
        verdict = verdict_of(known)
        if verdict is None or verdict.answer == YES:
            self._unreserve(tx, build)
            rows.close(tx, known, said)
            if known.next_hop is not None:
                self._send_fence(tx, known)
            elif self._node.executor is not None:
                self._node.executor.fence(tx, known.subject, build)
            was = "open" if verdict is None else "accepted"
            self._note_build(tx, "build fenced", build, intent.subject, was=was)
        return Verdict(id=intent.id, answer=DONE)

    # -- time

    async def _tick(self) -> None:
        looks = 0
        while True:
            await self._node.world.clock.sleep(TICK_S)
            looks += 1
            if self._has_waiting or looks % LOOK_TICKS == 0:
                self.wake()
            for child in [one for one in self._node.children if self._node.chooser.is_dead(one)]:
                await self._move_builds(child)
            if self._node.origin is not None:
                await self._end_overdue()
            await self._end_reservations()

    async def _move_builds(self, child: CellId) -> None:
        """Have other cells asked for what a dead child was asked, where there are others."""
        reason = Verdict(id="", answer=NO, reason="", detail=f"cell {child} does not answer")
        after = 0
        while found := await self._node.db.read(rows.list_builds_at, child, after=after):
            after = found[-1].sequence
            for row in found:
                tried = [*row.tried, {"cell": child, "hint": ""}]
                choice = self._choose(intent_of(row), tried)
                if not isinstance(choice, Choice):
                    if self._has_waited(row):
                        await self._node.db.run(self._end, [row.id])
                    continue
                # Chosen only to see whether there is one; the pump chooses anew.
                self._node.chooser.refused(choice.reservation_id)
                await self._node.db.run(self._move, row.id, row.hop_id, reason)
                self.wake()

    def _move(self, tx: Tx, intent_id: str, gone_as: str, reason: Verdict) -> None:
        row = tx.find(rows.intents, id=intent_id)
        if row is None or row.closed_at is not None or row.hop_id != gone_as:
            return
        self._send_fence(tx, row)
        self._unreserve(tx, row.id)
        rows.take_back(tx, row, reason)
        tx.on_commit(self._count_move)
        self._note_build(
            tx, "build moved", intent_id, row.subject, child=row.next_hop, reason=reason.detail
        )

    def _count_move(self) -> None:
        self._node.counts["moved"] += 1

    async def _end_overdue(self) -> None:
        now = self._node.world.clock.now()
        found = await self._node.db.read(rows.list_overdue_builds, now_s=now)
        if found:
            await self._node.db.run(self._end, [row.id for row in found])

    def _end(self, tx: Tx, intent_ids: Sequence[str]) -> None:
        for intent_id in intent_ids:
            row = tx.find(rows.intents, id=intent_id)
            if row is None or row.closed_at is not None:
                # Answered since it was read.
                continue
            if row.next_hop is not None:
                self._send_fence(tx, row)
            self._unreserve(tx, row.id)
            told = "; ".join(str(each["detail"] or each["reason"]) for each in row.tried)
            self._note_build(tx, "build overdue", row.id, row.subject, child=row.next_hop)
            verdict = Verdict(
                id=row.id,
                answer=NO,
                reason="No valid host was found. No cell took the request in time.",
                detail=told or "no cell answered",
            )
            self._finish(tx, row, verdict)

    # -- children that left

    async def take_all_back(self, peer: CellId) -> None:
        """Decide anew what was given to a cell that is no child any more."""
        after = 0
        while opened := await self._node.db.read(rows.list_open_at, peer, after=after):
            await self._node.db.run(self._take_back, [row.hop_id for row in opened])
            after = opened[-1].sequence
        self.wake()

    def _take_back(self, tx: Tx, hop_ids: Sequence[str]) -> None:
        for hop in hop_ids:
            row = tx.find(rows.intents, hop_id=hop)
            if row is None or row.closed_at is not None:
                continue
            gone = Verdict(id=row.id, answer=NO, detail=f"cell {row.next_hop} was taken out")
            if row.kind == FENCE:
                # What it may hold of the build was never confirmed, and never will be.
                rows.close(tx, row, gone)
            else:
                self._unreserve(tx, row.id)
                rows.take_back(tx, row, gone)


def _apart(asked: Sequence[Intent]) -> list[list[Intent]]:
    """Part what was asked so that no subject is in one part twice.

    What one plan holds in memory for a subject, another must not rely on: it is given back if it
    was for nothing, as when an old build comes again beside the one that was made of it.
    """
    parts: list[list[Intent]] = []
    within: dict[str, int] = {}
    for intent in asked:
        at = within.get(intent.subject, -1) + 1
        within[intent.subject] = at
        if at == len(parts):
            parts.append([])
        parts[at].append(intent)
    return parts


def _no(intent: Intent, reason: str) -> Verdict:
    return Verdict(id=intent.id, answer=NO, reason=reason, detail=reason)


def _nowhere(intent: Intent, found: NoCell, tried: Sequence[dict[str, Any]]) -> Verdict:
    """Say no for all cells: the reason of the last that was asked, or why none was."""
    told = [f"cell {each['cell']}: {each['detail'] or each['reason']}" for each in tried]
    reason = next((each["reason"] for each in reversed(tried) if each["reason"]), found.reason)
    step: dict[str, Any] = msgspec.to_builtins(found.explanation)
    return Verdict(
        id=intent.id,
        answer=NO,
        reason=reason,
        detail="; ".join([*told, found.detail]),
        trail=[step],
    )
