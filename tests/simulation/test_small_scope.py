"""Two cells and up to six messages: every order, loss and repetition, with what may come between.

How it is done is said in ``small_scope`` and ``two_cells``. Why that is all there is:

- *Order*: any message in the air may be the next to arrive, and any two may be handled together.
- *Repetition*: what has arrived stays in the air, so it may arrive again without an end. That a
  cell sends the same message again is thereby walked too, and counts as no new one of the six.
- *Loss*: what is lost is never heard. Nothing has to arrive, and from each pair of states of the
  two cells the air is emptied, the link mended, and everything must become right.
- *Sessions*: the hellos are real and in the same air; they do not count among the six. What is of
  an earlier session, or of a process that is dead, may arrive at any time as well.
- *Deaths*: a process that restarts does so between any two steps, or within any step before it
  has committed. Dying after a commit is a restart of which all that was answered is lost.

Each event comes once, at any time or never. The protocols of builds and of rows do not meet, so
most walks have one of them send before the link is mended.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from xenith.cells import intents as rows
from xenith.cells.changes import Changes
from xenith.cells.child import ChildLink
from xenith.cells.intents import DONE, Verdict
from xenith.cells.link import Link
from xenith.cells.parent import ParentLink
from xenith.cells.routing import Routing


def load():
    if "small_scope" not in sys.modules:
        path = Path(__file__).parent / "small_scope.py"
        spec = importlib.util.spec_from_file_location("small_scope", path)
        sys.modules["small_scope"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["small_scope"])
    return sys.modules["small_scope"]


small_scope = load()
Scenario, Walk = small_scope.Scenario, small_scope.Walk


def of_rows(*events, **options):
    return Scenario(events, has_build=False, has_changes=True, **options)


SCENARIOS = {
    "a build": Scenario(),
    "a build with its rows": Scenario(has_changes=True),
    "a build that is moved": Scenario(("move",)),
    "a build that is deleted": Scenario(("delete",)),
    "a build that is moved and deleted": Scenario(("move", "delete")),
    "a build that is moved and deleted, with its rows": Scenario(
        ("move", "delete"), has_changes=True
    ),
    "a build that is set and deleted": Scenario(("set", "delete")),
    "a build while the root starts anew": Scenario(("restart_root",)),
    "a build while the leaf starts anew": Scenario(("restart_leaf",)),
    "a moved build while the root starts anew": Scenario(("move", "restart_root")),
    "a moved build while the leaf starts anew": Scenario(("move", "restart_leaf")),
    "a deleted build while the root starts anew": Scenario(("delete", "restart_root")),
    "a deleted build while the leaf starts anew": Scenario(("delete", "restart_leaf")),
    "a deleted build while both start anew": Scenario(
        ("delete", "restart_root", "restart_leaf"), together=False
    ),
    "changes": of_rows("change", "change_again"),
    "changes while the root starts anew": of_rows("change", "change_again", "restart_root"),
    "changes while the leaf starts anew": of_rows("change", "change_again", "restart_leaf"),
    "changes of which some are lost": of_rows(
        "change", "lose_commits", "change_again", compares=True
    ),
}
#: Fewer states than these, and the walk has lost its way.
STATES_LEAST = {
    "a build": 100,
    "a build with its rows": 250,
    "a build that is moved": 1_200,
    "a build that is deleted": 900,
    "a build that is moved and deleted": 5_000,
    "a build that is moved and deleted, with its rows": 4_500,
    "a build that is set and deleted": 3_000,
    "a build while the root starts anew": 3_000,
    "a build while the leaf starts anew": 3_000,
    "a moved build while the root starts anew": 35_000,
    "a moved build while the leaf starts anew": 40_000,
    "a deleted build while the root starts anew": 30_000,
    "a deleted build while the leaf starts anew": 28_000,
    "a deleted build while both start anew": 160_000,
    "changes": 900,
    "changes while the root starts anew": 28_000,
    "changes while the leaf starts anew": 24_000,
    "changes of which some are lost": 27_000,
}


@pytest.fixture(autouse=True)
def quiet():
    speak = small_scope.be_quiet()
    yield
    speak()


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_way_ends_well(name, record_property):
    found = Walk(SCENARIOS[name]).go()
    # In the report that ``--junit-xml`` writes.
    for field in ("states", "steps", "pairs", "runs", "ways"):
        record_property(field, getattr(found, field))
    assert found.states >= STATES_LEAST[name]


# -- a walk that finds nothing has to be one that would find something


def take_in_again(monkeypatch):
    """An inbox that does not know what it had before."""
    take_in = Routing._take_in

    def forgetful(self, tx, plans):
        for plan in plans:
            tx.delete(rows.intents, {"id": plan.intent.id})
        take_in(self, tx, plans)

    monkeypatch.setattr(Routing, "_take_in", forgetful)


def answer_too_soon(monkeypatch):
    """A leaf that says that it is done before what it does is committed."""
    hear = ParentLink._hear_intents

    async def hasty(self, group):
        asked = [intent for message in group for intent in message.items]
        self.say([Verdict(id=one.id, answer=DONE) for one in asked if one.kind == "delete"])
        await hear(self, group)

    monkeypatch.setattr(ParentLink, "_hear_intents", hasty)


def accept_gaps(monkeypatch):
    """A parent that applies changes without those before them."""
    apply = Changes.apply

    def blind(self, tx, batch):
        place = self.place(tx, batch.origin)
        if place.epoch == batch.epoch and batch.to > place.number:
            batch = batch.__class__(
                **{f: getattr(batch, f) for f in batch.__struct_fields__} | {"after": place.number}
            )
        return apply(self, tx, batch)

    monkeypatch.setattr(Changes, "apply", blind)


def move_without_a_fence(monkeypatch):
    """A root that gives a build to another and never tells the one that had it."""

    def nothing(self, tx, row):
        child, gone_as = row.next_hop, row.hop_id
        tx.on_commit(lambda: self._node.children[child].withdraw(gone_as))

    monkeypatch.setattr(Routing, "_send_fence", nothing)


def never_send_again(monkeypatch):
    """A root that takes what it sent for heard."""

    async def nothing(_self):
        return None

    monkeypatch.setattr(ChildLink, "_send_again", nothing)


def handle_what_waited(monkeypatch):
    """A link that handles what came in of a session that has ended."""
    monkeypatch.setattr(Link, "_forget_waiting", lambda _self: None)


def heed_no_losses(monkeypatch):
    """A leaf that numbers on when its parent knows of more than it has."""

    async def nothing(_self, _told):
        return None

    monkeypatch.setattr(ParentLink, "_heed_losses", nothing)


def believe_late_hellos(monkeypatch):
    """A link that takes a late hello's word for it, and never looks whether it is spoken to."""
    greet = Link._greet_until_answered

    async def deaf(self):
        self._is_astray = False
        await greet(self)

    monkeypatch.setattr(Link, "_greet_until_answered", deaf)
    monkeypatch.setattr(Link, "_greet", _greet_as_before)


