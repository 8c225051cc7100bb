from __future__ import annotations

import pytest

from xenith.core.clock import ManualClock
from xenith.core.errors import Conflict
from xenith.core.ids import Ids
from xenith.core.world import World
from xenith.db import Tx, open_database
from xenith.db.migrate import prepare
from xenith.saga import Outcome, Run, Saga, Step
from xenith.saga import start as begin


class Things(list):
    """A world in which a step makes a thing under its name."""

    clock: ManualClock


def step(name: str, *, fault: str = "") -> Step[Things]:
    async def do(things: Things, run: Run) -> Outcome:
        await things.clock.sleep(0.1)
        if fault == "doubles" or name not in things:
            things.append(name)
        return Outcome({name: len(things)})

    async def undo(things: Things, run: Run) -> None:
        if fault == "needs data" and name not in run.data:
            raise Conflict(f"{name} is not known")
        if fault != "leaves" and name in things:
            things.remove(name)

    return Step(name=name, do=do, undo=undo)


@pytest.fixture
def make_trial_of(saga_harness):
    def of(*faults: str):
        saga = Saga(
            name="things",
            steps=tuple(step(f"s{n}", fault=fault) for n, fault in enumerate(faults)),
        )

        async def make_trial():
            world = World(clock=ManualClock(), ids=Ids(seed=3))
            db = open_database("sqlite://", ids=world.ids, clock=world.clock)
            prepare(db)
            things = Things()
            things.clock = world.clock

            async def check_done() -> None:
                assert things == [step.name for step in saga.steps]

            async def check_unwound() -> None:
                assert things == []

            def start(tx: Tx):
                return begin(tx, "things", subject="s")

            return saga_harness.Trial(
                db=db,
                world=world,
                context=things,
                sagas={"things": saga},
                kind="things",
                begin=lambda: db.run(start),
                check_done=check_done,
                check_unwound=check_unwound,
            )

        return make_trial

    return of


async def test_a_sound_saga_passes_all_three_ways(saga_harness, make_trial_of):
    make_trial = make_trial_of("", "", "")
    await saga_harness.do_each_step_twice(make_trial)
    await saga_harness.fail_at_each_step(make_trial)
    await saga_harness.die_at_each_moment(make_trial)


async def test_a_do_that_is_not_repeatable_is_found(saga_harness, make_trial_of):
    with pytest.raises(AssertionError) as caught:
        await saga_harness.do_each_step_twice(make_trial_of("", "doubles"))
    assert "every do twice" in caught.value.__notes__[0]
    with pytest.raises(AssertionError) as caught:
        await saga_harness.die_at_each_moment(make_trial_of("", "doubles"))
    assert "death after do of s1" in caught.value.__notes__[0]


async def test_an_undo_that_leaves_something_is_found(saga_harness, make_trial_of):
    with pytest.raises(AssertionError) as caught:
        await saga_harness.fail_at_each_step(make_trial_of("leaves", ""))
    assert "failure after do of s0" in caught.value.__notes__[0]


async def test_an_undo_that_counts_on_outputs_of_its_do_is_found(saga_harness, make_trial_of):
    with pytest.raises(AssertionError) as caught:
        await saga_harness.fail_at_each_step(make_trial_of("needs data", ""))
    assert "failure before do of s0" in caught.value.__notes__[0]