async def _greet_as_before(self, group):
    for session, hello in group:
        if session != self._peer_session:
            self._is_open = False
            self._peer_session = session
            self._forget_waiting()
        if hello.heard == self._session and not self._is_open:
            self._is_open = True
            await self._on_open(hello)
        if not hello.is_open:
            await self._say_hello()


#: What is wrong, with the walk that has to find it.
WRONGS = {
    "an inbox without memory": (take_in_again, Scenario()),
    "an answer before the commit": (
        answer_too_soon,
        Scenario(("delete", "restart_leaf"), together=False),
    ),
    "a gap that is accepted": (accept_gaps, of_rows("change", "change_another")),
    "a build that is moved without a fence": (
        move_without_a_fence,
        Scenario(("move", "delete"), together=False),
    ),
    "intents that are sent once": (never_send_again, Scenario()),
    "messages of a session that has ended": (
        handle_what_waited,
        of_rows("change", "lose_commits"),
    ),
    "losses that nobody heeds": (
        heed_no_losses,
        of_rows("change", "lose_commits", "change_again", compares=True, limit=4, together=False),
    ),
    "a late hello that is believed": (
        believe_late_hellos,
        Scenario(("restart_root", "restart_leaf"), limit=2, together=False),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONGS)
def test_a_protocol_that_is_wrong_is_found_out(name, monkeypatch):
    make_wrong, scenario = WRONGS[name]
    Walk(scenario).go()
    make_wrong(monkeypatch)
    with pytest.raises(small_scope.Broken):
        Walk(scenario).go()


# -- what a walk keeps of a step is what the real cells do


@pytest.mark.slow
def test_steps_that_are_taken_again_in_another_order_lead_to_the_same_states():
    """Nothing that a walk does not put back has a say in what a cell does."""
    walk = Walk(Scenario(("move", "restart_leaf"), limit=4, together=False))
    walk.go()
    for cell in (walk.root, walk.leaf):
        for (state, name, given, quietly), kept in list(cell._steps.items()):
            cell._steps.clear()
            assert cell.step(state, name, *given, quietly=quietly) == kept
